"""The wall clock has its zone."""

from __future__ import annotations

from datetime import timedelta

from trunnel.clock import utc_now


def test_the_time_of_day_is_in_utc() -> None:
    assert utc_now().utcoffset() == timedelta(0)
