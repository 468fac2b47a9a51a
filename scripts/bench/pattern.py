"""Bytes whose value tells their offset, for the plain transfers.

The pattern repeats after a prime number of bytes, so that a block that was
lost, doubled or swapped shows.  Comparing every byte would cost as much as
moving it; `matches` compares the first and the last bytes of each chunk, and
the exact count is compared besides.
"""

from __future__ import annotations

import random

PERIOD = 1_048_573
"""Bytes; the largest prime below 2^20."""
CHUNK = 256 * 1024
"""Bytes written or read at once."""
SAMPLE = 32
"""Bytes compared at each end of a chunk."""
_PATTERN = random.Random(PERIOD).randbytes(PERIOD)
_PATTERN += _PATTERN[: CHUNK + SAMPLE]
_VIEW = memoryview(_PATTERN)


def block(offset: int, size: int) -> memoryview:
    """Return *size* bytes (at most CHUNK) of the pattern from *offset*."""
    begin = offset % PERIOD
    return _VIEW[begin : begin + size]


def matches(chunk: memoryview, offset: int) -> bool:
    """Whether *chunk* (at most CHUNK bytes) looks like the pattern from *offset*."""
    size, begin = len(chunk), offset % PERIOD
    if bytes(chunk[:SAMPLE]) != _PATTERN[begin : begin + min(size, SAMPLE)]:
        return False
    tail = max(0, size - SAMPLE)
    return bytes(chunk[tail:]) == _PATTERN[begin + tail : begin + size]
