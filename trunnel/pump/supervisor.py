"""The workers of one program: started, chosen, replaced.

    open_workers ─ one task a worker: start → reports → it dies → pause → start
    Workers.move ─ the task of a stream: hand both descriptors over, wait for the report

Rules:

- The sender keeps its copies of the descriptors until the worker has them, then
  closes them: kept copies would swallow the FIN and double the count.
- Hand-overs never block and never exceed what the worker has descriptors for;
  at most `PUMP_UNACKNOWLEDGED` are under way.
- Whoever waits for a stream and is cancelled cancels the stream; a worker that
  does not answer within `PUMP_CANCEL_WAIT` is killed, and so is one that has not
  taken a stream after `PUMP_STUCK`.
- A worker that dies ends its own streams, with RST, and is replaced.  What it
  had counted is in shared memory, and goes into the closing records.

Where no worker runs, `move` says so by returning None, and the caller copies.
"""

from __future__ import annotations

import logging
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
from trunnel.errors import ConnectError
from trunnel.pump.employed import Employed, Outcome
from trunnel.pump.orders import REPORT_SIZE, SLOT_SIZE, News, Order, Verb, decode_reports, leaf_orders
from trunnel.pump.terminated import Terminated, pump_order
from trunnel.settings import limits
from trunnel.streams.copy import CopyLimits, Counter

logger = logging.getLogger(__name__)

_PROGRAM: Final = Path(__file__).resolve().with_name("worker.py")


@final
class Workers:
    """The workers of one program; made by `open_workers`."""

    def __init__(self, *, ends_tls: bool) -> None:
        self._crew: list[Employed] = []
        self._ends_tls = ends_tls
        self._leaves = b""

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
        worker = self._least_busy()
        job = None if worker is None else await worker.give(pump_order(Verb.TAKE, deadlines), (left, right), counter)
        if worker is None or job is None:
            return None
        try:
            await worker.wait(job, job.done)
        finally:
            counter.settle(worker.counts(job))
        return None if job.refused else job.outcome

    def _least_busy(self) -> Employed | None:
        return min((each for each in self._crew if each.has_room), key=lambda each: each.load, default=None)

    # --- TLS ------------------------------------------------------------------------------------------

    def show(self, leaves: bytes) -> None:
        """Have visitors see *leaves* (`leaf.encode_leaves`) from the next one on; streams that are open keep theirs."""
        self._leaves = leaves
        for worker in self._crew:
            self._instruct(worker)

    def _instruct(self, worker: Employed) -> None:
        for order in leaf_orders(self._leaves):
            worker.post(order)

    async def terminate(self, visitor: trio.socket.SocketType, *, timeout: float) -> Terminated | None:  # noqa: ASYNC109
        """Have a worker end the TLS of *visitor*; nothing of it has been read.

        Args:
            visitor: The socket; closed once the worker has it.
            timeout: Seconds for the handshake; the worker's to keep.

        Returns:
            1. The visitor, its handshake done.
            2. None: no worker could take it, or there is no leaf to show; the socket is the caller's still.

        Raises:
            ConnectError: The handshake failed; the visitor was told by an alert where there is one, and closed.

        Cancellation: the socket was aborted, or (when none had taken it yet) is the caller's still.
        """
        worker = self._least_busy() if self._leaves else None
        order = Order(Verb.TERMINATE, 0, first_byte=timeout)
        job = None if worker is None else await worker.give(order, (visitor,), Counter())
        if worker is None or job is None:
            return None
        await worker.wait(job, job.shaken)
        if job.refused:
            return None
        if job.done.is_set():
            raise ConnectError(f"the TLS handshake failed: {job.outcome.reason}")
        return Terminated(worker, job)

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
                async with _start(ends_tls=self._ends_tls) as worker:
                    self._instruct(worker)
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
async def _start(*, ends_tls: bool) -> AsyncIterator[Employed]:
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
        program = ["-I", str(_PROGRAM), *arguments, "tls"] if ends_tls else ["-I", "-S", str(_PROGRAM), *arguments]
        process = await trio.lowlevel.open_process(
            [sys.executable, *program],
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


@asynccontextmanager
async def open_workers(
    count: int | None = None, *, ends_tls: bool = False, wait: bool = True
) -> AsyncIterator[Workers]:
    """Have workers for as long as the body runs.

    Args:
        count: How many; one a core if None, none where the system has no splice.
        ends_tls: Whether they are of the kind that ends visitors' TLS (`Workers.show`, `Workers.terminate`).
        wait: Whether the body begins when they work; else what comes before is copied here.

    Cancellation: they end, and every stream in their hands is aborted.
    """
    workers = Workers(ends_tls=ends_tls)
    wanted = (len(os.sched_getaffinity(0)) if count is None else count) if capabilities.HAS_PUMP else 0
    if not capabilities.HAS_PUMP and count != 0:
        logger.info(
            "no_workers", extra={"reason": "no splice here, or Python is frozen: bytes are copied in the program"}
        )
    async with trio.open_nursery() as nursery:
        async with trio.open_nursery() as starting:
            for _ in range(wanted):
                if wait:
                    starting.start_soon(nursery.start, workers.keep)
                else:
                    nursery.start_soon(workers.keep)
        yield workers
        nursery.cancel_scope.cancel()
