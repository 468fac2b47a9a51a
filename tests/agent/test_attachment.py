"""A session at the agent: heartbeat, carriers, probes, new addresses, the relay's goodbye; in memory."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.agent.far_relay import H2, HELLO, QUIC, FarRelay, attached_to, endpoints, send_canary, visit
from trunnel.agent.attachment import attached
from trunnel.errors import RejectCode, Rejected, SessionClosed
from trunnel.settings import limits
from trunnel.wire import control

WINDOW = limits.STREAM_WINDOW_MIN

# --- the first carrier ------------------------------------------------------------------------------


async def test_the_relay_is_told_hello_and_its_welcome_is_kept(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with attached_to(relay) as attachment:
        assert relay.carriers[0].hello == HELLO
        assert attachment.welcome.session == "s1"
        assert attachment.endpoints == tuple(endpoints(*relay.names))
        assert attachment.link.transport == H2


async def test_a_relay_that_says_no_is_told_before_the_body(relay: FarRelay, autojump_clock: MockClock) -> None:
    relay.rejection = control.Rejected(RejectCode.UNAUTHORIZED, "who are you")
    with pytest.raises(Rejected) as raised:
        async with attached(await relay.dial(H2), HELLO, window_max=WINDOW):
            pytest.fail("the body ran")
    assert raised.value.code is RejectCode.UNAUTHORIZED
    assert not relay.carriers[0].is_open


async def test_leaving_the_body_closes_every_carrier(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with attached_to(relay) as attachment:
        await attachment.add(await relay.dial(H2))
        assert len(relay.open) == 2
    assert relay.open == []
    assert relay.carriers[0].session.closed is not None


async def test_a_relay_that_answers_no_ping_is_given_up(relay: FarRelay, autojump_clock: MockClock) -> None:
    relay.deaf = True
    started = trio.current_time()
    async with attached_to(relay) as attachment:
        ended = await attachment.link.wait_closed()
    assert "answered no ping" in ended.reason
    assert limits.DEAD_AFTER <= trio.current_time() - started <= limits.DEAD_AFTER + 2 * limits.HEARTBEAT


async def test_a_relay_that_answers_is_kept(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with attached_to(relay) as attachment:
        await trio.sleep(100 * limits.HEARTBEAT)
        assert attachment.ended is None


async def test_new_addresses_are_noticed(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with attached_to(relay) as attachment:
        attachment.acknowledge_endpoints()
        relay.tell(control.Endpoints(endpoints("new.localhost")))
        assert await attachment.wait_changed() is None
        assert attachment.endpoints == tuple(endpoints("new.localhost"))


async def test_a_rejection_ends_the_session_and_is_the_reason(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with attached_to(relay) as attachment:
        attachment.acknowledge_endpoints()
        relay.tell(control.Rejected(RejectCode.REPLACED, "by another", limits.REPLACED_WAIT))
        ended = await attachment.wait_changed()
    assert isinstance(ended, Rejected)
    assert (ended.code, ended.retry_after) == (RejectCode.REPLACED, limits.REPLACED_WAIT)


async def test_a_relay_that_drains_is_noticed(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with attached_to(relay) as attachment:
        relay.tell(control.Drain(30.0, "restart"))
        with trio.fail_after(1):
            await attachment.relay_drains.wait()
        assert attachment.ended is None


# --- more carriers ----------------------------------------------------------------------------------


async def test_a_second_carrier_names_the_session_and_joins_it(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with attached_to(relay) as attachment:
        await attachment.add(await relay.dial(QUIC))
        hello = relay.carriers[1].hello
        assert hello is not None
        assert (hello.session, hello.alone, hello.instance) == ("s1", False, HELLO.instance)
        assert [each.transport for each in attachment.link.carriers] == [H2, QUIC]
        assert [await send_canary(far.session) for far in relay.open] == [b"token", b"token"]


async def test_a_lost_carrier_costs_the_session_nothing_until_it_is_the_last(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    async with attached_to(relay) as attachment:
        await attachment.add(await relay.dial(H2))
        first, second = relay.open
        first.session.abort("cut")
        await trio.testing.wait_all_tasks_blocked()
        assert attachment.ended is None
        assert [each.link for each in attachment.carriers] == [second.link]
        second.session.abort("cut, too")
        ended = await attachment.link.wait_closed()
    assert ended.reason == "cut, too"


async def test_a_relay_that_has_forgotten_the_session_ends_it(relay: FarRelay, autojump_clock: MockClock) -> None:
    """Else it would be two sessions, and the agent would not know."""
    async with attached_to(relay) as attachment:
        relay.forgets = True
        with pytest.raises(SessionClosed, match="forgotten"):
            await attachment.add(await relay.dial(H2))
        assert isinstance(attachment.ended, SessionClosed)
        assert attachment.welcome.session == "s1"
    assert relay.open == []


async def test_a_carrier_that_is_not_let_in_leaves_the_session_alone(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    async with attached_to(relay) as attachment:
        relay.rejection = control.Rejected(RejectCode.OVERLOADED, "full", 5.0)
        with pytest.raises(Rejected):
            await attachment.add(await relay.dial(H2))
        assert attachment.ended is None
        assert len(attachment.carriers) == 1


async def test_a_carrier_that_joins_a_session_that_has_just_ended_is_closed(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    """The session is replaced while one more carrier says hello."""
    async with attached_to(relay) as attachment:
        carrier = await relay.dial(H2)
        async with trio.open_nursery() as nursery:

            async def end() -> None:
                while len(relay.carriers) < 2:
                    await trio.lowlevel.checkpoint()
                attachment.link.abort("replaced")

            nursery.start_soon(end)
            await attachment.add(carrier)
        await trio.testing.wait_all_tasks_blocked()
        assert attachment.carriers == []
    assert not relay.carriers[1].is_open


async def test_a_join_that_is_cancelled_leaves_no_carrier(relay: FarRelay, autojump_clock: MockClock) -> None:
    """At whatever step."""
    for steps in range(1, 12):
        async with attached_to(relay) as attachment:
            carrier = await relay.dial(H2)
            count = len(relay.carriers)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(attachment.add, carrier)
                for _ in range(steps):
                    await trio.lowlevel.checkpoint()
                nursery.cancel_scope.cancel()
            await trio.testing.wait_all_tasks_blocked()
            joined = {far.link for far in relay.carriers[count:] if far.is_open}
            assert joined == {each.link for each in attachment.carriers[1:]}
            assert joined == set(attachment.link.carriers[1:])
        assert relay.open == []


# --- probes, visitors -------------------------------------------------------------------------------


async def test_a_probe_that_comes_back_is_no_failure_and_no_visitor(relay: FarRelay, autojump_clock: MockClock) -> None:
    """Otherwise the agent would keep carriers for visitors that are its own."""
    async with attached_to(relay) as attachment:
        assert await attachment.probe() == ""
        assert (attachment.visits.peak, attachment.visits.open) == (0, {})


async def test_a_visitor_is_counted_while_being_served(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with attached_to(relay) as attachment:
        stream = await visit(relay.open[0].session)
        await trio.testing.wait_all_tasks_blocked()
        assert (attachment.visits.peak, len(attachment.visits.open)) == (1, 1)
        await stream.send_eof()
        await attachment.wait_idle()
        assert (attachment.visits.peak, attachment.visits.open) == (1, {})


async def test_a_probe_tells_why_it_failed(relay: FarRelay, autojump_clock: MockClock) -> None:
    relay.canary = "no carrier took it"
    async with attached_to(relay) as attachment:
        assert await attachment.probe() == "no carrier took it"


async def test_a_probe_without_an_answer_is_given_up(relay: FarRelay, autojump_clock: MockClock) -> None:
    relay.canary = None
    async with attached_to(relay) as attachment:
        started = trio.current_time()
        assert "did not answer the probe" in await attachment.probe()
        assert trio.current_time() - started == limits.CANARY_TIMEOUT + limits.CLOSE_TIMEOUT


async def test_a_late_answer_is_not_taken_for_the_next_probes(relay: FarRelay, autojump_clock: MockClock) -> None:
    relay.canary = None
    async with attached_to(relay) as attachment:
        await attachment.probe()
        async with trio.open_nursery() as nursery:

            async def answer() -> None:
                relay.tell(control.Probed(1, "late"))
                await trio.sleep(1)
                relay.tell(control.Probed(2, ""))
                relay.tell(control.Probed(2, "said twice"))

            nursery.start_soon(answer)
            assert await attachment.probe() == ""


async def test_a_probe_ends_with_the_session(relay: FarRelay, autojump_clock: MockClock) -> None:
    relay.canary = None
    async with attached_to(relay) as attachment, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: cut_after(relay, 1.0))
        with trio.fail_after(1.5):
            assert await attachment.probe() == "the session ended"


async def cut_after(relay: FarRelay, seconds: float) -> None:
    await trio.sleep(seconds)
    relay.open[0].session.abort("cut")


async def test_what_is_said_goes_over_the_carrier_that_answers(relay: FarRelay, autojump_clock: MockClock) -> None:
    """Not over the newest if that is silent: its canary would fail for the whole session."""
    async with attached_to(relay) as attachment:
        await attachment.add(await relay.dial(H2))
        first, newest = relay.open
        newest.fall_silent()
        await trio.sleep(limits.SUSPECT_AFTER + 0.1)
        assert await attachment.probe() == ""
        assert relay.probed == [first]


# --- drain ------------------------------------------------------------------------------------------


async def test_a_drain_waits_for_the_relay_at_most_its_grace(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with attached_to(relay) as attachment:
        started = trio.current_time()
        await attachment.drain(5.0, "stopping")
        assert trio.current_time() - started == 5.0
    assert relay.drains == [control.Drain(5.0, "stopping")]


async def test_a_drain_is_over_when_the_relay_ends_the_session(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with attached_to(relay) as attachment, trio.open_nursery() as nursery:
        nursery.start_soon(lambda: cut_after(relay, 1.0))
        started = trio.current_time()
        await attachment.drain(5.0, "stopping")
        assert trio.current_time() - started == 1.0


async def test_a_session_that_is_drained_while_a_carrier_joins_is_drained(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    """The relay refuses the newcomer; nothing else comes of it."""
    async with attached_to(relay) as attachment:
        relay.rejection = control.Rejected(RejectCode.DRAINING, "the session is ending", 1.0)
        carrier = await relay.dial(H2)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(attachment.drain, 5.0, "stopping")
            with pytest.raises(Rejected):
                await attachment.add(carrier)
            assert attachment.ended is None
        assert len(relay.drains) == 1
