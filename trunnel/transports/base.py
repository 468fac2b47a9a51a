"""The small interface that every transport implements: `Session` and `Stream`.

A *session* is one agent instance's attachment to one relay.  The relay opens
streams, the agent accepts them; the first stream that the relay opens is the
control stream, every later one carries one visitor.  Upper layers know
nothing else of QUIC, HTTP/2 or yamux.

Rules that every implementation keeps, and that `tests/transports/conformance.py`
examines:

- FIN is carried as FIN (`send_eof`), an abort as an abort (`reset`); a lost
  carrier breaks every stream, it never looks like an end.
- Bytes that arrived before a reset are readable before the reset is raised.
- Receive credit follows consumption; the reader of a carrier never waits for
  a stream's consumer; what is buffered is bounded by the credit granted.
- A cancelled or failed `send_all` leaves the stream broken (an unknown part
  went out), never the session: one writer task owns the carrier.
- `reset`, `go_away` and `abort` are synchronous, so that they can be called
  while a scope is being cancelled.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from dataclasses import dataclass

import trio

from trunnel.errors import ErrorCode, SessionClosed
from trunnel.names import KeyId


@dataclass(frozen=True, slots=True, kw_only=True)
class Peer:
    """Who is at the other end of a session, as proved by the transport."""

    key_id: KeyId
    """Id of the key that the peer proved to possess."""
    address: str
    """Its address, `HOST:PORT`, for people and logs."""
    extension: bytes = b""
    """Bytes of the certificate extension 1.3.6.1.4.1.65535.1, or empty."""


@dataclass(frozen=True, slots=True, kw_only=True)
class SessionStatistics:
    """A snapshot of one session's counters."""

    streams_open: int
    """Streams, the control stream included."""
    unread: int
    """Bytes received and not yet consumed, all streams."""
    unsent: int
    """Bytes accepted from senders and not yet handed to the carrier."""
    bytes_received: int
    """Bytes of streams' payload received."""
    bytes_sent: int
    """Bytes of streams' payload sent."""


class Stream(trio.abc.HalfCloseableStream, ABC):
    """One bidirectional byte stream of a session.

    `trio.abc.HalfCloseableStream` states the contract of `send_all`,
    `wait_send_all_might_not_block`, `send_eof`, `receive_some` and `aclose`.
    Here: `aclose` ends what was sent (FIN if `send_eof` was not called) and
    discards what comes; broken streams raise `trio.BrokenResourceError` whose
    `__cause__` is `StreamReset` or `SessionClosed`.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def stream_id(self) -> int:
        """The stream's number in its carrier; never reused in one session."""

    @abstractmethod
    def reset(self, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Abort both directions now; unsent and unread bytes are dropped.

        Bytes whose `send_all` has returned are still delivered before the
        abort.  No effect on a stream that has ended both ways.
        """

    @property
    @abstractmethod
    def reset_code(self) -> ErrorCode | None:
        """The code with which the peer reset this stream, or None."""


class Session(ABC):
    """One authenticated attachment of an agent to a relay.

    Obtained from an async context manager that owns the session's nursery;
    leaving it aborts what is left.
    """

    __slots__ = ()

    @property
    @abstractmethod
    def transport(self) -> str:
        """`h2`, `memory` …: the transport's name, as in events."""

    @property
    @abstractmethod
    def peer(self) -> Peer:
        """The other end."""

    @abstractmethod
    async def open_stream(self) -> Stream:
        """Open a stream; waits while the peer's stream limit is reached.

        Raises:
            SessionClosed: The session ended or is going away.
            trio.BusyResourceError: Never; callers may be many.

        Cancellation: no effect, no stream was opened.
        """

    @abstractmethod
    async def accept_stream(self) -> Stream:
        """Return the next stream that the peer opened.

        Raises:
            SessionClosed: The session ended, and no accepted stream is left.

        Cancellation: no effect.
        """

    @abstractmethod
    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Tell the peer to open no more streams; those that are open go on."""

    @abstractmethod
    def abort(self, reason: str, *, code: ErrorCode = ErrorCode.CANCEL, retryable: bool = True) -> None:
        """End the session now; every stream breaks with `SessionClosed(reason)`.

        A GOAWAY with *code* is written if the carrier takes it at once.
        Idempotent: the first reason stands.
        """

    @property
    @abstractmethod
    def closed(self) -> SessionClosed | None:
        """Why the session ended, or None while it lives."""

    @abstractmethod
    async def wait_closed(self) -> SessionClosed:
        """Wait until the session has ended and return why."""

    @property
    @abstractmethod
    def last_heard(self) -> float:
        """`trio.current_time()` at which the last bytes of the peer came."""

    @property
    @abstractmethod
    def unanswered_since(self) -> float | None:
        """When the oldest question (a ping, an unacknowledged packet) went out that is still open.

        None while nothing is outstanding, or once anything at all was heard
        of the peer since.  A carrier that is silent on a question for longer
        than `SUSPECT_AFTER` gets no new streams while another one answers.
        """

    @property
    def load(self) -> float:
        """Streams open now; infinite while the peer allows no more.  Asked for each visitor: to be cheap."""
        return float(self.statistics().streams_open)

    def ask_every(self, seconds: float) -> None:  # noqa: B027 - most transports have nothing to do
        """Ping an otherwise quiet peer so often, as the relay wishes; no effect where `HEARTBEAT` is enough."""

    async def migrate(self) -> bool:
        """Go on from another local address, because the network has changed; return whether the transport can."""
        await trio.lowlevel.checkpoint()
        return False

    @abstractmethod
    def statistics(self) -> SessionStatistics:
        """Return a snapshot of the counters."""


RttSource = Callable[[], float]
"""Returns the smoothed round trip in seconds; transports use it to tune windows."""
