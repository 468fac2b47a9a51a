"""The receive side of a stream: bytes in order, then an end or an error.

The carrier's reader puts (synchronously, never waiting for the consumer); one
consumer takes.  The three ends are kept apart: FIN is `finish`, an abort is
`fail`, and closing our own end is `close`.  Whatever was put before `fail` is
still taken first: an abort never eats bytes that were already received.

How much may be put is the sender's credit, granted and checked by the owner.
Small chunks are joined: a bytes object costs 33 bytes beside its content, so
that frames of two bytes would hold twenty times the credit in memory.
"""

from __future__ import annotations

from operator import index
from typing import Final, final

import trio

from trunnel.streams.conflict import ConflictDetector

DEFAULT_TAKE: Final = 64 * 1024
"""Bytes that `take(None)` returns at most."""
JOINED_MAX: Final = 1024
"""Bytes up to which neighbouring chunks are joined."""


@final
class Inbox:
    """Bytes received for one stream and not yet consumed."""

    __slots__ = ("_chunks", "_closed", "_conflict", "_error", "_finished", "_head", "_wakeup", "unread")

    def __init__(self) -> None:
        self._chunks: list[bytes] = []
        self._head = 0  # bytes of the first chunk that are consumed already
        self._finished = False
        self._closed = False
        self._error: BaseException | None = None
        self._wakeup: trio.Event | None = None
        self._conflict = ConflictDetector("another task is receiving on this stream")
        self.unread = 0
        """Bytes put and not taken."""

    @property
    def ended(self) -> bool:
        """Whether nothing more will be put: FIN, abort or closed."""
        return self._finished or self._closed or self._error is not None

    def put(self, chunk: bytes) -> None:
        """Append bytes of the peer."""
        if self._chunks and len(self._chunks[-1]) + len(chunk) <= JOINED_MAX:
            self._chunks[-1] += chunk
        else:
            self._chunks.append(chunk)
        self.unread += len(chunk)
        self._wake()

    def finish(self) -> None:
        """Record the peer's FIN."""
        self._finished = True
        self._wake()

    def fail(self, error: BaseException) -> None:
        """Record an abort, unless a FIN or an earlier abort came first."""
        if not self.ended:
            self._error = error
            self._wake()

    def abandon(self, error: BaseException) -> int:
        """Drop what is unread and raise *error* from now on.  Returns the bytes dropped.

        Also after a FIN: what lacks its last bytes must not look like an end.
        An earlier abort stands.
        """
        dropped = self.unread
        self._chunks.clear()
        self._head = 0
        self.unread = 0
        self._finished = False
        if self._error is None:
            self._error = error
        self._wake()
        return dropped

    def close(self) -> int:
        """Drop everything; later takes raise ClosedResourceError.  Returns the bytes dropped."""
        self._closed = True
        return self.abandon(trio.ClosedResourceError("this stream was closed"))

    def _wake(self) -> None:
        if self._wakeup is not None:
            self._wakeup.set()
            self._wakeup = None

    def _next(self, max_bytes: int) -> bytes:
        """Take what lies there, up to *max_bytes*; joined, so that a busy consumer writes less often."""
        parts: list[bytes] = []
        wanted = max_bytes
        while wanted and self._chunks:
            chunk = self._chunks[0]
            left = len(chunk) - self._head
            if left <= wanted:
                parts.append(chunk[self._head :] if self._head else chunk)
                self._chunks.pop(0)
                self._head = 0
                wanted -= left
            elif parts:
                break  # a whole chunk next time is cheaper than two halves
            else:
                parts.append(chunk[self._head : self._head + wanted])
                self._head += wanted
                wanted = 0
        taken = parts[0] if len(parts) == 1 else b"".join(parts)
        self.unread -= len(taken)
        return taken

    async def take(self, max_bytes: int | None) -> bytes:
        """Return at least one byte, or b"" at the peer's FIN; always a checkpoint.

        Raises:
            trio.BrokenResourceError: The stream was aborted; the cause says by whom.
            trio.ClosedResourceError: `close` was called.
            trio.BusyResourceError: Another task is in `take`.

        Cancellation: no effect, no byte is lost.
        """
        limit = DEFAULT_TAKE if max_bytes is None else index(max_bytes)
        if limit < 1:
            raise ValueError("max_bytes must be at least 1")
        with self._conflict:
            if self._chunks or self.ended:
                await trio.lowlevel.checkpoint()
            while not (self._chunks or self.ended):
                self._wakeup = trio.Event()
                await self._wakeup.wait()
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            if self._chunks:
                return self._next(limit)
            if self._error is not None:
                raise trio.BrokenResourceError(str(self._error)) from self._error
            return b""
