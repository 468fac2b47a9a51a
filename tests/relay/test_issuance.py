"""The budget of certificates that all agents of a relay share (SEC-17)."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from trunnel.names import Hostname, KeyId
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


def test_new_names_get_four_fifths_and_renewals_the_rest() -> None:
    ledger = Ledger(50)
    use_up(ledger, 40)
    refused = ledger.ask(ADA, ["new.t.example.com"], renewal=False, now=100.0)
    assert isinstance(refused, tuple)
    assert isinstance(ledger.ask(ADA, ["old.t.example.com"], renewal=True, now=100.0), Entry)


def test_the_wait_is_until_the_oldest_leaves_the_week_and_then_it_is_true() -> None:
    ledger = Ledger(50)
    use_up(ledger, 40)
    refused = ledger.ask(ADA, ["new.t.example.com"], renewal=False, now=100.0)
    assert isinstance(refused, tuple)
    wait, reason = refused
    assert wait == WEEK - 100
    assert "40 of 40" in reason
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


@given(st.lists(st.tuples(st.integers(0, 30), st.floats(0, WEEK / 10), st.booleans()), max_size=200))
def test_no_seven_days_ever_hold_more_than_the_budget(asked: list[tuple[int, float, bool]]) -> None:
    ledger, now, granted = Ledger(5), 0.0, list[float]()
    for number, pause, renewal in asked:
        now += pause
        if isinstance(ledger.ask(agent(number), [f"{number}.example.com"], renewal=renewal, now=now), Entry):
            granted.append(now)
    assert all(len([at for at in granted if start <= at < start + WEEK]) <= 5 for start in granted)


# --- in a relay -------------------------------------------------------------------------------


def issuances(path: Path, per_week: int = 50, *, now: datetime | None = None) -> Issuances:
    """Open the file at a moment that stands still."""
    moment = now or datetime(2026, 11, 21, tzinfo=UTC)
    return Issuances(path, per_week, now=lambda: moment)


def test_an_agent_asks_for_its_own_names_only(tmp_path: Path) -> None:
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


def test_the_end_that_is_never_heard_of_counts(tmp_path: Path) -> None:
    """An agent that crashes in the middle may have its certificate."""
    moment = datetime(2026, 11, 21, tzinfo=UTC)
    kept = Issuances(tmp_path / "issuances.json", 1, now=lambda: moment)
    assert kept.may_issue(ADA, control.MayIssue(id=1, names=[NAME.value]), allowed=[NAME]).wait == 0
    moment += timedelta(seconds=limits.ISSUANCE_OPEN + 1)
    assert kept.may_issue(BOB, control.MayIssue(id=1, names=[NAME.value]), allowed=[NAME]).wait > 0
    kept.ended(ADA, control.IssueEnded(1, issued=False))  # too late
    assert kept.may_issue(BOB, control.MayIssue(id=2, names=[NAME.value]), allowed=[NAME]).wait > 0


def test_what_was_never_permitted_cannot_be_given_back(tmp_path: Path) -> None:
    kept = issuances(tmp_path / "issuances.json", 1)
    assert kept.may_issue(ADA, control.MayIssue(id=1, names=[NAME.value]), allowed=[NAME]).wait == 0
    kept.ended(BOB, control.IssueEnded(1, issued=False))
    assert kept.may_issue(BOB, control.MayIssue(id=2, names=[NAME.value]), allowed=[NAME]).wait > 0


@pytest.mark.parametrize("content", [b"", b"{}", b"[1]", b"\xff", b'[{"at":0,"domain":"d","names":[],"agent":"a"}]'])
def test_a_file_of_garbage_is_no_reason_to_stop(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "issuances.json"
    path.write_bytes(content)
    path.chmod(0o600)
    kept = issuances(path)
    assert kept.may_issue(ADA, control.MayIssue(id=1, names=[NAME.value]), allowed=[NAME]).wait == 0
