"""A worker's loop: orders in, reports out, and in between one `epoll` for all streams.

    wait → sockets that are ready: their flows move bytes
         → flows that have not had enough: again, after everybody else
         → orders of the supervisor
         → streams that are over: closed, reported
         → now and then: deadlines

What is done a byte is done in `flow`; everything here is done a wake-up.  The
deadlines of all streams are looked at together (`_sweep`), not more often than
the nearest one asks: ten thousand idle streams cost nothing.

Nothing waits for the supervisor: one that is stopped, or busy, stops no stream.
The worker ends when the supervisor's end of the channel is closed, however
that came about; its sockets go with it, with RST (`sides`).

Imported by workers: standard library only.
"""

from __future__ import annotations

import array
import math
import select
import socket
import time
from collections.abc import Iterable
from itertools import islice
from typing import TYPE_CHECKING, Final, Protocol, final

from trunnel.pump.orders import (
    MORE_FOLLOWS,
    ORDER_MAX,
    ORDERS_PER_PACKET,
    REPORT_BATCH,
    News,
    Order,
    Report,
    Verb,
    decode_orders,
)
from trunnel.pump.pipes import Pipes
from trunnel.pump.pumped import Pumped
from trunnel.pump.sides import Inflow, Side

if TYPE_CHECKING:
    from trunnel.pump.tls_side import Leaves

_NEEDS: Final = {Verb.TAKE: 2, Verb.TERMINATE: 1, Verb.JOIN: 1}
"""Descriptors that ride on an order."""
_DESCRIPTORS: Final = socket.CMSG_SPACE(2 * ORDERS_PER_PACKET * array.array("i").itemsize)
_READS: Final = select.EPOLLIN | select.EPOLLHUP | select.EPOLLERR
_WRITES: Final = select.EPOLLOUT | select.EPOLLHUP | select.EPOLLERR
_EVENTS: Final = 256
"""Sockets served in one turn."""
_ORDERS: Final = 64
"""Orders obeyed in one turn."""
_COMPANY: Final = 0.002
"""Seconds that a report which nobody waits for may take."""
_FEW: Final = 8
_SETTLE: Final = 0.01
"""Seconds between two looks at streams that wait for an acknowledgement, or at a channel that was full."""
_SWEEPS: Final = (0.05, 60.0)
"""Seconds between two looks at all deadlines, at least and at most; with thousands of streams at least `_MANY`."""
_MANY: Final = 1e-4
"""Seconds of rest for each stream looked at: a sweep costs about 1 us a stream."""


class Stream(Protocol):
    """What the loop serves: `Pumped`, or a `Handshake` before it."""

    number: int
    is_over: bool
    unsettled: bool
    """Since the loop looked it may wait for something else or end sooner, have news, or be over."""
    news: Report | None
    """What the supervisor is to be told now."""

    @property
    def sides(self) -> tuple[Side, ...]:
        """Its sockets."""
        ...

    def due(self) -> float:
        """Return when it ends if nothing happens, on the loop's clock."""
        ...

    def expire(self) -> None:
        """End it: its deadline has run out."""
        ...

    def cancel(self) -> None:
        """End it: the supervisor does not want it any more."""
        ...

    def finish(self) -> None:
        """Begin to part with its sockets."""
        ...

    def settle(self) -> bool:
        """Return whether it has parted with all of them."""
        ...

    def report(self) -> Report:
        """Return the record of its life."""
        ...


@final
class Loop:
    """All streams of one worker."""

    def __init__(
        self, channel: socket.socket, counts: memoryview, *, pipes: int, capacity: int, leaves: Leaves | None = None
    ) -> None:
        """Serve the supervisor.

        Args:
            channel: What it says, and is told.
            counts: The shared memory of byte counts, two 64-bit numbers a slot.
            pipes: The most to have.
            capacity: Streams that there are descriptors for.
            leaves: The certificates for visitors, in a worker that ends TLS.
        """
        self._channel = channel
        self._epoll = select.epoll()
        self._counts = counts
        self._pipes = Pipes(pipes)
        self._leaves = leaves
        self._streams: dict[int, Stream] = {}
        self._sides: dict[int, tuple[Side, Stream]] = {}
        self._eager: dict[Inflow, Stream] = {}
        self._settling: list[Stream] = []
        self._reports: list[Report] = []
        self._now = time.monotonic()
        self._sweep_at = math.inf
        self._settle_at = math.inf  # when to look at those that are settling
        self._tell_at = math.inf  # when the reports go out
        self._tell(Report(News.HIRED, left_bytes=capacity))

    def run(self) -> None:
        """Work until the supervisor has gone."""
        self._channel.setblocking(False)
        self._epoll.register(self._channel.fileno(), select.EPOLLIN)
        try:
            while True:
                if self._now >= self._tell_at:
                    self._send_reports()
                self._turn()
        except (EOFError, BrokenPipeError, ConnectionResetError):
            return  # the supervisor has gone; the kernel closes what we have, with RST

    def clock(self) -> float:
        """Return the time of this turn, in seconds."""
        return self._now

    def _turn(self) -> None:
        """Wait, and serve whoever is ready."""
        ready = self._epoll.poll(self._patience(), _EVENTS)
        self._now = time.monotonic()
        eager, self._eager = self._eager, {}
        has_orders = False
        sides = self._sides
        for fd, event in ready:
            entry = sides.get(fd)
            if entry is None:
                has_orders = True  # or a side that another one's event has closed in this turn
                continue
            side, stream = entry
            crossed = side.crossed
            if event & _WRITES and side.outward.push():
                self._eager[side.outward] = stream
            if (event & _READS or crossed) and side.inward.pull():
                self._eager[side.inward] = stream
            if stream.unsettled or crossed or side.crossed:
                self._after(stream)
        if eager:
            self._go_on(eager)
        if has_orders:
            self._take_orders()
        if self._now >= self._settle_at:
            self._settle()
        if self._now >= self._sweep_at:
            self._sweep()

    def _go_on(self, eager: dict[Inflow, Stream]) -> None:
        """Serve the flows that had more than their turn before."""
        for flow, stream in eager.items():
            if flow.pull():
                self._eager[flow] = stream
            if stream.unsettled:
                self._after(stream)

    def _patience(self) -> float:
        """Return how long to wait for sockets, in seconds."""
        if self._eager:
            return 0.0
        until = min(self._sweep_at, self._settle_at, self._tell_at)
        return -1.0 if until == math.inf else max(0.0, until - self._now)

    def _after(self, stream: Stream) -> None:
        """Have *stream* wait for what it now needs, or part with it."""
        if not stream.is_over:
            for side in stream.sides:
                side.watch()
            self._heed(stream)
        elif self._streams.get(stream.number) is stream:
            self._forget(stream)
            self._part(stream)

    # --- deadlines ----------------------------------------------------------------------------------

    def _heed(self, stream: Stream) -> None:
        """Look at the deadlines early enough for *stream*, whose state has changed; pass its news on."""
        stream.unsettled = False
        self._sweep_at = min(self._sweep_at, stream.due())
        if stream.news is not None:
            self._tell(stream.news)
            stream.news = None

    def _sweep(self) -> None:
        """End the streams whose deadline has run out; find out when to look again."""
        shortest, longest = _SWEEPS
        due = self._now + longest
        for stream in list(self._streams.values()):
            if (end := stream.due()) <= self._now:
                self._forget(stream)
                stream.expire()
                self._part(stream)
            else:
                due = min(due, end)
        rest = max(shortest, _MANY * len(self._streams))
        self._sweep_at = max(due, self._now + rest) if self._streams else math.inf

    # --- the end of a stream ------------------------------------------------------------------------

    def _forget(self, stream: Stream) -> None:
        """Serve its sockets no more."""
        del self._streams[stream.number]
        for side in stream.sides:
            del self._sides[side.fd]
            side.ignore()

    def _part(self, stream: Stream) -> None:
        """Close what can be closed, and report it; what waits for an acknowledgement settles later."""
        stream.finish()
        if stream.settle():
            self._tell(stream.report())
        else:
            self._settling.append(stream)
            self._settle_at = min(self._settle_at, self._now + _SETTLE)

    def _settle(self) -> None:
        """Report the streams that have parted with both sides by now; many are looked at more seldom."""
        waiting: list[Stream] = []
        for stream in self._settling:
            if stream.settle():
                self._tell(stream.report())
            else:
                waiting.append(stream)
        self._settling = waiting
        self._settle_at = self._now + max(_SETTLE, _MANY * len(waiting)) if waiting else math.inf

    # --- the supervisor -----------------------------------------------------------------------------

    def _take_orders(self) -> None:
        """Do what waits in the channel; raises EOFError when the supervisor has gone."""
        for _ in range(_ORDERS):
            try:
                packet, control, _flags, _address = self._channel.recvmsg(ORDER_MAX, _DESCRIPTORS)
            except BlockingIOError:
                return
            if not packet:
                raise EOFError
            descriptors = iter(_descriptors(control))  # the first ones, where there was no room for all
            for order in decode_orders(packet):
                self._obey(order, list(islice(descriptors, _NEEDS.get(order.verb, 0))))
            _close(descriptors)

    def _obey(self, order: Order, descriptors: list[int]) -> None:
        match order.verb, descriptors:
            case Verb.TAKE, [left, right]:
                self._take(order, self._side(left), self._side(right))
            case Verb.TERMINATE, [visitor]:
                self._terminate(order, visitor)
            case Verb.JOIN, _:
                self._join(order, descriptors)
            case Verb.CANCEL, _:
                self._cancel(order.stream)
            case Verb.LEAF, _ if self._leaves is not None:
                self._leaves.take(order.payload, is_last=not order.flags & MORE_FOLLOWS)
            case _:
                _close(descriptors)
                self._tell(Report(News.REFUSED, order.stream))

    def _side(self, descriptor: int) -> Side:
        return Side(socket.socket(fileno=descriptor), self._epoll)

    def _serve(self, stream: Stream) -> None:
        """Begin to serve a stream whose descriptors have come."""
        self._tell(Report(News.TAKEN, stream.number))
        self._streams[stream.number] = stream
        for side in stream.sides:
            self._sides[side.fd] = side, stream
        self._after(stream)

    def _take(self, order: Order, left: Side, right: Side) -> None:
        pipes = self._pipes if type(left) is type(right) else None
        self._serve(Pumped(order, (left, right), pipes, counts=self._counts, clock=self.clock))

    # --- TLS ----------------------------------------------------------------------------------------

    def _terminate(self, order: Order, visitor: int) -> None:
        from trunnel.pump.handshake import Handshake

        sock = socket.socket(fileno=visitor)
        side = None if self._leaves is None else self._leaves.side(sock, self._epoll)
        if side is None:
            sock.close()
            self._tell(Report(News.REFUSED, order.stream))
        else:
            self._serve(Handshake(order, side, clock=self.clock))

    def _join(self, order: Order, descriptors: list[int]) -> None:
        """Go on from a handshake; a visitor that has gone meanwhile was reported."""
        shaken = self._streams.get(order.stream)
        if shaken is None or len(descriptors) != 1:
            _close(descriptors)
            self._cancel(order.stream)  # DONE before TAKEN: the supervisor aborts the origin, not just closes it
            self._tell(Report(News.TAKEN, order.stream))
            return
        (visitor,) = shaken.sides
        del self._streams[shaken.number], self._sides[visitor.fd]
        visitor.ignore()
        self._take(order, visitor, self._side(descriptors[0]))

    # --- the channel --------------------------------------------------------------------------------

    def _cancel(self, number: int) -> None:
        stream = self._streams.get(number)
        if stream is not None:
            self._forget(stream)
            stream.cancel()
            self._part(stream)
            return
        for settling in self._settling:
            if settling.number == number:
                settling.cancel()
                self._settle_at = self._now

    def _tell(self, report: Report) -> None:
        """Have *report* sent at the end of this turn; a TAKEN, which nobody waits for, may find company first."""
        self._reports.append(report)
        is_hurried = report.news is not News.TAKEN or len(self._reports) > _FEW
        self._tell_at = min(self._tell_at, self._now if is_hurried else self._now + _COMPANY)

    def _send_reports(self) -> None:
        """Tell what has happened; a supervisor whose channel is full hears the rest a little later."""
        self._tell_at = math.inf
        while self._reports:
            packet = b"".join(report.encode() for report in self._reports[:REPORT_BATCH])
            try:
                self._channel.send(packet)
            except BlockingIOError:
                self._tell_at = self._now + _SETTLE
                return
            del self._reports[:REPORT_BATCH]


def _descriptors(control: Iterable[tuple[int, int, bytes]]) -> list[int]:
    """Return the descriptors that came with a packet."""
    received = array.array("i")
    for level, kind, payload in control:
        if level == socket.SOL_SOCKET and kind == socket.SCM_RIGHTS:
            received.frombytes(payload[: len(payload) - len(payload) % received.itemsize])
    return received.tolist()


def _close(descriptors: Iterable[int]) -> None:
    for descriptor in descriptors:
        socket.close(descriptor)
