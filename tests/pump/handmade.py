"""One pumped stream without a worker: the sides and flows of one stream, served by hand, on a clock of our own."""

from __future__ import annotations

import math
import select
import socket
from collections.abc import Iterator
from contextlib import contextmanager

from tests.pump.stage import plain_pair
from trunnel.pump.flow import Flow
from trunnel.pump.orders import Order, Verb
from trunnel.pump.pipes import Pipes
from trunnel.pump.pumped import Pumped
from trunnel.pump.sides import Side

PATIENT = Order(Verb.TAKE, 7, slot=1, first_byte=30.0, idle=3600.0, half_closed=60.0, total=math.inf)
QUIET = 20
"""Milliseconds without an event after which nothing more is expected."""


class Handmade:
    """A stream between a visitor and an origin, which are plain sockets that do not block."""

    def __init__(self, order: Order = PATIENT, *, pipes: int = 4, narrow: bool = False) -> None:
        self.now = 100.0
        self.counts = memoryview(bytearray(64)).cast("Q")
        self.epoll = select.epoll()
        self.pipes = Pipes(pipes)
        self.visitor, left = plain_pair()
        self.origin, right = plain_pair()
        if narrow:
            for sock, option in (
                (self.visitor, socket.SO_RCVBUF),
                (self.origin, socket.SO_RCVBUF),
                (left, socket.SO_SNDBUF),
                (right, socket.SO_SNDBUF),
            ):
                sock.setsockopt(socket.SOL_SOCKET, option, 64 * 1024)
        self.left, self.right = Side(left, self.epoll), Side(right, self.epoll)
        self.stream = Pumped(order, (self.left, self.right), self.pipes, counts=self.counts, clock=lambda: self.now)

    @property
    def up(self) -> Flow:
        """The direction from the visitor to the origin."""
        assert isinstance(self.left.inward, Flow)
        return self.left.inward

    @property
    def down(self) -> Flow:
        """The direction from the origin to the visitor."""
        assert isinstance(self.right.inward, Flow)
        return self.right.inward

    def serve(self) -> int:
        """Do what there is to do until nothing happens; return the events that came."""
        sides = {side.fd: side for side in (self.left, self.right)}
        events = 0
        while not self.stream.is_over:
            for side in sides.values():
                side.watch()
            ready = self.epoll.poll(QUIET / 1000)
            if not ready:
                break
            for fd, event in ready:
                events += 1
                if event & ~select.EPOLLIN:
                    sides[fd].outward.push()
                if event & ~select.EPOLLOUT:
                    sides[fd].inward.pull()
        return events

    def close(self) -> None:
        """Leave nothing open."""
        self.up.discard()
        self.down.discard()
        for side in (self.left, self.right):
            side.abort()
        for sock in (self.visitor, self.origin):
            sock.close()
        self.pipes.close()
        self.epoll.close()


@contextmanager
def handmade(order: Order = PATIENT, *, pipes: int = 4, narrow: bool = False) -> Iterator[Handmade]:
    """A stream made by hand."""
    made = Handmade(order, pipes=pipes, narrow=narrow)
    try:
        yield made
    finally:
        made.close()


def drain(sock: socket.socket) -> tuple[bytes, str]:
    """Return what waits in *sock*, and what comes after it: "more", "fin" or "reset"."""
    received = bytearray()
    while True:
        try:
            chunk = sock.recv(1 << 20)
        except BlockingIOError:
            return bytes(received), "more"
        except ConnectionResetError:
            return bytes(received), "reset"
        if not chunk:
            return bytes(received), "fin"
        received += chunk


def fill(sock: socket.socket, payload: bytes) -> int:
    """Send as much of *payload* as there is room for; return how much."""
    sent = 0
    while sent < len(payload):
        try:
            sent += sock.send(payload[sent:])
        except BlockingIOError:
            break
    return sent
