"""Places for work that others may make slow: so many in all, and fewer for each of those who ask for it.

Who has its share waits for its own turns only, in order, and holds nobody up:
a place among all is taken last.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Hashable
from contextlib import asynccontextmanager
from typing import final

import trio


@final
class Turns:
    """Gives out places.

    Args:
        total: Places in all.
        each: Places of one key.
    """

    __slots__ = ("_all", "_each", "_shares")

    def __init__(self, *, total: int, each: int) -> None:
        self._all = trio.CapacityLimiter(total)
        self._each = each
        self._shares: dict[Hashable, trio.CapacityLimiter] = {}  # of those who have a place, or wait for one

    def __len__(self) -> int:
        """Return how many keys have a place or wait for one."""
        return len(self._shares)

    @asynccontextmanager
    async def turn(self, key: Hashable) -> AsyncIterator[None]:
        """Have a place for *key* while the body runs.  Cancellation: as of the body, or it gets none."""
        share = self._shares.setdefault(key, trio.CapacityLimiter(self._each))
        try:
            async with share, self._all:
                yield
        finally:
            seen = share.statistics()
            if not seen.borrowed_tokens and not seen.tasks_waiting:
                self._shares.pop(key, None)
