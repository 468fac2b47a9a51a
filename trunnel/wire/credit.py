"""How much receive credit a stream gets: auto-tuning, pure.

A window starts at 64 KiB and doubles when its consumer took half of it within
four round trips while hardly anything lay unread: then the window, not the
consumer, was what limited the sender.  A slow consumer keeps a small window,
so that a stalled one costs little.  All windows of a session share one budget
(`SESSION_CREDIT`); a growing window takes at most half of what is left, so
that a later stream finds some.

Compare quic-go's and Chromium's auto-tuning (both double within 2 to 4 RTT);
the pace rule ("hardly anything unread") is ours.
"""

from __future__ import annotations

from typing import final

from trunnel.settings import limits


@final
class CreditBudget:
    """The bytes that all windows of one session may add up to."""

    __slots__ = ("_granted", "_total")

    def __init__(self, total: int = limits.SESSION_CREDIT) -> None:
        self._total = total
        self._granted = 0

    @property
    def left(self) -> int:
        """Bytes not granted; 0 when opening windows have used up more than all."""
        return max(0, self._total - self._granted)

    def grant(self, amount: int) -> None:
        """Count *amount* bytes as granted (negative: given back)."""
        self._granted += amount


@final
class ReceiveWindow:
    """The size of one stream's receive window over time."""

    __slots__ = ("_budget", "_epoch_bytes", "_epoch_start", "_maximum", "size")

    def __init__(self, budget: CreditBudget, *, maximum: int, now: float) -> None:
        self._budget = budget
        self._maximum = maximum
        self._epoch_bytes = 0
        self._epoch_start = now
        self.size = limits.STREAM_WINDOW_MIN
        """Bytes the peer may have in flight and unread."""
        budget.grant(self.size)

    def step(self, round_trip: float) -> int:
        """Return how many bytes of credit are worth an update: half of a window, less of a large one far away.

        A sender that waits for half of a window is idle for part of each
        round trip: 3 MiB would fill 77 % of 200 Mbit/s at 100 ms.  Nearby the
        round trip is nothing, and each update costs both ends a turn.
        """
        if round_trip <= limits.ROUND_TRIP_FLOOR:
            return self.size // 2
        return max(self.size // 8, min(self.size // 2, limits.WINDOW_UPDATE_STEP))

    def consumed(self, amount: int, *, unread: int, now: float, round_trip: float) -> int:
        """Count consumed bytes; return by how much the window grew (often 0).

        Args:
            amount: Bytes the consumer has just taken.
            unread: Bytes that still lie unread.
            now: Seconds on a monotonic clock.
            round_trip: Seconds, the carrier's smoothed round trip.
        """
        self._epoch_bytes += amount
        if self._epoch_bytes < self.size // 2:
            return 0
        quick = now - self._epoch_start <= limits.GROWTH_ROUND_TRIPS * max(round_trip, limits.ROUND_TRIP_FLOOR)
        self._epoch_bytes = 0
        self._epoch_start = now
        if not quick or unread > self.size // 4:
            return 0
        growth = min(self.size, self._maximum - self.size, self._budget.left // 2)
        if growth <= 0:
            return 0
        self._budget.grant(growth)
        self.size += growth
        return growth

    def release(self) -> None:
        """Give the window's share of the budget back, once."""
        self._budget.grant(-self.size)
        self.size = 0
