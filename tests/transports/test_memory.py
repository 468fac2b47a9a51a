"""What the memory transport must tell apart as the real ones do; the rest is `conformance.py`."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.transports.conformance import AGENT, RELAY, open_pair, read_all
from trunnel.errors import ErrorCode, SessionClosed
from trunnel.settings import limits
from trunnel.transports.base import Session
from trunnel.transports.memory import memory_session_pair

BULK = bytes(4 * limits.STREAM_WINDOW_MIN)


async def test_each_end_knows_the_other() -> None:
    async with memory_session_pair(RELAY, AGENT) as (relay, agent):
        assert (relay.peer, agent.peer) == (AGENT, RELAY)
        assert relay.transport == agent.transport == "memory"
        assert relay.last_heard == pytest.approx(trio.current_time())


async def test_closing_after_a_cancelled_send_is_an_abort_not_an_end() -> None:
    async with memory_session_pair(RELAY, AGENT) as (relay, agent):
        near, far = await open_pair(relay, agent)
        with trio.CancelScope() as scope:
            async with near, trio.open_nursery() as nursery:
                nursery.start_soon(near.send_all, BULK)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        with pytest.raises(trio.BrokenResourceError):
            await read_all(far)
        assert far.reset_code is ErrorCode.CANCEL


async def test_a_reset_after_both_ends_changes_nothing() -> None:
    async with memory_session_pair(RELAY, AGENT) as (relay, agent):
        near, far = await open_pair(relay, agent)
        for stream in (near, far):
            await stream.send_eof()
        near.reset()
        assert await far.receive_some() == b""
        assert await near.receive_some() == b""
        assert (near.reset_code, far.reset_code) == (None, None)


async def test_closing_does_not_reset_a_far_end_that_has_closed() -> None:
    async with memory_session_pair(RELAY, AGENT) as (relay, agent):
        near, far = await open_pair(relay, agent)
        await far.aclose()
        await near.aclose()
        assert far.reset_code is None
        assert relay.statistics().streams_open == agent.statistics().streams_open == 0


async def test_each_of_many_accepters_gets_its_stream() -> None:
    got: list[int] = []

    async def accept(session: Session) -> None:
        got.append((await session.accept_stream()).stream_id)

    async with memory_session_pair(RELAY, AGENT) as (relay, agent), trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(accept, agent)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            await relay.open_stream()
            await trio.testing.wait_all_tasks_blocked()
    assert sorted(got) == [1, 2, 3]


async def test_streams_that_nobody_accepts_are_refused() -> None:
    async with memory_session_pair(RELAY, AGENT) as (relay, agent):
        streams = [await relay.open_stream() for _ in range(limits.ACCEPT_QUEUE + 1)]
        assert streams[-1].reset_code is ErrorCode.REFUSED_STREAM
        assert streams[-2].reset_code is None
        assert agent.statistics().streams_open == limits.ACCEPT_QUEUE


async def test_an_abort_ends_both_ends_with_its_reason() -> None:
    async with memory_session_pair(RELAY, AGENT) as (relay, agent):
        near, _far = await open_pair(relay, agent)
        agent.abort("over", code=ErrorCode.DRAINING, retryable=False)
        for session in (relay, agent):
            closed = await session.wait_closed()
            assert (closed.reason, closed.code, closed.retryable) == ("over", ErrorCode.DRAINING, False)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await near.receive_some()
        assert isinstance(caught.value.__cause__, SessionClosed)


async def test_counters_count() -> None:
    async with memory_session_pair(RELAY, AGENT) as (relay, agent):
        near, far = await open_pair(relay, agent)
        await near.send_all(b"12345")
        assert agent.statistics().unread == 5
        assert await far.receive_some() == b"12345"
        assert (relay.statistics().bytes_sent, agent.statistics().bytes_received) == (5, 5)
