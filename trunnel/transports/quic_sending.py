"""What the streams of one QUIC connection send, and how it ends.

- A stream writes as much as there is room for; a sender without room waits
  here until acknowledgements or credit make some.
- RESET_STREAM makes the peer drop what it has not taken yet.  So it waits until
  the bytes before it are acknowledged, at most `ABORT_FLUSH_TIMEOUT` (`cut`);
  STOP_SENDING goes out at once (`stop`).
- `wait_flushed` returns when the peer has acknowledged all bytes written: the
  time for CONNECTION_CLOSE, behind which nothing arrives.

`look` is called once after each batch of datagrams; its work depends on the
streams that made progress, not on how many there are.
"""

from __future__ import annotations

import math
from typing import Protocol, final

import trio

from trunnel.errors import ErrorCode
from trunnel.settings import limits
from trunnel.transports.quic_link import QuicLink


class Sender(Protocol):
    """A stream that waits for room."""

    @property
    def stream_id(self) -> int:
        """The stream's number."""
        ...

    def wake(self) -> None:
        """Look again: there is room."""
        ...


@final
class Sending:
    """See the module's head."""

    __slots__ = ("_connection", "_cuts", "_flushed", "_link", "_over", "_unflushed", "_waiting", "written")

    def __init__(self, link: QuicLink) -> None:
        self._link = link
        self._connection = link.connection
        self._waiting: dict[int, Sender] = {}
        self._cuts: dict[int, tuple[ErrorCode, float]] = {}  # RESET_STREAMs to come, and their deadlines
        self._unflushed: set[int] = set()  # streams with bytes that the peer has not acknowledged
        self._flushed: trio.Event | None = None
        self._over = False
        self.written = 0
        """Bytes of payload written, all streams."""

    # --- for the streams ----------------------------------------------------------------------------

    def room(self, stream_id: int) -> int:
        """Return how many bytes may be written now."""
        return self._connection.room(stream_id)

    def write(self, stream_id: int, octets: bytes) -> None:
        """Put *octets* into the send buffer; there must be room."""
        self.written += len(octets)
        self._put(stream_id, octets)

    def notify_room(self, sender: Sender) -> None:
        """Wake *sender* once when there is room again."""
        self._waiting[sender.stream_id] = sender

    def finish(self, stream_id: int) -> None:
        """Send FIN behind what was written; nothing if the peer wants no more of the stream."""
        if self._connection.writable(stream_id):
            self._put(stream_id, b"", end=True)

    def cut(self, stream_id: int, code: ErrorCode) -> None:
        """Send RESET_STREAM once what was written is acknowledged; the first *code* stands."""
        if not self._over and stream_id not in self._cuts:
            deadline = trio.current_time() + limits.ABORT_FLUSH_TIMEOUT
            self._cuts[stream_id] = (code, deadline)
            self._link.alarm = min(self._link.alarm, deadline)
            self._link.touch()

    def stop(self, stream_id: int, code: ErrorCode) -> None:
        """Send STOP_SENDING."""
        if not self._over:
            self._connection.stop_stream(stream_id, code)
            self._link.touch()

    def forget(self, stream_id: int) -> None:
        """Wake nobody for this stream: its owner has let go of it."""
        self._waiting.pop(stream_id, None)

    # --- for the session ----------------------------------------------------------------------------

    def announce(self, stream_id: int, head: int) -> None:
        """Write the octet at the head of a stream of ours: from it the peer learns that the stream exists."""
        self._put(stream_id, bytes([head]))

    def look(self, now: float) -> None:
        """Wake senders that have room again, send the RESET_STREAMs that are due, note what is flushed."""
        progress = self._connection.take_progress()
        for stream_id in progress & self._waiting.keys():
            self._wake_if_worth(stream_id)
        for stream_id in progress & self._unflushed:
            if self._connection.drained(stream_id):
                self._unflushed.remove(stream_id)
        if self._cuts:
            self._make_cuts(now)
        if self._flushed is not None and not self._unflushed:
            self._flushed.set()

    def end(self) -> None:
        """Send nothing new: the session is over.  What was written still goes out."""
        self._over = True
        self._waiting.clear()

    async def wait_flushed(self) -> None:
        """Wait until the peer has acknowledged all bytes, or the connection ends."""
        self._flushed = trio.Event()
        self._link.touch()  # for a `look`, even if no datagram comes
        await self._flushed.wait()

    def give_up(self) -> None:
        """Wait for no acknowledgement any more: the connection ends."""
        self._unflushed.clear()
        self._cuts.clear()
        self._link.alarm = math.inf  # else an alarm that nobody moves goes off without a pause until the end

    def _put(self, stream_id: int, octets: bytes, *, end: bool = False) -> None:
        if not self._over:
            self._connection.send_stream_data(stream_id, octets, end)
            self._unflushed.add(stream_id)
            self._link.touch()

    def _wake_if_worth(self, stream_id: int) -> None:
        """Wake a sender, but not for a few bytes while more room is to come."""
        worth = limits.QUIC_ROOM_MIN if self._connection.unacknowledged(stream_id) else 1
        if self._connection.room(stream_id) >= worth:
            self._waiting.pop(stream_id).wake()

    def _make_cuts(self, now: float) -> None:
        for stream_id, (code, deadline) in tuple(self._cuts.items()):
            if now >= deadline or self._connection.drained(stream_id):
                del self._cuts[stream_id]
                self._connection.reset_stream(stream_id, code)
        self._link.alarm = min((deadline for _, deadline in self._cuts.values()), default=math.inf)
