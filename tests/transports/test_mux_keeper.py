"""Pings, silence and pressure, by the virtual clock."""

from __future__ import annotations

from itertools import pairwise

import pytest
import trio
import trio.testing

from tests.transports.conformance import open_pair
from tests.transports.h2_model import content, frame, headers, read_frames
from tests.transports.h2_pairs import RawPeer, h2_of, raw_pair
from tests.transports.mux_pairs import PAIRS, Pair
from trunnel.errors import ErrorCode, StreamReset
from trunnel.settings import limits
from trunnel.transports import h2_frames as frames
from trunnel.transports.base import Session, Stream
from trunnel.transports.h2_connection import Role
from trunnel.transports.h2_frames import FrameType

BOTH = pytest.mark.parametrize("role", list(Role))
WINDOW = limits.STREAM_WINDOW_MIN


@BOTH
async def test_a_silent_peer_is_dead_after_twenty_seconds(role: Role, autojump_clock: trio.testing.MockClock) -> None:
    async with raw_pair(role) as (session, _peer):
        start = session.last_heard
        closed = await session.wait_closed()
        assert trio.current_time() - start == pytest.approx(limits.DEAD_AFTER)
        assert (closed.code, closed.retryable) == (ErrorCode.DEADLINE, True)


@pytest.mark.parametrize("after", [0.5, 3.0, 9.9, 12.0])
async def test_silence_is_counted_from_the_last_byte(after: float, autojump_clock: trio.testing.MockClock) -> None:
    async with raw_pair(Role.CLIENT) as (session, peer):
        await trio.sleep(after)
        await peer.greet()
        heard = trio.current_time()
        await session.wait_closed()
        assert trio.current_time() - heard == pytest.approx(limits.DEAD_AFTER)


@PAIRS
async def test_one_ping_each_ten_seconds_keeps_both_ends_alive(
    autojump_clock: trio.testing.MockClock, pair: Pair
) -> None:
    async with pair() as (relay, agent):
        await trio.sleep(10 * limits.HEARTBEAT + 1)
        assert relay.closed is None
        assert agent.closed is None
        assert trio.current_time() - relay.last_heard <= limits.HEARTBEAT


async def pings(peer: RawPeer, *, delay: float, seen: list[float]) -> None:
    """Answer each ping after *delay*; note when it came."""
    await peer.greet()
    pending = b""
    while chunk := await peer.carrier.receive_some(65_536):
        pending += chunk
        found = read_frames(pending, preface=True) if pending.startswith(frames.PREFACE) else read_frames(pending)
        pending = b""
        for kind, flags, _, payload in found:
            if kind == FrameType.PING and not flags:
                seen.append(trio.current_time())
                await trio.sleep(delay)
                await peer.carrier.send_all(frame(FrameType.PING, frames.ACK, 0, payload))


async def test_the_answer_is_the_round_trip(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_pair(Role.CLIENT) as (session, peer), trio.open_nursery() as nursery:
        seen: list[float] = []
        nursery.start_soon(lambda: pings(peer, delay=0.25, seen=seen))
        await trio.sleep(3 * limits.HEARTBEAT + 1)
        assert session.round_trip == pytest.approx(0.25)
        assert [round(later - earlier) for earlier, later in pairwise(seen)] == [10, 10, 10]
        nursery.cancel_scope.cancel()


async def test_an_answer_that_nobody_asked_for_is_no_round_trip(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_pair(Role.CLIENT) as (session, peer):
        await peer.greet()
        ack = frame(FrameType.PING, frames.ACK, 0, bytes(8))
        await trio.sleep(1)
        await peer.carrier.send_all(ack + ack)
        await trio.testing.wait_all_tasks_blocked()
        assert session.round_trip == pytest.approx(1.0)


def open_since(session: Session) -> float | None:
    """When the ping that is open went out."""
    return session.unanswered_since


async def test_a_ping_is_open_until_anything_is_heard(autojump_clock: trio.testing.MockClock) -> None:
    async with raw_pair(Role.CLIENT) as (session, peer):
        start = trio.current_time()
        await trio.sleep(limits.SUSPECT_AFTER)
        assert open_since(session) == start
        await peer.greet()
        await trio.testing.wait_all_tasks_blocked()
        assert open_since(session) is None
        await trio.sleep(limits.HEARTBEAT)
        assert open_since(session) == pytest.approx(start + limits.HEARTBEAT), "asked again, though never answered"
        await peer.carrier.send_all(frame(FrameType.PING, frames.ACK, 0, bytes(8)))
        await trio.testing.wait_all_tasks_blocked()
        assert open_since(session) is None
        await session.wait_closed()
        assert open_since(session) == pytest.approx(start + 2 * limits.HEARTBEAT), "the oldest of those unanswered"


@PAIRS
async def test_a_peer_that_answers_leaves_nothing_open(autojump_clock: trio.testing.MockClock, pair: Pair) -> None:
    async with pair() as (relay, agent):
        for _ in range(30):
            await trio.sleep(0.9)
            assert relay.unanswered_since is None
            assert agent.unanswered_since is None


async def test_a_new_stream_is_a_question_until_anything_is_heard(autojump_clock: trio.testing.MockClock) -> None:
    """A carrier that has fallen silent is suspect soon after its first visitor, not after its next ping."""
    async with raw_pair(Role.CLIENT) as (session, peer):
        await peer.greet()
        await peer.carrier.send_all(frame(FrameType.PING, frames.ACK, 0, bytes(8)))
        await trio.sleep(3)
        assert open_since(session) is None
        opened = trio.current_time()
        await session.open_stream()
        await trio.sleep(1)
        await session.open_stream()
        assert open_since(session) == opened, "the oldest of those unanswered"
        await trio.sleep(limits.HEARTBEAT)
        assert open_since(session) == opened
        await peer.carrier.send_all(frame(FrameType.PING, frames.ACK, 0, bytes(8)))
        await trio.testing.wait_all_tasks_blocked()
        assert open_since(session) is None


@PAIRS
async def test_an_idle_session_sleeps_from_ping_to_ping(autojump_clock: trio.testing.MockClock, pair: Pair) -> None:
    """Ten thousand agents that looked at their streams every second would be half of a core."""
    async with pair() as (relay, agent):
        await open_pair(relay, agent)
        await trio.sleep(0.5)
        wakes = trio.lowlevel.current_statistics().seconds_to_next_deadline
        assert wakes > 2 * limits.PRESSURE_LOOK


async def stalled_streams(peer: RawPeer, count: int) -> None:
    """Open *count* streams and fill each one's window."""
    await peer.greet()
    for number in range(count):
        stream_id = 2 * number + 1
        await peer.carrier.send_all(headers(stream_id) + content(stream_id, bytes(WINDOW)))


async def broken(stream: Stream) -> ErrorCode:
    with pytest.raises(trio.BrokenResourceError) as caught:
        await stream.receive_some()
    assert isinstance(caught.value.__cause__, StreamReset)
    return caught.value.__cause__.code


async def test_under_pressure_stalled_streams_are_reset_until_the_rest_can_move(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """All at once: one each five seconds would leave the others standing for minutes."""
    count = limits.SESSION_CREDIT // WINDOW
    async with raw_pair(Role.SERVER) as (session, peer):
        await stalled_streams(peer, count)
        streams = [await session.accept_stream() for _ in range(count)]
        await trio.testing.wait_all_tasks_blocked()
        assert session.statistics().unread == limits.SESSION_CREDIT
        assert h2_of(session).receive_left == 0
        await trio.sleep(2 * limits.STALLED_AFTER)
        assert session.statistics().unread < limits.SESSION_PRESSURE
        assert session.statistics().unread >= limits.SESSION_PRESSURE - WINDOW, "and no more than that"
        assert h2_of(session).receive_left > 0, "the peer may send again"
        gone = [stream for stream in streams if not stream.unread]  # type: ignore[attr-defined]
        assert {await broken(stream) for stream in gone} == {ErrorCode.SLOW_CONSUMER}


@pytest.mark.parametrize("ending", [b"fin", b"rst"])
async def test_a_stream_that_ended_unread_is_relieved_too_and_looks_broken(
    ending: bytes, autojump_clock: trio.testing.MockClock
) -> None:
    """Truncation never looks like an end: the FIN is gone with the bytes ahead of it."""
    count = limits.SESSION_CREDIT // WINDOW
    async with raw_pair(Role.SERVER) as (session, peer):
        await stalled_streams(peer, count)
        streams = [await session.accept_stream() for _ in range(count)]
        for stream in streams:
            if ending == b"fin":
                await peer.carrier.send_all(content(stream.stream_id, b"", flags=frames.END_STREAM))
                await stream.send_eof()
            else:
                await peer.carrier.send_all(frame(FrameType.RST_STREAM, 0, stream.stream_id, bytes(4)))
        await trio.sleep(2 * limits.STALLED_AFTER)
        assert session.statistics().unread < limits.SESSION_PRESSURE
        gone = [stream for stream in streams if not stream.unread]  # type: ignore[attr-defined]
        assert gone
        for stream in gone:
            await broken(stream)


async def test_below_the_pressure_nobody_is_reset(autojump_clock: trio.testing.MockClock) -> None:
    count = limits.SESSION_PRESSURE // WINDOW - 1
    async with raw_pair(Role.SERVER) as (session, peer), trio.open_nursery() as nursery:
        await stalled_streams(peer, count)
        nursery.start_soon(lambda: keep_talking(peer))
        streams = [await session.accept_stream() for _ in range(count)]
        await trio.sleep(60)
        assert len(streams) == session.statistics().streams_open == count
        nursery.cancel_scope.cancel()


async def keep_talking(peer: RawPeer) -> None:
    """Be heard."""
    while True:
        await trio.sleep(5)
        await peer.carrier.send_all(frame(FrameType.PING, frames.ACK, 0, bytes(8)))


async def test_a_consumer_that_reads_is_spared(autojump_clock: trio.testing.MockClock) -> None:
    count = limits.SESSION_CREDIT // WINDOW
    async with raw_pair(Role.SERVER) as (session, peer):
        await stalled_streams(peer, count)
        streams = [await session.accept_stream() for _ in range(count)]
        for _ in range(12):
            for stream in streams[:20]:
                await stream.receive_some(1)
            await trio.sleep(1)
        assert all(stream.unread for stream in streams[:20])  # type: ignore[attr-defined]
        assert session.statistics().unread < limits.SESSION_PRESSURE
