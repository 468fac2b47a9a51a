"""After a loss or a refusal: when to dial the relay again, and when never."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.agent.far_relay import H2, HELLO, FarRelay, endpoints, refused
from tests.agent.pursuit import SERVER, pursuit
from trunnel.errors import ConnectError, RejectCode, Rejected, RelayIdentityError
from trunnel.events import Connected, Connecting, Disconnected, Ready, RejectedByRelay
from trunnel.settings import limits
from trunnel.wire import control


async def test_the_first_retry_is_at_once_and_asks_for_the_session(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The relay keeps it for a while, and is told that no other carrier lives."""
    async with pursuit(relay, tmp_path) as running:
        await running.supervisor.ready.wait()
        await trio.sleep(limits.BACKOFF_RESET)
        lost = trio.current_time()
        relay.open[0].session.abort("cut")
        await running.log.wait(Connected, 2)
        assert trio.current_time() == lost
        hello = relay.carriers[-1].hello
        assert hello is not None
        assert (hello.session, hello.alone, hello.instance) == ("s1", True, HELLO.instance)
        assert running.log.of(Disconnected)[0] == Disconnected(reason="cut", retry_in=0.0, relay=str(SERVER))
        assert [event.attempt for event in running.log.of(Connecting)] == [1, 1]


async def test_the_end_is_noticed_at_once_even_right_after_new_addresses(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    async with pursuit(relay, tmp_path) as running:
        await running.supervisor.ready.wait()
        await trio.sleep(limits.BACKOFF_RESET)
        relay.tell(control.Endpoints(endpoints("new.localhost")))
        await running.log.wait(Ready, 2)
        lost = trio.current_time()
        relay.open[0].session.abort("cut")
        await running.log.wait(Connected, 2)
        assert trio.current_time() == lost


async def test_a_relay_that_is_away_is_asked_ever_more_seldom(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    relay.failing[H2] = refused()
    async with pursuit(relay, tmp_path) as running:
        await trio.sleep(3_600)
        assert 60 <= len(relay.dials) <= 250
        assert running.log.of(Connecting)[-1].attempt == len(running.log.of(Connecting))
        del relay.failing[H2]
        await trio.sleep(limits.BACKOFF_CAP)
        assert running.supervisor.ready.is_set()


async def test_dials_that_take_long_are_no_stable_sessions(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """Else a slow failure would start the count anew each time."""
    relay.failing[H2] = refused()
    relay.takes[H2] = 2 * limits.BACKOFF_RESET
    async with pursuit(relay, tmp_path) as running:
        await trio.sleep(20 * limits.BACKOFF_RESET)
        attempts = [event.attempt for event in running.log.of(Connecting)]
        assert attempts == list(range(1, len(attempts) + 1))


async def test_another_network_ends_the_waiting(relay: FarRelay, tmp_path: Path, autojump_clock: MockClock) -> None:
    relay.failing[H2] = refused()
    async with pursuit(relay, tmp_path) as running:
        await trio.sleep(600)
        del relay.failing[H2]
        dials = len(relay.dials)
        running.supervisor.network_changed()
        await trio.sleep(0.01)
        assert running.supervisor.ready.is_set()
        assert len(relay.dials) == dials + 1


async def test_another_network_ends_a_dial_that_began_on_the_old_one(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    relay.takes[H2] = limits.CONNECT_TIMEOUT
    async with pursuit(relay, tmp_path) as running:
        await trio.sleep(1)
        relay.takes[H2] = 0.1
        running.supervisor.woke()
        await trio.sleep(0.2)
        assert running.supervisor.ready.is_set()
        assert len(relay.connections) == 1


async def test_news_that_come_just_before_the_waiting_are_not_lost(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """The session dies of it, and only then the agent waits."""
    async with pursuit(relay, tmp_path) as running:
        await running.supervisor.ready.wait()
        for count in range(2, 8):  # short sessions: the ceiling grows
            running.supervisor.network_changed()
            relay.open[0].session.abort("cut")
            at = trio.current_time()
            await running.log.wait(Connected, count)
            assert trio.current_time() == at


async def test_news_shorten_one_wait_and_no_other(relay: FarRelay, tmp_path: Path, autojump_clock: MockClock) -> None:
    """The relay is away on the new network, too."""
    relay.failing[H2] = refused()
    async with pursuit(relay, tmp_path) as running:
        await trio.sleep(600)
        dials = len(relay.dials)
        running.supervisor.network_changed()
        await trio.sleep(60)
        assert len(relay.dials) < dials + 100


async def test_news_do_not_shorten_what_the_relay_asks_for(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """CONS-02: two laptops with one key must not push each other out at each change of network."""
    async with pursuit(relay, tmp_path) as running:
        await running.supervisor.ready.wait()
        relay.tell(control.Rejected(RejectCode.REPLACED, "by another", limits.REPLACED_WAIT))
        told = await running.log.wait(RejectedByRelay)
        assert told.retry_in is not None
        assert told.retry_in >= limits.REPLACED_WAIT
        for _ in range(10):
            await trio.sleep(limits.REPLACED_WAIT / 11)
            running.supervisor.network_changed()
        assert len(running.log.of(Connecting)) == 1
        await trio.sleep(limits.REPLACED_WAIT / 11 + 0.1)
        assert len(running.log.of(Connecting)) == 2


@pytest.mark.parametrize(
    ("rejection", "waits"),
    [
        (control.Rejected(RejectCode.REPLACED, "r"), limits.REPLACED_WAIT),
        (control.Rejected(RejectCode.OVERLOADED, "r", 7.0), 7.0),
        (control.Rejected(RejectCode.DRAINING, "r", 1.0), 1.0),
    ],
)
async def test_a_refusal_that_may_change_is_waited_out(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock, rejection: control.Rejected, waits: float
) -> None:
    relay.rejection = rejection
    async with pursuit(relay, tmp_path) as running:
        told = await running.log.wait(RejectedByRelay)
        assert told.retry_in is not None
        assert waits <= told.retry_in <= waits + limits.BACKOFF_BASE
        assert told.relay == str(SERVER)
        relay.rejection = None
        await running.supervisor.ready.wait()
        assert trio.current_time() >= waits


# --- for good ---------------------------------------------------------------------------------------


async def test_a_refusal_for_good_is_told_and_raised(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    relay.rejection = control.Rejected(RejectCode.UNAUTHORIZED, "who are you")
    async with pursuit(relay, tmp_path) as running:
        await running.ended.wait()
        assert isinstance(running.failure, Rejected)
        assert running.log.events[-1] == RejectedByRelay(
            code="unauthorized", reason="who are you", retry_in=None, relay=str(SERVER)
        )


async def test_an_impostor_is_told_and_raised(relay: FarRelay, tmp_path: Path, autojump_clock: MockClock) -> None:
    relay.failing[H2] = RelayIdentityError("another key")
    async with pursuit(relay, tmp_path) as running:
        await running.ended.wait()
        assert running.failure is relay.failing[H2]
        assert running.log.events[-1] == Disconnected(reason="another key", retry_in=None, relay=str(SERVER))
        assert len(relay.dials) == 1


async def test_without_a_named_relay_nobody_is_looked_for_longer_than_3_s(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    relay.failing[H2] = refused()
    async with pursuit(relay, tmp_path, servers=()) as running:
        await running.ended.wait()
        assert trio.current_time() == pytest.approx(limits.DEFAULT_RELAY_TIMEOUT)
        assert isinstance(running.failure, ConnectError)
        assert "start one here, in a second terminal: trunnel serve" in str(running.failure)


async def test_once_it_was_there_it_is_waited_for(relay: FarRelay, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with pursuit(relay, tmp_path, servers=()) as running:
        await running.supervisor.ready.wait()
        relay.failing[H2] = refused()
        relay.open[0].session.abort("restart")
        await trio.sleep(600)
        assert not running.ended.is_set()


# --- drain ------------------------------------------------------------------------------------------


async def test_a_drained_session_ends_the_loop(relay: FarRelay, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with pursuit(relay, tmp_path) as running, trio.open_nursery() as nursery:
        await running.supervisor.ready.wait()
        nursery.start_soon(running.supervisor.drain, 30.0, "stop")
        await trio.sleep(1)
        assert relay.drains == [control.Drain(30.0, "stop")]
        assert not running.ended.is_set()
        relay.open[0].session.abort("all is done")
        await running.ended.wait()
        assert running.failure is None
        assert "disconnected" not in running.kinds()


@pytest.mark.parametrize("moment", ["dialling", "backoff", "hint", "hello"])
async def test_a_drain_while_nobody_is_attached_ends_the_loop_at_once(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock, moment: str
) -> None:
    """It must not attach any more, however long others take to drain."""
    if moment == "dialling":
        relay.takes[H2] = 10
    elif moment == "backoff":
        relay.failing[H2] = refused()
    elif moment == "hint":
        relay.rejection = control.Rejected(RejectCode.OVERLOADED, "full", 500.0)
    async with pursuit(relay, tmp_path) as running:
        if moment == "hello":
            while not relay.carriers:
                await trio.lowlevel.checkpoint()
        else:
            await trio.sleep(5)
        await running.supervisor.drain(30.0, "stop")
        with trio.fail_after(0.1):
            await running.ended.wait()
        assert running.failure is None
        assert relay.open == []
        await trio.sleep(100)
        assert "connected" not in running.kinds()


async def test_a_drain_before_the_start_is_one(relay: FarRelay, tmp_path: Path, autojump_clock: MockClock) -> None:
    async with pursuit(relay, tmp_path) as running:
        await running.supervisor.drain(30.0, "stop")
        await running.ended.wait()
        assert relay.connections == []


async def test_a_drain_while_the_first_canary_is_out_is_no_failure_of_the_transport(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    relay.canary = None
    async with pursuit(relay, tmp_path) as running, trio.open_nursery() as nursery:
        while not relay.probed:
            await trio.lowlevel.checkpoint()
        nursery.start_soon(running.supervisor.drain, 30.0, "stop")
        await trio.sleep(1)
        relay.open[0].session.abort("all is done")
        await running.ended.wait()
        assert running.reach.noted == []
        assert running.kinds() == ["connecting"]
