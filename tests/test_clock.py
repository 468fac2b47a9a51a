"""The wall clock has its zone, and the clock of sleep goes on like any other."""

from __future__ import annotations

import time
from datetime import timedelta

import pytest

from trunnel import clock
from trunnel.clock import boottime, utc_now


def test_the_time_of_day_is_in_utc() -> None:
    assert utc_now().utcoffset() == timedelta(0)


@pytest.mark.parametrize("boot_clock", [clock.BOOT_CLOCK, None])
def test_time_goes_on_with_and_without_a_clock_for_sleep(
    boot_clock: int | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(clock, "BOOT_CLOCK", boot_clock)
    before, inside_from = boottime(), time.perf_counter()
    while time.perf_counter() - inside_from < 0.001:
        pass
    inside = time.perf_counter() - inside_from
    assert boottime() - before >= inside - 0.0001  # the two clocks are not read at one moment


@pytest.mark.may_skip("only where the name is known")
@pytest.mark.skipif(not hasattr(time, "CLOCK_BOOTTIME"), reason="no CLOCK_BOOTTIME here")
def test_it_is_the_clock_that_counts_sleep() -> None:
    assert clock.BOOT_CLOCK == time.CLOCK_BOOTTIME
    assert boottime() == pytest.approx(time.clock_gettime(time.CLOCK_BOOTTIME), abs=1)
