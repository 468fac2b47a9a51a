"""Dials and waits, neither of which outlives the network that it began on."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import cast

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from trunnel.agent.calling import Caller
from trunnel.agent.dial import Carrier
from trunnel.agent.reach import Reach
from trunnel.errors import ConnectError, RelayIdentityError
from trunnel.names import ServerAddress
from trunnel.settings import limits
from trunnel.transports.race import Chosen
from trunnel.transports.selection import TransportKind

CHOSEN: Chosen[Carrier] = Chosen(
    transport=TransportKind.H2,
    value=cast("Carrier", object()),
    why="by script",
    passed_over=None,
)


@dataclass
class Line:
    """The way to a relay: each dial takes so long, and ends as it says."""

    takes: float = 1.0
    answers: list[Exception | None] = field(default_factory=list)
    """How the next dials end; None, and what is not said: well."""
    dialled: list[float] = field(default_factory=list)
    cancelled: int = 0
    server: ServerAddress = field(default_factory=lambda: ServerAddress("localhost", 443))

    async def first(self) -> Chosen[Carrier]:
        self.dialled.append(trio.current_time())
        try:
            await trio.sleep(self.takes)
        except trio.Cancelled:
            self.cancelled += 1
            raise
        answer = self.answers.pop(0) if self.answers else None
        if answer is not None:
            raise answer
        return CHOSEN

    def caller(self) -> Caller:
        return Caller(cast("Reach", self))


# --- dialling -----------------------------------------------------------------------------------------


async def test_a_dial_ends_as_the_reach_says(autojump_clock: MockClock) -> None:
    line = Line(answers=[None, ConnectError("refused")])
    caller = line.caller()
    assert await caller.call() is CHOSEN
    with pytest.raises(ConnectError, match="refused"):
        await caller.call()
    assert len(line.dialled) == 2


async def test_on_another_network_a_dial_begins_anew(autojump_clock: MockClock) -> None:
    """At once, and as often as it changes."""
    line = Line(takes=10.0)
    caller = line.caller()
    started = trio.current_time()
    async with trio.open_nursery() as nursery:
        nursery.start_soon(caller.call)
        for _ in range(2):
            await trio.sleep(3.0)
            caller.hurry()
    assert [moment - started for moment in line.dialled] == [0.0, 3.0, 6.0]
    assert trio.current_time() - started == 16.0
    assert line.cancelled == 2


async def test_a_dial_that_is_cancelled_from_outside_is_not_begun_anew(autojump_clock: MockClock) -> None:
    line = Line(takes=10.0)
    caller = line.caller()
    with trio.move_on_after(3.0) as scope:
        await caller.call()
    assert scope.cancelled_caught
    assert (len(line.dialled), line.cancelled) == (1, 1)


# --- waiting ------------------------------------------------------------------------------------------


async def test_a_wait_is_as_long_as_asked(autojump_clock: MockClock) -> None:
    started = trio.current_time()
    assert await Line().caller().pause(30.0, at_least=0.0) is False
    assert trio.current_time() - started == 30.0


@pytest.mark.parametrize(("at_least", "until"), [(0.0, 5.0), (20.0, 20.0)])
async def test_another_network_ends_a_wait_but_for_what_the_relay_asked(
    autojump_clock: MockClock, at_least: float, until: float
) -> None:
    caller, started = Line().caller(), trio.current_time()

    async def change() -> None:
        await trio.sleep(5.0)
        caller.hurry()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(change)
        assert await caller.pause(30.0, at_least=at_least) is True
        assert trio.current_time() - started == until


async def test_a_relay_that_asks_for_more_than_the_wait_has_it(autojump_clock: MockClock) -> None:
    started = trio.current_time()
    assert await Line().caller().pause(1.0, at_least=60.0) is False
    assert trio.current_time() - started == 60.0


async def test_news_between_a_dial_and_the_wait_are_not_lost_and_count_once(autojump_clock: MockClock) -> None:
    """The dial that failed was on the old network; the one after the wait is on the new one."""
    line = Line(takes=1.0, answers=[ConnectError("refused")])
    caller = line.caller()
    with pytest.raises(ConnectError):
        await caller.call()
    caller.hurry()
    started = trio.current_time()
    assert await caller.pause(30.0, at_least=0.0) is True
    assert trio.current_time() == started
    await caller.call()
    assert await caller.pause(30.0, at_least=0.0) is False


# --- a relay that nobody named ------------------------------------------------------------------------


async def test_the_relay_on_loopback_is_looked_for_again_and_again(autojump_clock: MockClock) -> None:
    """Somebody may just be starting it."""
    line = Line(takes=0.1, answers=[ConnectError("refused")] * 3)
    started = trio.current_time()
    assert await line.caller().look() is CHOSEN
    assert len(line.dialled) == 4
    assert trio.current_time() - started == pytest.approx(4 * 0.1 + 3 * limits.DEFAULT_RELAY_PAUSE)


@pytest.mark.parametrize("takes", [0.1, 3600.0], ids=["refused", "silent"])
async def test_nobody_there_is_said_with_what_to_do_and_is_final(autojump_clock: MockClock, takes: float) -> None:
    line = Line(takes=takes, answers=[ConnectError("connection refused")] * 100)
    started = trio.current_time()
    with pytest.raises(ConnectError) as failed:
        await line.caller().look()
    assert trio.current_time() - started == pytest.approx(limits.DEFAULT_RELAY_TIMEOUT)
    assert not failed.value.retryable
    text = str(failed.value)
    assert "trunnel serve" in text
    assert "--server" in text
    assert ("connection refused" in text) is (takes < 1)


async def test_what_no_retry_can_change_ends_the_look_at_once(autojump_clock: MockClock) -> None:
    error = RelayIdentityError("it is somebody else")
    line = Line(takes=0.0, answers=[error])
    with pytest.raises(RelayIdentityError) as failed:
        await line.caller().look()
    assert failed.value is error
    assert len(line.dialled) == 1
