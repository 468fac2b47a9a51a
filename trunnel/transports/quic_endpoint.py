"""The relay's QUIC endpoint: many connections on a few UDP sockets.

One task a socket reads: it takes the datagrams that lie there, finds the
connection of each by its destination connection id, and settles every touched
connection once.  One more task, the pump, runs all timers.  So a thousand idle
connections cost what their heartbeats cost.

What a stranger can cause (RFC 9000 §8, §21; LOAD-16):

- Connections are opened by Initials only (`quic_strangers`).  An Initial that
  does not decrypt leaves nothing behind.
- Handshakes in progress are counted.  From `QUIC_HALF_OPEN_RETRY` on, and from
  `QUIC_UNPROVED_PER_ADDRESS` on for one address, a newcomer must answer a Retry;
  each holds a ticket of its address (`admit`), and there are at most
  `QUIC_HALF_OPEN_MAX`.  One that is not complete after `HANDSHAKE_TIMEOUT` is
  forgotten without a word: its address may be forged.
- A connection without a client certificate is closed with certificate_required
  before any stream; with one, its key is proved, and `serve` takes over.
- No datagram raises, and none is logged: they are counted (`statistics`).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from typing import Final, Protocol, final

import trio

from trunnel.errors import ErrorCode
from trunnel.settings import limits
from trunnel.streams.listen import HostPort
from trunnel.streams.udp import UdpSocket
from trunnel.transports.alpn import LINK_ALPN_QUIC
from trunnel.transports.quic_configuration import QuicCredentials, server_configuration
from trunnel.transports.quic_credit import CreditedConnection
from trunnel.transports.quic_handshake import QuicCarrier
from trunnel.transports.quic_link import LinkPump, QuicLink
from trunnel.transports.quic_strangers import Doorkeeper, Newcomer, Reply, destination_untrusted

NO_APPLICATION_PROTOCOL: Final = 0x178
"""TLS alert no_application_protocol as a QUIC error (RFC 9001 §4.8)."""
CERTIFICATE_REQUIRED: Final = 0x174
"""TLS alert certificate_required as a QUIC error."""
_CRYPTO_FRAME: Final = 0x06

Serve = Callable[[QuicCarrier], Awaitable[None]]
"""Serves one carrier until it ends; must not raise."""


class Place(Protocol):
    """A place among the handshakes in progress; given back once."""

    def release(self) -> None:
        """Give the place back.  Idempotent."""
        ...


Admit = Callable[[str], Place | None]
"""Takes an IP address, gives a place or refuses."""


@final
@dataclass(slots=True)
class EndpointStatistics:
    """Counters of one endpoint, since it began."""

    opened: int = 0
    """Connections that completed a handshake with a certificate."""
    refused: int = 0
    """Connections that did not."""
    dropped: int = 0
    """Datagrams of nobody that got no answer."""
    answered: int = 0
    """Datagrams of nobody that got a Retry or a Version Negotiation."""
    connections: int = 0
    """Connections there are now, those that are ending included."""
    half_open: int = 0
    """Handshakes in progress now."""


@final
@dataclass(slots=True, kw_only=True)
class _HalfOpen:
    """A handshake in progress."""

    place: Place
    host: str
    proved: bool
    deadline: float


@final
class QuicEndpoint:
    """See the module's head; run by `serve_quic`."""

    __slots__ = (
        "_accepting",
        "_admit",
        "_arrivals",
        "_by_id",
        "_configuration",
        "_credentials",
        "_doorkeeper",
        "_half_open",
        "_ids",
        "_pump",
        "_sockets",
        "_unproved",
        "_window_max",
        "counts",
    )

    def __init__(
        self, sockets: Sequence[UdpSocket], credentials: QuicCredentials, *, admit: Admit, window_max: int
    ) -> None:
        self._sockets = tuple(sockets)
        self._configuration = server_configuration(credentials)
        self._admit = admit
        self._window_max = window_max
        self._doorkeeper = Doorkeeper()
        self._pump = LinkPump()
        self._by_id: dict[bytes, QuicLink] = {}
        self._ids: dict[QuicLink, set[bytes]] = {}
        self._half_open: dict[QuicLink, _HalfOpen] = {}
        self._unproved: Counter[str] = Counter()
        self._arrivals, self._arrived = trio.open_memory_channel[QuicCarrier](0)
        self._accepting = True
        self.counts = EndpointStatistics()
