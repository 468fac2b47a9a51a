"""What came of a stream of bytes ahead of its turn, held as it came.

Memory follows the bytes received, and not the offsets that a peer names: a gap
costs nothing but its place in a list.  Bytes that join become one *run*, so
that a stream sent byte by byte takes no more than one sent in large pieces;
runs never touch.  Their number is what the gaps are counted by; the caller
bounds it.

Of bytes that come again the first stand (RFC 9000 §2.2: they must not differ).
"""

from __future__ import annotations

from bisect import bisect_right
from typing import final


@final
class Segments:
    """Runs of bytes by their offsets; see the module's head."""

    __slots__ = ("_runs", "_starts")

    def __init__(self) -> None:
        self._starts: list[int] = []
        self._runs: list[bytearray] = []

    def __len__(self) -> int:
        """Return the number of runs."""
        return len(self._starts)

    def add(self, offset: int, content: bytes) -> None:
        """Keep what is new of *content*, whose first byte is at *offset*."""
        if not content:
            return
        starts, runs = self._starts, self._runs
        end = offset + len(content)
        index = bisect_right(starts, offset) - 1
        if index < 0 or starts[index] + len(runs[index]) < offset:
            index += 1
            starts.insert(index, offset)
            runs.insert(index, bytearray())
        start, run = starts[index], runs[index]
        following = index + 1
        while (stop := start + len(run)) < end:
            if following < len(starts) and starts[following] <= end:
                run += content[stop - offset : starts.pop(following) - offset]
                run += runs.pop(following)
            else:
                run += content[stop - offset :]

    def take(self, offset: int) -> bytes:
        """Remove and return the bytes from *offset* on, as far as they go; the first run begins there or behind it."""
        if not self._starts or self._starts[0] != offset:
            return b""
        del self._starts[0]
        return bytes(self._runs.pop(0))

    def clear(self) -> None:
        """Drop everything."""
        self._starts.clear()
        self._runs.clear()
