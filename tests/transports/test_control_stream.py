"""Control messages over a session's first stream: order, bounds, and every way to end."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.transports.conformance import AGENT, RELAY, open_pair
from trunnel.errors import ErrorCode, RemoteProtocolError, SessionClosed
from trunnel.settings import limits
from trunnel.transports.base import Session, Stream
from trunnel.transports.control_stream import ControlStream, receive_one
from trunnel.transports.memory import memory_session_pair
from trunnel.wire.control import Drain, Message, Phase, Ping, Pong
from trunnel.wire.control_codec import encode


@asynccontextmanager
async def control() -> AsyncIterator[tuple[Session, ControlStream, Stream]]:
    """The relay's end of a control stream that is past its welcome, and the agent's bare stream."""
    async with memory_session_pair(RELAY, AGENT) as (relay, agent):
        near, far = await open_pair(relay, agent)
        yield relay, ControlStream(relay, near, Phase.RELAY_OPEN), far


async def test_messages_come_one_by_one_however_they_were_cut() -> None:
    messages: list[Message] = [Ping(id=1), Pong(id=2), Drain(grace=3.0)]
    wire = b"".join(encode(message) for message in messages)
    for cut in range(1, len(wire)):
        async with control() as (_session, stream, far):
            await far.send_all(wire[:cut])
            await far.send_all(wire[cut:])
            assert [await stream.receive() for _ in messages] == messages


async def test_a_cancelled_receive_loses_nothing() -> None:
    async with control() as (_session, stream, far):
        wire = encode(Ping(id=7))
        await far.send_all(wire[:5])
        with trio.CancelScope() as scope:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(stream.receive)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        await far.send_all(wire[5:])
        assert await stream.receive() == Ping(id=7)


async def test_the_end_of_the_stream_is_the_end_of_the_session() -> None:
    async with control() as (_session, stream, far):
        await far.send_eof()
        with pytest.raises(SessionClosed, match="ended the control stream"):
            await stream.receive()


async def test_a_broken_stream_says_why_the_session_ended() -> None:
    async with control() as (session, stream, _far):
        session.abort("over there")
        with pytest.raises(SessionClosed, match="over there"):
            await stream.receive()
        with pytest.raises(SessionClosed, match="over there"):
            await stream.send(Ping(id=1))


async def test_a_reset_of_the_stream_alone_is_a_loss_too() -> None:
    async with control() as (_session, stream, far):
        far.reset()
        with pytest.raises(SessionClosed, match="broke"):
            await stream.receive()


async def test_a_message_out_of_order_is_refused() -> None:
    async with memory_session_pair(RELAY, AGENT) as (relay, agent):
        near, far = await open_pair(relay, agent)
        stream = ControlStream(relay, near, Phase.EXPECT_HELLO)
        await far.send_all(encode(Ping(id=1)))
        with pytest.raises(RemoteProtocolError):
            await stream.receive()


async def test_what_was_posted_leaves_in_order_and_then_the_fin() -> None:
    async with control() as (_session, stream, far):
        messages: list[Message] = [Ping(id=number) for number in range(10)]
        for message in messages:
            stream.post(message)
        stream.finish()
        await stream.run_writer()
        received = bytearray()
        while chunk := await far.receive_some():
            received += chunk
        assert received == b"".join(encode(message) for message in messages)


async def test_the_writer_waits_for_what_is_posted_later() -> None:
    async with control() as (_session, stream, far), trio.open_nursery() as nursery:
        nursery.start_soon(stream.run_writer)
        await trio.testing.wait_all_tasks_blocked()
        stream.post(Pong(id=3))
        assert await far.receive_some() == encode(Pong(id=3))
        stream.finish()
        assert await far.receive_some() == b""


async def test_a_peer_that_does_not_read_ends_the_session() -> None:
    async with control() as (session, stream, _far):
        for number in range(limits.CONTROL_OUTBOX):
            stream.post(Ping(id=number))
        assert not session.closed
        stream.post(Ping(id=0))
        assert (await session.wait_closed()).code is ErrorCode.ENHANCE_YOUR_CALM


async def test_the_writer_ends_quietly_with_the_session() -> None:
    async with control() as (session, stream, _far):
        session.abort("over")
        stream.post(Ping(id=1))
        await stream.run_writer()
        assert session.closed is not None
        assert session.closed.reason == "over"


async def test_the_first_message_has_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with control() as (_session, stream, _far):
        start = trio.current_time()
        with pytest.raises(RemoteProtocolError) as caught:
            await receive_one(stream, 10.0)
        assert caught.value.code is ErrorCode.DEADLINE
        assert trio.current_time() - start == pytest.approx(10.0)
