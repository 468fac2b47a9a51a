"""A visitor whose TLS a worker has ended: known, and not yet led anywhere.

Workers.terminate → `Terminated` → pump(origin)   the worker moves the plaintext, to the end
→ abort()        nobody is there for it
"""

from __future__ import annotations

import math
from typing import final

import trio

from trunnel.pump.employed import Employed, Job
from trunnel.pump.orders import LEFT_ANSWERS, Order, Verb
from trunnel.pump.result import PumpResult, Way
from trunnel.streams.copy import CopyLimits, Counter


def pump_order(verb: Verb, deadlines: CopyLimits) -> Order:
    """Return the order to pump with these deadlines; its stream is for `Employed` to fill in."""
    return Order(
        verb,
        0,
        flags=LEFT_ANSWERS if deadlines.first_byte_from == "left" else 0,
        first_byte=deadlines.first_byte,
        idle=deadlines.idle,
        half_closed=deadlines.half_closed,
        total=math.inf if deadlines.total is None else deadlines.total,
    )


@final
class Terminated:
    """A visitor in a worker's hands; `pump` or `abort` is to follow."""

    def __init__(self, worker: Employed, job: Job) -> None:
        self._worker = worker
        self._job = job
        self.tls_version, _, alpn = job.greeting.partition(" ")
        """`TLSv1.3` or `TLSv1.2`."""
        self.alpn = alpn.encode() or None
        """The protocol that was agreed on, if any."""

    async def pump(self, origin: trio.SocketStream, deadlines: CopyLimits, *, counter: Counter) -> PumpResult:
        """Move plaintext both ways between the visitor and *origin*, to their end; owns both.

        Args:
            origin: Where the visitor is served.
            deadlines: In seconds.
            counter: Counts as bytes come in; left is the visitor.

        Returns:
            As `pump.pump`.

        Cancellation: both were aborted.
        """
        worker, job = self._worker, self._job
        try:
            await worker.join(job, pump_order(Verb.JOIN, deadlines), origin.socket, counter)
            await worker.wait(job, job.done)
        finally:
            await self.abort()
            counter.settle(worker.counts(job))
        return PumpResult(
            left_bytes=counter.left_bytes,
            right_bytes=counter.right_bytes,
            left_end=job.outcome.left_end,
            right_end=job.outcome.right_end,
            seconds=job.outcome.seconds,
            way=Way.TLS,
        )

    async def abort(self) -> None:
        """Abort the visitor, unless it has ended.  Cancellation: it was aborted, or its worker killed."""
        await self._worker.cancel(self._job)
