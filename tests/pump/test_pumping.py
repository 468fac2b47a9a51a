"""The pump, both ways: what arrives, how it ends, deadlines, cancellation; the ways must agree."""

from __future__ import annotations

import itertools
from dataclasses import replace
from typing import Literal

import pytest
import trio
import trio.testing

from tests.pump.stage import (
    LIMITS,
    both_ways,
    hired,
    needs_workers,
    pattern,
    read_exactly,
    read_to_end,
    reset_after,
    send_and_end,
    send_until_stuck,
    socket_pair,
    stage,
    unix_stage,
    until,
)
from tests.streams.bench import send_until_broken
from trunnel import capabilities
from trunnel.pump import Way, open_workers, pump
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import End
from trunnel.streams.sockets import wait_delivered

SHORT = 0.12
"""Seconds of a short deadline."""
LATE = 0.4
"""Seconds by which a deadline may come late on a busy machine."""
SIZES = [0, 1, 16 * 1024 - 1, 16 * 1024, 64 * 1024, 700_000, 5_000_000]


# --- bytes and ends ---------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("size", SIZES)
async def test_half_close_is_carried_and_bytes_are_exact(way: str, size: int) -> None:
    """The visitor ends first, the origin answers afterwards; nothing is lost or changed."""
    upload, answer = pattern(1, size), pattern(2, size)
    async with hired(way) as workers, stage(workers) as play, trio.open_nursery() as nursery:
        nursery.start_soon(send_and_end, play.visitor, upload)
        assert await read_to_end(play.origin) == (upload, End.FIN)
        nursery.start_soon(send_and_end, play.origin, answer)
        assert await read_to_end(play.visitor) == (answer, End.FIN)
        outcome = await play.result()
    assert outcome.left_end is outcome.right_end is End.FIN
    assert (outcome.left_bytes, outcome.right_bytes) == (size, size) == play.counter.figures()


@both_ways
async def test_both_directions_at_once(way: str) -> None:
    upload, answer = pattern(1, 3_000_000), pattern(2, 3_000_001)
    async with hired(way) as workers, stage(workers, narrow=True) as play, trio.open_nursery() as nursery:
        nursery.start_soon(send_and_end, play.visitor, upload)
        nursery.start_soon(send_and_end, play.origin, answer)

        async def take_answer() -> None:
            assert await read_to_end(play.visitor) == (answer, End.FIN)

        nursery.start_soon(take_answer)
        assert await read_to_end(play.origin) == (upload, End.FIN)
        outcome = await play.result()
    assert (outcome.left_bytes, outcome.right_bytes) == (len(upload), len(answer))


@both_ways
@pytest.mark.parametrize("size", [0, 50_000, 3_000_000])
@pytest.mark.parametrize("who", ["visitor", "origin"])
async def test_bytes_received_before_a_reset_are_delivered_before_the_reset(way: str, size: int, who: str) -> None:
    """All of them although the reader is late; then RST, never FIN: truncation must not look like an end."""
    payload = pattern(1, size)
    async with hired(way) as workers, stage(workers) as play:
        await play.is_moving()
        near, far = (play.visitor, play.origin) if who == "visitor" else (play.origin, play.visitor)
        async with trio.open_nursery() as nursery:

            async def send_and_reset() -> None:
                await near.send_all(payload)
                assert await wait_delivered(near.socket)
                abort_stream(near)

            nursery.start_soon(send_and_reset)
            assert await read_to_end(far) == (payload, End.RESET)
        outcome = await play.result()
    ends = (End.RESET, End.CANCELLED) if who == "visitor" else (End.CANCELLED, End.RESET)
    assert (outcome.left_end, outcome.right_end) == ends
    assert max(outcome.left_bytes, outcome.right_bytes) == size + 1


@both_ways
async def test_a_reset_waits_until_a_slow_reader_has_acknowledged(way: str) -> None:
    """What was accepted from the origin reaches a visitor that begins to read after the origin's RST."""
    payload = pattern(1, 4_000_000)
    async with hired(way) as workers, stage(workers, narrow=True) as play:
        await play.is_moving()
        sent = await send_until_stuck(play.origin, payload)
        accepted = reset_after(play.origin, sent)
        received, end = await read_to_end(play.visitor)
        assert end is End.RESET
        assert received == payload[: len(received)]
        assert 300_000 < accepted <= len(received) <= sent
        outcome = await play.result()
    assert (outcome.left_end, outcome.right_end) == (End.CANCELLED, End.RESET)


@both_ways
async def test_an_early_answer_is_delivered_whole_although_the_upload_goes_on(way: str) -> None:
    """The origin answers and closes without reading (413): the visitor gets all of it, and FIN."""
    answer = pattern(2, 40_000)
    async with hired(way) as workers, stage(workers) as play, trio.open_nursery() as nursery:
        await play.is_moving()
        await play.origin.send_all(answer)
        await play.origin.aclose()
        assert await read_to_end(play.visitor) == (answer, End.FIN)
        nursery.start_soon(send_until_broken, play.visitor, bytes(4000))
        outcome = await play.result()
    assert (outcome.left_end, outcome.right_end) == (End.CANCELLED, End.FIN)
    assert outcome.right_bytes == len(answer) + 1


@both_ways
async def test_an_answer_that_ended_counts_although_the_origin_was_reset_after_it(way: str) -> None:
    """EPIPE: our kernel had the origin's FIN before its RST, so the answer is whole."""
    answer = pattern(2, 120_000)
    async with hired(way) as workers, stage(workers, narrow=True) as play, trio.open_nursery() as nursery:
        await play.is_moving()
        nursery.start_soon(send_until_broken, play.visitor, bytes(64_000))  # stalls: the origin does not read
        await send_and_end(play.origin, answer)
        received = await read_exactly(play.visitor, 1000)
        assert await wait_delivered(play.origin.socket)
        abort_stream(play.origin)
        rest, end = await read_to_end(play.visitor)
        assert received + rest == answer
        assert end is End.FIN
        outcome = await play.result()
    assert outcome.right_end is End.FIN


@both_ways
async def test_an_end_of_file_after_a_reset_that_the_writer_saw_is_no_end(way: str) -> None:
    """The kernel reports RST once.  If the writer got it, the reader sees an end of file: still an abort."""
    answer = pattern(2, 4_000_000)
    async with hired(way) as workers, stage(workers, narrow=True) as play:
        await play.is_moving()
        sent = await send_until_stuck(play.origin, answer)  # the reader waits for the visitor
        accepted = reset_after(play.origin, sent)
        await play.visitor.send_all(b"the writer meets the reset")
        await until(lambda: play.counter.figures()[0] > 1)
        received, end = await read_to_end(play.visitor)
        assert end is End.RESET
        assert received == answer[: len(received)]
        assert accepted <= len(received) <= sent
        outcome = await play.result()
    assert (outcome.left_end, outcome.right_end) == (End.CANCELLED, End.RESET)


# --- unix sockets -----------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("unix", ["left", "right", "both"])
@pytest.mark.skipif(not capabilities.HAS_UNIX_SOCKETS, reason="no unix sockets")
@pytest.mark.may_skip("POSIX only")
async def test_a_unix_socket_can_be_a_side(way: str, unix: str) -> None:
    upload, answer = pattern(1, 700_000), pattern(2, 700_001)
    async with hired(way) as workers, unix_stage(workers, unix=unix) as play, trio.open_nursery() as nursery:
        nursery.start_soon(send_and_end, play.visitor, upload)
        assert await read_to_end(play.origin) == (upload, End.FIN)
        nursery.start_soon(send_and_end, play.origin, answer)
        assert await read_to_end(play.visitor) == (answer, End.FIN)
        outcome = await play.result()
    assert outcome.left_end is outcome.right_end is End.FIN


@both_ways
@pytest.mark.skipif(not capabilities.HAS_UNIX_SOCKETS, reason="no unix sockets")
@pytest.mark.may_skip("POSIX only")
async def test_a_reset_waits_for_a_unix_socket_to_be_read(way: str) -> None:
    """It has no RST: its peer gets everything, then an end of file."""
    payload = pattern(1, 100_000)
    async with hired(way) as workers, unix_stage(workers) as play, trio.open_nursery() as nursery:

        async def send_and_reset() -> None:
            await play.visitor.send_all(payload)
            assert await wait_delivered(play.visitor.socket)
            abort_stream(play.visitor)

        nursery.start_soon(send_and_reset)
        received, _ = await read_to_end(play.origin)
        assert received == payload
        outcome = await play.result()
    assert (outcome.left_end, outcome.right_end) == (End.RESET, End.CANCELLED)


# --- deadlines --------------------------------------------------------------------------------

QUIET = {
    "first_byte": replace(LIMITS, first_byte=SHORT),
    "idle": replace(LIMITS, idle=SHORT),
    "half_closed": replace(LIMITS, half_closed=SHORT),
    "total": replace(LIMITS, total=SHORT),
}


@both_ways
@pytest.mark.parametrize("which", list(QUIET))
async def test_a_deadline_resets_both_sides_at_once(way: str, which: str) -> None:
    """All but a side that was promised an end and has everything."""
    async with hired(way) as workers, stage(workers, deadlines=QUIET[which]) as play:
        if which == "idle":
            await play.origin.send_all(b"a")  # the first byte back: from now on it is idle
            assert await play.visitor.receive_some() == b"a"
        if which == "half_closed":
            await play.origin.send_eof()
            assert await play.visitor.receive_some() == b""
        started = trio.current_time()
        outcome = await play.result()
        waited = trio.current_time() - started
        origin_end = End.FIN if which == "half_closed" else End.DEADLINE
        assert (outcome.left_end, outcome.right_end) == (End.DEADLINE, origin_end)
        assert await read_to_end(play.visitor) == (b"", End.FIN if which == "half_closed" else End.RESET)
        assert await read_to_end(play.origin) == (b"", End.RESET)
    assert SHORT - 0.05 <= waited <= SHORT + LATE


@both_ways
@pytest.mark.parametrize("answerer", ["left", "right"])
async def test_the_first_byte_is_awaited_from_the_answering_side(way: str, answerer: Literal["left", "right"]) -> None:
    """What the other one sends does not end the wait; what this one sends does."""
    deadlines = replace(LIMITS, first_byte=SHORT, first_byte_from=answerer)
    async with hired(way) as workers:
        for speaker, survives in (("left", answerer == "left"), ("right", answerer == "right")):
            async with stage(workers, deadlines=deadlines) as play:
                near, far = (play.visitor, play.origin) if speaker == "left" else (play.origin, play.visitor)
                await near.send_all(b"a")
                assert await far.receive_some() == b"a"
                with trio.move_on_after(2 * SHORT):
                    await play.done.wait()
                assert play.done.is_set() is not survives


@both_ways
async def test_the_total_deadline_holds_whatever_moves(way: str) -> None:
    """Used for challenges: 10 s in all."""
    async with hired(way) as workers, stage(workers, deadlines=QUIET["total"]) as play, trio.open_nursery() as nursery:
        nursery.start_soon(send_until_broken, play.visitor, bytes(1000), 0.01)
        nursery.start_soon(read_to_end, play.origin)
        outcome = await play.result()
    assert SHORT - 0.05 <= outcome.seconds <= SHORT + LATE
    assert outcome.left_bytes > 1000


@both_ways
async def test_half_closed_silence_leaves_what_the_kernel_still_holds(way: str) -> None:
    """A slow reader of a complete answer gets it all, although the deadline runs out meanwhile."""
    answer = pattern(2, 100_000)
    async with hired(way) as workers, stage(workers, deadlines=replace(LIMITS, half_closed=SHORT), narrow=True) as play:
        await send_and_end(play.origin, answer)
        outcome = await play.result()
        assert await read_to_end(play.visitor) == (answer, End.FIN)
    assert (outcome.left_end, outcome.right_end) == (End.DEADLINE, End.FIN)


@both_ways
async def test_a_stalled_reader_is_cut_by_the_idle_deadline(way: str) -> None:
    deadlines = replace(LIMITS, idle=SHORT)
    async with hired(way) as workers, stage(workers, deadlines=deadlines, narrow=True) as play:
        await send_until_stuck(play.origin, bytes(4_000_000))
        outcome = await play.result()
    assert (outcome.left_end, outcome.right_end) == (End.DEADLINE, End.DEADLINE)


# --- cancellation -----------------------------------------------------------------------------


@both_ways
@pytest.mark.parametrize("state", ["fresh", "idle", "stuck", "half-closed", "settling"])
async def test_cancellation_aborts_both_sides(way: str, state: str) -> None:
    """Whatever the stream is doing, both peers see RST; only what was promised an end has seen its FIN."""
    async with hired(way) as workers, stage(workers, narrow=True) as play:
        if state == "fresh":
            await trio.testing.wait_all_tasks_blocked()
        else:
            await play.is_moving()
        if state in ("stuck", "settling"):
            await send_until_stuck(play.origin, bytes(4_000_000))
        if state == "settling":
            abort_stream(play.origin)
        if state == "half-closed":
            await play.visitor.send_eof()
            assert await play.origin.receive_some() == b""
        await play.cancel()
        assert play.outcome is None
        assert (await read_to_end(play.visitor))[1] is End.RESET
        if state != "settling":
            assert (await read_to_end(play.origin))[1] is (End.FIN if state == "half-closed" else End.RESET)


# --- choosing the way -------------------------------------------------------------------------


@needs_workers
@pytest.mark.may_skip("Linux only")
@pytest.mark.parametrize(("left_plain", "right_plain"), list(itertools.product([True, False], repeat=2)))
async def test_only_two_plain_sockets_go_to_a_worker(*, left_plain: bool, right_plain: bool) -> None:
    """Everything else is copied, with the same ends."""

    async def far_and_near(plain: bool) -> tuple[trio.abc.HalfCloseableStream, trio.abc.HalfCloseableStream]:
        far, near = await socket_pair()
        return far, near if plain else trio.StapledStream(near, near)

    (visitor, left), (origin, right) = await far_and_near(left_plain), await far_and_near(right_plain)
    async with open_workers(1) as workers:
        await visitor.send_eof()
        await origin.send_eof()
        outcome = await pump(left, right, LIMITS, workers=workers)
    assert outcome.way is (Way.SPLICE if left_plain and right_plain else Way.COPY)
    assert outcome.left_end is outcome.right_end is End.FIN
    for stream in (visitor, origin):
        assert await stream.receive_some() == b""
        await stream.aclose()
