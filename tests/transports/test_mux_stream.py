"""One stream: what its sender, its consumer and its owner see, whatever the others do."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.transports.conformance import open_pair, read_all
from tests.transports.h2_pairs import h2_of, h2_pair
from tests.transports.mux_pairs import PAIRS, Pair
from trunnel.errors import ErrorCode, StreamReset
from trunnel.settings import limits
from trunnel.transports.base import Stream

BULK = bytes(4 * limits.MIB)


async def broken(stream: Stream) -> ErrorCode:
    """The code with which *stream* breaks, whatever it still gives."""
    with pytest.raises(trio.BrokenResourceError) as caught:
        while await stream.receive_some():
            pass
    assert isinstance(caught.value.__cause__, StreamReset)
    return caught.value.__cause__.code


@PAIRS
async def test_closing_after_a_cancelled_send_is_an_abort_not_an_end(pair: Pair) -> None:
    """`async with stream` must not turn a cut message into a complete one."""
    async with pair() as (relay, agent):
        near, far = await open_pair(relay, agent)
        with trio.CancelScope() as scope:
            async with near, trio.open_nursery() as nursery:
                nursery.start_soon(near.send_all, BULK)
                await trio.testing.wait_all_tasks_blocked()
                scope.cancel()
        assert await broken(far) is ErrorCode.CANCEL


@PAIRS
async def test_closing_while_another_task_sends_is_an_abort_too(pair: Pair) -> None:
    async with pair() as (relay, agent):
        near, far = await open_pair(relay, agent)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(trio.ClosedResourceError):
                    await near.send_all(BULK)

            nursery.start_soon(send)
            await trio.testing.wait_all_tasks_blocked()
            await near.aclose()
        assert await broken(far) is ErrorCode.CANCEL


@PAIRS
async def test_a_reset_wakes_the_sender_and_the_consumer(pair: Pair) -> None:
    async with pair() as (relay, agent):
        near, _far = await open_pair(relay, agent)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    await near.send_all(BULK)

            async def receive() -> None:
                with pytest.raises(trio.BrokenResourceError):
                    await near.receive_some()

            nursery.start_soon(send)
            nursery.start_soon(receive)
            await trio.testing.wait_all_tasks_blocked()
            near.reset()


@PAIRS
async def test_a_reset_after_both_ends_changes_nothing(pair: Pair) -> None:
    async with pair() as (relay, agent):
        near, far = await open_pair(relay, agent)
        for stream in (near, far):
            await stream.send_eof()
        for stream in (near, far):
            assert await read_all(stream) == b""
            stream.reset()
            assert stream.reset_code is None
        for session in (relay, agent):
            assert session.statistics().streams_open == 0
        assert await far.receive_some() == b"", "it stays an end"


@PAIRS
async def test_a_reset_after_the_peers_fin_drops_the_unread_and_is_no_end(pair: Pair) -> None:
    async with pair() as (relay, agent):
        near, far = await open_pair(relay, agent)
        await near.send_all(b"unread")
        await near.send_eof()
        await far.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        far.reset(ErrorCode.SLOW_CONSUMER)
        assert await broken(far) is ErrorCode.SLOW_CONSUMER
        assert agent.statistics().unread == 0


@pytest.mark.parametrize("how", ["reset", "aclose"])
async def test_unread_bytes_give_their_credit_back(how: str) -> None:
    async with h2_pair() as (relay, agent):
        for _ in range(20):
            near, far = await open_pair(relay, agent)
            await near.send_all(bytes(60_000))
            await trio.testing.wait_all_tasks_blocked()
            if how == "reset":
                far.reset()
            else:
                await far.aclose()
            await trio.testing.wait_all_tasks_blocked()
            near.reset()
        assert h2_of(agent).receive_left + h2_of(agent)._returned == limits.SESSION_CREDIT
        assert agent.statistics().unread == 0


@PAIRS
async def test_a_second_task_in_one_method_is_refused(pair: Pair) -> None:
    async with pair() as (relay, agent):
        near, _far = await open_pair(relay, agent)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(near.send_all, BULK)
            nursery.start_soon(near.receive_some)
            await trio.testing.wait_all_tasks_blocked()
            for call in (near.send_eof, near.wait_send_all_might_not_block, near.receive_some):
                with pytest.raises(trio.BusyResourceError):
                    await call()
            nursery.cancel_scope.cancel()


@PAIRS
async def test_nothing_can_be_sent_of_nothing(pair: Pair) -> None:
    async with pair() as (relay, agent):
        near, far = await open_pair(relay, agent)
        with trio.testing.assert_checkpoints():
            await near.send_all(b"")
        await near.send_eof()
        await near.send_eof()
        assert await far.receive_some() == b""
        with pytest.raises(trio.ClosedResourceError):
            await near.send_all(b"late")
        await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await near.send_eof()


@PAIRS
@pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
async def test_any_bytes_like_may_be_sent(kind: type[bytes | bytearray | memoryview], pair: Pair) -> None:
    payload = kind(b"bytes")
    async with pair() as (relay, agent):
        near, far = await open_pair(relay, agent)
        await near.send_all(payload)
        if isinstance(payload, bytearray):
            payload.clear()  # it is ours again
        assert await far.receive_some() == b"bytes"
