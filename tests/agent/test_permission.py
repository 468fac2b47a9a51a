"""Asking the relay before a certificate is ordered: answers find their questions, and nobody waits for ever."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from trunnel.agent.permission import Questions
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.wire import control

NAMES = (Hostname("a.t.example.com"),)


class Relay:
    """Keeps what it is told."""

    def __init__(self, *, there: bool = True) -> None:
        self.heard: list[control.Message] = []
        self.there = there

    def post(self, message: control.Message) -> bool:
        """Hear *message*."""
        self.heard.append(message)
        return self.there


@pytest.fixture(name="relay")
def relay_fixture() -> Relay:
    """A relay that hears and says nothing by itself."""
    return Relay()


async def test_answers_find_their_questions_in_any_order(relay: Relay, autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    questions = Questions(relay.post)
    answers: dict[bool, control.Issuance | None] = {}

    async def ask(renewal: bool) -> None:
        answers[renewal] = await questions.may_issue(NAMES, renewal=renewal)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(ask, True)
        nursery.start_soon(ask, False)
        await trio.testing.wait_all_tasks_blocked()
        for asked in reversed(relay.heard):
            assert isinstance(asked, control.MayIssue)
            questions.take(control.Issuance(asked.id, 60.0 if asked.renewal else 0.0))
    assert {renewal: answer and answer.wait for renewal, answer in answers.items()} == {True: 60.0, False: 0.0}


async def test_a_relay_that_says_nothing_is_not_waited_for_for_ever(
    relay: Relay, autojump_clock: trio.testing.MockClock
) -> None:
    del autojump_clock
    questions = Questions(relay.post)
    began = trio.current_time()
    assert await questions.may_issue(NAMES, renewal=False) is None
    assert trio.current_time() - began == limits.HANDSHAKE_TIMEOUT
    questions.take(control.Issuance(1))  # too late: nobody waits for it, and nothing is kept
    assert not questions._answers


async def test_without_a_carrier_there_is_no_answer() -> None:
    assert await Questions(Relay(there=False).post).may_issue(NAMES, renewal=False) is None


async def test_what_came_of_it_is_told_by_the_number_of_the_question(relay: Relay) -> None:
    Questions(relay.post).ended(control.Issuance(7), issued=True)
    assert relay.heard == [control.IssueEnded(7, issued=True)]


async def test_no_number_comes_twice(autojump_clock: trio.testing.MockClock) -> None:
    """In a later session a number still means what it meant."""
    del autojump_clock
    relay = Relay()
    for _ in range(8):
        await Questions(relay.post).may_issue(NAMES, renewal=False)
    assert len({asked.id for asked in relay.heard if isinstance(asked, control.MayIssue)}) == 8
