"""Sessions of agents and their carriers: joining, losing, adopting, and how sessions end; in virtual time."""

from __future__ import annotations

from collections.abc import Callable

import msgspec
import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.relay.front import MOMENT, NAME, SUFFIX, A, B, Caller, Front, front, hello, owner, rejected
from trunnel.errors import RejectCode, SessionClosed
from trunnel.events import AgentRefused, CarrierLost, CarrierOpened, SessionEnded, SessionOpened
from trunnel.relay.attached import quic_heartbeat
from trunnel.relay.sessions import AgentSession
from trunnel.relay.visitors import open_visit
from trunnel.settings import limits
from trunnel.transports.base import Stream
from trunnel.wire import control

# --- joining ----------------------------------------------------------------------------------


def test_a_full_relay_asks_agents_on_quic_to_ping_more_seldom() -> None:
    assert quic_heartbeat(1) == limits.QUIC_HEARTBEAT
    assert quic_heartbeat(2_000) == 2_000 / limits.QUIC_PINGS_PER_SECOND
    assert quic_heartbeat(100_000) == limits.HEARTBEAT


async def test_a_carrier_that_names_its_session_joins_it(autojump_clock: MockClock) -> None:
    async with front() as place:
        first = await place.call()
        second = await place.join(first)
        assert second.session == first.session
        assert len(place.sessions) == 1
        assert len(owner(place).link.carriers) == 2
        assert place.story() == ["session", "carrier 1", "carrier 2"]
        assert {event.session for event in place.of(CarrierOpened)} == {first.session}
        await first.lose()
        assert place.story()[3:] == ["lost 1"]
        assert await second.say(control.Ping(1)) == control.Pong(1)


async def test_each_carrier_has_its_own_conversation(autojump_clock: MockClock) -> None:
    async with front() as place:
        callers = [await place.call()]
        callers += [await place.join(callers[0]) for _ in range(3)]
        for number, caller in enumerate(callers):
            assert await caller.say(control.Ping(number)) == control.Pong(number)


async def test_a_carrier_that_comes_makes_the_others_prove_that_they_live(autojump_clock: MockClock) -> None:
    """The agent may have dialled because one of them is dead, and that is noticed only where something is asked."""
    async with front() as place:
        first = await place.call()
        second = await place.join(first)
        assert await first.channel.receive() == control.Ping(0)
        third = await place.join(first)
        for caller in (first, second):
            assert await caller.channel.receive() == control.Ping(0)
        assert await third.say(control.Ping(1)) == control.Pong(1), "it is not asked itself"


async def test_visitors_go_over_every_carrier(autojump_clock: MockClock) -> None:
    async with front() as place:
        callers = [await place.call()]
        callers.append(await place.join(callers[0]))
        for _ in callers:
            await open_visit(owner(place), b"preface", timeout=1)
        for caller in callers:
            assert await (await caller.link.accept_stream()).receive_some() == b"preface"


@pytest.mark.parametrize(
    ("asking", "why"),
    [
        (lambda session: hello(0, session=f"{session}x", alone=True), "the same agent connected anew"),
        (lambda session: hello(0, session=session[:-1], alone=True), "the same agent connected anew"),
        (lambda _: hello(0), "the same agent connected anew"),
        (lambda session: hello(1, session=session, alone=True), "replaced: another agent with this key connected from"),
    ],
    ids=["unknown id", "part of an id", "no id", "another instance"],
)
async def test_who_does_not_name_his_own_session_gets_a_new_one(
    asking: Callable[[str], control.Hello], why: str, autojump_clock: MockClock
) -> None:
    async with front() as place:
        first = await place.call()
        second = await place.call(asking(first.session))
        assert second.session != first.session
        assert owner(place).session_id == second.session
        await trio.sleep(limits.RETIRE_GRACE + limits.ABORT_FLUSH_TIMEOUT + MOMENT)
        assert [(event.session, event.reason[: len(why)]) for event in place.of(SessionEnded)] == [(first.session, why)]


async def test_one_more_carrier_of_a_session_that_is_elsewhere_is_refused(autojump_clock: MockClock) -> None:
    """It is at the process before this one; a new session would end the one that the agent has here meanwhile."""
    async with front() as place:
        first = await place.call()
        refused = rejected(await place.call(hello(0, session="elsewhere")))
        assert refused.code == RejectCode.NO_SESSION
        assert owner(place).session_id == first.session


async def test_another_key_cannot_join_even_with_id_and_instance(autojump_clock: MockClock) -> None:
    async with front() as place:
        first = await place.call(hello(7))
        thief = await place.join(first, instance=7, alone=True, key=B)
        assert thief.session != first.session
        assert owner(place).session_id == first.session
        assert await first.say(control.Ping(1)) == control.Pong(1)
        await open_visit(owner(place), b"mine", timeout=1)
        assert await (await first.link.accept_stream()).receive_some() == b"mine"
        assert thief.link.statistics().streams_open == 1, "its control stream and nothing else"


async def test_an_agent_that_is_alone_has_its_other_carriers_let_go(autojump_clock: MockClock) -> None:
    """The relay may not know yet that they are dead: visitors would be put on them."""
    async with front() as place:
        first = await place.call()
        second = await place.join(first)
        third = await place.join(first, alone=True)
        assert third.session == first.session
        assert place.story()[3:] in (["carrier 3", "lost 2", "lost 1"], ["lost 1", "lost 0", "carrier 1"])
        for caller in (first, second):
            assert "the agent lost it" in (await caller.link.wait_closed()).reason
        await open_visit(owner(place), b"preface", timeout=1)
        assert await (await third.link.accept_stream()).receive_some() == b"preface"
        assert place.of(SessionEnded) == []


async def test_a_session_has_only_so_many_carriers(autojump_clock: MockClock) -> None:
    """One that is alone takes the places of the others."""
    async with front() as place:
        first = await place.call()
        for _ in range(limits.CARRIERS_PER_SESSION - 1):
            await place.join(first)
        refusal = rejected(await place.join(first))
        assert (refusal.code, refusal.retry_after) == (RejectCode.OVERLOADED, limits.BACKOFF_CAP)
        assert [event.code for event in place.of(AgentRefused)] == ["overloaded"]
        assert len(owner(place).link.carriers) == limits.CARRIERS_PER_SESSION
        assert (await place.join(first, alone=True)).session == first.session
        assert len(owner(place).link.carriers) == 1


async def test_more_carriers_need_no_room_of_the_relay(autojump_clock: MockClock) -> None:
    async with front(agents_max=1) as place:
        first = await place.call()
        assert (await place.join(first)).session == first.session
        assert rejected(await place.call(key=B)).code == RejectCode.OVERLOADED


# --- adoption ---------------------------------------------------------------------------------


async def test_a_session_without_a_carrier_is_adopted_by_the_next_one(autojump_clock: MockClock) -> None:
    """Names, id and nursery stay; the time to come back begins anew with each loss."""
    async with front(f"{A} app") as place:
        first = await place.call()
        session = owner(place)
        for _ in range(3):
            await _newest(place, session).lose()
            await trio.sleep(limits.ADOPTION_TIMEOUT - MOMENT)
            assert owner(place) is session
            assert (await place.join(first, alone=True)).session == first.session
        assert owner(place) is session is place.owner(f"app.{SUFFIX}")
        assert place.of(SessionEnded) == []
        assert len(place.of(SessionOpened)) == 1
        assert place.story() == ["session", "carrier 1", *["lost 0", "carrier 1"] * 3]


def _newest(place: Front, session: AgentSession) -> Caller:
    """Return the newest carrier of a session, as its agent has it."""
    near = session.link.carriers[-1]
    return next(caller for caller in place.callers if caller.near is near)


async def test_a_session_that_nobody_adopts_ends_after_thirty_seconds(autojump_clock: MockClock) -> None:
    async with front() as place:
        first = await place.call()
        second = await place.join(first)
        await first.lose()
        await trio.sleep(10 * limits.ADOPTION_TIMEOUT)
        assert place.of(SessionEnded) == [], "it has a carrier"
        await second.lose()
        assert [event.carriers for event in place.of(CarrierLost)] == [1, 0]
        await trio.sleep(limits.ADOPTION_TIMEOUT - MOMENT)
        assert place.of(SessionEnded) == []
        assert owner(place).session_id == first.session
        await trio.sleep(2 * MOMENT)
        assert limits.ADOPTION_TIMEOUT == 30
        assert [event.reason for event in place.of(SessionEnded)] == ["no carrier for 30 s"]
        assert place.owner(NAME) is None
        assert len(place.sessions) == 0
        assert (await place.join(first, alone=True)).session != first.session


async def test_visitors_of_a_session_that_is_not_adopted_end_with_it(autojump_clock: MockClock) -> None:
    """Those that need no carrier (a data connection of their own) live until then."""
    async with front() as place:
        first = await place.call()
        gone = place.visitor(owner(place))
        await first.lose()
        await trio.sleep(limits.ADOPTION_TIMEOUT - MOMENT)
        assert not gone.is_set()
        await trio.sleep(2 * MOMENT)
        assert gone.is_set()


async def test_an_admitted_agent_whose_first_carrier_never_comes_is_forgotten(autojump_clock: MockClock) -> None:
    async with front() as place:
        near, _, _ = await place.connect()
        session = await place.attached.admit(near, hello())
        assert isinstance(session, AgentSession)
        await trio.sleep(limits.ADOPTION_TIMEOUT + MOMENT)
        assert place.story() == ["session", "over: no carrier for 30 s"]
        assert len(place.sessions) == 0


async def test_a_visitor_waits_a_moment_for_the_next_carrier(autojump_clock: MockClock) -> None:
    async with front() as place:
        first = await place.call()
        await first.lose()
        opened: list[Stream] = []

        async def visit() -> None:
            opened.append(await open_visit(owner(place), b"preface", timeout=30))

        place.nursery.start_soon(visit)
        await trio.sleep(limits.CARRIER_WAIT - MOMENT)
        second = await place.join(first, alone=True)
        assert await (await second.link.accept_stream()).receive_some() == b"preface"
        assert len(opened) == 1


@pytest.mark.parametrize("retiring", [False, True], ids=["no carrier", "a carrier that the agent lets go"])
async def test_a_visitor_does_not_wait_longer(retiring: bool, autojump_clock: MockClock) -> None:
    async with front() as place:
        first = await place.call()
        if retiring:
            first.link.go_away()
        else:
            await first.lose()
        started = trio.current_time()
        with pytest.raises(SessionClosed, match="no carrier"):
            await open_visit(owner(place), b"preface", timeout=30)
        assert trio.current_time() - started == pytest.approx(limits.CARRIER_WAIT)


async def test_visitors_of_a_shared_name_go_to_the_agent_that_has_a_carrier(autojump_clock: MockClock) -> None:
    """However busy it is; and back, once the other one has been adopted."""
    async with front() as place:
        first, second = [await place.call(hello(number, share=True)) for number in (1, 2)]
        busy = next(session for session in place.sessions.all() if session.session_id == second.session)
        for _ in range(5):
            place.visitor(busy)
        assert {owner(place).session_id for _ in range(4)} == {first.session}
        await first.lose()
        assert {owner(place).session_id for _ in range(4)} == {second.session}
        await place.join(first, instance=1, alone=True)
        assert {owner(place).session_id for _ in range(4)} == {first.session}
        for caller in [*place.callers]:
            await caller.lose()
        assert place.owner(NAME) is not None, "somebody may come back"


# --- news for agents --------------------------------------------------------------------------


async def test_new_names_are_said_on_every_carrier(autojump_clock: MockClock) -> None:
    """The one that would have carried the news may be lost in that moment."""
    async with front(f"{A}") as place:
        first = await place.call()
        second = await place.join(first)
        place.authorize(f"{A} app")
        for caller in (first, second):
            told = await caller.hear()
            assert isinstance(told, control.Endpoints)
            assert [each.hostname for each in told.endpoints] == [NAME, f"app.{SUFFIX}"]


async def test_names_that_came_while_no_carrier_was_there_are_in_the_next_welcome(autojump_clock: MockClock) -> None:
    async with front(f"{A} # old") as place:
        first = await place.call()
        await first.lose()
        place.authorize(f"{A} app # new")
        answer = (await place.join(first, alone=True)).answer
        assert isinstance(answer, control.Welcome)
        assert [each.hostname for each in answer.endpoints] == [NAME, f"app.{SUFFIX}"]
        assert answer.label == "new"


async def test_a_carrier_that_breaks_the_protocol_ends_alone(autojump_clock: MockClock) -> None:
    async with front() as place:
        first = await place.call()
        second = await place.join(first)
        await second.channel.send(hello())
        assert "hello in phase" in (await second.link.wait_closed()).reason
        await trio.testing.wait_all_tasks_blocked()
        assert "hello in phase" in place.of(CarrierLost)[0].reason
        assert await first.say(control.Ping(1)) == control.Pong(1)
        assert place.of(SessionEnded) == []


async def test_an_agent_that_asks_for_a_name_it_was_given_is_not_told_that_it_is_refused() -> None:
    """`--hostname` with the operator's name for it does no harm."""
    async with front() as place:
        asking = msgspec.structs.replace(hello(), hostnames=[NAME, f"app.{SUFFIX}"])
        told = await (await place.call(asking)).hear()
        assert isinstance(told, control.Endpoints)
        assert [endpoint.hostname for endpoint in told.endpoints] == [NAME]
        assert [refused.hostname for refused in told.refused] == [f"app.{SUFFIX}"]
