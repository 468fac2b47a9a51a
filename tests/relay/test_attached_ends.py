"""How sessions of agents end: revoked, replaced, drained, cut off, or by a bug; in virtual time."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.relay.front import MOMENT, NAME, A, B, front, hello, owner, rejected
from trunnel.errors import RejectCode, SessionClosed
from trunnel.events import CarrierLost, CarrierOpened, Event, SessionEnded, SessionOpened
from trunnel.relay.sessions import Farewell
from trunnel.settings import limits
from trunnel.wire import control

# --- told to go --------------------------------------------------------------------------------


async def test_a_revoked_agent_is_told_on_every_carrier(autojump_clock: MockClock) -> None:
    async with front(f"{A}") as place:
        first = await place.call()
        second = await place.join(first)
        place.authorize(f"{B}")
        assert place.owner(NAME) is None
        for caller in (first, second):
            told = await caller.hear()
            assert isinstance(told, control.Rejected)
            assert told.code == RejectCode.REVOKED
            await caller.lose()
        assert place.story()[3:] == ["over: revoked"], "of carriers nothing more is said"
        assert rejected(await place.join(first)).code == RejectCode.UNAUTHORIZED


async def test_an_agent_that_is_revoked_while_it_has_no_carrier_ends_at_once(autojump_clock: MockClock) -> None:
    async with front(f"{A}") as place:
        first = await place.call()
        await first.lose()
        place.authorize(f"{B}")
        await trio.testing.wait_all_tasks_blocked()
        assert place.story()[2:] == ["lost 0", "over: revoked"]
        assert len(place.sessions) == 0
        assert rejected(await place.join(first, alone=True)).code == RejectCode.UNAUTHORIZED


async def test_an_agent_that_is_replaced_while_it_has_no_carrier_ends_at_once(autojump_clock: MockClock) -> None:
    async with front() as place:
        first = await place.call(hello(1))
        await first.lose()
        second = await place.call(hello(2))
        assert owner(place).session_id == second.session
        assert [event.session for event in place.of(SessionEnded)] == [first.session]
        assert place.of(SessionEnded)[0].reason.startswith("replaced: ")


async def test_a_relay_that_drains_does_not_wait_for_sessions_without_a_carrier(autojump_clock: MockClock) -> None:
    async with front() as place:
        first = await place.call()
        await first.lose()
        owner(place).retire(Farewell(reason="the relay stopped", grace=30))
        started = trio.current_time()
        await place.sessions.wait_empty()
        assert trio.current_time() == started
        assert place.story()[2:] == ["lost 0", "over: the relay stopped"]


async def test_an_agent_that_has_said_goodbye_is_not_waited_for(autojump_clock: MockClock) -> None:
    """Its visitors, cut off with the last carrier, have the time of an abort to be told."""
    async with front() as place:
        first = await place.call()
        session = owner(place)
        gone = place.visitor(session)
        await first.channel.send(control.Drain(3_600.0))
        await trio.testing.wait_all_tasks_blocked()
        assert place.owner(NAME) is None
        await trio.sleep(1_000)
        assert not gone.is_set(), "it may finish"
        await first.lose()
        await trio.sleep(limits.ABORT_FLUSH_TIMEOUT - MOMENT)
        assert place.of(SessionEnded) == []
        await trio.sleep(2 * MOMENT)
        assert place.story()[2:] == ["over: the agent stopped"]
        assert gone.is_set()


async def test_visitors_on_data_connections_outlive_the_last_carrier_of_one_that_said_goodbye(
    autojump_clock: MockClock,
) -> None:
    """They need no carrier; the grace that was said holds for them, and without a carrier no longer than adoption."""
    async with front() as place:
        first = await place.call()
        session = owner(place)
        gone = place.visitor(session)
        session.on_direct += 1
        await first.channel.send(control.Drain(3_600.0))
        await trio.testing.wait_all_tasks_blocked()
        await first.lose()
        await trio.sleep(limits.ADOPTION_TIMEOUT - MOMENT)
        assert not gone.is_set()
        await trio.sleep(2 * MOMENT)
        assert gone.is_set()
        assert place.story()[2:] == ["over: the agent stopped"]


async def test_an_agent_that_stops_with_a_goodbye_is_forgotten_at_once(autojump_clock: MockClock) -> None:
    async with front() as place:
        first = await place.call()
        second = await place.join(first)
        await second.channel.send(control.Drain(30.0))
        started = trio.current_time()
        for caller in (first, second):
            with pytest.raises(SessionClosed, match="ended the control stream"):
                await caller.hear()
            await caller.lose()
        assert trio.current_time() == started
        assert place.story()[-1] == "over: the agent stopped"


async def test_a_session_that_ends_takes_no_more_carriers(autojump_clock: MockClock) -> None:
    async with front() as place:
        first = await place.call()
        session = owner(place)
        place.visitor(session)
        session.retire(Farewell(reason="over", grace=100))
        for alone in (False, True):
            refusal = rejected(await place.join(first, alone=alone))
            assert (refusal.code, refusal.retry_after) == (RejectCode.DRAINING, limits.BACKOFF_BASE)
        assert len(session.link.carriers) == 1
        assert await first.say(control.Ping(1)) == control.Pong(1)


async def test_a_carrier_that_comes_for_a_session_that_has_just_ended_is_let_go(autojump_clock: MockClock) -> None:
    """Between its admission and its first step."""
    async with front() as place:
        first = await place.call()
        session = owner(place)
        near, link, channel = await place.connect()
        session.link.abort("over")
        await channel.send(hello(session=first.session))
        assert (await link.wait_closed()).reason == "over"
        await trio.testing.wait_all_tasks_blocked()
        assert near.closed is not None
        assert place.failures == []


# --- cancellation and failure -----------------------------------------------------------------


async def test_a_cancelled_relay_ends_every_session_and_carrier(autojump_clock: MockClock) -> None:
    tasks = trio.lowlevel.current_statistics().tasks_living
    async with front() as place:
        first = await place.call()
        await place.join(first)
        other = await place.call(key=B)
        await other.lose()
        gone = place.visitor(owner(place))
        place.nursery.cancel_scope.cancel()
    assert trio.lowlevel.current_statistics().tasks_living == tasks
    assert sorted(event.reason for event in place.of(SessionEnded)) == ["the relay ended it"] * 2
    assert len(place.of(CarrierLost)) == len(place.of(CarrierOpened)) == 3
    assert len(place.sessions) == 0
    assert gone.is_set()
    assert all(caller.link.closed for caller in place.callers)


async def test_a_session_that_fails_ends_alone(caplog: pytest.LogCaptureFixture, autojump_clock: MockClock) -> None:
    """A bug in what one agent's visitors do is never the end of the relay."""
    async with front() as place:
        first, other = await place.call(), await place.call(key=B)
        session = owner(place)

        async def fail() -> None:
            raise ZeroDivisionError("a bug")

        session.nursery.start_soon(fail)
        await first.link.wait_closed()
        await trio.testing.wait_all_tasks_blocked()
        assert [event.reason for event in place.of(SessionEnded)] == ["the relay ended it"]
        assert place.owner(NAME) is None
        assert await other.say(control.Ping(1)) == control.Pong(1)
        again = await place.join(first, alone=True)
        assert again.session != first.session
        assert owner(place).session_id == again.session
        assert place.failures == []
    assert "session_failed" in [record.message for record in caplog.records]


async def test_a_session_that_fails_before_it_begins_is_no_end_of_the_relay(
    caplog: pytest.LogCaptureFixture, autojump_clock: MockClock
) -> None:
    """The carrier's task learns of it; nobody is attached."""
    events: list[Event] = []
    broken = True

    def sink(event: Event) -> None:
        if broken and isinstance(event, SessionOpened):
            raise ZeroDivisionError("a bug")
        events.append(event)

    async with front(on_event=sink) as place:
        _, link, channel = await place.connect()
        await channel.send(hello())
        await link.wait_closed()
        await trio.testing.wait_all_tasks_blocked()
        assert len(place.failures) == 1
        assert len(place.sessions) == 0
        assert place.owner(NAME) is None
        broken = False
        assert (await place.call()).session == owner(place).session_id
    assert "session_failed" in [record.message for record in caplog.records]
