"""One certificate, kept: what is in use stays in use, whatever fails.

The authority is scripted here; a real one is asked in `test_agent_certificates`.
"""

from __future__ import annotations

from datetime import datetime, timedelta

import pytest
import trio
from trio.testing import MockClock

from tests.acme.kept import BEGIN, LIFE, NAMES, Kept
from trunnel.acme.client import RenewalWindow
from trunnel.acme.keeper import Grant
from trunnel.errors import AcmeError, ConfigError
from trunnel.events import Alarm, Certificate
from trunnel.identity.issued import IssuedStore
from trunnel.identity.leaf import Leaf
from trunnel.names import Hostname
from trunnel.settings import limits


async def test_the_first_one_is_ordered_at_once_shown_and_stored(kept: Kept) -> None:
    await kept.step()
    assert kept.states == ["issued"]
    assert kept.shown[-1] == kept.keeper.leaf
    stored = kept.store.load(NAMES)
    assert stored is not None
    assert stored.chain == kept.shown[-1].chain


async def test_a_restart_shows_what_is_stored_and_orders_nothing(kept: Kept) -> None:
    await kept.step()
    restarted = kept.again()
    await restarted._load()
    assert await restarted._step() == limits.RENEW_CHECK_MAX
    assert kept.states == ["issued", "loaded"]
    assert kept.authority.orders == 1


async def test_names_that_have_changed_while_nobody_was_there_show_what_still_fits(kept: Kept) -> None:
    """However long the authority is away; a certificate for all of them is ordered at once."""
    await kept.keeper._load()
    await kept.keeper._step()
    first = kept.shown.pop()
    kept.names = (Hostname("new.t.example.com"), *NAMES)
    kept.authority.failure = AcmeError("it is down")
    changed = kept.again()
    await changed._load()
    assert [leaf.chain for leaf in kept.shown] == [first.chain]
    assert changed.leaf is None
    kept.shown.clear()
    await changed._step()
    assert kept.authority.orders == 2


async def test_it_is_renewed_at_two_thirds_and_the_authority_hears_what_is_replaced(kept: Kept) -> None:
    await kept.step()
    kept.authority.now = BEGIN + timedelta(days=57)
    await kept.step()
    assert kept.authority.orders == 1
    kept.authority.now = BEGIN + timedelta(days=61)
    await kept.step()
    assert kept.states == ["issued", "renewed"]
    assert kept.authority.replaced == [1]


async def test_the_authority_may_ask_for_an_early_renewal(kept: Kept) -> None:
    """That is how it announces that it is going to revoke (RFC 9773)."""
    await kept.step()
    past = BEGIN - timedelta(days=1)
    kept.authority.window = RenewalWindow(start=past, end=BEGIN, explanation_url=None, retry_after=3600.0)
    kept.authority.now = BEGIN + timedelta(days=1)
    await kept.step()
    assert kept.states == ["issued", "renewed"]


async def test_what_is_in_use_stays_when_the_authority_fails(kept: Kept) -> None:
    await kept.step()
    kept.authority.now = BEGIN + timedelta(days=61)
    kept.authority.failure = AcmeError("too many orders", retry_after=7200.0)
    assert await kept.step() == 7200.0
    failed = kept.events[-2]
    assert isinstance(failed, Certificate)
    assert (failed.state, failed.reason, failed.retry_in) == ("failed", "too many orders", 7200.0)
    assert len(kept.shown) == 1
    kept.authority.failure = None
    await kept.step()
    assert kept.states == ["issued", "failed", "renewed"]


async def test_what_only_a_person_can_mend_is_tried_seldom(kept: Kept) -> None:
    kept.authority.failure = AcmeError("no such names here", retryable=False)
    assert await kept.step() >= limits.RENEW_RETRY_CAP / 2


async def test_a_third_before_the_end_a_failure_is_an_alarm(kept: Kept) -> None:
    await kept.step()
    kept.authority.failure = AcmeError("down")
    kept.authority.now = BEGIN + timedelta(days=59)
    await kept.step()
    assert not [event for event in kept.events if isinstance(event, Alarm)]
    kept.authority.now = BEGIN + timedelta(days=60, hours=1)
    await kept.step()
    (alarm,) = [event for event in kept.events if isinstance(event, Alarm)]
    assert alarm.code == "certificate-expiring"
    assert "down" in alarm.text


async def test_a_full_disk_costs_no_certificate_and_no_second_order(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object) -> Leaf:
        raise ConfigError("", "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(IssuedStore, "save", full)
        await kept.step()
        assert kept.states == ["issued"]
        assert isinstance(kept.events[-1], Alarm)
        await kept.step()
    assert kept.store.load(NAMES) is None
    await kept.step()
    assert kept.store.load(NAMES) is not None
    assert kept.authority.orders == 1


async def test_permission_is_waited_for_and_its_use_is_told(kept: Kept) -> None:
    told: list[bool] = []
    kept.grant = Grant(3600.0, "49 of 50 are gone")
    assert await kept.step() == 3600.0
    assert kept.authority.orders == 0
    assert kept.states == ["waiting"]
    kept.grant = Grant(ended=told.append)
    kept.authority.failure = AcmeError("down")
    await kept.step()
    kept.authority.failure = None
    await kept.step()
    assert told == [False, True]


async def test_a_clock_that_was_set_back_costs_no_order(kept: Kept) -> None:
    """A machine without a battery starts in 1970; the certificate is fine, the clock is not."""
    await kept.step()
    kept.authority.now = BEGIN - timedelta(days=3650)
    restarted = kept.again()
    await restarted._load()
    assert await restarted._step() == limits.RENEW_CHECK_MAX
    assert kept.authority.orders == 1


async def test_a_clock_far_ahead_orders_anew_and_does_not_show_what_has_ended(kept: Kept) -> None:
    await kept.step()
    kept.authority.now = BEGIN + timedelta(days=3650)
    kept.shown.clear()
    restarted = kept.again()
    await restarted._load()
    assert not kept.shown
    await restarted._step()
    await restarted._step()
    assert kept.states == ["issued", "issued"]


# --- pauses, clocks, full disks -----------------------------------------------------------------


async def rested(kept: Kept, seconds: float) -> float:
    """Have the keeper rest; returns how long it did."""
    begun = trio.current_time()
    await kept.keeper._rest(seconds)
    return trio.current_time() - begun


async def test_a_rest_ends_in_its_time(kept: Kept, autojump_clock: MockClock) -> None:
    begun = trio.current_time()
    kept.now = lambda: BEGIN + timedelta(seconds=trio.current_time() - begun)
    assert await rested(kept, 7_000) == pytest.approx(7_000)


@pytest.mark.parametrize("step", [timedelta(hours=1), timedelta(hours=-1), timedelta(days=3650), timedelta(days=-3650)])
async def test_a_clock_that_is_set_ends_a_rest(kept: Kept, autojump_clock: MockClock, step: timedelta) -> None:
    """HOST-06: within a minute, not after six hours."""
    begun = trio.current_time()

    def now() -> datetime:
        passed = timedelta(seconds=trio.current_time() - begun)
        return BEGIN + passed + (step if passed > timedelta(seconds=100) else timedelta())

    kept.now = now
    assert 100 <= await rested(kept, limits.RENEW_CHECK_MAX) <= 100 + limits.RENEW_LOOK


async def test_a_clock_that_is_set_makes_nobody_ask_sooner_after_a_failure(kept: Kept) -> None:
    kept.authority.failure = AcmeError("too many orders", retry_after=7200.0)
    await kept.step()
    kept.authority.now = BEGIN + timedelta(days=3650)
    assert 7000 < await kept.keeper._step() <= 7200
    assert kept.authority.orders == 1


@pytest.mark.parametrize(("days", "said"), [(-3650, "starts at 2026"), (3650, "ended at 2027")])
async def test_what_the_clock_makes_invalid_is_told_once_and_when_it_is_over(kept: Kept, days: int, said: str) -> None:
    """HOST-06: with both times, and nothing is thrown away."""
    await kept.step()
    kept.authority.failure = AcmeError("down")
    kept.authority.now = BEGIN + timedelta(days=days)
    for _ in range(3):
        await kept.step()
    (alarm,) = [event for event in kept.events if isinstance(event, Alarm) and said in event.text]
    assert "set the clock" in alarm.text
    kept.authority.now = BEGIN - timedelta(days=days)
    await kept.step()
    assert len([event for event in kept.events if isinstance(event, Alarm) and "set the clock" in event.text]) == 2
    kept.authority.now = BEGIN + timedelta(days=1)
    await kept.step()
    assert kept.states[-1] == "loaded"
    assert kept.shown == kept.shown[:1] * 2, "a relay has shown its own meanwhile"


@pytest.mark.parametrize("wrong", [timedelta(days=3650), timedelta(days=-3650)])
async def test_a_wrong_clock_does_not_order_without_end(kept: Kept, wrong: timedelta) -> None:
    """HOST-06: by it each new certificate has ended, or not begun; the next one would be no better."""
    kept.now = lambda: kept.authority.now + wrong
    for _ in range(5):
        assert await kept.keeper._step() > 3600
    assert kept.authority.orders == 1
    kept.now = lambda: kept.authority.now
    await kept.keeper._step()
    assert kept.states == ["issued", "loaded"]


async def test_a_relay_that_never_permits_is_an_alarm_too(kept: Kept) -> None:
    """Else it could let the certificate run out in silence."""
    await kept.step()
    kept.grant = Grant(8 * 86_400.0, "the budget is gone")
    kept.authority.now = BEGIN + timedelta(days=60, minutes=1)
    assert await kept.step() == limits.RENEW_CHECK_MAX, "it is asked again sooner than it says"
    (alarm,) = [event for event in kept.events if isinstance(event, Alarm)]
    assert "the budget is gone" in alarm.text


async def test_a_full_disk_is_told_once_a_minute_until_there_is_room(
    kept: Kept, monkeypatch: pytest.MonkeyPatch
) -> None:
    """HOST-05."""

    def full(*_: object) -> Leaf:
        raise ConfigError("", "No space left on device")

    with monkeypatch.context() as disk:
        disk.setattr(IssuedStore, "save", full)
        for _ in range(3):
            assert 1 <= await kept.step() <= limits.STORE_RETRY
            await kept.keeper._step()  # before its time
        alarms = [event for event in kept.events if isinstance(event, Alarm)]
        assert [alarm.code for alarm in alarms] == ["disk"] * 3
    assert await kept.step() > limits.STORE_RETRY
    assert kept.store.load(NAMES) is not None
    assert kept.authority.orders == 1


async def test_the_order_of_names_in_what_is_issued_does_not_matter(kept: Kept) -> None:
    """Authorities sort them; the next start looks for the file under the first that was asked for."""
    kept.names = NAMES[::-1]
    kept.keeper = kept.again()
    kept.authority.sorts = True
    await kept.step()
    restarted = kept.again()
    await restarted._load()
    assert kept.states == ["issued", "loaded"]


async def test_an_authority_that_always_wants_a_renewal_gets_few(kept: Kept) -> None:
    """A window in the past means now (RFC 9773 §4.2), for each new certificate again."""
    past = BEGIN - timedelta(days=1)
    kept.authority.window = RenewalWindow(start=past, end=BEGIN, explanation_url=None, retry_after=60.0)
    for minutes in range(0, 24 * 60, 10):
        kept.authority.now = BEGIN + timedelta(minutes=minutes)
        await kept.step()
    assert kept.authority.orders <= 1 + 24 * 3600 / limits.RENEW_EARLIEST


async def test_a_fault_of_ours_is_a_failed_try_and_ends_nothing(kept: Kept, caplog: pytest.LogCaptureFixture) -> None:
    """Whatever a library raises for what an authority sent."""
    await kept.step()
    kept.authority.failure = ZeroDivisionError("of a library")
    kept.authority.now += LIFE
    kept.keeper._not_before = 0.0
    pause = await kept.keeper._contained(kept.keeper._step)
    assert pause > 0
    assert kept.states == ["issued", "failed"]
    assert [record.message for record in caplog.records if record.exc_info] == ["certificate_keeper_failed"]
    kept.authority.failure = None
    await kept.step()
    assert kept.states[-1] == "renewed"
