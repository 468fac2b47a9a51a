"""The writer: how large a batch is, what leaves first, and what a slow or a far carrier costs."""

from __future__ import annotations

import hashlib
import random
import tracemalloc
from itertools import pairwise

import pytest
import trio
import trio.testing

from tests.transports.conformance import AGENT, RELAY, open_pair
from tests.transports.mux_pairs import OPENERS, PAIRS, Opener, Pair
from tests.transports.pipes import line_pair
from trunnel.settings import limits
from trunnel.transports.base import Stream
from trunnel.transports.mux_writer import WritePace
from trunnel.wire.muxevents import Role

MEGABIT = 1_000_000 / 8
SETTLED = int(2 * limits.HEARTBEAT)
"""Seconds after which the second ping has been answered: the first left with the first batch."""


def test_a_slow_send_cuts_the_batch_to_what_leaves_in_time() -> None:
    pace = WritePace()
    pace.sent(limits.WRITE_BATCH, 2.0)
    assert pace.batch == pytest.approx(limits.WRITE_BATCH * limits.WRITE_SLOW / 2.0, abs=1)
    pace.sent(pace.batch, 1.01 * limits.WRITE_SLOW)
    assert pace.batch <= limits.WRITE_BATCH * limits.WRITE_SLOW / 2.0 / 2


def test_no_send_is_slow_enough_to_stop_everything() -> None:
    pace = WritePace()
    for _ in range(10):
        pace.sent(1, 100.0)
    assert pace.batch == limits.WRITE_BATCH_MIN


def test_only_full_batches_that_were_quick_make_it_larger() -> None:
    pace = WritePace()
    pace.sent(limits.WRITE_BATCH, 100.0)
    small = pace.batch
    pace.sent(small - limits.FRAME_HEADROOM, 0.0)
    pace.sent(small, limits.WRITE_QUICK)
    assert pace.batch == small
    for _ in range(20):
        pace.sent(pace.batch, 0.0)
    assert pace.batch == limits.WRITE_BATCH


class Recorder(trio.abc.HalfCloseableStream):
    """A carrier that notes the size of each send."""

    def __init__(self, inner: trio.abc.HalfCloseableStream) -> None:
        self._inner = inner
        self.sizes: list[int] = []

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        self.sizes.append(len(data))
        await self._inner.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self._inner.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._inner.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self._inner.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self._inner.aclose()


async def drain(stream: Stream) -> int:
    """Read to the FIN; returns the bytes."""
    total = 0
    while chunk := await stream.receive_some(limits.COPY_CHUNK):
        total += len(chunk)
    return total


async def push(stream: Stream, amount: int) -> None:
    """Send *amount* bytes as a copy does, and FIN."""
    block = bytes(limits.COPY_CHUNK)
    for start in range(0, amount, len(block)):
        await stream.send_all(block[: amount - start])
    await stream.send_eof()


@OPENERS
@pytest.mark.parametrize("streams", [1, 3])
async def test_no_batch_exceeds_its_size_and_a_copied_chunk_fits_one(opener: Opener, streams: int) -> None:
    """A few bytes more than whole TLS records would cost a record of their own each time."""
    left, right = trio.testing.memory_stream_pair()
    wire = Recorder(left)
    async with opener(wire, Role.CLIENT, AGENT) as relay, opener(right, Role.SERVER, RELAY) as agent:
        pairs = [await open_pair(relay, agent) for _ in range(streams)]
        async with trio.open_nursery() as nursery:
            for near, far in pairs:
                nursery.start_soon(push, near, 64 * limits.COPY_CHUNK)
                nursery.start_soon(drain, far)
    assert max(wire.sizes) <= limits.WRITE_BATCH
    full = [size for size in wire.sizes if size > limits.COPY_CHUNK]
    assert len(full) >= 32 * streams, "the chunks went out whole"


@OPENERS
async def test_on_a_slow_carrier_pings_are_not_starved_by_bulk(
    opener: Opener, autojump_clock: trio.testing.MockClock
) -> None:
    """NET-11: 1 Mbit/s, full for two minutes; ahead of a ping is at most what the kernel and one batch hold."""
    ends = line_pair(rate=MEGABIT, round_trip=0.05, buffer=limits.NOTSENT_LOWAT)
    wire = Recorder(ends[0])
    async with opener(wire, Role.CLIENT, AGENT) as relay, opener(ends[1], Role.SERVER, RELAY) as agent:
        pairs = [await open_pair(relay, agent) for _ in range(2)]
        measured: list[float] = []
        silences: list[float] = []

        async def watch() -> None:
            while True:
                await trio.sleep(1)
                measured.append(relay.round_trip)
                silences.extend(trio.current_time() - session.last_heard for session in (relay, agent))

        async with trio.open_nursery() as nursery:
            for near, far in pairs:
                nursery.start_soon(push, near, 64 * limits.MIB)
                nursery.start_soon(drain, far)
            nursery.start_soon(watch)
            await trio.sleep(120)
            nursery.cancel_scope.cancel()
        assert relay.closed is None
        assert agent.closed is None
        settled = measured[SETTLED:]
        ahead = limits.NOTSENT_LOWAT / MEGABIT
        assert 0 < max(settled) <= ahead + 0.05 + 2 * limits.WRITE_SLOW
        assert max(silences) <= limits.HEARTBEAT + 2
        late = wire.sizes[-100:]
        assert max(late) <= 2 * limits.WRITE_SLOW * MEGABIT


@OPENERS
async def test_one_stream_fills_a_long_fat_carrier(opener: Opener, autojump_clock: trio.testing.MockClock) -> None:
    """100 ms and 200 Mbit/s: the window has grown within ten round trips, then the line is full.

    Over ten seconds that is 90 % or more; a window that does not grow would give 3 to 10 %, one whose credit
    comes back by halves 77 %.
    """
    rate, round_trip = 200 * MEGABIT, 0.1
    ends = line_pair(rate=rate, round_trip=round_trip, buffer=limits.NOTSENT_LOWAT)
    async with opener(ends[0], Role.CLIENT, AGENT) as relay, opener(ends[1], Role.SERVER, RELAY) as agent:
        near, far = await open_pair(relay, agent)
        async with trio.open_nursery() as nursery:
            nursery.start_soon(push, near, 100 * limits.MIB)
            received = [0, 0]
            for part in range(2):
                with trio.move_on_after(10 * round_trip):
                    while True:
                        received[part] += len(await far.receive_some(limits.COPY_CHUNK))
            assert received[1] >= 0.95 * rate * 10 * round_trip
            nursery.cancel_scope.cancel()


@OPENERS
async def test_a_reader_that_stops_costs_one_window_and_completes_later(opener: Opener) -> None:
    """LOAD-14: it stops after 20 MB of 40; at most 4 MB lie about, and every byte arrives when it goes on."""
    block = random.Random(1).randbytes(limits.COPY_CHUNK)
    blocks = 160
    left, right = trio.testing.lockstep_stream_pair()
    async with opener(left, Role.CLIENT, AGENT) as relay, opener(right, Role.SERVER, RELAY) as agent:
        near, far = await open_pair(relay, agent)
        async with trio.open_nursery() as nursery:

            async def send() -> None:
                for number in range(blocks):
                    await near.send_all(number.to_bytes(8, "big") + block)
                await near.send_eof()

            nursery.start_soon(send)
            digest, received = hashlib.sha256(), 0
            while received < 20 * limits.MIB:
                received += len(chunk := await far.receive_some(limits.COPY_CHUNK))
                digest.update(chunk)
            tracemalloc.start()
            try:
                await trio.testing.wait_all_tasks_blocked(0.05)
                kept, _peak = tracemalloc.get_traced_memory()
                unread = agent.statistics().unread
            finally:
                tracemalloc.stop()
            assert unread <= limits.STREAM_WINDOW_MAX
            assert kept <= 4 * limits.MIB
            while chunk := await far.receive_some(limits.COPY_CHUNK):
                received += len(chunk)
                digest.update(chunk)
        assert received == blocks * (8 + len(block))
        expected = hashlib.sha256(b"".join(number.to_bytes(8, "big") + block for number in range(blocks)))
        assert digest.digest() == expected.digest()


@pytest.mark.slow
@pytest.mark.timeout(120)
@PAIRS
async def test_ten_thousand_streams_come_and_go(pair: Pair) -> None:
    """Nothing is left of them."""
    async with pair() as (relay, agent):
        await trio.testing.wait_all_tasks_blocked()
        tasks = trio.lowlevel.current_statistics().tasks_living
        ids: list[int] = []
        for _ in range(10_000):
            near, far = await open_pair(relay, agent)
            ids.append(near.stream_id)
            await near.send_all(b"x")
            assert await far.receive_some() == b"x"
            await far.aclose()
            await near.aclose()
        await trio.testing.wait_all_tasks_blocked()
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        assert all(earlier < later for earlier, later in pairwise(ids))
        for session in (relay, agent):
            assert session.closed is None
            statistics = session.statistics()
            assert (statistics.streams_open, statistics.unread, statistics.unsent) == (0, 0, 0)
            assert not session.connection.streams
