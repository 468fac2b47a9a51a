"""Orders on their way to a worker: gathered, and sent several in a packet.

A system call that wakes another process is the dearest part of a hand-over.
So orders wait for the moment until every task that is ready has run, and go
out together, with their descriptors in the same order (SCM_RIGHTS).

Nothing here blocks: a full channel is waited for, and so is the kernel when
too many descriptors of this user are in flight (ETOOMANYREFS, unix(7)), but
not for ever: then each order of the packet is given back.
"""

from __future__ import annotations

import array
import errno
import socket
from collections.abc import Callable, Sequence
from typing import Final, NamedTuple, final

import trio

from trunnel.pump.orders import ORDERS_PER_PACKET, Order

_PAUSE: Final = 0.005
"""Seconds until a packet is tried again when too many descriptors are in flight."""
_TRIES: Final = 20


@final
class Waiting(NamedTuple):
    """An order that is to be sent."""

    order: Order
    copies: Sequence[trio.socket.SocketType]
    """What rides on it; open until the worker has said that it has its own."""


@final
class Dispatch:
    """The orders of one worker."""

    def __init__(self, channel: socket.socket, give_back: Callable[[Order], None]) -> None:
        """Send on *channel*; what cannot be sent goes to *give_back*."""
        self._channel = channel
        self._give_back = give_back
        self._waiting: list[Waiting] = []
        self._news = trio.Event()

    def put(self, order: Order, copies: Sequence[trio.socket.SocketType] = ()) -> None:
        """Have *order* sent; its caller bounds how many there are."""
        self._waiting.append(Waiting(order, copies))
        self._news.set()

    def withdraw(self, stream: int) -> Order | None:
        """Return the order for *stream* that has not been sent yet, which it then never is."""
        for waiting in self._waiting:
            if waiting.order.stream == stream:
                self._waiting.remove(waiting)
                return waiting.order
        return None

    async def run(self) -> None:
        """Send orders, for ever.  Cancellation: what was not sent is not."""
        while True:
            while self._waiting:
                packet = self._take_packet()
                if not await self._send(packet):
                    for waiting in packet:
                        self._give_back(waiting.order)
            self._news = trio.Event()
            await self._news.wait()

    def _take_packet(self) -> list[Waiting]:
        """Take the orders that go out next; one with a payload travels alone."""
        size = 1
        if not self._waiting[0].order.payload:
            most = min(len(self._waiting), ORDERS_PER_PACKET)
            while size < most and not self._waiting[size].order.payload:
                size += 1
        packet, self._waiting = self._waiting[:size], self._waiting[size:]
        return packet

    async def _send(self, packet: Sequence[Waiting]) -> bool:
        """Send several orders at once; return whether they went out."""
        encoded = [waiting.order.encode() for waiting in packet]
        descriptors = array.array("i", [sock.fileno() for waiting in packet for sock in waiting.copies])
        rights = [(socket.SOL_SOCKET, socket.SCM_RIGHTS, descriptors)] if descriptors else []
        for _ in range(_TRIES):
            try:
                self._channel.sendmsg(encoded, rights)
            except BlockingIOError:
                await trio.lowlevel.wait_writable(self._channel)
            except OSError as exc:
                if exc.errno != errno.ETOOMANYREFS:
                    return False  # the worker is dying: its task will notice
                await trio.sleep(_PAUSE)
            else:
                return True
        return False
