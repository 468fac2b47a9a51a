"""A worker seen from trio: handing over, its refusals, its death, cancellation at every stage."""

from __future__ import annotations

import errno
import mmap
import os
import resource
import signal
import socket
import struct
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from types import SimpleNamespace
from typing import cast

import pytest
import trio
import trio.testing

from tests.pump.stage import (
    LIMITS,
    descriptors_of,
    hired,
    needs_workers,
    open_descriptors,
    read_to_end,
    socket_pair,
    stage,
    until,
    worker_of,
)
from trunnel.pump import PumpResult, Way, pump
from trunnel.pump.employed import Employed, Job
from trunnel.pump.orders import (
    ORDER_MAX,
    ORDERS_PER_PACKET,
    SLOT_SIZE,
    Finish,
    News,
    Order,
    Report,
    Verb,
    decode_orders,
)
from trunnel.settings import limits
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import Counter, End

pytestmark = [needs_workers, pytest.mark.may_skip("Linux only")]

ORDER = Order(Verb.TAKE, 0, idle=1.0)


class Chief:
    """The far end of a channel: plays the worker, by hand."""

    def __init__(self, *, slots: int = 64, channel: type[socket.socket] = socket.socket) -> None:
        ours, self.channel = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        mine = channel(fileno=ours.detach())
        for end in (mine, self.channel):
            end.setblocking(False)
        self.counts = mmap.mmap(-1, slots * SLOT_SIZE)
        self.killed = trio.Event()
        process = cast("trio.Process", SimpleNamespace(kill=self.killed.set, pid=0))
        self.employed = Employed(process, mine, self.counts, slots)
        self._mine = mine
        self._orders: list[Order] = []

    def order(self) -> Order:
        """Return the next order; descriptors are closed."""
        if not self._orders:
            packet, descriptors, _, _ = socket.recv_fds(self.channel, ORDER_MAX, 2 * ORDERS_PER_PACKET)
            for descriptor in descriptors:
                os.close(descriptor)
            self._orders = decode_orders(packet)
        return self._orders.pop(0)

    def report(self, *reports: Report) -> None:
        """Tell *reports*, in one packet."""
        self.channel.send(b"".join(report.encode() for report in reports))

    def close(self) -> None:
        """Close both ends."""
        self.channel.close()
        self._mine.close()


@asynccontextmanager
async def chief(**options: object) -> AsyncIterator[Chief]:
    """A worker played by hand, whose reports are read."""
    plays = Chief(**options)  # type: ignore[arg-type]
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(plays.employed.listen)
            yield plays
            nursery.cancel_scope.cancel()
    finally:
        plays.close()


@asynccontextmanager
async def sockets(count: int = 2) -> AsyncIterator[list[trio.socket.SocketType]]:
    """Sockets to hand over."""
    pairs = [trio.socket.socketpair() for _ in range(count)]
    try:
        yield [near for near, _ in pairs]
    finally:
        for pair in pairs:
            for sock in pair:
                sock.close()


async def give(employed: Employed, copies: list[trio.socket.SocketType], counter: Counter | None = None) -> Job:
    job = await employed.give(ORDER, copies, Counter() if counter is None else counter)
    assert job is not None
    await trio.testing.wait_all_tasks_blocked()  # orders go out when every task that is ready has run
    return job


# --- handing over -----------------------------------------------------------------------------


async def test_copies_are_kept_until_the_worker_has_them() -> None:
    """Then they are closed: kept copies would swallow the FIN and double the count."""
    async with chief() as plays, sockets() as copies:
        job = await give(plays.employed, copies)
        await trio.testing.wait_all_tasks_blocked()
        assert all(sock.fileno() >= 0 for sock in copies)
        plays.report(Report(News.TAKEN, job.number))
        await trio.testing.wait_all_tasks_blocked()
        assert all(sock.fileno() < 0 for sock in copies)


async def test_at_most_32_hand_overs_are_unacknowledged() -> None:
    """The rest waits; each acknowledgement lets one more go."""
    wanted = limits.PUMP_UNACKNOWLEDGED + 3
    async with chief() as plays, sockets(2 * wanted) as copies, trio.open_nursery() as nursery:
        for index in range(wanted):
            nursery.start_soon(give, plays.employed, copies[2 * index : 2 * index + 2])
        await trio.testing.wait_all_tasks_blocked()
        numbers = [plays.order().stream for _ in range(limits.PUMP_UNACKNOWLEDGED)]
        with pytest.raises(BlockingIOError):
            plays.order()
        assert plays.employed.load == wanted
        plays.report(Report(News.TAKEN, numbers[0]), Report(News.REFUSED, numbers[1]))
        await trio.testing.wait_all_tasks_blocked()
        assert {plays.order().stream, plays.order().stream}.isdisjoint(numbers)
        with pytest.raises(BlockingIOError):
            plays.order()
        plays.report(Report(News.TAKEN, numbers[2]))
        await trio.testing.wait_all_tasks_blocked()
        assert plays.employed.load == wanted - 1


async def test_what_a_worker_has_descriptors_for_is_never_exceeded() -> None:
    async with chief(slots=1) as plays, sockets(4) as copies:
        job = await give(plays.employed, copies[:2])
        assert not plays.employed.has_room
        assert await plays.employed.give(ORDER, copies[2:], Counter()) is None
        plays.report(Report(News.TAKEN, job.number), Report(News.DONE, job.number))
        await job.done.wait()
        assert await plays.employed.give(ORDER, copies[2:], Counter()) is not None


async def test_counts_stay_with_their_stream_although_the_slot_is_another_ones_at_once() -> None:
    """The next stream takes the slot before the task of the last one has run."""
    async with chief(slots=1) as plays, sockets(4) as copies:
        counter = Counter(left_bytes=5)
        first = await give(plays.employed, copies[:2], counter)
        order = plays.order()
        struct.pack_into("QQ", plays.counts, order.slot * SLOT_SIZE, 70, 900)
        assert counter.figures() == (75, 900)
        plays.report(Report(News.TAKEN, first.number), Report(News.DONE, first.number, Finish.FIN, Finish.RESET, 2.5))
        await first.done.wait()
        second = await give(plays.employed, copies[2:])
        assert plays.order().slot == order.slot
        assert counter.figures() == (75, 900)
        assert plays.employed.counts(second) == (0, 0)
        assert first.outcome[:3] == (End.FIN, End.RESET, 2.5)
        assert second.number != first.number


async def test_a_late_cancellation_never_meets_another_stream() -> None:
    """Its number is never given again, so the order for one that is over is about nothing."""
    async with chief(slots=1) as plays, sockets(4) as copies:
        first = await give(plays.employed, copies[:2])
        plays.report(Report(News.TAKEN, first.number), Report(News.DONE, first.number))
        await first.done.wait()
        second = await give(plays.employed, copies[2:])
        await plays.employed.cancel(first)
        orders = [plays.order(), plays.order()]
        assert [order.verb for order in orders] == [Verb.TAKE, Verb.TAKE]
        plays.report(Report(News.TAKEN, first.number))  # nor does a report that comes late
        await trio.testing.wait_all_tasks_blocked()
        assert copies[2].fileno() >= 0
        assert second.copies


class Crowded(socket.socket):
    """A channel on which too many descriptors are in flight at first."""

    failures = 3

    def sendmsg(self, *arguments: object) -> int:
        if self.failures:
            self.failures -= 1
            raise OSError(errno.ETOOMANYREFS, "too many references")
        return super().sendmsg(*arguments)  # type: ignore[arg-type]


class Overcrowded(Crowded):
    """A channel on which there are too many for ever."""

    failures = 10_000


async def test_too_many_descriptors_in_flight_are_sent_again_and_then_not(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """ETOOMANYREFS: an ordinary user has about 256; a moment later there may be room."""
    async with chief(channel=Crowded) as plays, sockets() as copies:
        job = await give(plays.employed, copies)
        await trio.sleep(1)
        assert plays.order().stream == job.number
    async with chief(channel=Overcrowded) as plays, sockets() as copies:
        job = await give(plays.employed, copies)
        await job.done.wait()
        assert job.refused
        assert all(sock.fileno() >= 0 for sock in copies)
        assert plays.employed.load == 0


async def test_a_channel_that_is_full_is_waited_for() -> None:
    async with chief() as plays, sockets() as copies, trio.open_nursery() as nursery:
        stuffed = 0
        while True:
            try:
                plays.employed._channel.send(Order(Verb.CANCEL, 9).encode())
            except BlockingIOError:
                break
            stuffed += 1
        nursery.start_soon(give, plays.employed, copies)
        await trio.testing.wait_all_tasks_blocked()
        orders = [plays.order() for _ in range(stuffed)]
        assert {order.verb for order in orders} == {Verb.CANCEL}
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert plays.order().verb is Verb.TAKE


async def test_orders_of_one_moment_share_a_packet() -> None:
    """Each wakes the worker; their descriptors ride in the same order."""
    async with chief() as plays, sockets(6) as copies, trio.open_nursery() as nursery:
        for index in range(3):
            nursery.start_soon(give, plays.employed, copies[2 * index : 2 * index + 2])
        await trio.testing.wait_all_tasks_blocked()
        numbers = [plays.order().stream for _ in range(3)]
        with pytest.raises(BlockingIOError):
            plays.order()
        assert len(set(numbers)) == 3


async def test_cancelled_before_it_was_sent_an_order_never_is() -> None:
    """The copies are aborted here, and the credit is free again."""
    async with chief() as plays, sockets() as copies:
        job = await plays.employed.give(ORDER, copies, Counter())
        assert job is not None
        await plays.employed.cancel(job)
        await trio.testing.wait_all_tasks_blocked()
        with pytest.raises(BlockingIOError):
            plays.order()
        assert all(sock.fileno() < 0 for sock in copies)
        assert plays.employed.load == 0
        assert plays.employed._credit.value == limits.PUMP_UNACKNOWLEDGED


# --- real refusals ----------------------------------------------------------------------------


async def test_a_worker_without_descriptors_refuses_and_the_copy_serves() -> None:
    """MSG_CTRUNC: it gets one of two descriptors, or none; both are closed, and nobody is hurt."""
    async with hired() as workers, stage(workers) as first:
        await first.is_moving()
        employed = worker_of(workers)
        had = open_descriptors(employed.process.pid)
        for spare in (0, 1):
            taken = descriptors_of(employed.process.pid)
            free = [number for number in range(len(taken) + 4) if number not in taken]
            resource.prlimit(employed.process.pid, resource.RLIMIT_NOFILE, (free[spare], 20_000))
            (visitor, left), (origin, right) = await socket_pair(), await socket_pair()
            await visitor.send_eof()
            await origin.send_eof()
            outcome = await pump(left, right, LIMITS, workers=workers)
            assert (outcome.way, outcome.left_end, outcome.right_end) == (Way.COPY, End.FIN, End.FIN)
            for peer in (visitor, origin):
                assert await read_to_end(peer) == (b"", End.FIN)
                abort_stream(peer)
            assert open_descriptors(employed.process.pid) == had
        assert employed.load == 1
        await first.is_moving()


async def test_500_streams_do_not_stay_with_the_sender() -> None:
    """The main process has as many descriptors after them as before, the worker, too."""
    async with hired() as workers:
        employed = worker_of(workers)
        await until(lambda: employed.load == 0)
        theirs, ours = open_descriptors(employed.process.pid), open_descriptors()
        results: list[PumpResult] = []

        async def visit() -> None:
            (visitor, left), (origin, right) = await socket_pair(), await socket_pair()
            async with trio.open_nursery() as nursery:

                async def run() -> None:
                    results.append(await pump(left, right, LIMITS, workers=workers))

                nursery.start_soon(run)
                await visitor.send_all(b"ab")
                await visitor.send_eof()
                assert await read_to_end(origin) == (b"ab", End.FIN)
                await origin.aclose()
                assert await read_to_end(visitor) == (b"", End.FIN)
            await visitor.aclose()

        for _ in range(10):
            async with trio.open_nursery() as nursery:
                for _ in range(50):
                    nursery.start_soon(visit)
        assert {(each.way, each.left_bytes, each.right_bytes) for each in results} == {(Way.SPLICE, 2, 0)}
        assert len(results) == 500
        assert open_descriptors() == ours
        assert open_descriptors(employed.process.pid) <= theirs + 2  # a pipe may stay


# --- cancellation and death -------------------------------------------------------------------


async def test_a_stuck_worker_is_killed_after_a_second() -> None:
    """Whoever cancels waits `PUMP_CANCEL_WAIT` at most; all its peers see RST."""
    async with hired() as workers, stage(workers) as play, stage(workers) as other:
        await play.is_moving()
        await other.is_moving()
        process = worker_of(workers).process
        os.kill(process.pid, signal.SIGSTOP)
        started = trio.current_time()
        await play.cancel()
        waited = trio.current_time() - started
        assert limits.PUMP_CANCEL_WAIT - 0.1 <= waited <= limits.PUMP_CANCEL_WAIT + 0.5
        for peer in (play.visitor, play.origin, other.visitor, other.origin):
            assert await read_to_end(peer) == (b"", End.RESET)
        outcome = await other.result()
        assert (outcome.left_end, outcome.right_end) == (End.ERROR, End.ERROR)
        assert await process.wait() == -signal.SIGKILL


async def test_cancelled_before_the_worker_has_taken_it_both_sides_are_aborted() -> None:
    """The worker does not answer: those that were sent and those that wait for credit."""
    async with hired() as workers, trio.open_nursery() as nursery:
        os.kill(worker_of(workers).process.pid, signal.SIGSTOP)
        peers: list[trio.SocketStream] = []
        for _ in range(limits.PUMP_UNACKNOWLEDGED + 2):
            (visitor, left), (origin, right) = await socket_pair(), await socket_pair()
            peers += [visitor, origin]
            nursery.start_soon(pump_with, left, right, workers)
        await trio.testing.wait_all_tasks_blocked()
        nursery.cancel_scope.cancel()
    for peer in peers:
        assert await read_to_end(peer) == (b"", End.RESET)
        abort_stream(peer)


async def pump_with(left: trio.SocketStream, right: trio.SocketStream, workers: object) -> None:
    await pump(left, right, LIMITS, workers=workers)  # type: ignore[arg-type]


async def test_a_worker_that_dies_takes_what_was_under_way_with_it_and_gives_the_credit_back() -> None:
    """Descriptors that it may not have had yet are aborted here."""
    wanted = limits.PUMP_UNACKNOWLEDGED + 1
    async with chief() as plays, sockets(2 * wanted) as copies, trio.open_nursery() as nursery:
        jobs: list[Job | None] = []

        async def hand_over(pair: list[trio.socket.SocketType]) -> None:
            jobs.append(await plays.employed.give(ORDER, pair, Counter()))

        for index in range(wanted):
            nursery.start_soon(hand_over, copies[2 * index : 2 * index + 2])
        await trio.testing.wait_all_tasks_blocked()
        plays.channel.close()
        await trio.testing.wait_all_tasks_blocked()
        lost = [job for job in jobs if job is not None]
        assert len(lost) == wanted - 1
        assert all(job.done.is_set() and job.outcome.left_end is End.ERROR for job in lost)
        assert sum(sock.fileno() >= 0 for sock in copies) == 2  # of the one that found it dead: to be copied
        assert plays.employed.dead
        assert plays.employed.load == 0
