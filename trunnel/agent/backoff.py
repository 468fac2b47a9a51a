"""When to try the relay again: exponential backoff with full jitter, pure.

Rules:

- The first retry after a stable session (or after the start) is immediate:
  most losses are a restart or a change of network, over before we notice.
- Then each wait is uniform in [0, ceiling], and the ceiling doubles from
  `BACKOFF_BASE` to `BACKOFF_CAP`.  *Full* jitter spreads a thousand agents of
  a restarted relay evenly; with half of the wait fixed they would return in
  waves (M. Brooker, "Exponential Backoff And Jitter", AWS, 2015).
- A hint of the relay (`retry_after`) is a floor: never earlier, and the jitter
  comes on top so that those who were told the same do not return together.
  A hint that is absurd is cut to `RETRY_HINT_MAX`; one that is no number at
  all (negative, NaN) is no hint.
- Never gives up: that is for the caller, who knows about refusals.
- Only a session that lived `BACKOFF_RESET` seconds starts the count anew: a
  relay that accepts and drops at once must not be hammered.  One that lived
  `BACKOFF_LIVED` starts it at one, for a path that breaks often (NET-10): a
  short wait, but none is left out.

No clock and no chance of its own: the caller measures, and gives the source
of random numbers.
"""

from __future__ import annotations

import math
from typing import Final, Protocol, final

from trunnel.settings import limits

_EXPONENT_MAX: Final = math.ceil(math.log2(limits.BACKOFF_CAP / limits.BACKOFF_BASE))
"""Doublings after which the ceiling is the cap for ever."""


class UniformSource(Protocol):
    """The part of `random.Random` that is needed."""

    def uniform(self, a: float, b: float, /) -> float:
        """Return a random number between *a* and *b*."""
        ...


@final
class Backoff:
    """The waits of one supervisor towards one relay."""

    __slots__ = ("_failures", "_rng")

    def __init__(self, rng: UniformSource) -> None:
        """Start as after a stable session.

        Args:
            rng: Where chance comes from, for example `random.SystemRandom()`.
        """
        self._rng = rng
        self._failures = 0

    @property
    def failures(self) -> int:
        """Attempts that have failed since the last stable session."""
        return self._failures

    @property
    def ceiling(self) -> float:
        """Seconds: the upper bound of the next wait, hints apart; 0 for the first retry."""
        if self._failures == 0:
            return 0.0
        return min(limits.BACKOFF_CAP, limits.BACKOFF_BASE * 2.0 ** min(self._failures - 1, _EXPONENT_MAX))

    def next_delay(self, hint: float | None = None) -> float:
        """Count a failed or ended attempt and say how long to wait before the next.

        Args:
            hint: Seconds that the relay asked for, from the wire; None if it did not.

        Returns:
            Seconds, finite: in [0, ceiling]; with a usable hint, in
            [hint, hint + max(ceiling, BACKOFF_BASE)].
        """
        ceiling = self.ceiling
        self._failures += 1
        if hint is None or not hint > 0:  # also NaN
            return self._rng.uniform(0.0, ceiling)
        floor = min(hint, limits.RETRY_HINT_MAX)
        return floor + self._rng.uniform(0.0, max(ceiling, limits.BACKOFF_BASE))

    def session_lasted(self, seconds: float) -> bool:
        """Take note that a session ended after *seconds*; a stable one starts the count anew.

        Returns:
            Whether it was a stable one.
        """
        stable = seconds >= limits.BACKOFF_RESET
        if stable:
            self._failures = 0
        elif seconds >= limits.BACKOFF_LIVED:
            self._failures = min(self._failures, 1)
        return stable
