"""QUIC that falls silent gets TCP beside it, and comes back; it is tried again, rarely."""

from __future__ import annotations

import itertools

import trio
import trio.testing
from trio.testing import MockClock

from tests.agent.far_relay import H2, QUIC, FarRelay, have_visitors, keeping, refused
from trunnel.errors import RejectCode
from trunnel.settings import limits
from trunnel.wire import control

LOOK = limits.CARRIER_LOOK
PATIENCE = 1.0
"""Seconds within which what needs no waiting is done: two looks."""


async def test_quic_that_falls_silent_gets_tcp_beside_it_within_5_s(relay: FarRelay, autojump_clock: MockClock) -> None:
    """NET-08: its heartbeat finds out, then the dial; and people are told."""
    async with keeping(relay, kind=QUIC, automatic=True) as kept:
        await trio.sleep(100)
        assert relay.kinds == ["quic"]
        blocked = trio.current_time()
        await trio.sleep(limits.QUIC_HEARTBEAT)  # until a ping goes out at the latest
        relay.open[0].fall_silent()
        await trio.sleep(blocked + 5 - trio.current_time())
        assert relay.kinds == ["quic", "h2"]
        assert [(transport, why) for _, transport, why in kept.said] == [
            ("h2", "HTTP/2 over TLS on TCP: UDP no longer answers")
        ]
        assert kept.said[0][0] - blocked <= 5


async def test_quic_that_answers_again_for_a_while_sends_tcp_away(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay, kind=QUIC, automatic=True) as kept:
        relay.open[0].fall_silent()
        await trio.sleep(limits.SUSPECT_AFTER + PATIENCE)
        relay.carriers[0].speak()
        await trio.sleep(limits.QUIC_SETTLED - PATIENCE)
        assert relay.kinds == ["quic", "h2"]
        await trio.sleep(2 * PATIENCE + limits.CARRIER_LEAVE + PATIENCE)
        assert relay.kinds == ["quic"]
        assert [transport for _, transport, _ in kept.said] == ["h2", "quic"]
        assert kept.said[1][2] == "QUIC over UDP: UDP answers again"
        assert kept.reach.noted == []


async def test_quic_that_answers_now_and_then_keeps_tcp(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay, kind=QUIC, automatic=True) as kept:
        for _ in range(5):
            relay.carriers[0].fall_silent()
            await trio.sleep(limits.SUSPECT_AFTER + PATIENCE)
            relay.carriers[0].speak()
            await trio.sleep(limits.QUIC_SETTLED - 2)
        assert relay.kinds == ["quic", "h2"]
        assert [transport for _, transport, _ in kept.said] == ["h2"]


async def test_quic_that_dies_beside_tcp_is_remembered_as_blocked(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay, kind=QUIC, automatic=True) as kept:
        relay.open[0].fall_silent()
        await trio.sleep(limits.SUSPECT_AFTER + PATIENCE)
        relay.carriers[0].session.abort("dead")
        await trio.sleep(PATIENCE)
        assert kept.reach.noted == [(QUIC, False)]
        assert kept.attachment.ended is None


async def test_quic_alone_is_left_alone(relay: FarRelay, autojump_clock: MockClock) -> None:
    """`--transport quic`: nobody asked for TCP."""
    async with keeping(relay, kind=QUIC, tcp=None) as kept:
        relay.open[0].fall_silent()
        have_visitors(kept, 100)
        await trio.sleep(limits.DEAD_AFTER - 1)
        assert [kind for _, kind in relay.dials] == [QUIC]


async def test_a_session_on_tcp_returns_to_quic_when_it_is_due(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay, automatic=True, due=0.0) as kept:
        await trio.sleep(limits.QUIC_SETTLED - 1)
        assert relay.kinds == ["h2"]
        await trio.sleep(1 + PATIENCE)
        assert relay.kinds == ["h2", "quic"]
        await trio.sleep(limits.QUIC_SETTLED + PATIENCE + limits.CARRIER_LEAVE + PATIENCE)
        assert relay.kinds == ["quic"]
        assert kept.reach.noted == [(QUIC, True)]
        assert [transport for _, transport, _ in kept.said] == ["quic"]


async def test_it_does_not_before(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay, automatic=True, due=3_000.0):
        await trio.sleep(1_000)
        assert [kind for _, kind in relay.dials] == [H2]


async def test_quic_is_tried_at_most_once_in_ten_minutes(relay: FarRelay, autojump_clock: MockClock) -> None:
    """NET-08, even where nothing can be remembered."""
    relay.failing[QUIC] = refused()
    async with keeping(relay, automatic=True, due=0.0) as kept:
        await trio.sleep(3_600)
        times = [at for at, kind in relay.dials if kind is QUIC]
        assert 5 <= len(times) <= 6
        assert min(later - at for at, later in itertools.pairwise(times)) >= limits.QUIC_RETRY_MIN
        assert set(kept.reach.noted) == {(QUIC, False)}


async def test_a_quic_trial_that_hangs_keeps_nothing_else_waiting(relay: FarRelay, autojump_clock: MockClock) -> None:
    """UDP is blocked: the trial takes its 10 s; a TCP carrier that is lost meanwhile is replaced at once."""
    relay.takes[QUIC] = limits.HANDSHAKE_TIMEOUT
    relay.failing[QUIC] = refused()
    async with keeping(relay, automatic=True, due=0.0) as kept:
        have_visitors(kept, 1)
        await trio.sleep(limits.QUIC_SETTLED + 1)
        assert relay.dials[-1][1] is QUIC
        relay.open[0].session.abort("cut")
        await trio.sleep(PATIENCE)
        assert relay.kinds == ["h2", "h2"]


async def test_a_relay_that_refuses_the_carrier_does_not_make_udp_blocked(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    async with keeping(relay, automatic=True, due=0.0) as kept:
        relay.rejection = control.Rejected(RejectCode.OVERLOADED, "full", 1.0)
        await trio.sleep(limits.QUIC_SETTLED + PATIENCE)
        assert relay.dials[-1][1] is QUIC
        assert kept.reach.noted == []
