"""How many data connections an agent keeps parked, and when it dials: policy, pure.

- `PARKED_FLOOR` while nobody visits.
- Visitors take them; each one that is taken is replaced at once.  When fewer
  than half of those wanted are left, twice as many are wanted, up to the cap:
  visitors come faster than we dial.
- `PARKED_DECAY` seconds during which at least half were always left: half of
  what is above the floor is let go.
- So many dials at a time, and after one that failed none for a while: from
  `DIRECT_RETRY` seconds on, doubled with each failure, with jitter so that the
  agents of a relay do not come together.  Dials that were under way together
  fail together, and count once.
- A connection that is lost soon after it was parked counts as a failure, too:
  something on the way allows no idle connections, and must not make us dial
  without end.
- Only a canary that came through, and a while after the last failure, ends a
  run of them: connecting proves little.

No clock and no chance of its own: the caller says what time it is.
"""

from __future__ import annotations

from typing import Final, final

from trunnel.agent.backoff import UniformSource
from trunnel.settings import limits

_DOUBLINGS_MAX: Final = 30
"""Failures that are counted; the pause has long stopped growing."""


def pause_after(failures: int) -> float:
    """Return the seconds, jitter apart, that follow so many *failures* in a row."""
    if failures <= 0:
        return 0.0
    shortest, longest = limits.DIRECT_RETRY
    return min(longest, shortest * 2.0 ** min(failures - 1, _DOUBLINGS_MAX))


@final
class Parking:
    """What one session wants of parked connections."""

    __slots__ = ("_cap", "_decays_at", "_failed_at", "_failures", "_pressed", "_rng", "not_before", "wanted")

    def __init__(self, cap: int, *, rng: UniformSource, now: float) -> None:
        """Want the floor.

        Args:
            cap: Connections at most, as the relay allows; `PARKED_MAX` holds, too.
            rng: Where jitter comes from.
            now: The time, in seconds of any clock.
        """
        self._cap = max(1, min(cap, limits.PARKED_MAX))
        self._rng = rng
        self._failures = 0
        self._failed_at = now
        self._pressed = False
        self._decays_at = now + limits.PARKED_DECAY
        self.wanted = min(limits.PARKED_FLOOR, self._cap)
        """Connections to have parked."""
        self.not_before = now
        """When the next dial may begin."""

    def to_dial(self, parked: int, dialling: int, now: float) -> int:
        """Return how many dials to begin now."""
        if now < self.not_before:
            return 0
        return max(0, min(self.wanted - parked - dialling, limits.PARKED_DIALS - dialling))

    def surplus(self, parked: int) -> int:
        """Return how many of the *parked* ones to let go."""
        return max(0, parked - self.wanted)

    def next_look(self, now: float) -> float:
        """Return when something is to be done, if nothing happens meanwhile."""
        return self.not_before if now < self.not_before else max(now, self._decays_at)

    # --- what happens -----------------------------------------------------------------------------

    def taken(self, left: int) -> None:
        """Take note that a visitor has come, and that so many parked ones are left."""
        if 2 * left < self.wanted:
            self._pressed = True
            self.wanted = min(self._cap, 2 * self.wanted)

    def decay(self, now: float) -> None:
        """Want less, if there was room enough for a whole `PARKED_DECAY`."""
        if now < self._decays_at:
            return
        floor = min(limits.PARKED_FLOOR, self._cap)
        if not self._pressed:
            self.wanted = floor + (self.wanted - floor) // 2
        self._pressed = False
        self._decays_at = now + limits.PARKED_DECAY

    def failed(self, now: float) -> None:
        """Take note of a dial that failed, or of a canary that did not come."""
        if now < self.not_before:
            return  # one of several that began together
        self._failures += 1
        self._failed_at = now
        pause = pause_after(self._failures)
        self.not_before = now + self._rng.uniform(pause / 2, pause)

    def lost(self, parked_for: float, now: float) -> bool:
        """Take note that a parked connection was lost after so many seconds; return whether that is a failure."""
        is_failure = parked_for < limits.PARKED_DECAY
        if is_failure:
            self.failed(now)
        return is_failure

    def served(self, now: float) -> None:
        """Take note that a canary came through."""
        if now - self._failed_at >= limits.PARKED_DECAY:
            self._failures = 0

    def rest(self, seconds: float, now: float) -> None:
        """Begin no dial for so long: it is remembered that they fail."""
        self.not_before = max(self.not_before, now + seconds)

    def begin_anew(self, now: float) -> None:
        """Forget failures: they were of another network."""
        self._failures = 0
        self.not_before = now
