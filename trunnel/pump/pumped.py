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
        "_answered",
        "_answerer",
        "_clock",
        "_counts",
        "_flows",
        "_last",
        "_limits",
        "_lingers_until",
        "_slot",
        "_started",
        "_stopped",
        "is_over",
        "news",
        "number",
        "sides",
        "unsettled",
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
        self.sides = sides
        self.news: Report | None = None
        left, right = sides
        self._flows = Flow(self, left, right, pipes), Flow(self, right, left, pipes)
        left.inward = right.outward = self._flows[0]
        right.inward = left.outward = self._flows[1]
        self.is_over = False
        """Both directions have ended, one side broke, or a deadline ran out."""
        self.unsettled = True
        """Its sides may wait for something else, or its deadline may be nearer, since the loop looked."""
        self._limits = order
        self._slot = 2 * order.slot
        self._counts = counts
        self._clock = clock
        self._answerer = self._flows[0 if order.flags & LEFT_ANSWERS else 1]
        self._answered = False
        self._started = self._last = self._stopped = clock()
        self._lingers_until = math.inf
        self._publish()

    # --- what the flows tell ------------------------------------------------------------------------

    def moved(self, flow: Flow) -> None:
        """Take note that *flow* has moved bytes."""
        self._last = self._clock()
        if flow is self._answerer and not self._answered:
            self._answered = self.unsettled = True  # the idle deadline may be the nearer one
        self._counts[self._slot + (flow is self._flows[1])] = flow.count

    def source_ended(self, flow: Flow) -> None:
        """Take the end of file of *flow*'s source."""
        source = flow.source
        if source.suspect:
            self._break(source, Finish.RESET)
            return
        source.end = Finish.FIN
        flow.discard()
        self.seal(flow.sink)

    def seal(self, side: Side) -> None:
        """Send *side* the other's FIN, now or when there is room (then this is called again)."""
        side.seal()
        self._take_note()

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
        flow.discard()
        self._take_note()

    def _take_note(self) -> None:
        """Go by the deadlines of a stream of which a direction has ended, or end it with the second."""
        self._last = self._clock()
        self.unsettled = True
        if all(flow.over for flow in self._flows) and not any(side.sealing for side in self.sides):
            self.is_over = True

    def _break(self, side: Side, end: Finish) -> None:
        side.end = end
        self._stop()

    def _stop(self) -> None:
        for flow in self._flows:
            flow.discard()
        self.is_over = self.unsettled = True

    # --- deadlines ----------------------------------------------------------------------------------

    def due(self) -> float:
        """Return when the stream ends if nothing moves, on the loop's clock."""
        if self.is_over:
            return self._lingers_until
        limits = self._limits
        allowed = limits.idle if self._answered else limits.first_byte
        for side in self.sides:
            if side.end or side.deaf:
                allowed = min(allowed, limits.half_closed)
            if side.suspect:
                allowed = min(allowed, FLUSH_TIMEOUT)
        return min(self._last + allowed, self._started + limits.total)

    def expire(self) -> None:
        """End it: its deadline has run out."""
        self._stop()
        for side in self.sides:
            if side.suspect:
                side.end = Finish.RESET
                return
        for side in self.sides:
            side.end = side.end or Finish.DEADLINE
            if not side.sealed:
                side.abort()
            else:
                side.close()

    def cancel(self) -> None:
        """Abort both sides now."""
        self._stop()
        for side in self.sides:
            side.abort()

    # --- the end ------------------------------------------------------------------------------------

    def finish(self) -> None:
        """Part with both sides as they deserve, once it is over; `settle` tells when that is done."""
        self._stopped = self._clock()
        self._lingers_until = self._stopped + FLUSH_TIMEOUT
        for side in self.sides:
            if side.end in _TRUNCATED:
                side.abort()
            elif side.sealed and side.end in _ORDERLY:
                side.close()
        self._publish()

    def settle(self) -> bool:
        """Abort the sides whose bytes were delivered, or have had their time; return whether none is left."""
        late = self._clock() >= self._lingers_until
        for side in self.sides:
            if not side.gone and (late or side.is_delivered()):
                side.abort()
        return all(side.gone for side in self.sides)

    def report(self) -> Report:
        """Return the record of its life."""
        left, right = (side.end or Finish.CANCELLED for side in self.sides)
        seconds = self._stopped - self._started
        return Report(News.DONE, self.number, left, right, seconds, self._flows[0].count, self._flows[1].count)

    def _publish(self) -> None:
        for index, flow in enumerate(self._flows, self._slot):
            self._counts[index] = flow.count
