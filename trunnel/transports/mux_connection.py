"""What the driver of a multiplexer asks of its protocol: `MuxConnection` and `MuxReceiver`.

A multiplexer puts many streams on one reliable byte stream.  Its protocol is
sans-IO: the driver (`mux`) owns the carrier, the tasks and the clock, the
protocol owns ids, windows, frames and what it makes of the peer's mistakes.
HTTP/2 (`h2_connection`, `h2_receive`) and yamux (`wire.yamux`) are driven so.

What the driver relies on:

- A call never waits.  What is to be sent gathers in `output`; DATA is put there
  by `send` only, so whatever else is queued leaves ahead of DATA not yet taken.
- `send` takes no more than credit allows, and at most one frame.
- `consumed` and `discard` are called exactly once for each byte of a
  `BytesReceived`; credit follows them.
- A stream is in `streams` until it has ended both ways or was reset; a
  stream's id never comes again.
- After `feed_untrusted` has raised, only `go_away` and `output` are used.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Protocol, final

from trunnel.errors import ErrorCode
from trunnel.wire.muxevents import MuxEvent


class MuxOutput(Protocol):
    """Frames that wait for the writer."""

    @property
    def pending(self) -> int:
        """Bytes that wait to be taken."""
        ...

    def take(self) -> bytearray:
        """Return all bytes to send, in order, and forget them."""
        ...


class MuxStreamState(Protocol):
    """What the protocol knows of one open stream."""

    @property
    def we_ended(self) -> bool:
        """Whether our FIN is queued or sent."""
        ...


class MuxConnection(Protocol):
    """The state of one connection, and what is sent on it."""

    round_trip: float
    """Seconds; the driver sets it from its pings, the windows are tuned by it."""

    @property
    def streams(self) -> Mapping[int, MuxStreamState]:
        """Streams that have not ended both ways, by id."""
        ...

    @property
    def output(self) -> MuxOutput:
        """What the driver's writer takes."""
        ...

    @property
    def peer_stream_limit(self) -> int:
        """Streams the peer lets us have open."""
        ...

    @property
    def exhausted(self) -> bool:
        """Whether all our stream ids are used up."""
        ...

    @property
    def refusing(self) -> bool:
        """Whether we told the peer to open no more streams."""
        ...

    def open_stream(self, *, now: float) -> int:
        """Open a stream and return its id; LocalProtocolError if this end opens none."""
        ...

    def sendable(self, stream_id: int) -> int:
        """Return how many bytes may be sent on a stream now, at least 0."""
        ...

    def send(self, stream_id: int, payload: memoryview) -> int:
        """Queue one frame with as much of *payload* as may be sent; return the bytes taken."""
        ...

    def end(self, stream_id: int) -> None:
        """Queue our FIN; no effect if it was queued before."""
        ...

    def reset(self, stream_id: int, code: ErrorCode) -> bool:
        """Queue an abort of a stream that has not ended; whether there was one."""
        ...

    def consumed(self, stream_id: int, amount: int, *, unread: int | None, now: float) -> None:
        """Give back credit for bytes that a consumer took; *unread* more lie there."""
        ...

    def discard(self, amount: int) -> None:
        """Give back credit for bytes of streams that nobody will read."""
        ...

    def go_away(self, code: ErrorCode, reason: str = "") -> None:
        """Queue a goodbye: open streams go on, new ones of the peer are refused."""
        ...


class MuxReceiver(Protocol):
    """The receiving half."""

    def feed_untrusted(self, chunk: bytes, *, now: float) -> list[MuxEvent]:
        """Parse *chunk* and return what happened, in order; raises RemoteProtocolError only."""
        ...


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Multiplexer:
    """One connection of one protocol, ready to be driven."""

    name: str
    """`h2`, `yamux`: the transport's name, as in events."""
    title: str
    """The protocol's name, for people."""
    connection: MuxConnection
    receiver: MuxReceiver
    """The same object where a protocol has not two halves."""
    ping: Callable[[], None]
    """Queues a ping; the driver has one under way at a time."""
    accepted: Callable[[int], None] | None = None
    """Told of each stream that somebody accepts, where the protocol wants to know."""
