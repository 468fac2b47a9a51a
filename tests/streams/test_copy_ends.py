"""How a copy ends: breaks, early answers, and each deadline."""

from __future__ import annotations

from dataclasses import replace

import pytest
import trio
import trio.testing

from tests.streams.bench import (
    ANSWER,
    LATE,
    LIMITS,
    REQUEST,
    Bench,
    over_memory,
    over_sockets,
    read_to_end,
    send_for_ever,
    send_until_broken,
    socket_pair,
)
from tests.streams.scripted import Fault, ScriptedStream
from trunnel import capabilities
from trunnel.errors import ErrorCode
from trunnel.settings import limits
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import End, copy_streams
from trunnel.streams.sockets import wait_delivered
from trunnel.transports.base import Stream


@pytest.mark.parametrize("size", [1, 50_000])
async def test_bytes_received_before_a_reset_are_delivered_before_the_reset(size: int) -> None:
    """They lie in our kernel when the RST is there already: none is lost, and no FIN is seen."""
    async with over_sockets() as bench:
        await bench.visitor.send_all(b"v" * size)
        assert isinstance(bench.visitor, trio.SocketStream)
        assert await wait_delivered(bench.visitor.socket)
        abort_stream(bench.visitor)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bench.run)
            assert await read_to_end(bench.origin) == (b"v" * size, End.RESET)
            outcome = await bench.result()
    assert (outcome.left_end, outcome.right_end) == (End.RESET, End.CANCELLED)


async def test_a_reset_waits_until_a_slow_reader_has_acknowledged() -> None:
    """What was accepted from the origin reaches a visitor that reads late, then RST, never FIN."""
    visitor, left = await socket_pair(receiving=8192, sending=8192)
    origin, right = await socket_pair()
    bench = Bench(visitor, left, right, origin)
    payload = b"o" * 40_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        await origin.send_all(payload)
        assert await wait_delivered(origin.socket)
        await trio.testing.wait_all_tasks_blocked()
        abort_stream(origin)
        await trio.testing.wait_all_tasks_blocked()
        assert await read_to_end(visitor) == (payload, End.RESET)
        outcome = await bench.result()
    bench.abort_all()
    assert (outcome.left_end, outcome.right_end) == (End.CANCELLED, End.RESET)


@pytest.mark.skipif(not capabilities.HAS_OUTQ, reason="needs SIOCOUTQ")
async def test_a_reader_that_never_reads_delays_a_reset_for_a_bounded_time(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """After `ABORT_FLUSH_TIMEOUT` the abort comes anyway."""
    autojump_clock.autojump_threshold = 0.02
    visitor, left = await socket_pair(receiving=4096, sending=4096)
    origin, right = await socket_pair()
    bench = Bench(visitor, left, right, origin)
    with trio.move_on_after(1):  # fill the way to the visitor, up to what our kernel takes
        await send_for_ever(left, bytes(1024))
    abort_stream(origin)
    started = trio.current_time()
    outcome = await copy_streams(left, right, LIMITS)
    assert trio.current_time() - started == pytest.approx(limits.ABORT_FLUSH_TIMEOUT, abs=0.1)
    bench.abort_all()
    assert (outcome.left_end, outcome.right_end) == (End.CANCELLED, End.RESET)


async def test_without_siocoutq_a_reset_waits_a_short_time(
    autojump_clock: trio.testing.MockClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where the system does not tell what is acknowledged, the pause is fixed and short."""
    monkeypatch.setattr(capabilities, "HAS_OUTQ", False)
    autojump_clock.autojump_threshold = 0.02
    async with over_sockets() as bench:
        await bench.visitor.send_all(REQUEST)
        await trio.testing.wait_all_tasks_blocked()
        abort_stream(bench.visitor)
        started = trio.current_time()
        outcome = await copy_streams(bench.left, bench.right, LIMITS)
        assert trio.current_time() - started == pytest.approx(limits.ABORT_BLIND_WAIT, abs=0.05)
        assert await read_to_end(bench.origin) == (REQUEST, End.RESET)
    assert outcome.left_end is End.RESET


async def test_an_early_answer_is_delivered_whole_although_the_upload_goes_on() -> None:
    """The origin answers and closes without reading (413): the visitor gets all of it, and FIN."""
    async with over_sockets() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        await bench.origin.send_all(ANSWER)
        await bench.origin.aclose()
        assert await read_to_end(bench.visitor) == (ANSWER, End.FIN)

        nursery.start_soon(send_until_broken, bench.visitor, REQUEST)
        outcome = await bench.result()
    assert (outcome.left_end, outcome.right_end) == (End.CANCELLED, End.FIN)
    assert outcome.right_bytes == len(ANSWER)


@pytest.mark.skipif(not capabilities.HAS_OUTQ, reason="relies on how Linux reports a reset once")
async def test_an_end_of_file_after_a_reset_that_the_writer_saw_is_no_end() -> None:
    """The kernel reports RST once.  If the writer got it, the reader sees an end of file: still an abort."""
    visitor, left = await socket_pair(receiving=4096, sending=4096)
    origin, right = await socket_pair()
    bench = Bench(visitor, left, right, origin)
    answer = b"o" * 60_000
    async with trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        await origin.send_all(answer)
        assert await wait_delivered(origin.socket)
        await trio.testing.wait_all_tasks_blocked(0.01)
        # now the reader waits for the visitor
        abort_stream(origin)
        await visitor.send_all(REQUEST)  # the writer meets the reset
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert bench.counter.left_bytes == len(REQUEST)
        assert await read_to_end(visitor) == (answer, End.RESET)
        outcome = await bench.result()
    bench.abort_all()
    assert (outcome.left_end, outcome.right_end) == (End.CANCELLED, End.RESET)


async def test_a_visitor_that_vanishes_aborts_the_origin(autojump_clock: trio.testing.MockClock) -> None:
    """The code on the tunnel names the cause."""
    async with over_memory() as bench:
        abort_stream(bench.visitor)
        await copy_streams(bench.left, bench.right, LIMITS)
        assert await read_to_end(bench.origin) == (b"", End.RESET)
        assert isinstance(bench.origin, Stream)
        assert bench.origin.reset_code is ErrorCode.PEER_ABORTED


@pytest.mark.parametrize("origin_first", [True, False])
async def test_tls_cut_off_counts_as_an_end_only_after_the_origin_ended(
    autojump_clock: trio.testing.MockClock, *, origin_first: bool
) -> None:
    """Clients that close without close_notify after the answer are no failure; before it, they are."""
    async with over_memory() as bench, trio.open_nursery() as nursery:
        left = ScriptedStream(bench.left, truncates=True)

        async def close_after_the_answer() -> None:
            await read_to_end(bench.visitor)
            await bench.visitor.send_eof()

        if origin_first:
            await bench.origin.send_eof()
            nursery.start_soon(close_after_the_answer)
        else:
            await bench.visitor.send_eof()
        outcome = await copy_streams(left, bench.right, LIMITS)
        assert await read_to_end(bench.origin) == (b"", End.FIN if origin_first else End.RESET)
    assert outcome.left_end is (End.FIN if origin_first else End.RESET)


async def test_a_side_that_wants_no_more_is_not_broken(autojump_clock: trio.testing.MockClock) -> None:
    """It answered, ended and closed: the rest of the upload is read away, and everybody ends in order."""
    async with over_memory() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        await bench.origin.send_all(ANSWER)
        await bench.origin.aclose()
        await bench.visitor.send_all(bytes(1_000_000))
        await bench.visitor.send_eof()
        assert await read_to_end(bench.visitor) == (ANSWER, End.FIN)
        outcome = await bench.result()
    assert outcome.left_end is outcome.right_end is End.FIN


async def test_an_early_answer_reaches_a_slow_reader_whole(autojump_clock: trio.testing.MockClock) -> None:
    """The moment for reading the upload away does not bound the delivery of the answer."""
    answer = bytes(2 * limits.STREAM_WINDOW_MIN + 1000)  # more than the visitor's window, less than the whole way
    async with over_memory() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        await bench.origin.send_all(answer)
        await bench.origin.aclose()
        await bench.visitor.send_all(REQUEST)
        await trio.sleep(limits.CLOSE_TIMEOUT * 5)
        assert await read_to_end(bench.visitor) == (answer, End.FIN)
        outcome = await bench.result()
    assert (outcome.left_end, outcome.right_end) == (End.CANCELLED, End.FIN)


# --- deadlines --------------------------------------------------------------------------------


async def test_silence_ends_at_the_first_byte_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """LOAD-03: both sides silent."""
    async with over_memory() as bench:
        outcome = await copy_streams(bench.left, bench.right, LIMITS)
        assert outcome.seconds == pytest.approx(LIMITS.first_byte)
        assert outcome.left_end is outcome.right_end is End.DEADLINE
        assert isinstance(bench.visitor, Stream)
        assert await read_to_end(bench.visitor) == (b"", End.RESET)
        assert bench.visitor.reset_code is ErrorCode.DEADLINE


async def test_a_request_alone_does_not_end_the_wait_for_the_first_byte_back(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """LOAD-03: the answering side has said nothing: seconds since the last byte, not the idle time."""
    async with over_memory() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        for _ in range(4):  # a long upload is not cut: 80 s in all
            await trio.sleep(20)
            await bench.visitor.send_all(REQUEST)
            await bench.origin.receive_some()
        outcome = await bench.result()
    assert outcome.seconds == pytest.approx(80 + LIMITS.first_byte)


@pytest.mark.parametrize("delay", [0.001, 0.1, 29.0])
async def test_after_the_first_byte_back_the_idle_deadline_rules(
    autojump_clock: trio.testing.MockClock, delay: float
) -> None:
    """However early that byte came; a little late is fine, early is not."""
    async with over_memory() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        await bench.visitor.send_all(REQUEST)
        await trio.sleep(delay)
        await bench.origin.send_all(ANSWER)
        outcome = await bench.result()
    assert LIMITS.idle <= outcome.seconds - delay <= LIMITS.idle * LATE + 0.001


async def test_bytes_in_either_direction_put_the_idle_deadline_off(autojump_clock: trio.testing.MockClock) -> None:
    """Also bytes that come too soon after one another to move it each time."""
    async with over_memory() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        await bench.origin.send_all(b"first")
        for peer in (bench.visitor, bench.origin) * 5:
            await trio.sleep(LIMITS.idle * 0.9)
            await peer.send_all(b".")
            await trio.sleep(LIMITS.idle * 0.001)
            await peer.send_all(b".")
        last = trio.current_time()
        await bench.result()
        assert LIMITS.idle * 0.99 <= trio.current_time() - last <= LIMITS.idle * LATE


async def test_half_closed_silence_ends_sooner(autojump_clock: trio.testing.MockClock) -> None:
    """And the side that has everything is closed, not aborted: its last bytes may be on the way."""
    async with over_memory() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        await bench.origin.send_all(ANSWER)
        await bench.origin.send_eof()
        outcome = await bench.result()
        assert await read_to_end(bench.visitor) == (ANSWER, End.FIN)
        assert await read_to_end(bench.origin) == (b"", End.RESET)
    assert LIMITS.half_closed <= outcome.seconds <= LIMITS.half_closed * LATE
    assert (outcome.left_end, outcome.right_end) == (End.DEADLINE, End.FIN)


async def test_half_closed_silence_leaves_what_the_kernel_still_holds() -> None:
    """A slow reader of a complete answer gets it all, although the deadline runs out meanwhile."""
    visitor, left = await socket_pair(receiving=4096, sending=16_384)
    origin, right = await socket_pair()
    bench = Bench(visitor, left, right, origin)
    answer = b"o" * 20_000
    await origin.send_all(answer)
    await origin.send_eof()
    outcome = await copy_streams(left, right, replace(LIMITS, half_closed=0.1))
    assert await read_to_end(visitor) == (answer, End.FIN)
    bench.abort_all()
    assert (outcome.left_end, outcome.right_end) == (End.DEADLINE, End.FIN)


async def test_a_side_that_only_reads_no_more_counts_as_half_closed(autojump_clock: trio.testing.MockClock) -> None:
    """Its answer may come, but not for ever."""
    async with over_memory() as bench:
        right = ScriptedStream(bench.right, fault=Fault.PIPE, only="send_all")
        await bench.visitor.send_all(REQUEST)
        await bench.origin.send_all(ANSWER)
        outcome = await copy_streams(bench.left, right, replace(LIMITS, first_byte=3600.0))
        assert await read_to_end(bench.visitor) == (ANSWER, End.RESET)
    assert LIMITS.half_closed <= outcome.seconds <= LIMITS.half_closed * LATE
    assert (outcome.left_end, outcome.right_end) == (End.DEADLINE, End.DEADLINE)


async def test_a_side_that_was_reset_gets_a_short_time_to_be_read_out(autojump_clock: trio.testing.MockClock) -> None:
    """The writer met the reset; what came before it is delivered, and it counts as a reset."""
    async with over_memory() as bench:
        right = ScriptedStream(bench.right, fault=Fault.RESET, only="send_all")
        await bench.visitor.send_all(REQUEST)
        await bench.origin.send_all(ANSWER)
        outcome = await copy_streams(bench.left, right, LIMITS)
        assert await read_to_end(bench.visitor) == (ANSWER, End.RESET)
    assert limits.ABORT_FLUSH_TIMEOUT <= outcome.seconds <= limits.ABORT_FLUSH_TIMEOUT * LATE
    assert (outcome.left_end, outcome.right_end) == (End.CANCELLED, End.RESET)


async def test_the_total_deadline_holds_whatever_moves(autojump_clock: trio.testing.MockClock) -> None:
    """Used for challenges: 10 s in all."""
    async with over_memory() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.run, replace(LIMITS, total=10.0))

        nursery.start_soon(send_until_broken, bench.origin, b".", 0.5)
        outcome = await bench.result()
    assert outcome.seconds == pytest.approx(10.0)


async def test_a_stalled_reader_is_cut_by_the_idle_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """A direction that waits in its send counts as silent."""
    async with over_memory() as bench, trio.open_nursery() as nursery:
        nursery.start_soon(bench.run)
        nursery.start_soon(send_until_broken, bench.origin, bytes(limits.COPY_CHUNK))
        outcome = await bench.result()
    assert outcome.right_end is End.DEADLINE
    assert outcome.seconds <= LIMITS.idle * LATE
