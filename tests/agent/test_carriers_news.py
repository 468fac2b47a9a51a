"""Another network, or a machine that has slept: carriers move, are replaced, or end."""

from __future__ import annotations

import trio
import trio.testing
from trio.testing import MockClock

from tests.agent.far_relay import H2, QUIC, FarRelay, have_visitors, keeping, refused, visit
from trunnel.settings import limits

LOOK = limits.CARRIER_LOOK
PATIENCE = 1.0
"""Seconds within which what needs no waiting is done: two looks."""


async def test_another_network_moves_quic(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay, kind=QUIC, automatic=True) as kept:
        await trio.sleep(10)
        kept.keeper.network_changed()
        await trio.sleep(limits.SUSPECT_AFTER)
        assert relay.open[0].link.migrations == 1
        assert relay.kinds == ["quic"]


async def test_another_network_replaces_tcp_within_10_s(relay: FarRelay, autojump_clock: MockClock) -> None:
    """NET-07: first the new carrier, then the old one goes, its streams in peace."""
    async with keeping(relay, pool_size=1) as kept:
        await trio.sleep(10)
        old = relay.open[0]
        stream = await visit(old.session)
        kept.keeper.network_changed()
        await trio.sleep(PATIENCE)
        assert len(relay.open) == 2
        assert old.link.goes_away
        await trio.sleep(60)
        assert old in relay.open
        stream.reset()
        await trio.sleep(PATIENCE)
        assert old not in relay.open
        assert kept.attachment.ended is None
        assert len(relay.dials) == 2


async def test_an_old_carrier_whose_path_is_dead_is_not_waited_for(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay, pool_size=1) as kept:
        old = relay.open[0]
        await visit(old.session)
        kept.keeper.network_changed()
        old.fall_silent()
        await trio.sleep(limits.CARRIER_LEAVE + limits.SUSPECT_AFTER + PATIENCE)
        assert old not in relay.open
        assert len(relay.open) == 1


async def test_without_a_new_carrier_the_old_one_stays(relay: FarRelay, autojump_clock: MockClock) -> None:
    """It may still work: another address came, the old one did not go."""
    async with keeping(relay) as kept:
        relay.failing[H2] = refused()
        kept.keeper.network_changed()
        await trio.sleep(60)
        assert not relay.open[0].link.goes_away
        assert kept.attachment.ended is None


async def test_quic_that_cannot_move_is_replaced_by_tcp(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay, kind=QUIC, automatic=True) as kept:
        relay.open[0].link.migrates = False
        kept.keeper.network_changed()
        await trio.sleep(PATIENCE)
        assert relay.kinds == ["quic", "h2"]
        await trio.sleep(limits.CARRIER_LEAVE + PATIENCE)
        assert relay.kinds == ["h2"]
        assert [transport for _, transport, _ in kept.said] == ["h2"]


async def test_tcp_beside_quic_that_has_moved_goes_once_quic_has_settled(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    async with keeping(relay, kind=QUIC, automatic=True) as kept:
        relay.open[0].fall_silent()
        await trio.sleep(limits.SUSPECT_AFTER + PATIENCE)
        relay.carriers[0].speak()
        kept.keeper.network_changed()
        await trio.sleep(PATIENCE)
        assert relay.kinds == ["quic", "h2"]
        await trio.sleep(limits.QUIC_SETTLED + limits.CARRIER_LEAVE + 2 * PATIENCE)
        assert relay.kinds == ["quic"]


async def test_a_dial_that_began_on_the_old_network_begins_anew(relay: FarRelay, autojump_clock: MockClock) -> None:
    """Its packets go nowhere; waiting for its timeout would cost 10 s."""
    async with keeping(relay) as kept:
        relay.takes[H2] = limits.CONNECT_TIMEOUT
        have_visitors(kept, 1)
        await trio.sleep(3)
        relay.takes[H2] = 0.1
        kept.keeper.network_changed()
        await trio.sleep(PATIENCE)
        assert len(relay.open) >= 2
        assert len(relay.connections) == len(relay.dials) - 1


async def test_quic_is_tried_on_a_new_network_without_waiting(relay: FarRelay, autojump_clock: MockClock) -> None:
    """What was found out about the old one says nothing."""
    relay.failing[QUIC] = refused()
    async with keeping(relay, automatic=True, due=0.0) as kept:
        await trio.sleep(2 * limits.QUIC_SETTLED)
        del relay.failing[QUIC]
        kept.keeper.network_changed()
        await trio.sleep(limits.QUIC_SETTLED + PATIENCE)
        assert "quic" in relay.kinds


async def test_after_sleep_a_carrier_that_answers_is_kept(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay) as kept:
        kept.keeper.woke()
        await trio.sleep(60)
        assert len(relay.dials) == 1


async def test_after_sleep_silent_carriers_end_at_once(relay: FarRelay, autojump_clock: MockClock) -> None:
    """NET-06: the session is made anew, or goes on with those that live."""
    async with keeping(relay) as kept:
        have_visitors(kept, 1)
        await trio.sleep(PATIENCE)
        dead, alive = relay.open
        dead.fall_silent()
        await trio.sleep(0.1)
        kept.keeper.woke()
        await trio.sleep(limits.WAKE_PATIENCE + 0.1)
        assert not dead.is_open
        assert alive.is_open
        relay.failing[H2] = refused()
        for far in relay.open:
            far.fall_silent()
        await trio.sleep(0.1)
        kept.keeper.woke()
        with trio.fail_after(limits.WAKE_PATIENCE + 0.1):
            ended = await kept.attachment.link.wait_closed()
    assert "after the machine woke" in ended.reason


async def test_a_second_sleep_while_the_first_is_judged_is_judged_too(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    """No news is lost."""
    async with keeping(relay) as kept:
        relay.failing[H2] = refused()
        kept.keeper.woke()
        await trio.sleep(limits.WAKE_PATIENCE / 2)
        relay.open[0].fall_silent()
        await trio.sleep(0.1)
        kept.keeper.woke()
        with trio.fail_after(2 * limits.WAKE_PATIENCE + 0.1):
            await kept.attachment.link.wait_closed()
