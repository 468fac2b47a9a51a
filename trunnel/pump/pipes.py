"""A worker's pipes: what `splice` needs between two sockets.

A pipe is borrowed for as long as bytes are in it, usually for one turn, so a
worker needs hardly more than one.  Rules:

- Never splice into a pipe that is not empty, and never give one back that may
  not be: a stale byte would reach another tenant.  `give_back` takes the
  borrower's word *and* asks the kernel; a pipe that fails either is closed.
- The number is bounded.  At the bound a stream copies, one small chunk at a time,
  and waits unread for its sink like any other.
- A pipe that is not 64 KiB is not used: an ordinary user's pipes shrink to
  8 KiB beyond a limit of all programs together, pipe(7), and then copying is
  faster.  `borrow` returns None, and says `scarce`.

Imported by workers: standard library only.
"""

from __future__ import annotations

import fcntl
import os
import termios
from typing import Final, NamedTuple, final

PIPE_SIZE: Final = 64 * 1024
_NOTHING: Final = bytes(4)


@final
class Pipe(NamedTuple):
    """Both ends of a pipe."""

    reader: int
    writer: int

    def close(self) -> None:
        """Close it, with whatever is in it."""
        os.close(self.reader)
        os.close(self.writer)


@final
class Pipes:
    """The pipes of one worker."""

    __slots__ = ("_free", "_most", "_open", "scarce")

    def __init__(self, most: int) -> None:
        """Own no pipe yet, and never more than *most*."""
        self._free: list[Pipe] = []
        self._open = 0
        self._most = most
        self.scarce = False
        """Whether the system has no full-sized pipes for us: what would be spliced has to be copied."""

    def borrow(self) -> Pipe | None:
        """Return an empty pipe of `PIPE_SIZE`, or None: all are in use, or the system has none (`scarce`)."""
        if self._free:
            return self._free.pop()
        if self._open >= self._most or self.scarce:
            return None
        try:
            pipe = Pipe(*os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC))
        except OSError:
            self.scarce = not self._open
            return None
        if fcntl.fcntl(pipe.writer, fcntl.F_GETPIPE_SZ) < PIPE_SIZE:
            pipe.close()
            self.scarce = not self._open
            return None
        self._open += 1
        return pipe

    def give_back(self, pipe: Pipe, *, left_in: int) -> None:
        """Take a pipe back in which the borrower believes *left_in* bytes; unless it is empty, it is closed."""
        if left_in == 0 and fcntl.ioctl(pipe.reader, termios.FIONREAD, _NOTHING) == _NOTHING:
            self._free.append(pipe)
        else:
            self._open -= 1
            pipe.close()

    def close(self) -> None:
        """Close those that are not borrowed."""
        for pipe in self._free:
            pipe.close()
        self._open -= len(self._free)
        self._free.clear()
