"""The carriers of one session are kept: the pool grows, shrinks, and replaces what is lost."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.agent.far_relay import H2, FarRelay, have_visitors, keeping, refused, visit
from trunnel.errors import RejectCode, RelayIdentityError
from trunnel.settings import limits
from trunnel.wire import control

LOOK = limits.CARRIER_LOOK
PATIENCE = 1.0
"""Seconds within which what needs no waiting is done: two looks."""


async def test_without_visitors_one_carrier_is_held(relay: FarRelay, autojump_clock: MockClock) -> None:
    """Though canaries cross it."""
    async with keeping(relay) as kept:
        for _ in range(10):
            assert await kept.attachment.probe() == ""
            await trio.sleep(limits.CANARY_INTERVAL)
        assert relay.kinds == ["h2"]
        assert len(relay.dials) == 1


async def test_the_pool_grows_with_its_visitors_and_no_further_than_asked(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    async with keeping(relay, pool_size=3) as kept:
        have_visitors(kept, 1)
        await trio.sleep(PATIENCE)
        assert len(relay.open) == 2
        have_visitors(kept, limits.STREAMS_PER_CARRIER + 1)
        await trio.sleep(PATIENCE)  # no carrier is dialled sooner than a look after the one before
        assert len(relay.open) == 3
        have_visitors(kept, 100)
        await trio.sleep(60)
        assert len(relay.open) == 3
        assert kept.said == []


async def test_a_pool_of_one_stays_one(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay, pool_size=1) as kept:
        have_visitors(kept, 100)
        await trio.sleep(60)
        assert len(relay.dials) == 1


async def test_visitors_who_left_between_two_looks_count(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay) as kept:
        have_visitors(kept, 3 * limits.STREAMS_PER_CARRIER)
        have_visitors(kept, 0)
        await trio.sleep(4 * LOOK)
        assert len(relay.open) == 4


async def test_a_pool_without_visitors_shrinks_to_one_after_a_while(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay) as kept:
        have_visitors(kept, 100)
        await trio.sleep(10)
        have_visitors(kept, 0)
        await trio.sleep(limits.POOL_IDLE - 1)
        assert len(relay.open) == 4
        await trio.sleep(2 + 4 * LOOK + limits.CARRIER_LEAVE + PATIENCE)
        assert len(relay.open) == 1
        assert kept.attachment.ended is None
        retired = [far for far in relay.carriers if not far.is_open]
        assert all(far.link.goes_away for far in retired)


async def test_a_retired_carrier_waits_for_its_last_stream(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay) as kept:
        have_visitors(kept, 1)
        await trio.sleep(PATIENCE)
        held = [await visit(far.session) for far in relay.open]
        await trio.testing.wait_all_tasks_blocked()
        have_visitors(kept, 0)
        await trio.sleep(limits.POOL_IDLE + 60)
        assert len(relay.open) == 2
        assert [far.link.goes_away for far in relay.open].count(True) == 1
        for stream in held:
            stream.reset()
        await trio.sleep(PATIENCE)
        assert len(relay.open) == 1


async def test_a_lost_carrier_is_replaced(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay) as kept:
        have_visitors(kept, 1)
        await trio.sleep(PATIENCE)
        relay.open[0].session.abort("cut")
        await trio.sleep(PATIENCE)
        assert len(relay.open) == 2
        assert kept.attachment.ended is None


async def test_a_relay_that_drops_every_newcomer_is_not_hammered(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay) as kept:
        have_visitors(kept, 1)
        with trio.move_on_after(10):
            while True:
                await kept.attachment.link.wait_carriers_changed()
                for far in relay.open[1:]:
                    far.session.abort("no")
        assert len(relay.dials) <= 1 + 10 / LOOK + 1


async def test_a_silent_carrier_gets_one_beside_it_and_goes_when_it_answers(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    async with keeping(relay, pool_size=1):
        relay.open[0].fall_silent()
        await trio.sleep(limits.SUSPECT_AFTER + PATIENCE)
        assert len(relay.open) == 2
        relay.carriers[0].speak()
        await trio.sleep(PATIENCE + limits.CARRIER_LEAVE + PATIENCE)
        assert len(relay.open) == 1


async def test_on_a_line_where_all_fall_silent_the_pool_does_not_explode(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    """Bulk on a slow line: new carriers are welcomed, and are silent like the others."""
    async with keeping(relay, pool_size=2) as kept:
        have_visitors(kept, 100)
        most = 0
        for _ in range(60):
            for far in relay.open:
                if far.link.silent_since is None:
                    far.fall_silent()
            await trio.sleep(LOOK)
            most = max(most, len(relay.open))
        assert most == 4


async def test_dials_that_fail_are_spread(relay: FarRelay, autojump_clock: MockClock) -> None:
    """Never more often than the looks, soon far less."""
    async with keeping(relay) as kept:
        relay.failing[H2] = refused()
        have_visitors(kept, 1)
        await trio.sleep(600)
        assert 10 < len(relay.dials) < 80
        del relay.failing[H2]
        await trio.sleep(limits.BACKOFF_CAP + PATIENCE)
        assert len(relay.open) == 2


async def test_a_relay_that_asks_to_wait_is_obeyed(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay) as kept:
        relay.rejection = control.Rejected(RejectCode.OVERLOADED, "full", 50.0)
        have_visitors(kept, 1)
        await trio.sleep(49)
        assert len(relay.dials) == 2
        assert kept.attachment.ended is None


async def test_an_impostor_beside_a_session_is_warned_of(
    relay: FarRelay, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with keeping(relay) as kept:
        relay.failing[H2] = RelayIdentityError("another key")
        have_visitors(kept, 1)
        await trio.sleep(PATIENCE)
        assert kept.attachment.ended is None
    assert next(record.levelname for record in caplog.records if record.message == "carrier_not_added") == "WARNING"


async def test_nothing_spins(relay: FarRelay, autojump_clock: MockClock) -> None:
    """News come in any order, an hour passes: the looks are as many as they should be."""
    async with keeping(relay, automatic=True, due=1.0) as kept:
        relay.failing[H2] = refused()
        looks = 0
        look = kept.keeper._look

        async def counted() -> None:
            nonlocal looks
            looks += 1
            await look()

        kept.keeper._look = counted  # type: ignore[method-assign]
        for _ in range(10):
            kept.keeper.woke()
            kept.keeper.network_changed()
            kept.keeper.woke()
            await trio.sleep(6)
        assert looks <= 60 / LOOK + 40


# --- the end ----------------------------------------------------------------------------------------


async def test_a_session_that_ends_while_a_carrier_is_dialled_leaves_nothing(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    async with keeping(relay) as kept:
        relay.takes[H2] = 5
        have_visitors(kept, 1)
        await trio.sleep(PATIENCE)
        relay.open[0].session.abort("replaced")
        await kept.attachment.link.wait_closed()
    await trio.testing.wait_all_tasks_blocked()
    assert relay.open == []
    assert all(connection.aborted or connection.open_count for connection in relay.connections)
