"""How often each of many may do something."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from trunnel.relay.allowance import Allowance


def test_so_many_at_once_and_then_one_in_each_period() -> None:
    allowance = Allowance(burst=3, period=2.0)
    assert [allowance.take("a", 10.0) for _ in range(4)] == [0.0, 0.0, 0.0, 2.0]
    assert allowance.take("a", 11.5) == 0.5
    assert allowance.take("a", 12.0) == 0.0
    assert allowance.take("a", 12.0) == 2.0


def test_who_has_rested_may_do_it_so_often_again() -> None:
    allowance = Allowance(burst=3, period=2.0)
    for now in (0.0, 6.0):
        assert [allowance.take("a", now) for _ in range(4)] == [0.0, 0.0, 0.0, 2.0]


def test_one_does_not_use_what_is_anothers() -> None:
    allowance = Allowance(burst=1, period=1.0)
    assert allowance.take("a", 0.0) == 0.0
    assert allowance.take("b", 0.0) == 0.0
    assert allowance.take("a", 0.0) == 1.0


def test_who_is_told_to_wait_has_used_nothing() -> None:
    allowance = Allowance(burst=1, period=1.0)
    allowance.take("a", 0.0)
    for _ in range(100):
        allowance.take("a", 0.5)
    assert allowance.take("a", 1.0) == 0.0


def test_keys_that_have_rested_are_forgotten() -> None:
    allowance = Allowance(burst=4, period=1.0)
    for number in range(1_000):
        allowance.take(number, number * 1.0)
        assert len(allowance) <= 4


@given(st.lists(st.floats(0.0, 3.0), max_size=80), st.integers(1, 5))
def test_in_no_span_of_time_are_there_more(pauses: list[float], burst: int) -> None:
    allowance, now, taken = Allowance(burst=burst, period=1.0), 0.0, []
    for pause in pauses:
        now += pause
        if not allowance.take("a", now):
            taken.append(now)
    for first, begun in enumerate(taken):
        for count, ended in enumerate(taken[first:], start=1):
            assert count <= burst + (ended - begun) + 1e-5
