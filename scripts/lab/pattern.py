"""Bytes that everybody knows: what the octet at each offset of a transfer must be.

The pattern repeats after a prime number of octets, so that a block that was
lost, doubled or swapped shows wherever it was cut.
"""

from __future__ import annotations

import random

PERIOD = 1_048_573
"""Octets; the largest prime below 2^20."""
_TWICE = random.Random(PERIOD).randbytes(PERIOD) * 2
_VIEW = memoryview(_TWICE)


def block(offset: int, size: int) -> memoryview:
    """Return *size* octets (at most PERIOD) of the pattern from *offset*."""
    start = offset % PERIOD
    return _VIEW[start : start + size]


class Checker:
    """Compares what arrives with the pattern."""

    def __init__(self) -> None:
        self.received = 0
        """Octets so far."""
        self.wrong_at: int | None = None
        """Offset of the chunk that was not the pattern's, None while all is exact."""

    def feed(self, chunk: bytes | bytearray | memoryview) -> None:
        """Take the next octets (at most PERIOD)."""
        if self.wrong_at is None and block(self.received, len(chunk)) != chunk:
            self.wrong_at = self.received
        self.received += len(chunk)

    def exact(self, size: int) -> bool:
        """Whether *size* octets came, all of them right."""
        return self.wrong_at is None and self.received == size
