"""A pool of data connections and the news: another network, a lost carrier, the end of the session."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.agent.far_lot import FarLot, echo, pooled, settled
from tests.agent.far_relay import listen
from tests.agent.stage import PREFACE
from tests.tunnels import read_to_end
from trunnel.errors import ConnectError
from trunnel.settings import limits

FLOOR = 4


@pytest.fixture(autouse=True)
def floor(monkeypatch: pytest.MonkeyPatch) -> None:
    """The rules are those of any floor; this one leaves room to see them."""
    monkeypatch.setattr(limits, "PARKED_FLOOR", FLOOR)


# --- news -------------------------------------------------------------------------------------------


async def test_another_network_replaces_what_is_parked_and_no_visitor(clock: MockClock) -> None:
    async with pooled(origin=echo) as play:
        await settled()
        stream = await play.lot.visit()
        await settled()
        before = list(play.lot.parked)
        play.pool.renew()
        await settled()
        assert not any(link.is_alive() for link in before)
        assert play.pool.parked == len(play.lot.alive) == FLOOR
        await stream.send_all(b"still here")
        assert await stream.receive_some() == b"still here"
        assert play.told == [""]


async def test_dials_of_the_old_network_are_waited_for_no_longer(clock: MockClock) -> None:
    """They may hang for seconds; what comes of them after all is closed."""
    lot = FarLot(opened=trio.Event())
    async with pooled(lot) as play:
        await settled()
        hanging, lot.opened = lot.opened, None
        play.pool.renew()
        await settled()
        assert play.pool.parked == FLOOR
        assert hanging is not None
        hanging.set()
        await settled()
        assert play.pool.parked == len(lot.alive) == FLOOR
        assert len(lot.dials) == 2 * FLOOR


async def test_news_of_the_network_ends_a_pause(clock: MockClock) -> None:
    lot = FarLot(failing=ConnectError("network is unreachable"))
    async with pooled(lot) as play:
        await trio.sleep(200)
        lot.failing = None
        play.pool.renew()
        await settled()
        assert play.pool.parked == FLOOR
        assert play.told[-1] == ""


async def test_what_is_remembered_to_fail_is_said_at_once_and_tried_later(clock: MockClock) -> None:
    async with pooled() as play:
        play.pool.presume("did not work a minute ago", rest=20)
        await trio.sleep(19)
        assert play.told == ["did not work a minute ago"]
        assert play.lot.dials == []
        await trio.sleep(1.1)
        assert play.told[1:] == [""]


# --- longer-lived than carriers -----------------------------------------------------------------------


async def test_visitors_live_through_the_loss_and_the_return_of_the_carrier(clock: MockClock) -> None:
    async with pooled(origin=echo) as play:
        await settled()
        stream = await play.lot.visit()
        for _ in range(5):
            play.pool.detach()
            await trio.sleep(limits.ADOPTION_TIMEOUT - 1)
            play.pool.attach(play.attachment())
            await stream.send_all(b"x")
            assert await stream.receive_some() == b"x"
        assert not play.pool.ended


async def test_the_return_of_a_carrier_ends_a_pause(clock: MockClock) -> None:
    """What kept the relay away kept data connections away, too."""
    async with pooled() as play:
        await settled()
        play.pool.detach()
        play.lot.failing = ConnectError("network is unreachable")
        play.pool.renew()
        await trio.sleep(limits.ADOPTION_TIMEOUT - 1)
        assert play.pool.failure == "network is unreachable"
        play.lot.failing = None
        play.pool.attach(play.attachment())
        await settled()
        assert play.pool.parked == FLOOR
        assert play.pool.failure == ""


async def test_visitors_come_while_there_is_no_carrier(clock: MockClock) -> None:
    async with pooled(origin=echo) as play:
        await settled()
        play.pool.detach()
        stream = await play.lot.visit()
        await stream.send_all(b"x")
        assert await stream.receive_some() == b"x"


async def test_a_session_that_nobody_adopts_ends_with_its_visitors(clock: MockClock) -> None:
    async with pooled() as play:
        await settled()
        stream = await play.lot.visit()
        play.pool.detach()
        started = trio.current_time()
        with pytest.raises(trio.BrokenResourceError):
            await read_to_end(stream)
        assert trio.current_time() - started == pytest.approx(limits.ADOPTION_TIMEOUT, abs=0.1)
        await play.over.wait()
        assert play.pool.ended
        assert play.lot.alive == []
        assert [record.visitor_end for record in play.records] == ["cancelled"]


async def test_the_end_of_a_session_ends_visitors_and_what_is_parked_at_once(clock: MockClock) -> None:
    async with pooled() as play:
        await settled()
        await play.lot.visit()
        play.pool.end()
        with trio.fail_after(1):
            await play.over.wait()
        assert play.lot.alive == []
        assert len(play.records) == 1


async def test_a_pool_that_drains_dials_no_more_and_waits_for_the_last_visitor(clock: MockClock) -> None:
    async with pooled(origin=listen) as play:
        await settled()
        stream = await play.lot.visit()
        await settled()
        drained = trio.Event()

        async def drain() -> None:
            await play.pool.drain()
            drained.set()

        play.nursery.start_soon(drain)
        await settled()
        late = await play.lot.visit(PREFACE.replace(b"stream-1", b"stream-2"))
        await trio.sleep(10)
        assert play.pool.parked == FLOOR - 1
        for each in (stream, late):
            assert not drained.is_set()
            await each.aclose()
            await settled()
        assert drained.is_set()


async def test_a_pool_that_drains_has_nothing_to_say_of_what_the_relay_lets_go(clock: MockClock) -> None:
    async with pooled() as play:
        await settled()
        play.nursery.start_soon(play.pool.drain)
        await settled()
        for link in play.lot.parked:
            link.abort()
        await settled()
        assert play.pool.parked == 0
        assert play.told == [""]


async def test_a_pool_that_drains_has_nothing_to_say_of_dials_that_were_under_way(clock: MockClock) -> None:
    lot = FarLot(opened=trio.Event())
    async with pooled(lot) as play:
        await settled()
        play.nursery.start_soon(play.pool.drain)
        await settled()
        lot.failing = ConnectError("the relay is draining")
        assert lot.opened is not None
        lot.opened.set()
        await settled()
        assert len(lot.dials) == FLOOR
        assert play.told == []
