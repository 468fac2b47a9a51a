"""One pumped stream in a worker: two sides, two flows, and what their ends mean.

The rules are those of `streams.copy`, for sockets (DATAPLANE "The pump"):

- FIN becomes FIN, and the other direction goes on.
- A side that breaks while it is read: what it sent before is delivered until
  the other side's peer has acknowledged it, then the other side gets RST.
- A side that breaks while it is written to may have answered before: what it
  sent is still delivered.  After EPIPE its end of file counts; after any other
  error it means nothing, for the error was reported once, to the writer.
- A deadline or a cancellation resets at once, but for a side that was promised
  an end and has everything.

A stream that waits for an acknowledgement lingers: the loop asks `settle` until
it says so.  Imported by workers: standard library only.
"""

from __future__ import annotations

import errno
import math
from collections.abc import Callable
from typing import TYPE_CHECKING, Final, final

from trunnel.pump.flow import Flow
from trunnel.pump.orders import LEFT_ANSWERS, Finish, News, Order, Report

if TYPE_CHECKING:
    from trunnel.pump.pipes import Pipes
    from trunnel.pump.sides import Side

FLUSH_TIMEOUT: Final = 2.0
"""Seconds that an abort waits for what was received to be delivered: `ABORT_FLUSH_TIMEOUT`."""
_TRUNCATED: Final = frozenset({Finish.RESET, Finish.ERROR})
_ORDERLY: Final = frozenset({Finish.FIN, Finish.CANCELLED})


@final
class Pumped:
    """One stream."""

    __slots__ = (
        "_answerer",
        "_answered",
        "_clock",
        "_counts",
        "_last",
        "_limits",
        "_lingers_until",
        "_slot",
        "_started",
        "_stopped",
        "hurries",
        "is_over",
        "left",
        "number",
        "right",
    )

    def __init__(
        self,
        order: Order,
        sides: tuple[Side, Side],
        pipes: Pipes | None,
        *,
        counts: memoryview,
        clock: Callable[[], float],
    ) -> None:
        """Pump as *order* says.

        Args:
            order: The deadlines, the number, the slot.
            sides: Left and right.
            pipes: For splicing; None if one side is not a plain socket.
            counts: Shared memory, 64-bit numbers.
            clock: The loop's time, in seconds.
        """
        self.number = order.stream
        self.left, self.right = left, right = sides
        left.inward = right.outward = Flow(self, left, right, pipes)
        right.inward = left.outward = Flow(self, right, left, pipes)
        self.is_over = False
        """Both directions have ended, one side broke, or a deadline ran out."""
        self.hurries = True
        """Its deadline may have come nearer since the loop asked for it."""
        self._limits = order
        self._slot = 2 * order.slot
        self._counts = counts
        self._clock = clock
        self._answerer = left.inward if order.flags & LEFT_ANSWERS else right.inward
        self._answered = False
        self._started = self._last = self._stopped = clock()
        self._lingers_until = math.inf
        self._publish()

    # --- what the flows tell ------------------------------------------------------------------------

    def moved(self, flow: Flow) -> None:
        """Take note that *flow* has moved bytes."""
        self._last = self._clock()
        if flow is self._answerer:
            self._answered = True
        index = self._slot + (flow is self.right.inward)
        self._counts[index] = flow.count

    def source_ended(self, flow: Flow) -> None:
        """Take the end of file of *flow*'s source."""
        source = flow.source
        if source.suspect:
            self._break(source, Finish.RESET)
            return
        source.end = Finish.FIN
        self._close_flow(flow)
        flow.sink.seal()

    def source_broke(self, flow: Flow, error: OSError) -> None:
        """Take a read error of *flow*'s source."""
        source = flow.source
        if source.sealed and source.is_truncation(error):
            self.source_ended(flow)  # many clients just close once they have their answer
        else:
            self._break(source, Finish.RESET)

    def sink_broke(self, flow: Flow, error: OSError) -> None:
        """Take a write error of *flow*'s sink: its own bytes may still come."""
        sink = flow.sink
        sink.deaf = True
        sink.suspect = sink.end is Finish.NOT and error.errno != errno.EPIPE
        self._close_flow(flow)

    def _close_flow(self, flow: Flow) -> None:
        flow.discard()
        self._last = self._clock()
        self.hurries = True
        if self.left.inward.over and self.right.inward.over:
            self.is_over = True

    def _break(self, side: Side, end: Finish) -> None:
        side.end = end
        self._stop()

    def _stop(self) -> None:
        self.left.inward.discard()
        self.right.inward.discard()
        self.is_over = True

    # --- deadlines ----------------------------------------------------------------------------------

    def due(self) -> float:
        """Return when the stream ends if nothing moves, on the loop's clock."""
        if self.is_over:
            return self._lingers_until
        limits = self._limits
        allowed = limits.idle if self._answered else limits.first_byte
        for side in (self.left, self.right):
            if side.end or side.deaf:
                allowed = min(allowed, limits.half_closed)
            if side.suspect:
                allowed = min(allowed, FLUSH_TIMEOUT)
        return min(self._last + allowed, self._started + limits.total)

    def expire(self) -> None:
        """End it: its deadline has run out."""
        self._stop()
        for side in (self.left, self.right):
            if side.suspect:
                side.end = Finish.RESET
                return
        for side in (self.left, self.right):
            side.end = side.end or Finish.DEADLINE
            if not side.sealed:
                side.abort()
            else:
                side.close()

    def cancel(self) -> None:
        """Abort both sides now."""
        self._stop()
        self.left.abort()
        self.right.abort()

    # --- the end ------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Part with both sides as they deserve, once it is over; `settle` tells when that is done."""
        self._stopped = self._clock()
        self._lingers_until = self._stopped + FLUSH_TIMEOUT
        for side in (self.left, self.right):
            if side.end in _TRUNCATED:
                side.abort()
            elif side.sealed and side.end in _ORDERLY:
                side.close()
        self._publish()

    def settle(self) -> bool:
        """Abort the sides whose bytes were delivered, or have had their time; return whether none is left."""
        late = self._clock() >= self._lingers_until
        for side in (self.left, self.right):
            if not side.gone and (late or side.is_delivered()):
                side.abort()
        return self.left.gone and self.right.gone

    def report(self) -> Report:
        """Return the record of its life."""
        return Report(
            News.DONE,
            self.number,
            self.left.end or Finish.CANCELLED,
            self.right.end or Finish.CANCELLED,
            self._stopped - self._started,
            self.left.inward.count,
            self.right.inward.count,
        )

    def _publish(self) -> None:
        self._counts[self._slot] = self.left.inward.count
        self._counts[self._slot + 1] = self.right.inward.count
