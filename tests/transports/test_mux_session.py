"""A whole session: how it ends, what it says then, and what it leaves."""

from __future__ import annotations

import tracemalloc
from collections.abc import Callable

import pytest
import trio
import trio.testing

from tests.transports.conformance import AGENT
from tests.transports.h2_model import content, frame, headers, rst, u32
from tests.transports.h2_pairs import h2_of, h2_pair, raw_pair
from tests.transports.mux_pairs import PAIRS, Pair
from trunnel.errors import ErrorCode, LocalProtocolError, SessionClosed, StreamReset
from trunnel.settings import limits
from trunnel.transports import h2_frames as frames
from trunnel.transports.base import Session, Stream
from trunnel.transports.h2 import open_h2_session
from trunnel.transports.h2_connection import Role
from trunnel.transports.h2_frames import FrameType
from trunnel.wire.yamux_session import INITIAL_WINDOW

BOTH = pytest.mark.parametrize("role", list(Role))


def goodbye(found: list[tuple[int, int, int, bytes]]) -> ErrorCode | None:
    """The code of the last GOAWAY among *found*."""
    codes = [
        ErrorCode(int.from_bytes(payload[4:8], "big")) for kind, _, _, payload in found if kind == FrameType.GOAWAY
    ]
    return codes[-1] if codes else None


@BOTH
@pytest.mark.parametrize("code", [ErrorCode.CANCEL, ErrorCode.NO_ERROR, ErrorCode.ENHANCE_YOUR_CALM])
async def test_abort_says_goodbye_and_closes_the_carrier(role: Role, code: ErrorCode) -> None:
    async with raw_pair(role) as (session, peer):
        session.abort("over", code=code, retryable=False)
        session.abort("again", code=ErrorCode.INTERNAL_ERROR)
        closed = await session.wait_closed()
        assert (closed.reason, closed.code, closed.retryable) == ("over", code, False)
        assert goodbye(await peer.until_closed()) is code
        with pytest.raises(SessionClosed) as caught:
            await session.open_stream()
        assert (caught.value.reason, caught.value.retryable) == ("over", False)


@BOTH
async def test_a_peer_that_breaks_the_protocol_is_told_why(role: Role) -> None:
    async with raw_pair(role) as (session, peer):
        await peer.greet()
        await peer.carrier.send_all(frame(FrameType.PING, 0, 1, bytes(8)))
        assert goodbye(await peer.until_closed()) is ErrorCode.PROTOCOL_ERROR
        assert "PING on a stream" in (await session.wait_closed()).reason


@BOTH
async def test_a_goodbye_with_an_error_ends_the_session(role: Role) -> None:
    async with raw_pair(role) as (session, peer):
        await peer.greet()
        await peer.carrier.send_all(frame(FrameType.GOAWAY, 0, 0, u32(0) + u32(ErrorCode.INTERNAL_ERROR) + b"\x1b[2J"))
        closed = await session.wait_closed()
        assert closed.code is ErrorCode.INTERNAL_ERROR
        assert closed.reason.isprintable(), "what the peer writes is escaped"


async def test_a_peaceful_goodbye_ends_only_the_opening_of_streams() -> None:
    async with raw_pair(Role.CLIENT) as (session, peer):
        await peer.greet()
        stream = await session.open_stream()
        await peer.carrier.send_all(headers(1, b"\x88") + frame(FrameType.GOAWAY, 0, 0, u32(1) + u32(0)))
        await peer.carrier.send_all(content(1, b"goes on"))
        assert await stream.receive_some() == b"goes on"
        with pytest.raises(SessionClosed, match="goodbye"):
            await session.open_stream()
        assert session.closed is None


@PAIRS
@BOTH
async def test_the_end_of_the_carrier_is_an_error_in_every_stream(role: Role, pair: Pair) -> None:
    async with pair() as (relay, agent):
        near = await relay.open_stream()
        far = await agent.accept_stream()
        await near.send_all(b"read me first")
        await trio.testing.wait_all_tasks_blocked()
        lost, stream = (agent, near) if role is Role.CLIENT else (relay, far)
        await lost._carrier.aclose()
        if stream is far:
            assert await far.receive_some() == b"read me first"
        with pytest.raises(trio.BrokenResourceError) as caught:
            await stream.receive_some()
        assert isinstance(caught.value.__cause__, SessionClosed)
        with pytest.raises(trio.BrokenResourceError):
            await stream.send_all(b"x")


async def test_a_waiting_opener_and_every_waiting_accepter_learn_of_the_end() -> None:
    ended: list[str] = []

    async def wait(call: Callable[[], object]) -> None:
        with pytest.raises(SessionClosed):
            await call()  # type: ignore[misc]
        ended.append("ended")

    async with h2_pair() as (relay, agent):
        await trio.testing.wait_all_tasks_blocked()  # the agent's SETTINGS have come
        h2_of(relay).peer_stream_limit = 0
        async with trio.open_nursery() as nursery:
            for _ in range(3):
                nursery.start_soon(wait, agent.accept_stream)
                nursery.start_soon(wait, relay.open_stream)
            await trio.testing.wait_all_tasks_blocked()
            relay.abort("over")
    assert len(ended) == 6


@PAIRS
async def test_each_of_many_accepters_gets_its_stream(pair: Pair) -> None:
    got: list[int] = []

    async def accept(session: Session) -> None:
        got.append((await session.accept_stream()).stream_id)

    async with pair() as (relay, agent), trio.open_nursery() as nursery:
        for _ in range(3):
            nursery.start_soon(accept, agent)
        await trio.testing.wait_all_tasks_blocked()
        for _ in range(3):
            await relay.open_stream()
            await trio.testing.wait_all_tasks_blocked()
    assert sorted(got) == [1, 3, 5]


async def test_an_opener_waits_for_room_and_our_own_fin_makes_room() -> None:
    opened: list[Stream] = []

    async def open_one(session: Session) -> None:
        opened.append(await session.open_stream())

    async with h2_pair() as (relay, agent), trio.open_nursery() as nursery:
        near = await relay.open_stream()
        far = await agent.accept_stream()
        await trio.testing.wait_all_tasks_blocked()
        h2_of(relay).peer_stream_limit = 1
        nursery.start_soon(open_one, relay)
        await trio.testing.wait_all_tasks_blocked()
        assert not opened
        await far.send_eof()
        assert await near.receive_some() == b""
        await near.send_eof()
        await trio.testing.wait_all_tasks_blocked()
        assert len(opened) == 1


async def test_an_agent_opens_no_streams() -> None:
    """HTTP/2 has no server that asks."""
    async with h2_pair() as (_relay, agent):
        with pytest.raises(LocalProtocolError):
            await agent.open_stream()


async def test_stream_numbers_that_are_used_up_end_the_session_rather_than_come_again() -> None:
    async with h2_pair() as (relay, _agent):
        h2_of(relay)._next_id = frames.STREAM_ID_MASK + 2
        with pytest.raises(SessionClosed) as caught:
            await relay.open_stream()
        assert caught.value.retryable


async def test_streams_that_nobody_accepts_are_refused() -> None:
    """Over yamux their opener waits: its backlog is as long."""
    async with h2_pair() as (relay, agent):
        streams = [await relay.open_stream() for _ in range(limits.ACCEPT_QUEUE + 1)]
        with pytest.raises(trio.BrokenResourceError):
            await streams[-1].receive_some()
        assert streams[-1].reset_code is ErrorCode.REFUSED_STREAM
        assert streams[-2].reset_code is None
        assert agent.statistics().streams_open == limits.ACCEPT_QUEUE


@PAIRS
async def test_a_burst_of_streams_finds_an_agent_that_accepts(pair: Pair) -> None:
    """Hundreds of visitors at once: none is refused while somebody accepts."""
    served = 0

    async def serve(agent: Session) -> None:
        nonlocal served
        while True:
            await agent.accept_stream()
            served += 1

    async with pair() as (relay, agent), trio.open_nursery() as nursery:
        nursery.start_soon(serve, agent)
        streams = [await relay.open_stream() for _ in range(800)]
        for stream in streams:
            await stream.send_all(b"preface and hello" * 20)
        await trio.testing.wait_all_tasks_blocked()
        assert served == 800
        nursery.cancel_scope.cancel()


async def test_after_the_end_nothing_arrives_any_more() -> None:
    async with raw_pair(Role.SERVER) as (session, peer):
        await peer.greet()
        await trio.testing.wait_all_tasks_blocked()
        session._close(SessionClosed("over"), tell=None)
        await peer.carrier.send_all(headers(1) + content(1))
        with pytest.raises(SessionClosed):
            await session.accept_stream()


async def test_the_bodys_exception_leaves_bare_and_the_carrier_is_closed() -> None:
    left, right = trio.testing.memory_stream_pair()
    before = trio.lowlevel.current_statistics().tasks_living
    with pytest.raises(KeyError, match="mine"):
        async with open_h2_session(left, Role.CLIENT, AGENT):
            raise KeyError("mine")
    assert trio.lowlevel.current_statistics().tasks_living == before
    while await right.receive_some(65_536):
        pass


async def test_leaving_says_goodbye_and_leaves_no_task() -> None:
    before = trio.lowlevel.current_statistics().tasks_living
    async with raw_pair(Role.CLIENT) as (session, peer):
        stream = await session.open_stream()
    assert goodbye(await peer.until_closed()) is ErrorCode.NO_ERROR
    assert trio.lowlevel.current_statistics().tasks_living == before
    with pytest.raises(trio.BrokenResourceError):
        await stream.receive_some()


@BOTH
async def test_a_peer_that_never_reads_holds_up_no_end(role: Role, autojump_clock: trio.testing.MockClock) -> None:
    start = trio.current_time()
    async with raw_pair(role, lockstep=True) as (session, _peer):
        await trio.sleep(1)
        session.abort("over")
        await session.wait_closed()
    assert trio.current_time() - start <= 1 + 2 * limits.CLOSE_TIMEOUT


async def test_a_peer_that_sends_and_never_reads_is_ended(autojump_clock: trio.testing.MockClock) -> None:
    """LOAD-10: its answers are not kept without bound."""
    async with raw_pair(Role.SERVER, lockstep=True) as (session, peer):

        async def flood() -> None:
            await peer.greet()
            with pytest.raises(trio.BrokenResourceError):
                while True:
                    await peer.carrier.send_all(frame(FrameType.PING, 0, 0, bytes(8)) * 100)
                    assert session.statistics().unsent < limits.UNSENT_CONTROL_MAX + 3_000
                    await trio.sleep(2)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(flood)
            assert (await session.wait_closed()).code is ErrorCode.ENHANCE_YOUR_CALM


@PAIRS
async def test_a_consumer_that_never_reads_costs_one_window(pair: Pair) -> None:
    """LOAD-14: 200 MB are pushed at it; what is kept is bounded, and so is what the sender gets rid of."""
    async with pair() as (relay, agent):
        near = await relay.open_stream()
        far = await agent.accept_stream()
        await trio.testing.wait_all_tasks_blocked()
        chunk = bytes(limits.MIB)
        sent = 0

        async def push() -> None:
            nonlocal sent
            for _ in range(200):
                await near.send_all(chunk)
                sent += len(chunk)

        tracemalloc.start()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(push)
                await trio.testing.wait_all_tasks_blocked()
                _, peak = tracemalloc.get_traced_memory()
                assert agent.statistics().unread <= INITIAL_WINDOW
                assert relay.statistics().unsent <= len(chunk)
                nursery.cancel_scope.cancel()
        finally:
            tracemalloc.stop()
        assert sent == 0
        assert peak < 4 * limits.MIB
        far.reset()


@PAIRS
async def test_an_aborted_stream_counts_until_its_owner_lets_go(pair: Pair) -> None:
    """Its bytes are still to be read and hold the session's credit."""
    async with pair() as (relay, agent):
        near = await relay.open_stream()
        far = await agent.accept_stream()
        await near.send_all(b"unread")
        near.reset(ErrorCode.PEER_ABORTED)
        await trio.testing.wait_all_tasks_blocked()
        assert agent.statistics().unread == 6
        assert await far.receive_some() == b"unread"
        with pytest.raises(trio.BrokenResourceError) as caught:
            await far.receive_some()
        assert isinstance(caught.value.__cause__, StreamReset)
        await far.aclose()
        assert agent.statistics().streams_open == 0


async def test_rapid_resets_end_the_session_with_a_reason() -> None:
    """LOAD-07, through the session."""
    async with raw_pair(Role.SERVER) as (session, peer):
        await peer.greet()
        for number in range(limits.RESETS_MAX):
            await peer.carrier.send_all(headers(2 * number + 1) + rst(2 * number + 1))
        assert (await session.wait_closed()).code is ErrorCode.ENHANCE_YOUR_CALM
        assert goodbye(await peer.until_closed()) is ErrorCode.ENHANCE_YOUR_CALM
