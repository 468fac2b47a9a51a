"""The budget of certificates that all agents of a relay share (SEC-17)."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st
from trio.testing import MockClock

from trunnel.errors import ConfigError
from trunnel.names import Hostname, KeyId
from trunnel.relay import issuance
from trunnel.relay.issuance import Entry, Issuances, Ledger, registered_domain
from trunnel.settings import limits
from trunnel.wire import control

ADA, BOB = KeyId.of_spki(b"ada"), KeyId.of_spki(b"bob")
WEEK = limits.ISSUANCE_WINDOW
NAME = Hostname("a.t.example.com")


def agent(number: int) -> KeyId:
    """Return one of many agents."""
    return KeyId.of_spki(str(number).encode())


def use_up(ledger: Ledger, count: int, *, now: float = 0.0, renewal: bool = False) -> None:
    """Have *count* agents get a certificate each, a second apart."""
    for number in range(count):
        entry = ledger.ask(agent(number), [f"{number}.t.example.com"], renewal=renewal, now=now + number)
        assert isinstance(entry, Entry)
        ledger.end(entry, issued=True)


@pytest.mark.parametrize(
    ("name", "domain"),
    [("a.b.t.example.com", "example.com"), ("example.com", "example.com"), ("localhost", "localhost")],
)
def test_names_are_counted_by_their_last_two_labels(name: str, domain: str) -> None:
    assert registered_domain(name) == domain


def test_new_names_get_four_fifths_and_renewals_of_what_is_unknown_the_rest() -> None:
    ledger = Ledger(50)
    use_up(ledger, 40)
    refused = ledger.ask(ADA, ["new.t.example.com"], renewal=False, now=100.0)
    assert isinstance(refused, tuple)
    assert isinstance(ledger.ask(ADA, ["old.t.example.com"], renewal=True, now=100.0), Entry)


def test_a_renewal_of_what_was_issued_here_is_free_whoever_has_used_the_budget_up() -> None:
    """Two months later; an authority does not count it either."""
    ledger, later = Ledger(10), 60 * 86_400.0
    use_up(ledger, 8)
    for number in range(100, 110):  # they say that they renew, and have nothing
        ledger.ask(agent(number), [f"{number}.t.example.com"], renewal=True, now=later)
    for number in range(8):
        assert isinstance(ledger.ask(agent(number), [f"{number}.t.example.com"], renewal=True, now=later), Entry)
        other = [f"{number + 1}.t.example.com"]
        assert isinstance(ledger.ask(agent(number), other, renewal=True, now=later), tuple), "it is somebody else's"
    assert isinstance(ledger.ask(ADA, ["new.t.example.com"], renewal=True, now=later), tuple)


def test_what_was_issued_long_ago_is_forgotten() -> None:
    ledger = Ledger(10)
    use_up(ledger, 5)
    ledger.ask(ADA, ["a.t.example.com"], renewal=False, now=limits.ISSUANCE_MEMORY + 10)
    assert [entry.agent for entry in ledger.entries] == [ADA.value]


def test_hundreds_of_agents_renew_for_months_and_none_has_to_wait() -> None:
    """A budget of 50 a week would be 430 agents otherwise."""
    ledger, day, agents = Ledger(50), 86_400.0, 600
    due = [number // 5 * day for number in range(agents)]  # five new ones a day
    known: set[int] = set()
    for today in range(200):
        for number in [number for number in range(agents) if due[number] <= today * day]:
            moment = today * day + number
            entry = ledger.ask(agent(number), [f"{number}.t.example.com"], renewal=number in known, now=moment)
            assert isinstance(entry, Entry)
            ledger.end(entry, issued=True)
            known.add(number)
            due[number] = (today + 60) * day
    assert len(known) == agents


def test_the_wait_is_until_the_oldest_leaves_the_week_and_then_it_is_true() -> None:
    ledger = Ledger(50)
    use_up(ledger, 40)
    refused = ledger.ask(ADA, ["new.t.example.com"], renewal=False, now=100.0)
    assert isinstance(refused, tuple)
    wait, reason = refused
    assert wait == WEEK - 100
    assert "no more than 40" in reason
    assert "all agents" in reason
    assert isinstance(ledger.ask(ADA, ["new.t.example.com"], renewal=False, now=100.0 + wait), Entry)


def test_domains_do_not_share_a_budget() -> None:
    ledger = Ledger(1)
    assert isinstance(ledger.ask(ADA, ["a.example.com"], renewal=False, now=0), Entry)
    assert isinstance(ledger.ask(BOB, ["b.example.com"], renewal=False, now=0), tuple)
    assert isinstance(ledger.ask(BOB, ["b.example.org"], renewal=False, now=0), Entry)


def test_the_same_names_again_and_again_are_stopped_before_the_authority_does() -> None:
    ledger = Ledger(50)
    answers = [ledger.ask(agent(n), ["b.example.com", "a.example.com"], renewal=True, now=float(n)) for n in range(6)]
    assert [isinstance(answer, Entry) for answer in answers] == [True] * 4 + [False] * 2


def test_a_larger_budget_is_larger_for_each_agent_and_name_too() -> None:
    """A private authority has other limits; a smaller budget takes nothing from them."""
    for per_week, permitted in ((500, 40), (50, 4), (10, 4)):
        ledger = Ledger(per_week)
        answers = [ledger.ask(agent(n), ["a.example.com"], renewal=True, now=float(n)) for n in range(60)]
        assert sum(isinstance(answer, Entry) for answer in answers) == permitted


def test_one_agent_cannot_use_up_what_all_share() -> None:
    ledger = Ledger(50)
    got = sum(isinstance(ledger.ask(ADA, [f"{n}.example.com"], renewal=False, now=float(n)), Entry) for n in range(50))
    assert got == limits.ISSUANCES_PER_AGENT
    assert isinstance(ledger.ask(BOB, ["bob.example.com"], renewal=False, now=60.0), Entry)


def test_what_came_to_nothing_is_given_back() -> None:
    ledger = Ledger(1)
    entry = ledger.ask(ADA, ["a.example.com"], renewal=False, now=0)
    assert isinstance(entry, Entry)
    ledger.end(entry, issued=False)
    assert isinstance(ledger.ask(BOB, ["b.example.com"], renewal=False, now=0), Entry)


@pytest.mark.parametrize("back", [3600.0, 3650 * 86_400.0])
def test_a_clock_that_is_set_back_neither_frees_the_budget_nor_blocks_it_for_longer_than_a_week(back: float) -> None:
    """HOST-06: what was counted under the wrong clock counts from the right one on."""
    ledger, right = Ledger(1), 4000 * 86_400.0
    assert isinstance(ledger.ask(ADA, ["a.example.com"], renewal=True, now=right + back), Entry)
    refused = ledger.ask(BOB, ["b.example.com"], renewal=True, now=right)
    assert isinstance(refused, tuple)
    assert refused[0] == WEEK
    assert isinstance(ledger.ask(BOB, ["b.example.com"], renewal=True, now=right + WEEK), Entry)


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, WEEK / 10), st.booleans()), max_size=200))
def test_no_seven_days_ever_hold_more_than_the_budget(asked: list[tuple[int, float, bool]]) -> None:
    ledger, now, granted = Ledger(5), 0.0, list[float]()
    for number, pause, renewal in asked:
        now += pause
        entry = ledger.ask(agent(number), [f"{number}.example.com"], renewal=renewal, now=now)
        if isinstance(entry, Entry) and entry.counted:
            granted.append(now)
    assert all(len([at for at in granted if start <= at < start + WEEK]) <= 5 for start in granted)


# --- in a relay -------------------------------------------------------------------------------


def issuances(path: Path, per_week: int = 50, *, now: datetime | None = None) -> Issuances:
    """Open the file at a moment that stands still."""
    moment = now or datetime(2026, 11, 21, tzinfo=UTC)
    return Issuances(path, per_week, now=lambda: moment)


async def test_an_agent_asks_for_its_own_names_only(tmp_path: Path) -> None:
    kept = issuances(tmp_path / "issuances.json")
    answer = kept.may_issue(ADA, control.MayIssue(id=1, names=["b.t.example.com"]), allowed=[NAME])
    assert answer.wait > 0
    assert "not this agent's" in answer.reason


async def test_a_restart_forgets_nothing(tmp_path: Path) -> None:
    path = tmp_path / "issuances.json"
    kept = issuances(path, 1)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(kept.keep)
        assert kept.may_issue(ADA, control.MayIssue(id=1, names=[NAME.value]), allowed=[NAME]).wait == 0
        kept.ended(ADA, control.IssueEnded(1, issued=True))
        with trio.fail_after(5):
            while not path.exists():
                await trio.testing.wait_all_tasks_blocked(0.01)
        nursery.cancel_scope.cancel()
    again = issuances(path, 1).may_issue(BOB, control.MayIssue(id=1, names=[NAME.value]), allowed=[NAME])
    assert again.wait > 0


async def test_a_full_disk_is_told_once_a_minute_and_the_count_is_kept_once_there_is_room(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """HOST-05: however often agents ask meanwhile."""
    path = tmp_path / "issuances.json"
    kept = issuances(path)

    def full(*_: object) -> None:
        raise ConfigError("", "No space left on device")

    async def at_once(function: Callable[..., object], *arguments: object) -> object:
        await trio.lowlevel.checkpoint()
        return function(*arguments)

    monkeypatch.setattr(trio.to_thread, "run_sync", at_once)  # the clock would jump while a thread works
    async with trio.open_nursery() as nursery:
        with monkeypatch.context() as disk:
            disk.setattr(issuance, "atomic_write", full)
            for number in range(170):
                name = Hostname(f"{number}.t.example.com")
                kept.may_issue(agent(number), control.MayIssue(id=1, names=[name.value]), allowed=[name])
                kept.ended(agent(number), control.IssueEnded(1, issued=number == 0))
                if number == 0:
                    nursery.start_soon(kept.keep)
                await trio.sleep(1)
        assert len([line for line in caplog.records if line.message == "issuances_not_kept"]) == 3
        await trio.sleep(2 * limits.STORE_RETRY)
        nursery.cancel_scope.cancel()
    assert len(msgspec.json.decode(path.read_bytes())) == 1


async def test_the_end_that_is_never_heard_of_counts(tmp_path: Path) -> None:
    """An agent that crashes in the middle may have its certificate."""
    moment = datetime(2026, 11, 21, tzinfo=UTC)
    kept = Issuances(tmp_path / "issuances.json", 1, now=lambda: moment)
    assert kept.may_issue(ADA, control.MayIssue(id=1, names=[NAME.value]), allowed=[NAME]).wait == 0
    moment += timedelta(seconds=limits.ISSUANCE_OPEN + 1)
    assert kept.may_issue(BOB, control.MayIssue(id=1, names=[NAME.value]), allowed=[NAME]).wait > 0
    kept.ended(ADA, control.IssueEnded(1, issued=False))  # too late
    assert kept.may_issue(BOB, control.MayIssue(id=2, names=[NAME.value]), allowed=[NAME]).wait > 0


async def test_an_agent_that_asks_for_the_same_again_has_lost_the_word_and_not_the_certificate(tmp_path: Path) -> None:
    """The loss that made the order fail may have ended the session, too."""
    kept = issuances(tmp_path / "issuances.json")
    for number in range(3 * limits.DUPLICATES_PER_WEEK):
        assert kept.may_issue(ADA, control.MayIssue(id=number, names=[NAME.value]), allowed=[NAME]).wait == 0
    assert len(kept._ledger.entries) == 1


async def test_what_was_never_permitted_cannot_be_given_back(tmp_path: Path) -> None:
    kept = issuances(tmp_path / "issuances.json", 1)
    assert kept.may_issue(ADA, control.MayIssue(id=1, names=[NAME.value]), allowed=[NAME]).wait == 0
    kept.ended(BOB, control.IssueEnded(1, issued=False))
    assert kept.may_issue(BOB, control.MayIssue(id=2, names=[NAME.value]), allowed=[NAME]).wait > 0


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'[{"at":0,"domain":"d","names":[],"agent":"a"}]'])
async def test_a_file_of_garbage_is_no_reason_to_stop(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "issuances.json"
    path.write_bytes(content)
    path.chmod(0o600)
    kept = issuances(path)
    assert kept.may_issue(ADA, control.MayIssue(id=1, names=[NAME.value]), allowed=[NAME]).wait == 0


# --- two relays with one file: a hot restart --------------------------------------------------


async def test_two_processes_lose_nothing_that_either_has_counted(tmp_path: Path) -> None:
    """The new one reads the file before the old one has stopped counting; both write it afterwards."""
    path = tmp_path / "issuances.json"
    old, new = issuances(path, 10), issuances(path, 10)
    names = [Hostname(f"{number}.t.example.com") for number in range(4)]

    def asks(kept: Issuances, number: int) -> float:
        asked = control.MayIssue(id=number, names=[names[number].value])
        return kept.may_issue(agent(number), asked, allowed=names).wait

    assert asks(old, 0) == asks(old, 1) == asks(new, 2) == 0
    for kept in (old, new, old):
        assert await kept.exchange()
    old.ended(agent(0), control.IssueEnded(0, issued=True))
    old.ended(agent(1), control.IssueEnded(1, issued=False))
    new.ended(agent(2), control.IssueEnded(2, issued=True))
    for kept in (new, old, new):
        assert await kept.exchange()
    for kept in (old, new, issuances(path, 10)):
        assert [(entry.agent, entry.open) for entry in kept._ledger.entries] == [
            (agent(0).value, False),
            (agent(2).value, False),
        ]


async def test_a_relay_that_stops_permits_nothing_more(tmp_path: Path) -> None:
    """Its successor counts; the agent asks there."""
    kept = issuances(tmp_path / "issuances.json")
    kept.close()
    answer = kept.may_issue(ADA, control.MayIssue(id=1, names=[NAME.value]), allowed=[NAME])
    assert answer.wait > 0
    assert "stopping" in answer.reason


async def test_a_file_that_was_spoilt_is_written_anew_with_all_that_is_known(tmp_path: Path) -> None:
    path = tmp_path / "issuances.json"
    kept = issuances(path)
    for number in range(2):
        name = Hostname(f"{number}.t.example.com")
        kept.may_issue(agent(number), control.MayIssue(id=1, names=[name.value]), allowed=[name])
        assert await kept.exchange()
        path.write_text("spoilt" if number == 0 else path.read_text())
    assert len(msgspec.json.decode(path.read_bytes())) == 2


async def test_what_is_older_than_the_window_leaves_the_file_but_for_the_last_of_its_kind(tmp_path: Path) -> None:
    path = tmp_path / "issuances.json"
    first = datetime(2026, 11, 1, tzinfo=UTC)
    for day, who in ((0, ADA), (0, BOB), (9, ADA)):
        kept = issuances(path, now=first + timedelta(days=day))
        kept.may_issue(who, control.MayIssue(id=day, names=[NAME.value]), allowed=[NAME])
        assert await kept.exchange()
    found = [(entry["agent"], entry["at"]) for entry in msgspec.json.decode(path.read_bytes())]
    assert found == [(BOB.value, first.timestamp()), (ADA.value, (first + timedelta(days=9)).timestamp())]
