"""Windows grow for consumers that keep pace, inside one budget, and never past their maximum."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trunnel.settings import limits
from trunnel.wire.credit import CreditBudget, ReceiveWindow

SMALL = limits.STREAM_WINDOW_MIN
QUICK = limits.GROWTH_ROUND_TRIPS * limits.ROUND_TRIP_FLOOR


def window(*, maximum: int = limits.STREAM_WINDOW_MAX, budget: CreditBudget | None = None) -> ReceiveWindow:
    return ReceiveWindow(budget or CreditBudget(), maximum=maximum, now=0.0)


def test_a_window_doubles_when_half_of_it_was_read_quickly() -> None:
    one = window()
    assert one.consumed(SMALL // 2 - 1, unread=0, now=QUICK, round_trip=0.0) == 0
    assert one.consumed(1, unread=0, now=QUICK, round_trip=0.0) == SMALL
    assert one.size == 2 * SMALL


def test_a_slow_consumer_keeps_a_small_window() -> None:
    one = window()
    for turn in range(1, 100):
        assert one.consumed(SMALL, unread=0, now=turn * (QUICK + 0.001), round_trip=0.0) == 0


def test_a_consumer_that_leaves_a_quarter_unread_keeps_a_small_window() -> None:
    one = window()
    assert one.consumed(SMALL, unread=SMALL // 4 + 1, now=0.0, round_trip=0.0) == 0
    assert one.consumed(SMALL, unread=SMALL // 4, now=0.0, round_trip=0.0) == SMALL


def test_pace_is_measured_in_round_trips() -> None:
    one = window()
    assert one.consumed(SMALL, unread=0, now=limits.GROWTH_ROUND_TRIPS * 0.2, round_trip=0.2) == SMALL
    two = window()
    assert two.consumed(SMALL, unread=0, now=limits.GROWTH_ROUND_TRIPS * 0.2, round_trip=0.1) == 0


def test_a_window_stops_at_its_maximum() -> None:
    one = window(maximum=3 * SMALL)
    assert [one.consumed(one.size, unread=0, now=0.0, round_trip=0.0) for _ in range(4)] == [SMALL, SMALL, 0, 0]


def test_growth_leaves_half_of_the_budget_to_others() -> None:
    budget = CreditBudget(5 * SMALL)
    one = window(budget=budget)
    assert one.consumed(SMALL, unread=0, now=0.0, round_trip=0.0) == SMALL
    assert one.consumed(2 * SMALL, unread=0, now=0.0, round_trip=0.0) == 3 * SMALL // 2
    assert budget.left == 3 * SMALL // 2


def test_without_budget_a_new_window_is_small_and_does_not_grow() -> None:
    budget = CreditBudget(SMALL)
    one, two = window(budget=budget), window(budget=budget)
    assert budget.left == 0
    for each in (one, two):
        assert each.size == SMALL
        assert each.consumed(SMALL, unread=0, now=0.0, round_trip=0.0) == 0


def test_a_released_window_gives_its_share_back_once() -> None:
    budget = CreditBudget()
    one = window(budget=budget)
    one.consumed(SMALL, unread=0, now=0.0, round_trip=0.0)
    one.release()
    one.release()
    assert (budget.left, one.size) == (limits.SESSION_CREDIT, 0)


READS = st.lists(
    st.tuples(st.integers(0, 3), st.integers(1, 4_000_000), st.integers(0, 100_000), st.floats(0.0, 0.1)), max_size=40
)


@given(READS)
def test_no_reads_take_more_than_the_budget(reads: list[tuple[int, int, int, float]]) -> None:
    budget = CreditBudget()
    windows = [window(budget=budget) for _ in range(4)]
    now = 0.0
    for which, amount, unread, seconds in reads:
        now += seconds
        one = windows[which]
        before = one.size
        grown = one.consumed(amount, unread=unread, now=now, round_trip=0.01)
        assert one.size == before + grown <= limits.STREAM_WINDOW_MAX
        assert not grown or unread <= before // 4
        assert budget.left == limits.SESSION_CREDIT - sum(each.size for each in windows) >= 0


def test_an_update_is_due_for_half_of_a_window_and_far_away_for_an_eighth_of_a_large_one() -> None:
    one = window(maximum=limits.STREAM_WINDOW_LIMIT, budget=CreditBudget(100 * limits.MIB))
    steps: dict[int, int] = {}
    for turn in range(10):
        assert one.step(limits.ROUND_TRIP_FLOOR) == one.size // 2
        steps[one.size] = one.step(0.1)
        one.consumed(one.size, unread=0, now=turn * QUICK, round_trip=0.0)
    assert steps[SMALL] == SMALL // 2
    assert steps[32 * SMALL] == limits.WINDOW_UPDATE_STEP
    assert steps[max(steps)] == max(steps) // 8
