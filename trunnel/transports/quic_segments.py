"""What came of a stream of bytes ahead of its turn, held as it came.

Memory follows the bytes received, and not the offsets that a peer names: a gap
costs nothing but its place in a list.  Bytes that join become one *run*, so
that a stream sent byte by byte takes no more than one sent in large pieces.
The number of runs is what the gaps are counted by; the caller bounds it.

Time follows the bytes received, too.  Runs that touch are joined unless the
right one is longer: else each byte put before a long run would copy all of it.
So a byte is copied only into a run twice as long as its own was, and runs of
which many touch each other are few or long.

Of bytes that come again the first stand (RFC 9000 §2.2: they must not differ).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import final


@final
class Segments:
    """Runs of bytes by their offsets; see the module's head."""

    __slots__ = ("_runs", "starts")

    def __init__(self) -> None:
        self.starts: list[int] = []
        """Where the runs begin, in order; empty if nothing is held."""
        self._runs: list[bytearray] = []

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self.starts)

    def add(self, offset: int, content: bytes) -> None:
        """Keep what is new of *content*, whose first byte is at *offset*."""
        if not content:
            return
        starts, runs = self.starts, self._runs
        index = bisect_right(starts, offset) - 1
        if index < 0 or starts[index] + len(runs[index]) < offset:
            index += 1
            starts.insert(index, offset)
            runs.insert(index, bytearray())
        end = offset + len(content)
        while self._fill(index, content, offset) < end:
            index += 1

    def _fill(self, index: int, content: bytes, offset: int) -> int:
        """Extend a run by what fits of *content*, and by the runs that it reaches then; return where it ends."""
        starts, runs = self.starts, self._runs
        start, run = starts[index], runs[index]
        following = index + 1
        end = offset + len(content)
        while True:
            stop = start + len(run)
            border = starts[following] if following < len(starts) else end
            if stop < (reach := min(border, end)):
                run += content[stop - offset : reach - offset]
                stop = reach
            if following == len(starts) or border != stop or len(runs[following]) > len(run):
                return stop
            del starts[following]
            run += runs.pop(following)

    def take(self, offset: int) -> bytes:
        """Remove and return the bytes from *offset* on, as far as they go; the first run begins there or behind it."""
        starts, stop = self.starts, offset
        reached = 0
        while reached < len(starts) and starts[reached] == stop:
            stop += len(self._runs[reached])
            reached += 1
        taken = b"".join(self._runs[:reached])
        del starts[:reached], self._runs[:reached]
        return taken

    def clear(self) -> None:
        """Drop everything."""
        self.starts.clear()
        self._runs.clear()
