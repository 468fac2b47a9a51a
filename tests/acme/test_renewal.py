"""When a certificate is renewed: two thirds, the authority's window, a person's latest moment; and after failures."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunnel.acme.renewal import Life, Validity, due_at, is_alarming, pause_after
from trunnel.settings import limits

START = datetime(2026, 11, 21, tzinfo=UTC)
DAY = timedelta(days=1)
NINETY = Life(START, START + 90 * DAY)
chances = st.floats(0, 1)


@dataclass
class Suggested:
    """A window of the authority."""

    start: datetime
    end: datetime


LEAD = timedelta(seconds=limits.RENEW_LEAD)


def test_it_is_due_at_two_thirds_of_its_life() -> None:
    """A minute earlier: it is to be done by then."""
    assert due_at(NINETY, renew_days=None, window=None, chance=0) == START + 60 * DAY - LEAD


def test_one_of_ninety_seconds_has_time_for_an_order_before_two_thirds() -> None:
    second = timedelta(seconds=1)
    due = due_at(Life(START, START + 90 * second), renew_days=None, window=None, chance=0)
    assert due == START + 55.5 * second


@given(chances)
def test_chance_only_makes_it_earlier_and_only_a_little(chance: float) -> None:
    due = due_at(NINETY, renew_days=None, window=None, chance=chance)
    assert START + 58 * DAY - LEAD <= due <= START + 60 * DAY


@given(chances)
def test_the_authoritys_window_takes_the_place_of_the_two_thirds(chance: float) -> None:
    window = Suggested(START + 20 * DAY, START + 22 * DAY)
    due = due_at(NINETY, renew_days=None, window=window, chance=chance)
    assert window.start <= due <= window.end


def test_a_window_in_the_past_means_now() -> None:
    """That is how an authority asks for a certificate to be replaced before it is revoked.

    For the next certificate it means hours: an authority that always says so is not asked all day long.
    """
    window = Suggested(START - 2 * DAY, START - DAY)
    hours = timedelta(seconds=limits.RENEW_EARLIEST)
    assert due_at(NINETY, renew_days=None, window=window, chance=1) == START + hours
    brief = Life(START, START + timedelta(seconds=90))
    assert due_at(brief, renew_days=None, window=window, chance=1) == START + timedelta(seconds=9)


@given(chances)
def test_no_window_may_let_a_certificate_run_out(chance: float) -> None:
    window = Suggested(START + 80 * DAY, START + 400 * DAY)
    assert due_at(NINETY, renew_days=None, window=window, chance=chance) <= START + 83 * DAY


def test_a_window_that_ends_before_it_starts_is_none() -> None:
    window = Suggested(START + 20 * DAY, START)
    assert due_at(NINETY, renew_days=None, window=window, chance=0) == START + 60 * DAY - LEAD


def test_a_persons_days_are_the_latest_moment() -> None:
    assert due_at(NINETY, renew_days=40, window=None, chance=0) == START + 50 * DAY
    assert due_at(NINETY, renew_days=20, window=None, chance=0) < START + 60 * DAY
    late = Suggested(START + 70 * DAY, START + 71 * DAY)
    assert due_at(NINETY, renew_days=40, window=late, chance=0) == START + 50 * DAY
    early = Suggested(START + 30 * DAY, START + 31 * DAY)
    assert due_at(NINETY, renew_days=40, window=early, chance=0) == START + 30 * DAY


def test_days_that_exceed_the_life_do_not_renew_without_end() -> None:
    short = Life(START, START + 6 * DAY)
    assert due_at(short, renew_days=30, window=None, chance=0) == START + 3 * DAY


@pytest.mark.parametrize(
    ("at", "validity"),
    [(-1, Validity.NOT_YET), (0, Validity.VALID), (89, Validity.VALID), (90, Validity.ENDED), (3650, Validity.ENDED)],
)
def test_what_the_clock_makes_of_it(at: int, validity: Validity) -> None:
    assert NINETY.judge(START + at * DAY) is validity


def test_it_is_a_persons_business_when_a_third_is_left() -> None:
    assert not is_alarming(NINETY, START + 59 * DAY)
    assert is_alarming(NINETY, START + 60 * DAY)


@given(st.integers(1, 1000), chances)
def test_pauses_grow_to_a_cap_and_never_vanish(failures: int, chance: float) -> None:
    pause = pause_after(failures, chance=chance, life=None, left=None, retry_after=None)
    assert limits.RENEW_RETRY_BASE / 2 <= pause <= limits.RENEW_RETRY_CAP
    assert pause <= limits.RENEW_RETRY_BASE * 2 ** (failures - 1)


@given(chances)
def test_what_the_authority_asks_for_is_waited_up_to_a_week(chance: float) -> None:
    assert pause_after(1, chance=chance, life=None, left=None, retry_after=7200) == 7200
    assert pause_after(1, chance=chance, life=None, left=None, retry_after=1e12) == limits.RENEW_RETRY_AFTER_MAX


@given(chances, st.floats(1, 30))
def test_no_authority_can_make_us_wait_until_the_certificate_has_ended(chance: float, days: float) -> None:
    left = timedelta(days=days)
    pause = pause_after(1, chance=chance, life=NINETY, left=left, retry_after=1e12)
    assert pause <= left.total_seconds() / 2
    assert pause_after(1, chance=chance, life=NINETY, left=-left, retry_after=1e12) <= limits.RENEW_RETRY_BASE


@given(st.integers(1, 50), chances)
def test_a_certificate_of_ninety_seconds_is_tried_for_in_time(failures: int, chance: float) -> None:
    brief = Life(START, START + timedelta(seconds=90))
    assert pause_after(failures, chance=chance, life=brief, left=None, retry_after=None) <= 3
