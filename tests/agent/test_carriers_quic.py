"""QUIC that falls silent gets TCP beside it, and comes back; it is tried again, rarely."""

from __future__ import annotations

import itertools
from pathlib import Path

import trio
import trio.testing
from trio.testing import MockClock

from tests.agent.far_relay import H2, QUIC, FarRelay, have_visitors, keeping, refused
from tests.agent.pursuit import pursuit
from trunnel.errors import RejectCode
from trunnel.events import Connected, Disconnected
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


# --- `--transport quic`: nobody asked for TCP ----------------------------------------------------------


async def test_quic_alone_is_one_carrier_however_many_visit(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay, kind=QUIC, tcp=None) as kept:
        have_visitors(kept, 100)
        await trio.sleep(100)
        assert [kind for _, kind in relay.dials] == [QUIC]


async def test_quic_alone_that_falls_silent_gets_another_and_retires_once_that_answers(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    async with keeping(relay, kind=QUIC, tcp=None) as kept:
        have_visitors(kept, 100)
        await trio.sleep(100)
        silent = relay.open[0]
        silent.fall_silent()
        await trio.sleep(limits.SUSPECT_AFTER + PATIENCE)
        assert [kind for _, kind in relay.dials] == [QUIC, QUIC]
        assert silent.link.goes_away
        await trio.sleep(limits.CARRIER_LEAVE + PATIENCE)
        assert not silent.is_open
        assert relay.kinds == ["quic"]
        await trio.sleep(100)
        assert len(relay.dials) == 2
        assert kept.attachment.ended is None
        assert kept.said == []
        assert kept.reach.noted == []


async def test_quic_alone_that_answers_again_while_another_is_dialled_stays(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    """A stall is over: one carrier is enough, and its streams live."""
    relay.takes[QUIC] = 3.0
    async with keeping(relay, kind=QUIC, tcp=None):
        old = relay.open[0]
        old.fall_silent()
        await trio.sleep(limits.SUSPECT_AFTER + PATIENCE)
        assert len(relay.dials) == 2
        old.speak()
        await trio.sleep(relay.takes[QUIC] + limits.CARRIER_LEAVE + PATIENCE)
        assert relay.open == [old]
        assert not old.link.goes_away
        await trio.sleep(100)
        assert len(relay.dials) == 2


async def test_dials_of_quic_alone_that_fail_keep_their_distance(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay, kind=QUIC, tcp=None):
        relay.failing[QUIC] = refused()
        relay.open[0].fall_silent()
        await trio.sleep(limits.DEAD_AFTER)
        times = [at for at, _ in relay.dials[1:]]
        assert 2 <= len(times) <= limits.DEAD_AFTER / LOOK / 2
        assert min(later - at for at, later in itertools.pairwise(times)) >= LOOK


async def test_quic_alone_that_cannot_move_to_another_network_is_replaced(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    async with keeping(relay, kind=QUIC, tcp=None) as kept:
        await trio.sleep(10)
        old = relay.open[0]
        old.link.migrates = False
        kept.keeper.network_changed()
        await trio.sleep(PATIENCE)
        assert len(relay.open) == 2
        assert old.link.goes_away
        await trio.sleep(limits.CARRIER_LEAVE + PATIENCE)
        assert old not in relay.open
        assert relay.kinds == ["quic"]


async def test_an_agent_on_quic_alone_is_back_within_5_s_of_its_relays_restart(
    relay: FarRelay, tmp_path: Path, autojump_clock: MockClock
) -> None:
    """UDP has no RST: a ping at the latest after `QUIC_HEARTBEAT`, its silence, a dial; the relay knows no session."""
    async with pursuit(relay, tmp_path, {"kind": QUIC, "tcp": None}) as running:
        await running.supervisor.ready.wait()
        await trio.sleep(100)
        restarted = trio.current_time()
        relay.forgets = True
        await trio.sleep(limits.QUIC_HEARTBEAT)  # until a ping goes out at the latest
        relay.open[0].fall_silent()
        with trio.fail_after(restarted + 5 - trio.current_time()):
            await running.log.wait(Connected, 2)
        assert [event.session for event in running.log.of(Connected)] == ["s1", "s3"]
        assert running.log.of(Disconnected)[0].reason == "the relay has forgotten the session"
        assert {kind for _, kind in relay.dials} == {QUIC}
        relay.forgets = False
        await trio.sleep(100)
        assert relay.kinds == ["quic"]
        assert len(running.log.of(Connected)) == 2


# --- TCP carries the session ---------------------------------------------------------------------------


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
