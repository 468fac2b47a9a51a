"""Lines to standard output and standard error that can neither block nor break a tunnel.

Whoever reads our output may stop reading (a full pipe, a terminal under
Ctrl-S) or go away.  A blocking write would stop every stream of the process, a
raised `BrokenPipeError` would end it.  So, where the platform can ask whether a
descriptor takes bytes (`capabilities.HAS_SELECT_ON_FILES`), at most PIPE_BUF
bytes are written when it says yes, which POSIX promises not to block on a
pipe; the rest waits in a bounded backlog, in order.  What does not fit there
is dropped whole lines at a time, counted, and told when there is room again.
The descriptor is never switched to non-blocking: that would change it for
every program that shares the terminal.

A line is written whole, and a torn one is finished first.  A reader that has
gone away (EPIPE) silences the writer for good.
"""

from __future__ import annotations

import errno
import os
import select
import time
from collections.abc import Callable
from contextlib import suppress
from typing import Final, TextIO, final

import trio

from trunnel import capabilities
from trunnel.settings import limits

_GONE: Final = frozenset({errno.EPIPE, errno.EBADF})
_LATER: Final = frozenset({errno.EAGAIN, errno.EWOULDBLOCK, errno.EINTR})


def printable(text: str) -> str:
    r"""Return *text* with everything that is not printable escaped (`\x1b`, `\n`, `\u202e` ...).

    For text of strangers: it can then neither forge lines nor drive a terminal.
    """
    if text.isprintable():
        return text
    return "".join(char if char.isprintable() else char.encode("unicode_escape").decode("ascii") for char in text)


@final
class LineWriter:
    """Writes lines to one of the standard streams; one task at a time."""

    def __init__(self, stream: TextIO | None, *, dropped: Callable[[int], str]) -> None:
        """Wrap *stream* (None is a closed one); *dropped* words the line that counts lost lines."""
        self._stream = stream
        self._descriptor = _descriptor_of(stream)
        self._describe_dropped = dropped
        self._backlog = bytearray()
        self._stuck = trio.Event()
        self._gone = stream is None
        self.dropped = 0
        """Lines dropped since the last that was written."""
        self.divert: Callable[[str], None] | None = None
        """Takes the lines instead, while a live view owns the terminal."""

    @property
    def blocked(self) -> bool:
        """Whether lines are waiting for the reader."""
        return bool(self._backlog)

    @property
    def terminal(self) -> bool:
        """Whether a person looks at it."""
        return self._stream is not None and not self._gone and self._stream.isatty()

    def write(self, line: str) -> None:
        """Write *line* and a newline, now or as soon as the reader reads; never raises."""
        if self.divert is None:
            self.write_text(line + "\n")
        else:
            self.divert(line)

    def write_text(self, text: str) -> None:
        """Write *text* as it is; whole, in order, or not at all."""
        if self._gone:
            return
        if self._descriptor is None:
            if self._stream is not None:
                self._write_stream(self._stream, text)
            return
        content = text.encode("utf-8", "backslashreplace")
        if len(self._backlog) + len(content) > limits.OUTPUT_BACKLOG:
            self.dropped += 1
            return
        self._backlog += content
        self._pump()

    def flush(self, timeout: float = limits.OUTPUT_FLUSH) -> None:
        """Give what waits a last chance of *timeout* seconds in all; blocks."""
        deadline = time.monotonic() + timeout  # noqa: TID251 - at the end there is no trio clock any more
        while self._backlog and self._descriptor is not None:
            left = deadline - time.monotonic()  # noqa: TID251 - as above
            if not _takes_bytes(self._descriptor, max(0, left)):
                break
            self._pump()
        if self._stream is not None and not self._gone:
            with suppress(OSError, ValueError):
                self._stream.flush()

    async def keep_flushing(self) -> None:
        """Write what waits whenever the reader reads again; runs until cancelled."""
        while True:
            await self._stuck.wait()
            try:
                await trio.lowlevel.wait_writable(self._descriptor or 0)
            except OSError:  # a descriptor that cannot be waited for
                await trio.sleep(limits.OUTPUT_FLUSH)
            self._pump()
            if not self._backlog:
                self._stuck = trio.Event()

    def _pump(self) -> None:
        descriptor = self._descriptor
        while self._backlog and descriptor is not None and not self._gone and _takes_bytes(descriptor, 0):
            try:
                written = os.write(descriptor, self._backlog[: limits.OUTPUT_CHUNK])
            except OSError as exc:
                self._after_error(exc)
                break
            del self._backlog[:written]
        if self._backlog:
            self._stuck.set()
        elif self.dropped and not self._gone:
            count, self.dropped = self.dropped, 0
            self.write(self._describe_dropped(count))

    def _after_error(self, error: OSError) -> None:
        if error.errno in _LATER:
            return
        self._gone = error.errno in _GONE
        self._backlog.clear()
        self.dropped += 1

    def _write_stream(self, stream: TextIO, text: str) -> None:
        """Write without a descriptor: a test's buffer, or a platform that cannot ask."""
        try:
            try:
                stream.write(text)
            except UnicodeEncodeError:
                stream.write(text.encode("ascii", "backslashreplace").decode("ascii"))
            stream.flush()
        except (OSError, ValueError):  # ValueError: the stream was closed
            self._gone = True


def _descriptor_of(stream: TextIO | None) -> int | None:
    if stream is None or not capabilities.HAS_SELECT_ON_FILES:
        return None
    try:
        stream.flush()
        return stream.fileno()
    except (OSError, ValueError):
        return None


def _takes_bytes(descriptor: int, timeout: float) -> bool:
    """Whether a write of PIPE_BUF bytes returns at once; waits up to *timeout* seconds for that."""
    try:
        return bool(select.select([], [descriptor], [], timeout)[1])
    except (OSError, ValueError):
        return True  # the write will tell what is wrong
