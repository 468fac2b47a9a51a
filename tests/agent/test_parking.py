"""How many data connections are wanted, and when they are dialled."""

from __future__ import annotations

from dataclasses import dataclass, field
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunnel.agent.parking import Parking, pause_after
from trunnel.settings import limits

FLOOR, CAP, DECAY = 4, limits.PARKED_MAX, limits.PARKED_DECAY


@pytest.fixture(autouse=True)
def floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules are those of any floor; this one leaves room to see them."""
    monkeypatch.setattr(limits, "PARKED_FLOOR", FLOOR)


@dataclass
class Drawn:
    """Chance that draws the same part of each interval, and remembers the intervals."""

    part: float = 1.0
    asked: list[tuple[float, float]] = field(default_factory=list)

    def uniform(self, a: float, b: float, /) -> float:
        self.asked.append((a, b))
        return a + self.part * (b - a)


def parking(cap: int = CAP, *, rng: Drawn | None = None) -> Parking:
    return Parking(cap, rng=rng or Drawn(), now=0.0)


def test_the_floor_is_dialled_at_once_and_kept() -> None:
    pool = parking()
    assert pool.to_dial(0, 0, now=0.0) == FLOOR
    assert pool.to_dial(1, 2, now=0.0) == FLOOR - 3
    assert pool.to_dial(FLOOR, 0, now=0.0) == pool.surplus(FLOOR) == 0


@pytest.mark.parametrize("cap", [1, 2, FLOOR])
def test_a_relay_that_allows_less_than_the_floor_gets_no_more(cap: int) -> None:
    pool = parking(cap)
    assert pool.to_dial(0, 0, now=0.0) == cap
    pool.taken(0)
    assert pool.wanted == cap


def test_what_a_relay_allows_beyond_our_own_cap_is_not_used() -> None:
    pool = parking(10 * CAP)
    for _ in range(20):
        pool.taken(0)
    assert pool.wanted == CAP


def test_a_visitor_now_and_then_is_no_reason_to_want_more() -> None:
    pool = parking()
    for _ in range(100):
        pool.taken(FLOOR - 1)
    assert pool.wanted == FLOOR


def test_a_pool_that_runs_below_half_is_doubled_up_to_the_cap() -> None:
    pool = parking()
    seen = [pool.wanted]
    while seen[-1] < CAP:
        pool.taken(seen[-1] // 2)
        assert pool.wanted == seen[-1], "half is enough"
        pool.taken(seen[-1] // 2 - 1)
        seen.append(pool.wanted)
    assert all(later == min(CAP, 2 * sooner) for sooner, later in pairwise(seen))


def test_only_so_many_are_dialled_at_a_time() -> None:
    """A relay lets one address prove a bounded number at once."""
    pool = parking()
    for _ in range(20):
        pool.taken(0)
    assert pool.to_dial(0, 0, now=0.0) == limits.PARKED_DIALS
    assert pool.to_dial(0, limits.PARKED_DIALS - 1, now=0.0) == 1
    assert pool.to_dial(0, limits.PARKED_DIALS, now=0.0) == 0


def test_without_demand_half_of_the_excess_goes_each_time() -> None:
    pool = parking()
    for _ in range(20):
        pool.taken(0)
    pool.decay(DECAY)  # the demand was in this period
    assert pool.wanted == CAP
    seen: list[int] = []
    for period in range(2, 9):
        pool.decay(period * DECAY)
        seen.append(pool.wanted)
    assert seen == [34, 19, 11, 7, 5, 4, 4]
    assert pool.surplus(CAP) == CAP - FLOOR


def test_demand_in_a_period_keeps_the_pool_for_that_period() -> None:
    pool = parking()
    pool.taken(0)
    pool.taken(0)
    pool.decay(DECAY)
    pool.taken(0)
    pool.decay(2 * DECAY)
    assert pool.wanted == 8 * FLOOR


def test_nothing_decays_early() -> None:
    pool = parking()
    pool.taken(0)
    pool.decay(DECAY)
    pool.decay(2 * DECAY - 0.001)
    assert pool.wanted == 2 * FLOOR
    assert pool.next_look(2 * DECAY - 0.001) == 2 * DECAY


# --- failures ---------------------------------------------------------------------------------------


def test_pauses_double_from_the_least_to_the_most() -> None:
    least, most = limits.DIRECT_RETRY
    assert [pause_after(n) for n in range(4)] == [0.0, least, 2 * least, 4 * least]
    assert pause_after(10_000) == most


def test_dials_that_fail_wait_longer_each_time_with_jitter() -> None:
    rng, now = Drawn(part=0.5), 0.0
    pool = parking(rng=rng)
    for failures in range(1, 12):
        pool.failed(now)
        pause = pause_after(failures)
        assert rng.asked[-1] == (pause / 2, pause)
        assert pool.not_before == pytest.approx(now + 0.75 * pause)
        assert pool.to_dial(0, 0, now=pool.not_before - 0.001) == 0
        assert pool.next_look(now) == pool.not_before
        now = pool.not_before
        assert pool.to_dial(0, 0, now=now) == FLOOR


def test_dials_that_began_together_fail_together() -> None:
    rng = Drawn()
    pool = parking(rng=rng)
    for _ in range(FLOOR):
        pool.failed(0.5)
    assert len(rng.asked) == 1


def test_only_a_canary_a_while_later_ends_a_run_of_failures() -> None:
    """A path that connects and serves nobody, or cuts off what is idle, must not be dialled every second."""
    rng = Drawn()
    pool = parking(rng=rng)
    pool.failed(0.0)
    pool.failed(pool.not_before)
    failed_at = pool.not_before
    pool.failed(failed_at)
    pool.served(failed_at + DECAY - 0.001)
    pool.failed(failed_at + DECAY)
    pool.served(failed_at + 2 * DECAY)
    pool.failed(failed_at + 3 * DECAY)
    assert [most for _, most in rng.asked] == [pause_after(n) for n in (1, 2, 3, 4, 1)]


def test_a_connection_that_is_cut_off_soon_counts_as_a_failure() -> None:
    """Whatever allows no idle connections must not make us dial without end."""
    pool = parking()
    assert pool.lost(DECAY - 0.001, now=50.0)
    assert pool.not_before > 50.0
    other = parking()
    assert not other.lost(DECAY, now=50.0)
    assert other.to_dial(FLOOR - 1, 0, now=50.0) == 1


def test_another_network_begins_anew() -> None:
    rng = Drawn()
    pool = parking(rng=rng)
    pool.failed(0.0)
    pool.failed(pool.not_before)
    pool.begin_anew(1.5)
    assert pool.to_dial(0, 0, now=1.5) == FLOOR
    pool.failed(1.5)
    assert rng.asked[-1][1] == pause_after(1)


def test_what_is_remembered_to_fail_waits_its_turn() -> None:
    pool = parking()
    pool.rest(20.0, now=3.0)
    assert pool.to_dial(0, 0, now=22.9) == 0
    assert pool.to_dial(0, 0, now=23.0) == FLOOR


@given(st.lists(st.tuples(st.sampled_from(["taken", "failed", "lost", "wait"]), st.floats(0, 30)), max_size=60))
def test_whatever_happens_the_bounds_hold(happenings: list[tuple[str, float]]) -> None:
    """Between floor and cap; no dial before its time, never too many, and always a next one."""
    pool, now = parking(), 0.0
    for what, amount in happenings:
        match what:
            case "taken":
                pool.taken(int(amount))
            case "failed":
                pool.failed(now)
            case "lost":
                pool.lost(amount, now)
            case _:
                now += amount
                pool.decay(now)
        assert FLOOR <= pool.wanted <= CAP
        assert 0 <= pool.to_dial(int(amount), 0, now) <= limits.PARKED_DIALS
        assert now <= pool.next_look(now) <= now + limits.DIRECT_RETRY[1]
        assert pool.to_dial(0, 0, max(now, pool.not_before)) >= 1
