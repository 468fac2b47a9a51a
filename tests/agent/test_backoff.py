"""The waits between attempts: bounds, growth, hints, and what starts them anew."""

from __future__ import annotations

import math
import random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunnel.agent.backoff import Backoff
from trunnel.settings import limits

HINTS = st.none() | st.floats(allow_nan=True, allow_infinity=True)


class Extreme:
    """Chance that always takes one end of the range."""

    def __init__(self, *, high: bool) -> None:
        self.high = high

    def uniform(self, a: float, b: float, /) -> float:
        return b if self.high else a


def test_the_first_retry_is_immediate() -> None:
    """Most losses are over before we notice them."""
    assert Backoff(Extreme(high=True)).next_delay() == 0.0


def test_the_ceiling_doubles_from_base_to_cap_and_stays() -> None:
    """Full jitter: chance may take all of it."""
    backoff = Backoff(Extreme(high=True))
    assert [backoff.next_delay() for _ in range(10)] == [0.0, 1.0, 2.0, 4.0, 8.0, 16.0, 32.0, 60.0, 60.0, 60.0]


def test_full_jitter_may_take_nothing_of_it() -> None:
    """The lower bound is 0 in every round."""
    backoff = Backoff(Extreme(high=False))
    assert [backoff.next_delay() for _ in range(10)] == [0.0] * 10


def test_a_hint_is_a_floor_and_its_followers_are_spread() -> None:
    """Never earlier than the relay asked; never all at the same moment."""
    assert Backoff(Extreme(high=False)).next_delay(30.0) == 30.0
    assert Backoff(Extreme(high=True)).next_delay(30.0) == 30.0 + limits.BACKOFF_BASE


@pytest.mark.parametrize("hint", [0.0, -1.0, math.nan, -math.inf])
def test_a_hint_that_is_no_number_of_seconds_is_no_hint(hint: float) -> None:
    """What comes from the wire cannot make us spin or fail."""
    assert Backoff(Extreme(high=True)).next_delay(hint) == 0.0


def test_an_absurd_hint_is_cut() -> None:
    """A relay cannot switch an agent off for a year."""
    assert Backoff(Extreme(high=False)).next_delay(math.inf) == limits.RETRY_HINT_MAX


def test_only_a_stable_session_starts_the_count_anew() -> None:
    """A relay that accepts and drops at once is not hammered."""
    backoff = Backoff(Extreme(high=True))
    for _ in range(5):
        backoff.next_delay()
    assert not backoff.session_lasted(limits.BACKOFF_LIVED - 0.001)
    assert backoff.next_delay() == 16.0
    assert not backoff.session_lasted(limits.BACKOFF_LIVED), "it lived, but it was not stable"
    assert backoff.next_delay() == limits.BACKOFF_BASE, "no retry at once, but soon"
    backoff.session_lasted(limits.BACKOFF_RESET)
    assert backoff.failures == 0
    assert backoff.next_delay() == 0.0


@given(hints=st.lists(HINTS, max_size=80), seed=st.integers(0, 2**32))
def test_every_delay_is_finite_and_within_its_bounds(hints: list[float | None], seed: int) -> None:
    """Whatever the relay says and however often it failed."""
    backoff = Backoff(random.Random(seed))
    for count, hint in enumerate(hints):
        ceiling = backoff.ceiling
        delay = backoff.next_delay(hint)
        assert math.isfinite(delay)
        assert backoff.failures == count + 1
        assert 0.0 <= ceiling <= limits.BACKOFF_CAP
        floor = min(hint, limits.RETRY_HINT_MAX) if hint is not None and hint > 0 else 0.0
        spread = max(ceiling, limits.BACKOFF_BASE) if floor else ceiling
        assert floor <= delay <= floor + spread


def test_a_thousand_agents_come_back_spread_over_the_whole_wait() -> None:
    """No tenth of the wait gets more than twice its share."""
    source = random.Random(7)
    delays = []
    for _ in range(1000):
        backoff = Backoff(source)
        delays.append([backoff.next_delay() for _ in range(8)][-1])
    tenths = [sum(1 for delay in delays if low <= delay / limits.BACKOFF_CAP * 10 < low + 1) for low in range(10)]
    assert max(tenths) < 200
    assert min(tenths) > 50
