"""`pump`: join two streams the best way there is for the two ends.

Two plain sockets go to a worker process, where the kernel moves the bytes.
Everything else is copied here: a stream of a session, TLS that is ended in this
program, and any pair where there is no worker (no splice on this system, no
descriptors left, a worker that cannot start).  Deadlines, ends and the record
are the same either way: `streams.copy` states them.
"""

from __future__ import annotations

import trio

from trunnel.pump.result import PumpResult, Way
from trunnel.pump.supervisor import Workers
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import CopyLimits, Counter, copy_streams


async def pump(
    left: trio.abc.Stream,
    right: trio.abc.Stream,
    limits: CopyLimits,
    *,
    counter: Counter | None = None,
    workers: Workers | None = None,
) -> PumpResult:
    """Move bytes both ways between *left* and *right* until both have ended, one broke, or a deadline ran out.

    Owns both streams: on return, and on any exception, both are closed or aborted.

    Args:
        left: One side.
        right: The other side.
        limits: The deadlines, in seconds.
        counter: Counts as bytes come in, for live figures; what it has at the start is kept.
        workers: Those who may be given the work; None copies.

    Returns:
        The counts, of this call and what *counter* had, and how each side ended.
        ERROR on both sides: the worker died.

    Raises:
        trio.Cancelled: And nothing else; any other exception is a bug.

    Cancellation: both streams were aborted.
    """
    counter = Counter() if counter is None else counter
    if workers is not None and isinstance(left, trio.SocketStream) and isinstance(right, trio.SocketStream):
        try:
            outcome = await workers.move(left.socket, right.socket, limits, counter)
        except BaseException:
            abort_stream(left)
            abort_stream(right)
            raise
        if outcome is not None:
            return PumpResult(
                left_bytes=counter.left_bytes,
                right_bytes=counter.right_bytes,
                left_end=outcome.left_end,
                right_end=outcome.right_end,
                seconds=outcome.seconds,
                way=Way.SPLICE,
            )
    result = await copy_streams(left, right, limits, counter=counter)
    return PumpResult(
        left_bytes=result.left_bytes,
        right_bytes=result.right_bytes,
        left_end=result.left_end,
        right_end=result.right_end,
        seconds=result.seconds,
        way=Way.COPY,
    )
