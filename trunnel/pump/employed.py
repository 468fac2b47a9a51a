"""One running worker, seen from trio: what it was given and what it has told.

`dispatch` sends what is ordered.  The copies of the descriptors here are closed
by whoever reads the worker's TAKEN, not by the stream's task, which sleeps
until DONE: one wake-up a stream.
"""

from __future__ import annotations

import mmap
import socket
from collections.abc import Sequence
from typing import Final, NamedTuple, final

import trio

from trunnel.pump.dispatch import Dispatch
from trunnel.pump.orders import REPORT_BATCH, REPORT_SIZE, SLOT_SIZE, Finish, News, Order, Report, Verb, decode_reports
from trunnel.settings import limits
from trunnel.streams.copy import Counter, End
from trunnel.streams.sockets import abort_socket

_ENDS: Final = {
    Finish.NOT: End.CANCELLED,
    Finish.FIN: End.FIN,
    Finish.RESET: End.RESET,
    Finish.DEADLINE: End.DEADLINE,
    Finish.CANCELLED: End.CANCELLED,
    Finish.ERROR: End.ERROR,
}
_NUMBER_MAX: Final = 2**32 - 1


@final
class Outcome(NamedTuple):
    """How a stream in a worker's hands ended."""

    left_end: End
    right_end: End
    seconds: float
    reason: str = ""
    """Why a handshake failed."""


@final
class Job:
    """One stream in a worker's hands."""

    __slots__ = (
        "copies",
        "counted",
        "done",
        "greeting",
        "number",
        "offered",
        "outcome",
        "refused",
        "shaken",
        "slot",
        "started",
    )

    def __init__(self, number: int, slot: int, copies: Sequence[trio.socket.SocketType]) -> None:
        self.number = number
        """Its own for ever: an order or a report that comes late never meets another stream."""
        self.slot = slot
        self.counted: tuple[int, int] | None = None
        """Bytes read from the left and from the right, once it is over: the slot may be another's then."""
        self.copies = copies
        """Our descriptors, until the worker has its own."""
        self.started = self.offered = trio.current_time()
        """When `copies` went out last: at first, and when an origin follows a handshake."""
        self.done = trio.Event()
        self.shaken = trio.Event()
        """The TLS handshake is over, `greeting` tells how it ended."""
        self.greeting = ""
        """Version of TLS, a space, and the protocol of ALPN; empty if the handshake failed."""
        self.refused = False
        """The worker could not take it; `copies` are still good."""
        self.outcome = Outcome(End.ERROR, End.ERROR, 0.0)
        """Valid once `done`; as it is if the worker died."""

    def abort_copies(self) -> None:
        """Abort our descriptors' connections."""
        for sock in self.copies:
            abort_socket(sock)
        self.copies = ()

    def close_copies(self) -> None:
        """Close our descriptors."""
        for sock in self.copies:
            sock.close()
        self.copies = ()


@final
class Employed:
    """A worker process that works."""

    def __init__(self, process: trio.Process, channel: socket.socket, counts: mmap.mmap, capacity: int) -> None:
        """Direct *process* over *channel*.

        Args:
            process: The worker.
            channel: Our end, non-blocking.
            counts: The shared memory of its byte counts.
            capacity: Streams that it has descriptors for.
        """
        self.process = process
        self.dead = False
        """It takes nothing any more."""
        self._channel = channel
        self._dispatch = Dispatch(channel, self._not_sent)
        self._counts = memoryview(counts).cast("Q")
        self._free = list(range(min(capacity, len(counts) // SLOT_SIZE) - 1, -1, -1))
        self._jobs: dict[int, Job] = {}
        self._credit = trio.Semaphore(limits.PUMP_UNACKNOWLEDGED)
        self._coming = 0  # streams that wait for credit
        self._latest = 0  # number of the latest stream

    @property
    def load(self) -> int:
        """Streams in its hands, and on their way."""
        return len(self._jobs) + self._coming

    @property
    def has_room(self) -> bool:
        """Whether it can take one more stream."""
        return bool(self._free) and not self.dead

    # --- a stream's task ----------------------------------------------------------------------------

    async def give(self, order: Order, copies: Sequence[trio.socket.SocketType], counter: Counter) -> Job | None:
        """Hand *copies* over.

        Args:
            order: What to do, without number and slot.
            copies: The descriptors; once the worker has them they are closed.
            counter: Shows what the worker counts while it works.

        Returns:
            1. The job; if it is `refused` when it is done, the copies are still good.
            2. None: there is no room, the copies are still good.

        Cancellation: as 2.
        """
        self._coming += 1
        try:
            await self._take_credit()
        finally:
            self._coming -= 1
        if not self.has_room:
            self._credit.release()
            return None
        slot = self._free.pop()
        self._counts[2 * slot] = self._counts[2 * slot + 1] = 0
        number = self._latest = self._latest % _NUMBER_MAX + 1
        job = self._jobs[number] = Job(number, slot, copies)
        counter.elsewhere = lambda: self.counts(job)
        self._dispatch.put(order._replace(stream=number, slot=slot), copies)
        return job

    async def _take_credit(self) -> None:
        """Wait until one more hand-over may be under way; without a checkpoint if it may."""
        try:
            self._credit.acquire_nowait()
        except trio.WouldBlock:
            await self._credit.acquire()

    async def join(self, job: Job, order: Order, origin: trio.socket.SocketType, counter: Counter) -> None:
        """Give the stream of *job*, whose handshake is done, its other side; owns *origin*.

        Cancellation: *origin* was aborted.
        """
        try:
            await self._take_credit()
        except trio.Cancelled:
            abort_socket(origin)
            raise
        if job.done.is_set():
            self._credit.release()
            abort_socket(origin)
            return
        job.copies, job.offered = (origin,), trio.current_time()
        counter.elsewhere = lambda: self.counts(job)
        self._dispatch.put(order._replace(stream=job.number, slot=job.slot), job.copies)

    def _not_sent(self, order: Order) -> None:
        """Take back an order that could not be sent, or is not to be."""
        job = self._jobs.get(order.stream)
        if job is None or order.verb is Verb.CANCEL:
            return
        self._credit.release()
        if order.verb is Verb.JOIN:  # the visitor is in the worker, and stays without an origin
            job.abort_copies()
            self._dispatch.put(Order(Verb.CANCEL, job.number))
        else:
            job.refused = True
            self._close_account(job)

    def post(self, order: Order) -> None:
        """Give an order that concerns no stream."""
        self._dispatch.put(order)

    async def wait(self, job: Job, event: trio.Event) -> None:
        """Wait for *event* of *job*, `done` or `shaken`.

        Cancellation: the stream was aborted; a worker that does not do so in time is killed.
        """
        try:
            await event.wait()
        except trio.Cancelled:
            await self.cancel(job)
            raise

    async def cancel(self, job: Job) -> None:
        """Abort the stream of *job*; returns once that is done, or the worker is killed."""
        if job.copies and (unsent := self._dispatch.withdraw(job.number)) is not None:  # the few that are on their way
            self._not_sent(unsent)
            job.abort_copies()
        if not job.done.is_set():
            self._dispatch.put(Order(Verb.CANCEL, job.number))
            with trio.CancelScope(shield=True, deadline=trio.current_time() + limits.PUMP_CANCEL_WAIT):
                await job.done.wait()
        if not job.done.is_set():
            self.process.kill()

    def counts(self, job: Job) -> tuple[int, int]:
        """Return the bytes read from the left and from the right of a stream so far."""
        return job.counted or (self._counts[2 * job.slot], self._counts[2 * job.slot + 1])

    # --- the worker's task --------------------------------------------------------------------------

    async def listen(self) -> None:
        """Take reports until the worker is gone; then every job that is left has ended."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._dispatch.run)
                nursery.start_soon(self._watch)
                await self._hear()
                nursery.cancel_scope.cancel()
        finally:
            self.dead = True
            for job in tuple(self._jobs.values()):
                self._lose(job)

    async def _hear(self) -> None:
        while True:
            await trio.lowlevel.wait_readable(self._channel)
            try:
                packet = self._channel.recv(REPORT_BATCH * REPORT_SIZE)
            except BlockingIOError:
                continue
            except OSError:
                return
            if not packet:
                return
            for report in decode_reports(packet):
                self._take_report(report)

    async def _watch(self) -> None:
        """Kill a worker that takes nothing: it is stuck, and with it the deadlines of all that it has."""
        while True:
            await trio.sleep(limits.PUMP_STUCK)
            latest = trio.current_time() - limits.PUMP_STUCK
            late = [job for job in self._jobs.values() if job.copies and job.offered < latest]
            if late:
                await trio.sleep(limits.PUMP_CANCEL_WAIT)  # perhaps it was we who did not listen
                if any(job.copies for job in late):
                    self.process.kill()

    def _take_report(self, report: Report) -> None:
        job = self._jobs.get(report.stream)
        if report.news is News.TAKEN:
            self._credit.release()
        if job is None:  # its visitor had gone before it was joined to an origin
            return
        if report.news is News.TAKEN:
            job.close_copies()
        elif report.news is News.REFUSED:
            self._credit.release()
            job.refused = True
            self._close_account(job)
        elif report.news is News.SHAKEN:
            job.greeting = report.text.decode("ascii", "backslashreplace")
            job.shaken.set()
        elif report.news is News.DONE:
            reason = report.text.decode(errors="backslashreplace")
            job.outcome = Outcome(_ENDS[report.left], _ENDS[report.right], report.seconds, reason)
            job.abort_copies()  # of an origin that came too late
            self._close_account(job)

    def _lose(self, job: Job) -> None:
        """End the job of a worker that died: it may or may not have had the descriptors; nobody else has."""
        job.outcome = Outcome(End.ERROR, End.ERROR, trio.current_time() - job.started, "the worker died")
        if job.copies:
            self._credit.release()
            job.abort_copies()
        self._close_account(job)

    def _close_account(self, job: Job) -> None:
        if self._jobs.pop(job.number, None) is not None:
            job.counted = self.counts(job)
            self._free.append(job.slot)
        job.shaken.set()
        job.done.set()
