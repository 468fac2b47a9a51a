"""A relay that drains: the next session serves before the one that is there ends, and nobody hears of it."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.agent.far_relay import H2, HELLO, QUIC, FarRelay, refused, visit
from tests.agent.pursuit import SERVER, Pursuit, pursuit
from trunnel.errors import RejectCode, Rejected
from trunnel.events import Connected, Connecting, Disconnected, Ready, RejectedByRelay, StreamClosed
from trunnel.settings import limits
from trunnel.transports.base import Stream
from trunnel.wire import control

GRACE = 20.0
DRAIN = control.Drain(GRACE, "hot restart")


async def attached(running: Pursuit) -> None:
    """Wait for the first session, and some time, so that its end would not be that of a short one."""
    await running.supervisor.ready.wait()
    await trio.sleep(limits.BACKOFF_RESET + 1)


async def alive(stream: Stream, running: Pursuit) -> bool:
    """Whether a visitor is still being served."""
    await stream.send_all(b"still here")
    await trio.testing.wait_all_tasks_blocked()
    return not running.log.of(StreamClosed)


async def test_the_next_session_serves_while_the_visitors_of_the_old_one_finish(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Within the jitter, with one session up all the time; the old one ends when the relay ends it."""
    async with pursuit(relay, tmp_path) as running:
        await attached(running)
        (old,) = relay.open
        staying = await visit(old.session)
        relay.tell(DRAIN)
        drained = trio.current_time()
        await running.log.wait(Ready, 2)
        assert trio.current_time() - drained <= limits.HANDOVER_JITTER
        assert len(relay.open) == 2
        await trio.sleep(GRACE / 2)
        assert await alive(staying, running)
        coming = await visit(relay.open[-1].session)
        assert await alive(coming, running)
        await staying.send_eof()
        assert (await running.log.wait(StreamClosed)).visitor_end == "fin"
        old.session.abort("all is done")
        await trio.sleep(10 * GRACE)
        assert [far.is_open for far in relay.carriers[:2]] == [False, True]
        assert await alive(coming, running) is False  # the first one's record, and no other
        assert len(running.log.of(StreamClosed)) == 1


async def test_what_is_told_is_the_next_session_and_nothing_of_the_old_one(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with pursuit(relay, tmp_path) as running:
        await attached(running)
        before = len(running.log.events)
        relay.tell(DRAIN)
        await running.log.wait(Ready, 2)
        relay.carriers[0].session.abort("all is done")
        await trio.sleep(1)
        assert running.kinds()[before:] == ["connecting", "canary", "connected", "ready"]
        assert [event.session for event in running.log.of(Connected)] == ["s1", "s2"]
        assert [event.attempt for event in running.log.of(Connecting)] == [1, 1]


async def test_the_next_session_is_a_new_one(relay: FarRelay, tmp_path: Path, autojump_clock: MockClock) -> None:
    """The other process knows nothing of the old one; a later loss asks for the new one."""
    async with pursuit(relay, tmp_path) as running:
        await attached(running)
        relay.tell(DRAIN)
        await running.log.wait(Ready, 2)
        hello = relay.carriers[-1].hello
        assert hello is not None
        assert (hello.session, hello.alone, hello.instance) == (None, False, HELLO.instance)
        relay.open[-1].session.abort("cut")
        await running.log.wait(Ready, 3)
        hello = relay.carriers[-1].hello
        assert hello is not None
        assert (hello.session, hello.alone) == ("s2", True)


async def test_a_session_that_the_relay_ends_at_once_is_no_loss(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Nobody visited, so there was nothing to wait for."""
    async with pursuit(relay, tmp_path) as running:
        await attached(running)
        relay.tell(DRAIN)
        channel = relay.open[0].channel
        assert channel is not None
        channel.finish()
        await running.log.wait(Ready, 2)
        await trio.sleep(60)
        assert running.log.of(Disconnected) == []
        assert len(relay.open) == 1


@pytest.mark.parametrize("kind", [H2, QUIC])
async def test_no_carrier_is_dialled_for_a_session_whose_relay_drains(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock, kind: str
) -> None:
    """It would reach the other process; even another network is no reason."""
    async with pursuit(relay, tmp_path, {"kind": kind, "automatic": True}) as running:
        await attached(running)
        old, before = relay.open[0], len(relay.carriers)
        staying = await visit(old.session)
        relay.rejection = control.Rejected(RejectCode.DRAINING, "the relay is stopping", 1.0)
        relay.tell(DRAIN)
        await trio.testing.wait_all_tasks_blocked()
        running.supervisor.network_changed()
        old.fall_silent()
        await trio.sleep(limits.SUSPECT_AFTER + 2 * limits.CARRIER_LOOK)
        assert await alive(staying, running)
        hellos = [far.hello for far in relay.carriers[before:] if far.hello is not None]
        assert hellos
        assert {hello.session for hello in hellos} == {None}


# --- a relay that really stops ----------------------------------------------------------------------


@pytest.mark.parametrize("how", ["draining", "refused", "canary"])
async def test_where_there_is_no_other_relay_the_session_goes_on_to_its_end(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock, how: str
) -> None:
    async with pursuit(relay, tmp_path) as running:
        await attached(running)
        (old,) = relay.open
        staying = await visit(old.session)
        if how == "draining":
            relay.rejection = control.Rejected(RejectCode.DRAINING, "the relay is stopping", 1.0)
        elif how == "refused":
            relay.failing[H2] = refused()
        else:
            relay.canary = "no visitor could be served"
        old.channel.post(DRAIN)  # type: ignore[union-attr]
        await trio.sleep(GRACE - 1)
        assert await alive(staying, running)
        assert not running.log.of(Disconnected) + running.log.of(RejectedByRelay)
        assert 3 <= len(relay.dials) <= 60, "it is tried again, ever more seldom"
        old.session.abort("the relay stopped")
        told = await running.log.wait(Disconnected)
        assert (told.reason, told.relay) == ("the relay stopped", str(SERVER))
        assert told.retry_in is not None
        relay.rejection, relay.canary = None, ""
        relay.failing.clear()
        await running.log.wait(Ready, 2)


async def test_a_relay_that_has_gone_is_told_while_the_dial_still_waits(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """A dial into nothing takes long; a person should know by then that nobody is served."""
    async with pursuit(relay, tmp_path) as running:
        await attached(running)
        (old,) = relay.open
        relay.takes[H2] = 8.0
        old.channel.post(DRAIN)  # type: ignore[union-attr]
        await trio.sleep(limits.HANDOVER_JITTER)
        old.session.abort("the relay stopped")
        gone = trio.current_time()
        told = await running.log.wait(Disconnected)
        assert (told.reason, told.retry_in) == ("the relay stopped", 0.0)
        assert trio.current_time() - gone == pytest.approx(limits.HANDOVER_GAP)
        await running.log.wait(Ready, 2)


async def test_another_relay_that_comes_later_takes_over_all_the_same(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with pursuit(relay, tmp_path) as running:
        await attached(running)
        staying = await visit(relay.open[0].session)
        relay.failing[H2] = refused()
        relay.tell(control.Drain(10 * limits.BACKOFF_CAP))
        await trio.sleep(limits.BACKOFF_CAP)
        relay.failing.clear()
        await trio.sleep(limits.BACKOFF_CAP)
        assert len(running.log.of(Ready)) == 2
        assert await alive(staying, running)
        assert running.log.of(Disconnected) == []


async def test_a_refusal_for_good_is_told_once_the_session_is_over(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with pursuit(relay, tmp_path) as running:
        await attached(running)
        (old,) = relay.open
        relay.rejection = control.Rejected(RejectCode.UNAUTHORIZED, "who are you")
        old.channel.post(DRAIN)  # type: ignore[union-attr]
        await trio.sleep(GRACE / 2)
        assert not running.ended.is_set()
        assert len(relay.dials) == 2
        old.session.abort("the relay stopped")
        await running.ended.wait()
        assert isinstance(running.failure, Rejected)
        assert running.log.events[-1].kind == "rejected"


# --- the old session's end --------------------------------------------------------------------------


async def test_visitors_that_never_finish_have_the_relays_grace(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """However long the relay waits itself."""
    async with pursuit(relay, tmp_path) as running:
        await attached(running)
        await visit(relay.open[0].session)
        relay.tell(DRAIN)
        await trio.sleep(GRACE)
        assert running.log.of(StreamClosed) == []
        await trio.sleep(2 * limits.ABORT_FLUSH_TIMEOUT + 1)
        assert len(running.log.of(StreamClosed)) == 1
        assert running.log.of(Disconnected) == []


async def test_restart_after_restart_keeps_only_so_many_old_sessions(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with pursuit(relay, tmp_path) as running:
        await attached(running)
        for count in range(2, limits.HANDOVERS_MAX + 4):
            await visit(relay.open[-1].session)
            relay.tell(control.Drain(limits.CONTROL_SECONDS_MAX))
            await running.log.wait(Ready, count)
        await trio.sleep(2 * limits.ABORT_FLUSH_TIMEOUT)
        assert [far.is_open for far in relay.carriers] == [False, False] + [True] * (limits.HANDOVERS_MAX + 1)
        assert running.log.of(Disconnected) == []


async def test_a_loss_of_the_next_session_is_a_loss(relay: FarRelay, tmp_path: Path, autojump_clock: MockClock) -> None:
    """The old one is not asked for visitors again; it finishes those that it has."""
    async with pursuit(relay, tmp_path) as running:
        await attached(running)
        staying = await visit(relay.open[0].session)
        relay.tell(DRAIN)
        await running.log.wait(Ready, 2)
        relay.open[-1].session.abort("cut")
        assert (await running.log.wait(Disconnected)).reason == "cut"
        await running.log.wait(Ready, 3)
        assert await alive(staying, running)


async def test_a_carrier_that_finds_another_process_hands_over(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """It comes before the drain is heard: refused, and this session's visitors stay."""
    async with pursuit(relay, tmp_path, {"kind": QUIC, "automatic": True}) as running:
        await attached(running)
        staying = await visit(relay.open[0].session)
        relay.rejection = control.Rejected(RejectCode.NO_SESSION, "another process")
        relay.open[0].fall_silent()
        await trio.sleep(limits.SUSPECT_AFTER + 2 * limits.CARRIER_LOOK)
        relay.rejection = None
        relay.open[0].speak()
        await running.log.wait(Ready, 2)
        assert await alive(staying, running)
        assert running.log.of(Disconnected) == []


# --- we stop meanwhile ------------------------------------------------------------------------------


@pytest.mark.parametrize("moment", ["jitter", "dialling", "served"])
async def test_a_drain_meanwhile_lets_the_visitors_of_every_session_finish(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock, moment: str
) -> None:
    async with pursuit(relay, tmp_path) as running, trio.open_nursery() as nursery:
        await attached(running)
        staying = await visit(relay.open[0].session)
        if moment == "dialling":
            relay.takes[H2] = 10.0
        relay.tell(DRAIN)
        await trio.testing.wait_all_tasks_blocked()
        if moment != "jitter":
            await trio.sleep(2 * limits.HANDOVER_JITTER)
        sessions = len(relay.open)
        nursery.start_soon(running.supervisor.drain, 30.0, "stop")
        await trio.sleep(limits.HANDOVER_JITTER)
        assert await alive(staying, running)
        assert len(relay.drains) == sessions
        for far in relay.open:
            far.session.abort("all is done")
        await running.ended.wait()
        assert running.failure is None
        assert running.log.of(Disconnected) == []
        assert len(running.log.of(Connected)) == sessions
