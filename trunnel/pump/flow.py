"""One direction of a pumped stream: bytes from one socket to the other.

A chunk below `PUMP_SMALL` is received and sent, through user space: cheaper
than a pipe, which has to be looked into after use.  A full one means bulk, and
from then on the bytes are spliced, until a splice brings little.

What the sink does not take is kept, in a pipe or as bytes, never more than one
chunk; meanwhile the source is not read and its peer's flow control holds the
rest.  So an end or an error of the source is seen only after everything before
it was delivered.  When `splice` finds nothing at all, `recv` is asked: urgent
data stops the one for ever, and not the other.

What the ends of a stream mean is told by `pumped`.  Imported by workers:
standard library only.
"""

from __future__ import annotations

import errno
import os
from typing import TYPE_CHECKING, Final, final

from trunnel.pump.pipes import PIPE_SIZE, Pipe, Pipes
from trunnel.pump.sides import Side

if TYPE_CHECKING:
    from trunnel.pump.pumped import Pumped

SMALL: Final = 16 * 1024
"""Bytes received at a time while little comes."""
LARGE: Final = 64 * 1024
"""Bytes received at a time for TLS: four records for one call."""
TURNS: Final = 16
"""Chunks moved before others have their turn: 1 MiB of bulk."""
_MOVE: Final = os.SPLICE_F_MOVE | os.SPLICE_F_NONBLOCK


@final
class Flow:
    """One direction."""

    __slots__ = (
        "_bounded",
        "_bulk",
        "_chunk",
        "_held",
        "_in_pipe",
        "_mark",
        "_pipe",
        "_pipes",
        "_splices",
        "count",
        "over",
        "sink",
        "source",
        "stream",
    )

    def __init__(self, stream: Pumped, source: Side, sink: Side, pipes: Pipes | None) -> None:
        """Move bytes of *source* to *sink*, through *pipes* if both are plain sockets."""
        self.stream = stream
        self.source = source
        self.sink = sink
        self.count = 0
        """Bytes read from the source."""
        self.over = False
        """It moves nothing any more."""
        self._pipes = pipes
        self._splices = pipes is not None
        self._chunk = SMALL if pipes is not None else LARGE
        self._bulk = False
        self._bounded = False
        self._pipe: Pipe | None = None
        self._in_pipe = 0
        self._mark = 0  # `count` when this turn began
        self._held = b""

    @property
    def stuck(self) -> bool:
        """Whether it waits for the sink to take what it has."""
        return self._pipe is not None or bool(self._held)

    @property
    def hungry(self) -> bool:
        """Whether it waits for bytes of the source."""
        return not (self.over or self._held or self._pipe is not None)

    def discard(self) -> None:
        """Move nothing any more; what was kept is lost."""
        self.over = True
        self._held = b""
        if self._pipe is not None and self._pipes is not None:
            self._pipes.give_back(self._pipe, left_in=self._in_pipe)
            self._pipe = None

    # --- the source has something -------------------------------------------------------------------

    def pull(self) -> bool:
        """Move what the source has; return whether there may be more at once."""
        if not self.hungry:
            return False
        before = self._mark = self.count
        turns = TURNS
        try:
            while turns and not self.over and (self._splice() if self._bulk else self._copy()):
                turns -= 1
        finally:
            if self.count != before:
                self.stream.moved(self)
            if self.stuck:
                self.stream.unsettled = True
        return not turns

    def _copy(self) -> bool:
        """Move one chunk through user space; return whether to go on."""
        try:
            chunk = self.source.receive(self._chunk)
        except BlockingIOError:
            return False
        except OSError as exc:
            self.stream.source_broke(self, exc)
            return False
        if not chunk:
            self.stream.source_ended(self)
            return False
        self.count += len(chunk)
        if not self._deliver(chunk) or (len(chunk) < SMALL and not self.source.ahead):
            return False
        if not self._bounded:
            self._bounded = True
            self.source.bound()
        self._bulk = self._splices
        return True

    def _deliver(self, chunk: bytes) -> bool:
        """Send *chunk* to the sink; return whether all of it went, and keep what did not."""
        try:
            sent = self.sink.send(chunk)
        except BlockingIOError:
            sent = 0
        except OSError as exc:
            self.stream.sink_broke(self, exc)
            return False
        self._held = chunk[sent:]
        return not self._held

    def _splice(self) -> bool:
        """Move one chunk through a pipe; return whether to go on."""
        pipes = self._pipes
        pipe = None if pipes is None else pipes.borrow()
        if pipes is None or pipe is None:
            self._bulk = False
            self._splices = pipes is not None and not pipes.scarce
            return True
        self._pipe = pipe
        try:
            size = os.splice(self.source.fd, pipe.writer, PIPE_SIZE, flags=_MOVE)
        except OSError as exc:
            self._return_pipe()
            if exc.errno == errno.EAGAIN and self.count != self._mark:
                return False  # that was all, for now
            self._bulk = False
            if exc.errno in (errno.EAGAIN, errno.EINVAL):
                self._splices = exc.errno == errno.EAGAIN  # EINVAL: a socket that cannot be spliced
                return True
            self.stream.source_broke(self, exc)
            return False
        if not size:  # an end, or urgent data and a FIN behind it: `recv` knows
            self._return_pipe()
            self._bulk = False
            return True
        self.count += size
        self._in_pipe = size
        self._bulk = size >= SMALL
        return self._empty_pipe()

    # --- the sink has room --------------------------------------------------------------------------

    def push(self) -> bool:
        """Deliver what was kept, then move more; return whether there may be more at once."""
        self.stream.unsettled = True
        if self._pipe is not None:
            before = self._in_pipe
            delivered = self._empty_pipe()
            if self._in_pipe != before:
                self.stream.moved(self)  # a slow reader is not an idle one
        elif self._held:
            delivered = self._deliver(self._held)
            self.stream.moved(self)
        else:
            if self.sink.sealing:
                self.stream.seal(self.sink)
            return False
        return self.pull() if delivered and not self.over else False

    def _empty_pipe(self) -> bool:
        """Splice what is in the pipe to the sink; return whether it is empty."""
        pipe = self._pipe
        while pipe is not None and self._in_pipe:
            try:
                self._in_pipe -= os.splice(pipe.reader, self.sink.fd, self._in_pipe, flags=_MOVE)
            except BlockingIOError:
                return False
            except OSError as exc:
                self.stream.sink_broke(self, exc)
                return False
        self._return_pipe()
        return True

    def _return_pipe(self) -> None:
        if self._pipe is not None and self._pipes is not None:
            self._pipes.give_back(self._pipe, left_in=self._in_pipe)
        self._pipe = None
