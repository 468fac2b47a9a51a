"""Copying both ways: every pair of endings, half-close, and sweeps over faults and cancellations.

Over real sockets and over streams in memory; single endings are looked at in `test_copy_ends`.
"""

from __future__ import annotations

import itertools
from dataclasses import replace

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.streams.bench import (
    ANSWER,
    LIMITS,
    REQUEST,
    Bench,
    Maker,
    act,
    both_kinds,
    over_memory,
    read_exactly,
    read_to_end,
)
from tests.streams.scripted import Fault, OneWayEnd, ScriptedStream
from trunnel.streams.copy import CopyResult, End, copy_streams

# what the visitor does, then what the origin does: how either side ended, and what either peer sees
TABLE = {
    (End.FIN, End.FIN): (End.FIN, End.FIN, End.FIN, End.FIN),
    (End.FIN, End.RESET): (End.FIN, End.RESET, End.RESET, None),
    (End.FIN, End.DEADLINE): (End.FIN, End.DEADLINE, End.RESET, End.FIN),
    (End.FIN, End.CANCELLED): (None, None, End.RESET, End.FIN),
    (End.RESET, End.FIN): (End.RESET, End.CANCELLED, None, End.RESET),
    (End.RESET, End.RESET): (End.RESET, End.CANCELLED, None, None),
    (End.RESET, End.DEADLINE): (End.RESET, End.CANCELLED, None, End.RESET),
    (End.RESET, End.CANCELLED): (End.RESET, End.CANCELLED, None, End.RESET),
    (End.DEADLINE, End.FIN): (End.DEADLINE, End.FIN, End.FIN, End.RESET),
    (End.DEADLINE, End.RESET): (End.CANCELLED, End.RESET, End.RESET, None),
    (End.DEADLINE, End.DEADLINE): (End.DEADLINE, End.DEADLINE, End.RESET, End.RESET),
    (End.DEADLINE, End.CANCELLED): (None, None, End.RESET, End.RESET),
    (End.CANCELLED, End.FIN): (None, None, End.FIN, End.RESET),
    (End.CANCELLED, End.RESET): (None, None, End.RESET, None),
    (End.CANCELLED, End.DEADLINE): (None, None, End.RESET, End.RESET),
    (End.CANCELLED, End.CANCELLED): (None, None, End.RESET, End.RESET),
}


@both_kinds
@pytest.mark.parametrize(("visitor_does", "origin_does"), list(itertools.product(*[list(End)[:4]] * 2)))
async def test_every_pair_of_endings(maker: Maker, visitor_does: End, origin_does: End) -> None:
    """FIN stays FIN, a break becomes an abort, stalls run out; bytes sent before arrive in every case."""
    left_end, right_end, visitor_sees, origin_sees = TABLE[visitor_does, origin_does]
    cancelled = End.CANCELLED in (visitor_does, origin_does)
    deadlines = replace(LIMITS, first_byte=0.2, idle=0.2, half_closed=0.2)
    async with maker() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.run, deadlines)
        await bench.visitor.send_all(REQUEST)
        await bench.origin.send_all(ANSWER)
        assert await read_exactly(bench.origin, len(REQUEST)) == REQUEST
        assert await read_exactly(bench.visitor, len(ANSWER)) == ANSWER
        if visitor_does is End.CANCELLED and origin_does in (End.FIN, End.RESET):
            await act(bench, bench.origin, origin_does)  # a cancellation ends it: must come last
            await act(bench, bench.visitor, visitor_does)
        else:
            await act(bench, bench.visitor, visitor_does)
            if visitor_does is not End.RESET:
                await act(bench, bench.origin, origin_does)
        if visitor_sees is not None:
            assert await read_to_end(bench.visitor) == (b"", visitor_sees)
        if origin_sees is not None:
            assert await read_to_end(bench.origin) == (b"", origin_sees)
        await bench.done.wait()
    if bench.outcome is None:
        assert cancelled
    elif left_end is not None:
        assert (bench.outcome.left_end, bench.outcome.right_end) == (left_end, right_end)
    assert (bench.counter.left_bytes, bench.counter.right_bytes) == (len(REQUEST), len(ANSWER))


# --- FIN and half-close -----------------------------------------------------------------------


@both_kinds
@pytest.mark.parametrize("size", [1, 70_000, 3_000_000])
async def test_half_close_is_carried_and_bytes_are_exact(maker: Maker, size: int) -> None:
    """NET-13: the visitor ends first, the origin answers afterwards; nothing is lost or changed."""
    upload = bytes(index * 7 % 251 for index in range(1000)) * (size // 1000 + 1)

    async def send(stream: trio.abc.HalfCloseableStream, payload: bytes) -> None:
        await stream.send_all(payload)
        await stream.send_eof()

    async with maker() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        nursery.start_soon(send, bench.visitor, upload)
        assert await read_to_end(bench.origin) == (upload, End.FIN)
        nursery.start_soon(send, bench.origin, upload[::-1])
        assert await read_to_end(bench.visitor) == (upload[::-1], End.FIN)
        outcome = await bench.result()
    assert outcome.left_end is outcome.right_end is End.FIN
    assert outcome.left_bytes == outcome.right_bytes == len(upload)


async def test_the_side_that_cannot_half_close_is_ended_at_the_end(autojump_clock: trio.testing.MockClock) -> None:
    """Without `send_eof` the FIN waits until the other direction is over."""
    async with over_memory() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(copy_streams, bench.left, OneWayEnd(bench.right), LIMITS)
        await bench.visitor.send_all(REQUEST)
        await bench.visitor.send_eof()
        assert await read_exactly(bench.origin, len(REQUEST)) == REQUEST
        await bench.origin.send_all(ANSWER)
        assert await read_exactly(bench.visitor, len(ANSWER)) == ANSWER
        await bench.origin.send_eof()
        assert await read_to_end(bench.origin) == (b"", End.FIN)


# --- cancellation, faults ---------------------------------------------------------------------


async def converse(left: trio.abc.Stream, right: trio.abc.Stream, bench: Bench) -> CopyResult | None:
    """Copy a short conversation over *left* and *right*, which wrap the bench's sides."""
    outcome: CopyResult | None = None

    async def peer(stream: trio.abc.HalfCloseableStream, payload: bytes) -> None:
        try:
            await stream.send_all(payload)
            await stream.send_eof()
            await read_to_end(stream)
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(peer, bench.visitor, REQUEST)
        nursery.start_soon(peer, bench.origin, ANSWER)
        with bench.scope:
            outcome = await copy_streams(left, right, LIMITS, counter=bench.counter)
        with trio.move_on_after(1):  # whatever happened, both peers learn of an end
            while nursery.child_tasks:
                await trio.testing.wait_all_tasks_blocked()
        assert not nursery.child_tasks, "a peer was left waiting"
    return outcome


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("turn", range(8))
async def test_cancelled_at_any_operation_both_sides_are_aborted(
    autojump_clock: trio.testing.MockClock, side: str, turn: int
) -> None:
    """The k-th operation on one side hangs and is cancelled there."""
    async with over_memory() as bench:
        streams = {"left": bench.left, "right": bench.right}
        wrapped = ScriptedStream(streams[side], fault=Fault.HANG, turn=turn, on_fault=bench.scope.cancel)
        streams[side] = wrapped
        outcome = await converse(streams["left"], streams["right"], bench)
        if wrapped.faulted:
            assert outcome is None
            for stream in (bench.left, bench.right):
                with pytest.raises((trio.BrokenResourceError, trio.ClosedResourceError)):
                    await stream.send_all(b"x")
        else:
            assert outcome is not None
            assert outcome.left_end is outcome.right_end is End.FIN


@pytest.mark.parametrize("side", ["left", "right"])
@pytest.mark.parametrize("turn", range(8))
@pytest.mark.parametrize("fault", [Fault.BROKEN, Fault.RESET, Fault.PIPE, Fault.CLOSED])
async def test_a_fault_at_any_operation_ends_the_copy_without_an_exception(
    autojump_clock: trio.testing.MockClock, fault: Fault, side: str, turn: int
) -> None:
    """The k-th operation on one side fails: both peers learn of it, the result says who broke."""
    async with over_memory() as bench:
        streams = {"left": bench.left, "right": bench.right}
        wrapped = ScriptedStream(streams[side], fault=fault, turn=turn)
        streams[side] = wrapped
        outcome = await converse(streams["left"], streams["right"], bench)
    assert outcome is not None
    broken = outcome.left_end if side == "left" else outcome.right_end
    if not wrapped.faulted:
        assert broken is End.FIN
    elif wrapped.faulted == "receive_some":
        assert broken is (End.ERROR if fault is Fault.CLOSED else End.RESET)


# --- model ------------------------------------------------------------------------------------

STEPS = st.lists(
    st.tuples(st.sampled_from(["visitor", "origin"]), st.integers(0, 5), st.binary(max_size=40)), max_size=20
)


@given(steps=STEPS)
def test_any_conversation_arrives_exactly_and_ends_as_it_ended(steps: list[tuple[str, int, bytes]]) -> None:
    """Sends, FINs and resets in any order: what arrives is what was sent; FIN only if FIN was sent."""

    async def play() -> None:
        async with over_memory() as bench, trio.open_nursery() as nursery:
            nursery.start_soon(bench.run)
            sent = {"visitor": bytearray(), "origin": bytearray()}
            ended: dict[str, End] = {}
            for who, kind, payload in steps:
                peer = bench.visitor if who == "visitor" else bench.origin
                if who in ended or End.RESET in ended.values():
                    continue
                if kind == 0:
                    await act(bench, peer, ended.setdefault(who, End.FIN))
                elif kind == 1:
                    await act(bench, peer, ended.setdefault(who, End.RESET))
                else:
                    await peer.send_all(payload)
                    sent[who] += payload
                    await trio.testing.wait_all_tasks_blocked()
            for who, peer, other in (("visitor", bench.origin, bench.visitor), ("origin", bench.visitor, bench.origin)):
                if ended.get("origin" if who == "visitor" else "visitor") is End.RESET:
                    continue  # the one who reset reads no more
                received, end = await read_to_end(peer)
                assert received == sent[who]
                assert end is ended.get(who, End.RESET)
                assert other is not peer
            outcome = await bench.result()
            assert outcome.left_bytes == len(sent["visitor"])
            assert outcome.right_bytes == len(sent["origin"])

    trio.run(play, clock=trio.testing.MockClock(autojump_threshold=0))
