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
- Who goes on with a connection that we have closed hears our CONNECTION_CLOSE
  again: it was lost.  The last `QUIC_GONE_IDS` ids are kept for that.
- No datagram raises, and none is logged: they are counted (`statistics`).
- What belongs to nobody here may belong to the process before us (hot restart):
  the socket passes it on, if there is one.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Awaitable, Callable, Iterable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, replace
from typing import Final, Protocol, final

import trio

from trunnel.settings import limits
from trunnel.streams.listen import HostPort
from trunnel.streams.udp import UdpSocket
from trunnel.transports.alpn import LINK_ALPN_QUIC
from trunnel.transports.quic_configuration import QuicCredentials, server_configuration
from trunnel.transports.quic_credit import CreditedConnection
from trunnel.transports.quic_handshake import QuicCarrier
from trunnel.transports.quic_link import Farewell, LinkPump, QuicLink
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


@final
class QuicEndpoint:
    """See the module's head; run by `serve_quic`."""

    __slots__ = (
        "_accepting",
        "_admit",
        "_by_id",
        "_configuration",
        "_counts",
        "_doorkeeper",
        "_gone",
        "_half_open",
        "_ids",
        "_pump",
        "_sockets",
        "_start",
        "_unproved",
        "_window_max",
    )

    def __init__(
        self,
        sockets: Sequence[UdpSocket],
        credentials: QuicCredentials,
        *,
        start: Callable[[QuicCarrier], None],
        admit: Admit,
        window_max: int,
    ) -> None:
        self._sockets = tuple(sockets)
        self._configuration = server_configuration(credentials)
        self._start = start
        self._admit = admit
        self._window_max = window_max
        self._doorkeeper = Doorkeeper()
        self._pump = LinkPump()
        self._by_id: dict[bytes, QuicLink] = {}
        self._ids: dict[QuicLink, set[bytes]] = {}
        self._gone: dict[bytes, Farewell] = {}  # ids of connections that we have closed, the oldest first
        self._half_open: dict[QuicLink, _HalfOpen] = {}
        self._unproved: Counter[str] = Counter()
        self._accepting = True
        self._counts = EndpointStatistics()

    @property
    def addresses(self) -> list[HostPort]:
        """Where the endpoint is bound."""
        return [socket.address for socket in self._sockets]

    def present(self, credentials: QuicCredentials) -> None:
        """Show *credentials* to whoever comes from now on; connections that there are keep what they were shown."""
        self._configuration = server_configuration(credentials)

    def statistics(self) -> EndpointStatistics:
        """Return a snapshot of the counters."""
        return replace(self._counts, connections=len(self._ids), half_open=len(self._half_open))

    def close(self) -> None:
        """Take no new connections; those that there are go on until `serve_quic` is cancelled.  Idempotent."""
        self._accepting = False

    async def run(self) -> None:
        """Drive all connections for ever.  Cancellation: the sockets stay open, for last words."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._pump.run)
            for socket in self._sockets:
                nursery.start_soon(self._read, socket)
                nursery.start_soon(self._pump.unclog, socket)

    async def _read(self, socket: UdpSocket) -> None:
        while True:
            await socket.wait_readable()
            self._take_batch(socket, trio.current_time())

    def _take_batch(self, socket: UdpSocket, now: float) -> None:
        """Take what lies in a socket; not in `_read`, which would hold the last connection while it waits."""
        touched: dict[QuicLink, None] = {}
        for datagram, source in socket.receive_batch():
            link = self.take_untrusted(datagram, source, socket, now)
            if link is not None:
                touched[link] = None
        self.settle(touched, now)

    def take_untrusted(self, datagram: bytes, source: HostPort, socket: UdpSocket, now: float) -> QuicLink | None:
        """Give one datagram to its connection; return that, to be settled, or None if there is none."""
        destination = destination_untrusted(datagram)
        link = self._by_id.get(destination)
        if link is None and destination in self._gone:
            self._gone[destination].receive_untrusted(datagram, source, now)  # says goodbye again
            return None
        if link is None:
            link = self._admit_stranger(datagram, source, socket, now)
        if link is not None:
            link.receive_untrusted(datagram, source, now)
        return link

    def settle(self, links: Iterable[QuicLink], now: float) -> None:
        """Settle connections that took datagrams."""
        for link in links:
            link.settle(now)
            if not (link.spoke or link.over) and link.deadline >= link.alarm:
                self._forget(link)  # nothing in its Initial made sense

    # --- strangers ----------------------------------------------------------------------------------

    def _admit_stranger(self, datagram: bytes, source: HostPort, socket: UdpSocket, now: float) -> QuicLink | None:
        """Open a connection, or answer, or drop."""
        verdict = None
        if self._accepting:
            must_prove = (
                len(self._half_open) >= limits.QUIC_HALF_OPEN_RETRY
                or self._unproved[source[0]] >= limits.QUIC_UNPROVED_PER_ADDRESS
            )
            verdict = self._doorkeeper.judge_untrusted(datagram, source, must_prove=must_prove, now=now)
        if isinstance(verdict, Newcomer) and (link := self._open(verdict, datagram, source, socket)) is not None:
            return link
        if isinstance(verdict, Reply):
            self._counts.answered += 1
            socket.send([(verdict.octets, source)])
        else:
            self._counts.dropped += 1
            socket.pass_on(datagram, source)
        return None

    def _open(self, newcomer: Newcomer, datagram: bytes, source: HostPort, socket: UdpSocket) -> QuicLink | None:
        """Begin a handshake; returns None if there is no place for it."""
        if len(self._half_open) >= limits.QUIC_HALF_OPEN_MAX or (place := self._admit(source[0])) is None:
            return None
        connection = CreditedConnection.for_server(
            self._configuration,
            original_destination_connection_id=newcomer.original_id,
            retry_source_connection_id=newcomer.retry_id,
            window_max=self._window_max,
            accept=limits.QUIC_AGENT_STREAMS,
        )
        link = QuicLink(connection, socket, self._pump, self)
        link.alarm = link.heard + limits.HANDSHAKE_TIMEOUT
        self._half_open[link] = _HalfOpen(place=place, host=source[0], proved=newcomer.proved)
        if not newcomer.proved:
            self._unproved[source[0]] += 1
        self._ids[link] = set()
        self.issued(destination_untrusted(datagram), link)
        self.issued(connection.host_cid, link)
        return link

    def _leave_half_open(self, link: QuicLink) -> None:
        half_open = self._half_open.pop(link, None)
        if half_open is None:
            return
        half_open.place.release()
        if not half_open.proved:
            self._unproved[half_open.host] -= 1
            if not self._unproved[half_open.host]:
                del self._unproved[half_open.host]

    def _forget(self, link: QuicLink) -> None:
        """Drop a connection without a word."""
        self._counts.refused += 1
        self.ended(link)
        link.dispose()

    # --- the home of the links ----------------------------------------------------------------------

    def issued(self, connection_id: bytes, link: QuicLink) -> None:
        """Route datagrams to *connection_id* to *link*, unless it is gone."""
        if link in self._ids:
            self._ids[link].add(connection_id)
            self._by_id[connection_id] = link

    def retired(self, connection_id: bytes, link: QuicLink) -> None:
        """Route them no more."""
        if link in self._ids and connection_id in self._ids[link]:
            self._ids[link].remove(connection_id)
            del self._by_id[connection_id]

    def completed(self, link: QuicLink) -> None:
        """Have the connection served if the client has proved a key, else close it."""
        self._leave_half_open(link)
        link.alarm = math.inf
        address = link.connection.get_peer_address()
        if link.alpn != LINK_ALPN_QUIC.decode():
            link.connection.close(NO_APPLICATION_PROTOCOL, _CRYPTO_FRAME, "no application protocol in common")
        elif not link.connection.peer_certificates or address is None:
            link.connection.close(CERTIFICATE_REQUIRED, _CRYPTO_FRAME, "a client certificate is required")
        else:
            self._counts.opened += 1
            self._start(QuicCarrier(link, address))
            return
        self._counts.refused += 1

    def expired(self, link: QuicLink) -> None:
        """Give a handshake up that takes too long."""
        self._forget(link)

    def ending(self, link: QuicLink) -> None:
        """Give the place of a handshake back that has failed."""
        if link in self._half_open:
            self._counts.refused += 1
            self._leave_half_open(link)

    def ended(self, link: QuicLink) -> None:
        """Free the connection's ids, and its place."""
        self._leave_half_open(link)
        for connection_id in self._ids.pop(link, ()):
            self._by_id.pop(connection_id, None)
            if link.farewell is not None:
                self._gone[connection_id] = link.farewell
        while len(self._gone) > limits.QUIC_GONE_IDS:
            del self._gone[next(iter(self._gone))]


async def serve_quic(
    sockets: Sequence[UdpSocket],
    credentials: QuicCredentials,
    *,
    serve: Serve,
    admit: Admit,
    window_max: int = limits.STREAM_WINDOW_MAX,
    task_status: trio.TaskStatus[QuicEndpoint] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Serve QUIC connections until cancelled.

    Args:
        sockets: From `open_udp_sockets`; owned and closed here.
        credentials: The relay's, until `QuicEndpoint.present` is told others.
        serve: Called in a task of its own with each carrier whose client has
            proved a key; it opens a session on it, and must not raise.
        admit: Called with a newcomer's IP address; the place it gives is
            released when the handshake is over.
        window_max: Bytes to which a stream's receive window may grow.
        task_status: Gets the endpoint, as soon as it takes connections.

    Cancellation: every session says goodbye, then the sockets are closed.
    """
    async with AsyncExitStack() as stack:
        for socket in sockets:
            stack.callback(socket.close)
        nursery = await stack.enter_async_context(trio.open_nursery())

        def start(carrier: QuicCarrier) -> None:
            nursery.start_soon(serve, carrier)

        endpoint = QuicEndpoint(sockets, credentials, start=start, admit=admit, window_max=window_max)
        nursery.start_soon(endpoint.run)
        task_status.started(endpoint)
