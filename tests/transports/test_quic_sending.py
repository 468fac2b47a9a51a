"""What streams send: room, resets that wait, and the moment when all is acknowledged."""

from __future__ import annotations

import math

import pytest
import trio
import trio.testing

from tests.transports.conformance import open_pair
from tests.transports.quic_pairs import quic_agent, quic_pair, quic_relay
from tests.transports.udp_network import udp_network
from trunnel.errors import ErrorCode
from trunnel.transports.quic_sending import Sending


async def test_a_reset_waits_for_what_was_sent_before() -> None:
    """Not one byte is lost, though STOP_SENDING and RESET_STREAM could overtake them."""
    async with quic_pair() as (relay, agent):
        for size in (0, 1, 1_000, 60_000):
            near, far = await open_pair(relay, agent)
            await near.send_all(bytes(size))
            near.reset(ErrorCode.PEER_ABORTED)
            received = 0
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    received += len(await far.receive_some())
            assert received == size
            assert far.reset_code is ErrorCode.PEER_ABORTED


async def test_nothing_is_flushed_before_it_is_acknowledged() -> None:
    async with quic_relay() as relay, udp_network(relay.address) as network, quic_agent(network.front.address) as agent:
        session = await relay.session()
        near, far = await open_pair(session, agent)
        await near.send_all(b"heard")
        assert await far.receive_some() == b"heard"
        with trio.fail_after(2):
            await session._out.wait_flushed()
        network.down = True
        await near.send_all(b"unheard")
        with trio.move_on_after(0.1) as scope:
            await session._out.wait_flushed()
        assert scope.cancelled_caught
        network.down = False
        with trio.fail_after(5):
            await session._out.wait_flushed()


async def test_a_lost_connection_is_waited_for_no_longer() -> None:
    async with quic_pair() as (relay, agent):
        near, _far = await open_pair(relay, agent)
        relay._out.announce(relay._connection.get_next_available_stream_id(), 0)
        await near.send_all(b"x" * 10_000)
        agent.abort("gone", code=ErrorCode.INTERNAL_ERROR)
        await relay.wait_closed()
        with trio.fail_after(1):
            await relay._out.wait_flushed()


async def test_a_lost_connection_leaves_no_alarm_behind() -> None:
    """One that nobody moves would go off without a pause until the connection is forgotten."""
    async with quic_pair() as (relay, agent):
        near, _far = await open_pair(relay, agent)
        await near.send_all(b"x")
        near.reset(ErrorCode.PEER_ABORTED)
        assert relay._link.alarm < math.inf
        relay._link.connection.close()
        relay._link.settle(trio.current_time())
        assert relay._link.alarm == math.inf


async def test_the_first_reason_to_reset_stands() -> None:
    """Who has aborted a stream closes it, too: CANCEL must not take the place of the reason."""
    async with quic_pair() as (relay, agent):
        near, far = await open_pair(relay, agent)
        await near.send_all(b"x")
        near.reset(ErrorCode.ORIGIN_UNREACHABLE)
        await near.aclose()
        assert await far.receive_some() == b"x"
        with pytest.raises(trio.BrokenResourceError):
            await far.receive_some()
        assert far.reset_code is ErrorCode.ORIGIN_UNREACHABLE


async def test_an_ended_session_takes_no_more_bytes() -> None:
    async with quic_pair() as (relay, agent):
        near, _ = await open_pair(relay, agent)
        relay.abort("over", code=ErrorCode.CANCEL)
        relay._out.finish(near.stream_id)
        relay._out.cut(near.stream_id, ErrorCode.CANCEL)
        relay._out.stop(near.stream_id, ErrorCode.CANCEL)
        assert not relay._out._cuts
        with pytest.raises(trio.BrokenResourceError):
            await near.send_all(b"x")


async def test_many_stalled_senders_do_not_slow_a_busy_one(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who waits for room is looked at when something happened to it, not after every batch."""
    looked: list[int] = []
    real = Sending._wake_if_worth

    def wake(sending: Sending, stream_id: int) -> None:
        looked.append(stream_id)
        real(sending, stream_id)

    async with quic_pair() as (relay, agent), trio.open_nursery() as nursery:
        for _ in range(50):
            stalled, _far = await open_pair(relay, agent)
            nursery.start_soon(stalled.send_all, bytes(1 << 20))
        await trio.testing.wait_all_tasks_blocked(0.05)
        near, far = await open_pair(relay, agent)
        monkeypatch.setattr(Sending, "_wake_if_worth", wake)
        for _ in range(20):
            await near.send_all(bytes(10_000))
            received = 0
            while received < 10_000:
                received += len(await far.receive_some())
        assert len(looked) < 100
        nursery.cancel_scope.cancel()
