"""One QUIC stream: how its ends are carried, and the octet at its head.  The rest is in the exam."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.transports.conformance import open_pair, read_all
from tests.transports.quic_pairs import quic_pair
from trunnel.errors import ErrorCode, SessionClosed, StreamReset
from trunnel.settings import limits
from trunnel.transports.quic import QuicSession
from trunnel.transports.quic_stream import QuicStream


async def raw_stream(relay: QuicSession, octets: bytes, *, end: bool = False) -> int:
    """Write *octets* at the head of a new stream of the relay; returns its number."""
    connection = relay._connection
    stream_id = connection.get_next_available_stream_id()
    connection.send_stream_data(stream_id, octets, end)
    relay._link.touch()
    await trio.testing.wait_all_tasks_blocked(0.03)
    return stream_id


async def test_a_stream_without_bytes_is_seen_by_the_peer() -> None:
    """QUIC has no empty open: the head alone makes the stream exist."""
    async with quic_pair() as (relay, agent):
        near = await relay.open_stream()
        far = await agent.accept_stream()
        assert near.stream_id == far.stream_id
        assert agent.statistics().bytes_received == 0


@pytest.mark.parametrize("head", [b"\x02", b"\xffmore bytes"])
async def test_a_head_that_nobody_knows_costs_that_stream(head: bytes) -> None:
    async with quic_pair() as (relay, agent):
        stream_id = await raw_stream(relay, head)
        assert relay._connection.drained(stream_id)
        assert agent.statistics().streams_open == 0
        near, far = await open_pair(relay, agent)
        assert far.stream_id != stream_id
        await near.send_all(b"goes on")
        assert await far.receive_some() == b"goes on"


async def test_a_stream_that_ends_without_a_head_is_not_accepted() -> None:
    async with quic_pair() as (relay, agent):
        await raw_stream(relay, b"", end=True)
        assert agent.statistics().streams_open == 0
        _, far = await open_pair(relay, agent)
        assert far.stream_id == 5


async def test_a_stream_that_is_reset_before_its_head_came_is_not_accepted() -> None:
    async with quic_pair() as (relay, agent):
        stream_id = relay._connection.get_next_available_stream_id()
        relay._connection.reset_stream(stream_id, ErrorCode.CANCEL)
        relay._link.touch()
        await trio.testing.wait_all_tasks_blocked(0.03)
        assert agent.statistics().streams_open == 0
        assert relay._connection.streams_open == 0


async def test_streams_that_the_agent_refuses_end_at_once() -> None:
    """After `go_away` what the relay opens all the same is reset as never processed."""
    async with quic_pair() as (relay, agent):
        agent._refusing = True  # the relay has not been told
        near = await relay.open_stream()
        with pytest.raises(trio.BrokenResourceError) as caught:
            await near.receive_some()
        assert isinstance(caught.value.__cause__, StreamReset)
        assert caught.value.__cause__.code is ErrorCode.REFUSED_STREAM


async def test_a_goodbye_on_a_stream_that_the_peer_has_stopped_needs_no_answer() -> None:
    """STOP_SENDING ends our direction in aioquic before we hear of it: a FIN would fail there."""
    async with quic_pair() as (relay, agent):
        stream_id = agent._connection.get_next_available_stream_id()
        agent._connection.send_stream_data(stream_id, b"\x01")
        agent._connection.stop_stream(stream_id, ErrorCode.CANCEL)
        agent._link.touch()
        await trio.testing.wait_all_tasks_blocked(0.03)
        assert relay.closed is None
        with pytest.raises(SessionClosed, match="going away"):
            await relay.open_stream()


async def test_a_relay_accepts_no_stream_of_bytes() -> None:
    """Nobody would take it up: it could lie there, full, as long as the agent likes."""
    async with quic_pair() as (relay, agent):
        near = await agent.open_stream()
        await near.send_all(b"hello")
        with pytest.raises(trio.BrokenResourceError):
            await near.receive_some()
        assert near.reset_code is ErrorCode.REFUSED_STREAM
        assert relay.statistics().streams_open == relay.statistics().unread == 0


async def test_more_streams_than_are_accepted_are_refused() -> None:
    async with quic_pair() as (relay, agent):
        opened = [await relay.open_stream() for _ in range(limits.ACCEPT_QUEUE + 3)]
        await trio.testing.wait_all_tasks_blocked(0.05)
        assert [stream.reset_code for stream in opened[-4:]] == [None] + [ErrorCode.REFUSED_STREAM] * 3
        assert agent.statistics().streams_open == limits.ACCEPT_QUEUE


async def test_opening_waits_for_the_peers_limit() -> None:
    async with quic_pair() as (relay, agent):
        pairs = [await open_pair(relay, agent) for _ in range(limits.STREAMS_ON_CARRIER)]
        opened: list[QuicStream] = []

        async def open_one_more() -> None:
            stream = await relay.open_stream()
            assert isinstance(stream, QuicStream)
            opened.append(stream)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(open_one_more)
            await trio.testing.wait_all_tasks_blocked(0.05)
            assert opened == []
            near, far = pairs.pop()
            await near.aclose()
            await far.aclose()
        assert len(opened) == 1


async def test_a_reset_after_fin_stops_the_other_direction() -> None:
    """What was finished is delivered as finished; the peer learns that nobody reads its answer."""
    async with quic_pair() as (relay, agent):
        near, far = await open_pair(relay, agent)
        await near.send_all(b"request")
        await near.send_eof()
        near.reset(ErrorCode.DEADLINE)
        assert await read_all(far) == b"request"
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await far.send_all(b"answer")
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert far.reset_code is ErrorCode.DEADLINE


async def test_both_ends_may_reset_at_once() -> None:
    async with quic_pair() as (relay, agent):
        near, far = await open_pair(relay, agent)
        await near.send_all(b"x" * 1_000)
        near.reset(ErrorCode.CANCEL)
        far.reset(ErrorCode.DEADLINE)
        await trio.testing.wait_all_tasks_blocked(0.1)
        for session in (relay, agent):
            assert session.statistics().streams_open == 0
        assert relay._connection.streams_open == 0


async def test_bytes_for_a_closed_stream_give_their_credit_back() -> None:
    """A session goes on however much is sent to streams that nobody reads."""
    async with quic_pair() as (relay, agent):
        for _ in range(2 * limits.SESSION_CREDIT // limits.STREAM_WINDOW_MIN):
            near, far = await open_pair(relay, agent)
            await near.send_all(bytes(limits.STREAM_WINDOW_MIN))
            await far.aclose()
            near.reset()
        assert (await relay.open_stream()).stream_id


async def test_a_session_that_waits_for_its_streams_sleeps() -> None:
    """Waiting for room is no loop: a stalled sender costs no turns."""
    async with quic_pair() as (relay, agent):
        near, _far = await open_pair(relay, agent)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, bytes(1 << 20))
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert relay.statistics().bytes_sent <= limits.STREAM_WINDOW_MIN
            nursery.cancel_scope.cancel()
