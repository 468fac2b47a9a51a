"""The carriers of one session are kept: pool, replacement, fallback, return to QUIC, news of the machine."""

from __future__ import annotations

import itertools

import pytest
import trio
import trio.testing
from trio.testing import MockClock

from tests.agent.far_relay import H2, QUIC, FarRelay, Keeping, keeping, refused, visit
from trunnel.errors import RejectCode, RelayIdentityError
from trunnel.settings import limits
from trunnel.streams.copy import Counter
from trunnel.wire import control

LOOK = limits.CARRIER_LOOK
PATIENCE = 1.0
"""Seconds within which what needs no waiting is done: two looks."""


def visitors(kept: Keeping, count: int) -> None:
    """Have *count* visitors."""
    visits = kept.attachment.visits
    for name in tuple(visits.open):
        visits.leave(name)
    for number in range(count):
        visits.enter(str(number), Counter())


# --- the pool ---------------------------------------------------------------------------------------


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
        visitors(kept, 1)
        await trio.sleep(PATIENCE)
        assert len(relay.open) == 2
        visitors(kept, limits.STREAMS_PER_CARRIER + 1)
        await trio.sleep(PATIENCE)  # no carrier is dialled sooner than a look after the one before
        assert len(relay.open) == 3
        visitors(kept, 100)
        await trio.sleep(60)
        assert len(relay.open) == 3
        assert kept.said == []


async def test_a_pool_of_one_stays_one(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay, pool_size=1) as kept:
        visitors(kept, 100)
        await trio.sleep(60)
        assert len(relay.dials) == 1


async def test_visitors_who_left_between_two_looks_count(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay) as kept:
        visitors(kept, 3 * limits.STREAMS_PER_CARRIER)
        visitors(kept, 0)
        await trio.sleep(4 * LOOK)
        assert len(relay.open) == 4


async def test_a_pool_without_visitors_shrinks_to_one_after_a_while(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay) as kept:
        visitors(kept, 100)
        await trio.sleep(10)
        visitors(kept, 0)
        await trio.sleep(limits.POOL_IDLE - 1)
        assert len(relay.open) == 4
        await trio.sleep(2 + 4 * LOOK + limits.CARRIER_LEAVE + PATIENCE)
        assert len(relay.open) == 1
        assert kept.attachment.ended is None
        retired = [far for far in relay.carriers if not far.is_open]
        assert all(far.link.goes_away for far in retired)


async def test_a_retired_carrier_waits_for_its_last_stream(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay) as kept:
        visitors(kept, 1)
        await trio.sleep(PATIENCE)
        held = [await visit(far.session) for far in relay.open]
        await trio.testing.wait_all_tasks_blocked()
        visitors(kept, 0)
        await trio.sleep(limits.POOL_IDLE + 60)
        assert len(relay.open) == 2
        assert [far.link.goes_away for far in relay.open].count(True) == 1
        for stream in held:
            stream.reset()
        await trio.sleep(PATIENCE)
        assert len(relay.open) == 1


async def test_a_lost_carrier_is_replaced(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay) as kept:
        visitors(kept, 1)
        await trio.sleep(PATIENCE)
        relay.open[0].session.abort("cut")
        await trio.sleep(PATIENCE)
        assert len(relay.open) == 2
        assert kept.attachment.ended is None


async def test_a_relay_that_drops_every_newcomer_is_not_hammered(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay) as kept:
        visitors(kept, 1)
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
        visitors(kept, 100)
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
        visitors(kept, 1)
        await trio.sleep(600)
        assert 10 < len(relay.dials) < 80
        del relay.failing[H2]
        await trio.sleep(limits.BACKOFF_CAP + PATIENCE)
        assert len(relay.open) == 2


async def test_a_relay_that_asks_to_wait_is_obeyed(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay) as kept:
        relay.rejection = control.Rejected(RejectCode.OVERLOADED, "full", 50.0)
        visitors(kept, 1)
        await trio.sleep(49)
        assert len(relay.dials) == 2
        assert kept.attachment.ended is None


async def test_an_impostor_beside_a_session_is_warned_of(
    relay: FarRelay, autojump_clock: MockClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with keeping(relay) as kept:
        relay.failing[H2] = RelayIdentityError("another key")
        visitors(kept, 1)
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


# --- QUIC and TCP -----------------------------------------------------------------------------------


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
        visitors(kept, 100)
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
        visitors(kept, 1)
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


# --- news of the machine ----------------------------------------------------------------------------


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
        assert old.is_open
        stream.reset()
        await trio.sleep(PATIENCE)
        assert not old.is_open
        assert kept.attachment.ended is None
        assert len(relay.dials) == 2


async def test_an_old_carrier_whose_path_is_dead_is_not_waited_for(relay: FarRelay, autojump_clock: MockClock) -> None:
    async with keeping(relay, pool_size=1) as kept:
        old = relay.open[0]
        await visit(old.session)
        kept.keeper.network_changed()
        old.fall_silent()
        await trio.sleep(limits.CARRIER_LEAVE + limits.SUSPECT_AFTER + PATIENCE)
        assert not old.is_open
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
        visitors(kept, 1)
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
        visitors(kept, 1)
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


# --- the end ----------------------------------------------------------------------------------------


async def test_a_session_that_ends_while_a_carrier_is_dialled_leaves_nothing(
    relay: FarRelay, autojump_clock: MockClock
) -> None:
    async with keeping(relay) as kept:
        relay.takes[H2] = 5
        visitors(kept, 1)
        await trio.sleep(PATIENCE)
        relay.open[0].session.abort("replaced")
        await kept.attachment.link.wait_closed()
    await trio.testing.wait_all_tasks_blocked()
    assert relay.open == []
    assert all(connection.aborted or connection.open_count for connection in relay.connections)
