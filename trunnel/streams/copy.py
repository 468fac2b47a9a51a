"""Copy bytes both ways between two streams until both have ended.

Two tasks, one for each direction.  The rules, for any two streams:

- FIN becomes FIN: an end of file on one side is passed on by `send_eof`, and
  the other direction goes on (half-close, RFC 9293 §3.6).  A side that cannot
  half-close gets its end when everything is over.
- Truncation never looks like an end.  A side that breaks while it is read has
  its bytes delivered, then the other side is aborted, never closed.
- A side that says it wants no more (RST_STREAM with NO_ERROR) has not broken:
  the rest is read away for a moment and everybody ends in order.
- A side that breaks while it is written to may have answered before it broke:
  what it sent is still delivered.  If its kernel had its FIN already (EPIPE),
  that answer is whole and ends with FIN; after ECONNRESET an end of file means
  nothing (the error was reported once, to the writer) and becomes an abort.
- TLS cut off without close_notify is truncation too, unless the other side had
  ended before: many HTTP clients just close once they have their answer.
- A process that is killed has not ended its streams: until a socket is closed in
  order, the kernel would close it with RST.
- A deadline or a cancellation aborts at once.  Only a side that had all the
  other side's bytes and their FIN is closed then: it was promised an end, and
  what the kernel still holds for it may be delivered.

    first byte | nothing came from the answering side yet: seconds without any byte
    idle       | afterwards: seconds without any byte
    half-closed| one side has ended: seconds without any byte
    total      | seconds in all, whatever moves

Cost: one scope whose deadline is moved when bytes flow, and then only if it
would otherwise run out noticeably early (`DEADLINE_SLACK`); per chunk a clock
reading, a comparison and two additions.  There is no task for the timer and no
scope per chunk.

A unix socket has no RST; there an abort reaches the peer as an end of file.
"""

from __future__ import annotations

import contextlib
import errno
import math
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import Final, Literal, final

import trio

from trunnel.errors import ErrorCode, StreamReset
from trunnel.settings import limits
from trunnel.streams.abort import abort_stream, wait_stream_delivered
from trunnel.streams.sockets import reset_if_killed

__all__ = ["CopyLimits", "CopyResult", "Counter", "End", "abort_stream", "copy_streams"]


@final
class End(StrEnum):
    """How one side's bytes ended."""

    FIN = "fin"
    """It said that it was done."""
    RESET = "reset"
    """It broke off: RST, a reset stream, TLS without close_notify."""
    DEADLINE = "deadline"
    """It had not ended when a deadline ran out."""
    CANCELLED = "cancelled"
    """It had not ended when we aborted it: the other side was gone, or the caller was cancelled."""
    ERROR = "error"
    """It could not be used: closed under our hands, never reached."""


_TRUNCATED: Final = frozenset({End.RESET, End.ERROR})
"""Ends that truncate."""
_ORDERLY: Final = frozenset({End.FIN, End.CANCELLED})
"""Ends of a side whose bytes all went where they were wanted."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CopyLimits:
    """The deadlines of one copy, in seconds; see the head of this file."""

    first_byte: float
    idle: float
    half_closed: float
    total: float | None = None
    first_byte_from: Literal["left", "right"]
    """The side that answers."""


@final
@dataclass(slots=True)
class Counter:
    """Bytes read from each side so far; `figures` may be asked while the bytes flow."""

    left_bytes: int = 0
    right_bytes: int = 0
    elsewhere: Callable[[], tuple[int, int]] | None = None
    """Counts besides these, while a worker has the stream."""

    def figures(self) -> tuple[int, int]:
        """Return the bytes read from the left and from the right so far."""
        left, right = (0, 0) if self.elsewhere is None else self.elsewhere()
        return self.left_bytes + left, self.right_bytes + right

    def settle(self, counts: tuple[int, int]) -> None:
        """Add the last *counts* of a worker, which has the stream no more."""
        self.elsewhere = None
        self.left_bytes += counts[0]
        self.right_bytes += counts[1]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CopyResult:
    """What was copied and how it ended; `left_bytes` were read from the left side."""

    left_bytes: int
    right_bytes: int
    left_end: End
    right_end: End
    seconds: float


async def copy_streams(
    left: trio.abc.Stream, right: trio.abc.Stream, limits: CopyLimits, *, counter: Counter | None = None
) -> CopyResult:
    """Copy both ways between *left* and *right* until both have ended, one broke, or a deadline ran out.

    Owns both streams: on return, and on any exception, both are closed or aborted.

    Args:
        left: One side.
        right: The other side.
        limits: The deadlines.
        counter: Counts as bytes come in, for live figures.

    Raises:
        trio.Cancelled: And nothing else; any other exception is a bug.

    Cancellation: both streams were aborted.
    """
    copy = _Copy(_Side(left), _Side(right), limits, Counter() if counter is None else counter)
    try:
        await copy.run()
        await copy.finish()
    except BaseException:
        copy.abort()
        raise
    return copy.result()


@final
class _Side:
    """One stream and what is known of its two halves."""

    __slots__ = ("deaf", "end", "gone", "sealed", "stream", "suspect")

    def __init__(self, stream: trio.abc.Stream) -> None:
        self.stream = stream
        self.end: End | None = None  # how its bytes ended; None: they have not
        self.sealed = False  # it got the other side's FIN, so it has everything
        self.deaf = False  # writing to it failed: it reads no more
        self.suspect = False  # writing failed such that its end of file means nothing
        self.gone = False  # closed or aborted
        self._dies_abruptly(on=True)

    def _dies_abruptly(self, *, on: bool) -> None:
        """See that truncation does not look like an end even if this process is killed."""
        if isinstance(self.stream, trio.SocketStream):
            reset_if_killed(self.stream.socket, on=on)

    async def seal(self) -> None:
        """Send it the other side's FIN.  If it broke meanwhile, reading it will tell."""
        if isinstance(self.stream, trio.abc.HalfCloseableStream):
            try:
                await self.stream.send_eof()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                self.sealed = _wants_no_more(exc)
                return
        self.sealed = True

    def abort(self, code: ErrorCode) -> None:
        """Abort it, unless it is gone already."""
        if not self.gone:
            self.gone = True
            abort_stream(self.stream, code)

    async def close(self) -> None:
        """Close it in order; abort it if that takes too long."""
        self._dies_abruptly(on=False)
        with trio.move_on_after(limits.CLOSE_TIMEOUT) as scope:
            try:
                await self.stream.aclose()
            except trio.BrokenResourceError:
                scope.cancel()
        if not scope.cancel_called:
            self.gone = True
        self.abort(ErrorCode.CANCEL)


def _wants_no_more(error: BaseException) -> bool:
    """Whether a stream of ours ended a send because its far end is content: RST_STREAM(NO_ERROR), RFC 9113 §8.1."""
    cause = error.__cause__
    return isinstance(cause, StreamReset) and cause.code is ErrorCode.NO_ERROR


@final
class _Copy:
    """The state of one copy: two directions, one deadline."""

    __slots__ = (
        "_answered",
        "_answerer",
        "_counter",
        "_limits",
        "_move_at",
        "_over",
        "_scope",
        "_start",
        "_stop",
        "left",
        "right",
    )

    def __init__(self, left: _Side, right: _Side, limits: CopyLimits, counter: Counter) -> None:
        self.left = left
        self.right = right
        self._limits = limits
        self._counter = counter
        self._answerer = left if limits.first_byte_from == "left" else right
        self._answered = False
        self._over = False  # stopped because a side broke, not by the deadline
        self._start = self._stop = trio.current_time()
        self._move_at = -math.inf  # chunks that come at this time or later move the deadline
        self._scope = trio.CancelScope()

    def result(self) -> CopyResult:
        """Sum up, after `finish`."""
        return CopyResult(
            left_bytes=self._counter.left_bytes,
            right_bytes=self._counter.right_bytes,
            left_end=self.left.end or End.CANCELLED,
            right_end=self.right.end or End.CANCELLED,
            seconds=self._stop - self._start,
        )

    # --- moving bytes -----------------------------------------------------------------------------

    async def run(self) -> None:
        """Copy until nothing is left to do."""
        with self._scope:
            self._move_deadline(self._start)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._direct, self.left, self.right)
                await self._direct(self.right, self.left)
        self._stop = trio.current_time()

    async def _direct(self, source: _Side, sink: _Side) -> None:
        """Move the bytes of *source* to *sink* until either ends."""
        receive, send, chunk_size = source.stream.receive_some, sink.stream.send_all, limits.COPY_CHUNK
        while True:
            try:
                chunk = await receive(chunk_size)
            except trio.BrokenResourceError:
                return await self._source_broke(source, sink)
            except trio.ClosedResourceError:
                return self._break(source, End.ERROR)
            if not chunk:
                return await self._source_ended(source, sink)
            self._count(source, len(chunk))
            try:
                await send(chunk)
            except trio.BrokenResourceError as exc:
                if _wants_no_more(exc):
                    return await self._discard(source, sink)
                return self._sink_broke(sink, exc)
            except trio.ClosedResourceError:
                return self._break(sink, End.ERROR)

    def _count(self, source: _Side, size: int) -> None:
        """Account for a chunk and put the deadline off."""
        if source is self.left:
            self._counter.left_bytes += size
        else:
            self._counter.right_bytes += size
        now = trio.current_time()
        if now >= self._move_at:
            self._answered = self._answered or source is self._answerer
            self._move_deadline(now)

    # --- ends -------------------------------------------------------------------------------------

    async def _source_ended(self, source: _Side, sink: _Side) -> None:
        """Take *source*'s end of file."""
        for _ in range(2):  # trio tells a writer of its error a step late: that it met a reset must be known here
            await trio.lowlevel.checkpoint()
        if source.suspect:
            self._break(source, End.RESET)
            return
        source.end = End.FIN
        self._move_deadline(trio.current_time())
        await sink.seal()

    async def _source_broke(self, source: _Side, sink: _Side) -> None:
        """Take a read error of *source*."""
        if source.sealed and getattr(source.stream, "truncated", False):
            await self._source_ended(source, sink)
        else:
            self._break(source, End.RESET)

    async def _discard(self, source: _Side, sink: _Side) -> None:
        """Read away what *sink* does not want, for a moment: closing with bytes unread would send RST."""
        sink.sealed = True
        source.end = End.CANCELLED
        self._move_deadline(trio.current_time())
        with trio.move_on_after(limits.CLOSE_TIMEOUT):
            with contextlib.suppress(trio.BrokenResourceError, trio.ClosedResourceError):
                while await source.stream.receive_some(limits.COPY_CHUNK):
                    pass
            source.end = End.FIN  # or it broke: nothing more of it was wanted, so nothing is missing

    def _sink_broke(self, sink: _Side, error: trio.BrokenResourceError) -> None:
        """Take a write error of *sink*: this direction is over, *sink*'s own bytes may still come."""
        sink.deaf = True
        cause = error.__cause__
        sink.suspect = sink.end is None and isinstance(cause, OSError) and cause.errno != errno.EPIPE
        self._move_deadline(trio.current_time())

    def _break(self, side: _Side, end: End) -> None:
        """Record that *side* broke, and stop both directions."""
        side.end = end
        self._over = True
        self._scope.cancel()

    async def finish(self) -> None:
        """Part with both sides as they deserve, those that broke first."""
        expired = self._scope.cancelled_caught and not self._over
        for side in (self.left, self.right):
            if expired and side.suspect:
                side.end, expired = End.RESET, False
        if expired:
            self.left.end = self.left.end or End.DEADLINE
            self.right.end = self.right.end or End.DEADLINE
        for side in (self.left, self.right):
            if side.end in _TRUNCATED:
                side.abort(ErrorCode.CANCEL)
            elif expired and not side.sealed:
                side.abort(ErrorCode.DEADLINE)
        for side in (self.left, self.right):
            if side.gone:
                continue
            if side.sealed and (expired or side.end in _ORDERLY):
                await side.close()
            else:
                await wait_stream_delivered(side.stream)
                side.abort(ErrorCode.PEER_ABORTED)

    def abort(self) -> None:
        """Abort both sides now: we were cancelled."""
        self.left.abort(ErrorCode.CANCEL)
        self.right.abort(ErrorCode.CANCEL)

    # --- deadlines --------------------------------------------------------------------------------

    def _move_deadline(self, now: float) -> None:
        """Set the deadline for the state of now."""
        allowed = self._limits.idle if self._answered else self._limits.first_byte
        sides = (self.left, self.right)
        if any(side.end is not None or side.deaf for side in sides):
            allowed = min(allowed, self._limits.half_closed)
        if any(side.suspect for side in sides):
            allowed = min(allowed, limits.ABORT_FLUSH_TIMEOUT)
        slack = allowed * limits.DEADLINE_SLACK if self._answered else 0.0
        self._move_at = now + slack
        self._scope.deadline = min(now + allowed + slack, self._start + (self._limits.total or math.inf))
