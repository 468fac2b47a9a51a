"""The workers of one program: started, chosen, replaced.

    open_workers ─ one task a worker: start → reports → it dies → pause → start
    Workers.move ─ the task of a stream: hand both descriptors over, wait for the report

Rules:

- The sender keeps its copies of the descriptors until the worker has them, then
  closes them: kept copies would swallow the FIN and double the count.
- Hand-overs never block and never exceed what the worker has descriptors for;
  at most `PUMP_UNACKNOWLEDGED` are under way.
- Whoever waits for a stream and is cancelled cancels the stream; a worker that
  does not answer within `PUMP_CANCEL_WAIT` is killed.
- A worker that dies ends its own streams, with RST, and is replaced.  What it
  had counted is in shared memory, and goes into the closing records.

Where no worker runs, `move` says so by returning None, and the caller copies.
"""

from __future__ import annotations

import logging
import math
import mmap
import os
import socket
import sys
from collections.abc import AsyncIterator
from contextlib import ExitStack, asynccontextmanager
from pathlib import Path
from subprocess import DEVNULL
from typing import Final, final

import trio

from trunnel import capabilities
from trunnel.pump.employed import Employed, Outcome
from trunnel.pump.orders import LEFT_ANSWERS, REPORT_SIZE, SLOT_SIZE, News, Order, Verb, decode_reports
from trunnel.settings import limits
from trunnel.streams.copy import CopyLimits, Counter

logger = logging.getLogger(__name__)

_PROGRAM: Final = Path(__file__).with_name("worker.py")


@final
class Workers:
    """The workers of one program; made by `open_workers`."""

    def __init__(self) -> None:
        self._crew: list[Employed] = []

    @property
    def employed(self) -> tuple[Employed, ...]:
        """Those who work now."""
        return tuple(worker for worker in self._crew if not worker.dead)

    async def move(
        self,
        left: trio.socket.SocketType,
        right: trio.socket.SocketType,
        deadlines: CopyLimits,
        counter: Counter,
    ) -> Outcome | None:
        """Have a worker move bytes between two sockets, to their end.

        Args:
            left: One side; closed once the worker has it, or it is aborted.
            right: The other side.
            deadlines: In seconds.
            counter: Counts as bytes come in; what it has at the start is kept.

        Returns:
            1. How it ended; ERROR on both sides if the worker died.
            2. None: no worker could take it, the sockets are the caller's still.

        Cancellation: both sockets were aborted, or (when none had taken them yet) are the caller's still.
        """
        worker = min((each for each in self._crew if each.has_room), key=lambda each: each.load, default=None)
        if worker is None:
            return None
        job = await worker.give(_order(deadlines), (left, right), counter)
        if job is None:
            return None
        try:
            await worker.wait(job)
        finally:
            counter.settle(worker.counts(job.number))
        return None if job.refused else job.outcome

    # --- one worker's life ----------------------------------------------------------------------------

    async def keep(self, *, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Keep one worker working, for ever; *task_status* is told when it works, or cannot.

        Cancellation: it was stopped; whatever it still had was aborted.
        """
        shortest, longest = limits.PUMP_RESTART_PAUSE
        pause = shortest
        told = False
        while True:
            started = trio.current_time()
            try:
                async with _start() as worker:
                    self._crew.append(worker)
                    if not told:
                        told = True
                        task_status.started()
                    try:
                        await worker.listen()
                    finally:
                        self._crew.remove(worker)
            except OSError as exc:
                logger.warning("pump_worker_cannot_start", extra={"error": str(exc)})
            else:
                logger.error("pump_worker_died", extra={"pid": worker.process.pid, "status": worker.process.returncode})
            if not told:
                told = True
                task_status.started()
            pause = shortest if trio.current_time() - started > longest else min(2 * pause, longest)
            await trio.sleep(pause)


@asynccontextmanager
async def _start() -> AsyncIterator[Employed]:
    """Run a worker process for as long as the body runs.

    Raises:
        OSError: It cannot start, or does not report for work in time.

    Cancellation: it is killed.
    """
    with ExitStack() as stack:
        ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        stack.callback(ours.close)
        stack.callback(theirs.close)
        shared = os.memfd_create("trunnel-counts", os.MFD_CLOEXEC)
        stack.callback(os.close, shared)
        os.ftruncate(shared, limits.PUMP_STREAMS_MAX * SLOT_SIZE)
        ours.setblocking(False)
        arguments = [str(theirs.fileno()), str(shared), str(limits.PUMP_PIPES)]
        process = await trio.lowlevel.open_process(
            [sys.executable, "-I", "-S", str(_PROGRAM), *arguments],
            stdin=DEVNULL,
            stdout=DEVNULL,
            pass_fds=(theirs.fileno(), shared),
        )
        try:
            theirs.close()
            capacity = await _hired(ours)
            yield Employed(process, ours, mmap.mmap(shared, 0), capacity)
        finally:
            process.kill()  # what it still has gets RST
            with trio.CancelScope(shield=True, deadline=trio.current_time() + limits.PUMP_CANCEL_WAIT):
                await process.wait()


async def _hired(channel: socket.socket) -> int:
    """Wait until a worker reports for work; return the streams that it can take."""
    with trio.move_on_after(limits.PUMP_START_TIMEOUT):
        await trio.lowlevel.wait_readable(channel)
        packet = channel.recv(REPORT_SIZE)
        if packet and (report := decode_reports(packet)[0]).news is News.HIRED:
            return report.left_bytes
    raise OSError("the worker did not report for work")


def _order(deadlines: CopyLimits) -> Order:
    return Order(
        Verb.TAKE,
        0,
        flags=LEFT_ANSWERS if deadlines.first_byte_from == "left" else 0,
        first_byte=deadlines.first_byte,
        idle=deadlines.idle,
        half_closed=deadlines.half_closed,
        total=math.inf if deadlines.total is None else deadlines.total,
    )


@asynccontextmanager
async def open_workers(count: int | None = None) -> AsyncIterator[Workers]:
    """Have workers for as long as the body runs.

    Args:
        count: How many; one a core if None, none where the system has no splice.

    Cancellation: they end, and every stream in their hands is aborted.
    """
    workers = Workers()
    wanted = (len(os.sched_getaffinity(0)) if count is None else count) if capabilities.HAS_PUMP else 0
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as starting:
            for _ in range(wanted):
                starting.start_soon(nursery.start, workers.keep)
        yield workers
        nursery.cancel_scope.cancel()
