"""Say it once a while and count the rest: for trouble that a peer can repeat at will (LOAD-05)."""

from __future__ import annotations

from typing import final


@final
class Throttle:
    """Lets one report through each *period* seconds."""

    __slots__ = ("_count", "_next", "_period")

    def __init__(self, period: float) -> None:
        self._period = period
        self._next = float("-inf")
        self._count = 0

    def due(self, now: float) -> int:
        """Count one occurrence.

        Args:
            now: Monotonic seconds.

        Returns:
            1. How many occurrences to report now, this one included.
            2. 0: too soon; they are part of a later report.
        """
        self._count += 1
        if now < self._next:
            return 0
        count, self._count = self._count, 0
        self._next = now + self._period
        return count
