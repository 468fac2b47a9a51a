"""The one exam that every transport sits; see `transports/base.py` for the rules.

A transport's test module makes a `Maker` and calls the functions here, one
test each.  The relay's end opens streams, the agent's end accepts them.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Any

import pytest
import trio
import trio.testing

from trunnel.errors import ErrorCode, SessionClosed, StreamReset
from trunnel.names import KeyId
from trunnel.transports.base import Peer, Session, Stream

RELAY = Peer(key_id=KeyId.of_spki(b"relay"), address="127.0.0.1:1")
AGENT = Peer(key_id=KeyId.of_spki(b"agent"), address="127.0.0.1:2")

Maker = Callable[[], AbstractAsyncContextManager[tuple[Session, Session]]]
"""Makes a connected (relay, agent) pair of sessions."""

Exam = Callable[[Maker], Any]


async def open_pair(relay: Session, agent: Session) -> tuple[Stream, Stream]:
    """Open one stream and return both ends."""
    near = await relay.open_stream()
    far = await agent.accept_stream()
    return near, far


@asynccontextmanager
async def stream_pair(maker: Maker) -> AsyncIterator[tuple[Stream, Stream]]:
    """One stream of a fresh session."""
    async with maker() as (relay, agent):
        yield await open_pair(relay, agent)


_FILLING = b"x" * 4096
"""A part of every transport's window: while there is room, there is room for all of it."""


async def fill(stream: Stream) -> int:
    """Send until the stream blocks (its sender is then clean); return the bytes taken."""
    sent = 0
    while not await blocks(stream.wait_send_all_might_not_block):
        await stream.send_all(_FILLING)
        sent += len(_FILLING)
    return sent


async def blocks(call: Callable[[], Awaitable[None]]) -> bool:
    """Make a call; return whether it had to be cancelled, because nothing happened any more while it waited."""
    returned = False

    async def make() -> None:
        nonlocal returned
        await call()
        returned = True
        nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        nursery.start_soon(make)
        await trio.testing.wait_all_tasks_blocked(0.05)
        nursery.cancel_scope.cancel()
    return not returned


async def read_all(stream: Stream, *, pause: Callable[[], Any] | None = None) -> bytes:
    """Read to the FIN."""
    received = bytearray()
    while chunk := await stream.receive_some():
        received += chunk
    return bytes(received)


# --- the exam -----------------------------------------------------------------------------------------


async def fin_is_carried_each_way(maker: Maker) -> None:
    """A FIN ends one direction only; the other goes on (NET-13)."""
    async with stream_pair(maker) as (near, far):
        await near.send_all(b"request")
        await near.send_eof()
        assert await read_all(far) == b"request"
        for part in (b"an ", b"answer ", b"after ", b"your end"):
            await far.send_all(part)
        await far.send_eof()
        assert await read_all(near) == b"an answer after your end"
        await near.aclose()
        await far.aclose()


async def reset_is_carried_with_its_code(maker: Maker) -> None:
    """A reset breaks both directions of the far end and names its code."""
    async with stream_pair(maker) as (near, far):
        near.reset(ErrorCode.ORIGIN_UNREACHABLE)
        with pytest.raises(trio.BrokenResourceError) as caught:
            await far.receive_some()
        assert isinstance(caught.value.__cause__, StreamReset)
        assert caught.value.__cause__.code is ErrorCode.ORIGIN_UNREACHABLE
        assert far.reset_code is ErrorCode.ORIGIN_UNREACHABLE
        with pytest.raises(trio.BrokenResourceError):
            await far.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await near.send_all(b"x")
        with pytest.raises(trio.BrokenResourceError):
            await near.receive_some()


async def bytes_before_a_reset_are_read_first(maker: Maker) -> None:
    """An abort never eats bytes whose send had returned."""
    async with stream_pair(maker) as (near, far):
        await near.send_all(b"z" * 50_000)
        near.reset(ErrorCode.PEER_ABORTED)
        received = b""
        with pytest.raises(trio.BrokenResourceError):
            while True:
                received += await far.receive_some()
        assert received == b"z" * 50_000


async def sender_waits_for_the_consumer(maker: Maker) -> None:
    """A consumer that stops costs at most a window of 3 MiB and blocks its sender."""
    async with stream_pair(maker) as (near, far):
        sent = 0
        payload = bytes(range(256)) * 256

        async def push() -> None:
            nonlocal sent
            while sent < 6 << 20:
                await near.send_all(payload)
                sent += len(payload)
            await near.send_eof()

        async with trio.open_nursery() as nursery:
            nursery.start_soon(push)
            await trio.testing.wait_all_tasks_blocked(0.1)
            assert 0 < sent <= 4 << 20
            received = await read_all(far)
        assert received == payload * (len(received) // len(payload))
        assert len(received) == 6 << 20


async def a_stalled_stream_slows_nobody(maker: Maker) -> None:
    """While one consumer has stopped, others go on."""
    async with maker() as (relay, agent):
        stalled_near, _stalled_far = await open_pair(relay, agent)
        await fill(stalled_near)
        near, far = await open_pair(relay, agent)
        async with trio.open_nursery() as nursery:

            async def echo() -> None:
                while chunk := await far.receive_some():
                    await far.send_all(chunk)
                await far.send_eof()

            nursery.start_soon(echo)
            for round_number in range(20):
                message = bytes([round_number]) * 100
                await near.send_all(message)
                received = b""
                while len(received) < len(message):
                    received += await near.receive_some()
                assert received == message
            await near.send_eof()
        stalled_near.reset()


async def streams_share_fairly(maker: Maker) -> None:
    """Four bulk senders end within a factor of two of each other's share at half time."""
    async with maker() as (relay, agent):
        pairs = [await open_pair(relay, agent) for _ in range(4)]
        counts = [0] * len(pairs)
        total = 4 << 20

        async with trio.open_nursery() as nursery:

            async def push(near: Stream) -> None:
                for _ in range(total // 65536):
                    await near.send_all(bytes(65536))
                await near.send_eof()

            halves: list[list[int]] = []

            async def pull(index: int, far: Stream) -> None:
                while chunk := await far.receive_some():
                    counts[index] += len(chunk)
                    if not halves and sum(counts) >= total * len(pairs) // 2:
                        halves.append(list(counts))

            for index, (near, far) in enumerate(pairs):
                nursery.start_soon(push, near)
                nursery.start_soon(pull, index, far)
        assert counts == [total] * len(pairs)
        assert max(halves[0]) <= 2 * min(halves[0])


async def a_cancelled_send_breaks_its_stream_only(maker: Maker) -> None:
    """After a cancelled send the stream refuses more, the session carries on."""
    async with maker() as (relay, agent):
        near, far = await open_pair(relay, agent)
        with trio.move_on_after(0.05) as scope:
            while True:
                await near.send_all(bytes(65536))
        assert scope.cancelled_caught
        with pytest.raises(trio.BrokenResourceError):
            await near.send_all(b"x")
        near.reset()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await far.receive_some()
        other_near, other_far = await open_pair(relay, agent)
        await other_near.send_all(b"still here")
        assert await other_far.receive_some() == b"still here"


async def a_lost_session_breaks_every_stream(maker: Maker) -> None:
    """The end of a session is an error in every stream, never an end."""
    async with maker() as (relay, agent):
        near, far = await open_pair(relay, agent)
        agent.abort("test over", code=ErrorCode.INTERNAL_ERROR)
        for stream in (near, far):
            with pytest.raises(trio.BrokenResourceError) as caught:
                await stream.receive_some()
            assert isinstance(caught.value.__cause__, SessionClosed)
        assert (await relay.wait_closed()).reason
        with pytest.raises(SessionClosed):
            await relay.open_stream()
        with pytest.raises(SessionClosed):
            await agent.accept_stream()


async def going_away_lets_old_streams_finish(maker: Maker) -> None:
    """After go_away no stream is opened, the open ones end in peace."""
    async with maker() as (relay, agent):
        near, far = await open_pair(relay, agent)
        agent.go_away()
        await near.send_all(b"late")
        assert await far.receive_some() == b"late"
        await far.send_all(b"still served")
        await far.send_eof()
        assert await read_all(near) == b"still served"
        with pytest.raises(SessionClosed):
            await relay.open_stream()
        assert relay.closed is None


async def closing_tells_the_sender(maker: Maker) -> None:
    """A consumer that closes makes the far sender fail rather than wait."""
    async with stream_pair(maker) as (near, far):
        await far.aclose()
        with pytest.raises(trio.BrokenResourceError):
            while True:
                await near.send_all(bytes(65536))
        assert await near.receive_some() == b""


async def streams_leave_nothing_behind(maker: Maker) -> None:
    """Many opened and closed streams leave no task, no stream, no byte."""
    async with maker() as (relay, agent):
        near, far = await open_pair(relay, agent)
        await near.aclose()
        await far.aclose()
        tasks = trio.lowlevel.current_statistics().tasks_living
        for number in range(500):
            near, far = await open_pair(relay, agent)
            await near.send_all(b"ping")
            assert await far.receive_some() == b"ping"
            await far.send_all(b"pong")
            assert await near.receive_some() == b"pong"
            if number % 3:
                await near.aclose()
                assert await far.receive_some() == b""
                await far.aclose()
            else:
                near.reset()
                with pytest.raises(trio.BrokenResourceError):
                    await far.receive_some()
                await far.aclose()
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        for session in (relay, agent):
            statistics = session.statistics()
            assert (statistics.streams_open, statistics.unread) == (0, 0)


async def passes_trios_own_exam(maker: Maker, *, clogged: bool = True) -> None:
    """`trio.testing.check_half_closeable_stream`, with a clogged maker unless it says that streams cannot be."""
    async with trio.open_nursery() as nursery:
        scopes: list[trio.CancelScope] = []

        async def serve(*, task_status: trio.TaskStatus[tuple[Stream, Stream]]) -> None:
            with trio.CancelScope() as scope:
                scopes.append(scope)
                async with stream_pair(maker) as pair:
                    task_status.started(pair)
                    await trio.sleep_forever()

        async def make() -> tuple[Stream, Stream]:
            for scope in scopes:  # the exam is through with earlier pairs
                scope.cancel()
            pair: tuple[Stream, Stream] = await nursery.start(serve)
            return pair

        async def make_clogged() -> tuple[Stream, Stream]:
            near, far = await make()
            await fill(near)
            await fill(far)
            return near, far

        await trio.testing.check_half_closeable_stream(make, make_clogged if clogged else None)
        for scope in scopes:
            scope.cancel()


EXAMS: list[Exam] = [
    fin_is_carried_each_way,
    reset_is_carried_with_its_code,
    bytes_before_a_reset_are_read_first,
    sender_waits_for_the_consumer,
    a_stalled_stream_slows_nobody,
    streams_share_fairly,
    a_cancelled_send_breaks_its_stream_only,
    a_lost_session_breaks_every_stream,
    going_away_lets_old_streams_finish,
    closing_tells_the_sender,
    streams_leave_nothing_behind,
    passes_trios_own_exam,
]
