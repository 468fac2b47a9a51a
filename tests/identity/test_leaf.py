"""What a leaf says of itself: its names, its period, who issued it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from tests.identity.certificates import NOW, Authority, new_key, self_signed, subject
from trunnel.identity.leaf import Leaf, leaf_of, names_in
from trunnel.names import Hostname

DAY = timedelta(days=1)
YEARS = timedelta(days=3_652)


def issued(*names: str, start: datetime = NOW - DAY, end: datetime = NOW + 89 * DAY) -> Leaf:
    """Return a leaf that an authority has issued."""
    key = new_key()
    authority = Authority(name=subject("R\N{LATIN SMALL LETTER E WITH ACUTE} 1", "An Authority"))
    return leaf_of(key, (authority.issue(key, names, start=start, end=end),), Path("leaf.pem"))


def test_names_and_wildcards_are_told_apart_and_addresses_left_out() -> None:
    leaf = issued("a.example", "*.b.example", "A.example", "192.0.2.1", "c.example")
    assert leaf.names == (Hostname("a.example"), Hostname("c.example"))
    assert leaf.wildcards == (Hostname("b.example"),)


def test_a_certificate_without_names_is_for_nobody() -> None:
    """The subject's CN counts for nothing."""
    assert names_in(self_signed(new_key())) == ((), ())


def test_malformed_names_are_a_value_error() -> None:
    with pytest.raises(ValueError):  # noqa: PT011 - the text is of whoever parses it
        names_in(Authority(name=subject("CA")).issue_malformed(new_key()))


@pytest.mark.parametrize(
    ("name", "is_covered"),
    [
        ("a.example", True),
        ("x.b.example", True),
        ("b.example", False),
        ("x.y.b.example", False),
        ("xb.example", False),
        ("example", False),
        ("b.a.example", False),
    ],
)
def test_a_wildcard_is_one_whole_label(name: str, is_covered: bool) -> None:
    """RFC 6125 §6.4.3."""
    assert issued("a.example", "*.b.example").covers(Hostname(name)) is is_covered


def test_issuer_and_period_are_told() -> None:
    leaf = issued("a.example")
    assert leaf.issuer == "An Authority R\\xe9 1"  # escaped: a stranger's text
    assert not leaf.self_signed
    assert (leaf.not_before, leaf.not_after) == (NOW - DAY, NOW + 89 * DAY)
    key = new_key()
    assert leaf_of(key, (self_signed(key, ["a.example"]),), Path()).self_signed


@pytest.mark.parametrize("step", [timedelta(hours=1), -timedelta(hours=1)], ids=str)
def test_an_hour_more_or_less_is_no_problem(step: timedelta) -> None:
    """HOST-06."""
    assert issued("a.example").period_problem(NOW + step) == ""


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (YEARS, ["ended at 2026-08-29 12:00:00 UTC", "says 2036-05-31 12:00:00 UTC"]),
        (-YEARS, ["starts at 2026-05-31 12:00:00 UTC", "says 2016-06-01 12:00:00 UTC"]),
    ],
    ids=["ahead", "behind"],
)
def test_ten_years_are_said_with_both_times(step: timedelta, said: list[str]) -> None:
    """HOST-06: whoever reads it sees whether the certificate or the clock is wrong."""
    problem = issued("a.example").period_problem(NOW + step)
    assert all(text in problem for text in said), problem


def test_the_period_ends_with_its_last_moment() -> None:
    leaf = issued("a.example", start=NOW, end=NOW + DAY)
    assert leaf.period_problem(NOW) == ""
    assert leaf.period_problem(NOW - timedelta(seconds=1))
    assert leaf.period_problem(NOW + DAY)
    assert NOW.tzinfo is UTC
