"""How often each of many may do something: so many at once, and then one in each *period* seconds.  Pure.

The generic cell rate algorithm (ITU-T I.371): for each key the moment at which
it will have used nothing.  A key that is there already is not kept, so the
table has only keys that did something in the last `burst * period` seconds.
"""

from __future__ import annotations

from collections.abc import Hashable
from itertools import islice
from typing import Final, final

_INSTANT: Final = 1e-6
"""Seconds that are as good as none: who was told to wait so long finds that it was enough, whatever was rounded."""


@final
class Allowance:
    """Counts what each key does.

    Args:
        burst: Times that a rested key may do it at once.
        period: Seconds after which it may once more.
    """

    __slots__ = ("_period", "_rested", "_span")

    def __init__(self, *, burst: int, period: float) -> None:
        self._period = period
        self._span = burst * period
        self._rested: dict[Hashable, float] = {}  # when each key will be rested; the last one to act last

    def __len__(self) -> int:
        """Return how many keys are kept."""
        return len(self._rested)

    def take(self, key: Hashable, now: float) -> float:
        """Count one for *key* if it may.

        Args:
            key: Who.
            now: Monotonic seconds.

        Returns:
            1. 0: it is counted.
            2. Seconds after which to ask again; nothing was counted.
        """
        self._forget(now)
        rested = max(self._rested.get(key, now), now) + self._period
        early = rested - self._span - now
        if early > _INSTANT:
            return early
        self._rested.pop(key, None)
        self._rested[key] = rested
        return 0.0

    def _forget(self, now: float) -> None:
        for key, rested in tuple(islice(self._rested.items(), 2)):  # two for each that comes: the table cannot grow
            if rested <= now:
                del self._rested[key]
