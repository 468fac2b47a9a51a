"""A worker's loop in a thread of ours: orders in, reports out, deadlines, fairness, its end."""

from __future__ import annotations

import math
import socket
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import pytest

from tests.pump.handmade import drain
from tests.pump.stage import needs_workers, open_descriptors, pattern, plain_pair
from trunnel.pump.loop import Loop, Stream
from trunnel.pump.orders import REPORT_BATCH, REPORT_SIZE, Finish, News, Order, Report, Verb, decode_reports

pytestmark = [needs_workers, pytest.mark.may_skip("Linux only")]

TAKE = Order(Verb.TAKE, 1, slot=0, first_byte=30.0, idle=3600.0, half_closed=60.0, total=math.inf)
CAPACITY = 16


class Office:
    """The supervisor's end of a loop that runs."""

    def __init__(self) -> None:
        self.channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
        self.channel.settimeout(5)
        self.counts = memoryview(bytearray(2 * 8 * CAPACITY)).cast("Q")
        self.loop = Loop(theirs, self.counts, pipes=2, capacity=CAPACITY)
        self.thread = threading.Thread(target=self._run, args=(theirs,), daemon=True)
        self._waiting: list[Report] = []

    def _run(self, channel: socket.socket) -> None:
        with channel:
            self.loop.run()
        for stream in list(self.loop._streams.values()):  # as the end of the process does
            for side in stream.sides:
                side.abort()
        self.loop._pipes.close()
        self.loop._epoll.close()

    def order(self, order: Order, *given: socket.socket) -> None:
        """Give an order with descriptors; ours are closed."""
        socket.send_fds(self.channel, [order.encode()], [sock.fileno() for sock in given])
        for sock in given:
            sock.close()

    def report(self) -> Report:
        """Return the next report."""
        if not self._waiting:
            self._waiting = decode_reports(self.channel.recv(REPORT_BATCH * REPORT_SIZE))
        return self._waiting.pop(0)

    def take(self, order: Order = TAKE) -> tuple[socket.socket, socket.socket]:
        """Have a stream pumped; returns the visitor and the origin, which block now."""
        (visitor, left), (origin, right) = plain_pair(), plain_pair()
        self.order(order, left, right)
        report = self.report()
        assert (report.news, report.stream) == (News.TAKEN, order.stream)
        for peer in (visitor, origin):
            peer.settimeout(5)
        return visitor, origin


@contextmanager
def office() -> Iterator[Office]:
    """A loop that works, and has said so."""
    made = Office()
    made.thread.start()
    try:
        report = made.report()
        assert (report.news, report.left_bytes) == (News.HIRED, CAPACITY)
        yield made
    finally:
        made.channel.close()
        made.thread.join(5)
    assert not made.thread.is_alive()


def after(peer: socket.socket) -> str:
    """Return what comes next on *peer*: "fin", "reset" or bytes."""
    try:
        return peer.recv(10).decode() or "fin"
    except ConnectionResetError:
        return "reset"


def test_a_stream_is_taken_pumped_and_reported() -> None:
    with office() as boss:
        visitor, origin = boss.take(TAKE._replace(stream=70_000, slot=3))
        with visitor, origin:
            visitor.send(b"ask")
            assert origin.recv(10) == b"ask"
            visitor.shutdown(socket.SHUT_WR)
            origin.send(b"reply")
            origin.shutdown(socket.SHUT_WR)
            assert visitor.recv(10) == b"reply"
            done = boss.report()
        assert done[:4] == (News.DONE, 70_000, Finish.FIN, Finish.FIN)
        assert (done.left_bytes, done.right_bytes) == (3, 5) == tuple(boss.counts[6:8])


@pytest.mark.parametrize("given", [0, 1])
def test_without_both_descriptors_a_stream_is_refused(given: int) -> None:
    """And what did come is closed."""
    with office() as boss:
        had = open_descriptors()
        pairs = [socket.socketpair() for _ in range(given)]
        boss.order(TAKE, *(near for near, _ in pairs))
        assert boss.report()[:2] == (News.REFUSED, TAKE.stream)
        for _, far in pairs:
            far.close()
        assert open_descriptors() == had
        for peer in boss.take():
            peer.close()


def test_a_worker_that_ends_no_tls_refuses_to() -> None:
    with office() as boss:
        near, far = socket.socketpair()
        boss.order(Order(Verb.TERMINATE, 5), near)
        assert boss.report()[:2] == (News.REFUSED, 5)
        assert far.recv(1) == b""
        far.close()


def test_a_cancelled_stream_is_reset_and_done() -> None:
    with office() as boss:
        visitor, origin = boss.take()
        boss.order(Order(Verb.CANCEL, TAKE.stream))
        assert boss.report()[:4] == (News.DONE, TAKE.stream, Finish.CANCELLED, Finish.CANCELLED)
        assert (after(visitor), after(origin)) == ("reset", "reset")
        visitor.close()
        origin.close()


def test_cancelling_what_is_none_does_nothing() -> None:
    with office() as boss:
        boss.order(Order(Verb.CANCEL, 4))
        visitor, origin = boss.take()
        boss.order(Order(Verb.CANCEL, 4))
        visitor.send(b"x")
        assert origin.recv(1) == b"x"
        visitor.close()
        origin.close()


def test_cancelling_a_stream_that_lingers_ends_it_at_once() -> None:
    """It waited for an acknowledgement that does not come."""
    with office() as boss:
        visitor, origin = boss.take()
        with visitor, origin:
            visitor.settimeout(0.1)
            with pytest.raises(TimeoutError):
                while True:
                    visitor.send(bytes(1 << 20))
            visitor.shutdown(socket.SHUT_WR)
            origin.shutdown(socket.SHUT_WR)
            boss.order(Order(Verb.CANCEL, TAKE.stream))
            assert boss.report()[:2] == (News.DONE, TAKE.stream)


def test_several_orders_and_streams_at_once() -> None:
    with office() as boss:
        peers = [boss.take(TAKE._replace(stream=number, slot=number)) for number in range(10)]
        for number, (visitor, _) in enumerate(peers):
            visitor.sendall(pattern(number, 9000))
        for number, (_, origin) in enumerate(peers):
            received = b""
            while len(received) < 9000:
                received += origin.recv(9000)
            assert received == pattern(number, 9000)
        for number in range(10):
            boss.order(Order(Verb.CANCEL, number))
        assert {boss.report().stream for _ in range(10)} == set(range(10))
        for pair in peers:
            for peer in pair:
                peer.close()


def test_deadlines_are_kept_in_any_order() -> None:
    """The nearest first, although it came last; a stream without one is left alone."""
    with office() as boss:
        peers = [
            boss.take(TAKE._replace(stream=number, slot=number, first_byte=first_byte))
            for number, first_byte in enumerate((3600.0, 0.4, 0.2, 0.1))
        ]
        assert [boss.report()[:4] for _ in range(3)] == [
            (News.DONE, number, Finish.DEADLINE, Finish.DEADLINE) for number in (3, 2, 1)
        ]
        assert [after(visitor) for visitor, _ in peers[1:]] == ["reset"] * 3
        peers[0][0].send(b"x")
        assert peers[0][1].recv(1) == b"x"
        for pair in peers:
            for peer in pair:
                peer.close()


def test_bulk_does_not_keep_others_waiting() -> None:
    """One stream moves all the time; a small one beside it is answered between its turns."""
    with office() as boss:
        bulk, small = (boss.take(TAKE._replace(stream=number, slot=number)) for number in (1, 2))
        over = threading.Event()

        def send() -> None:
            while not over.is_set():
                bulk[0].sendall(bytes(1 << 20))

        def receive() -> None:
            while bulk[1].recv(1 << 20):
                pass

        threads = [threading.Thread(target=work) for work in (send, receive)]
        for thread in threads:
            thread.start()
        try:
            for _ in range(20):
                small[0].send(b"ping")
                assert small[1].recv(4) == b"ping"
            assert len(boss.loop._eager) <= 2, "a flow is in there once, however often it was ready"
        finally:
            over.set()
            threads[0].join(5)
            bulk[0].close()
            threads[1].join(5)
        for peer in (bulk[1], *small):
            peer.close()


def test_a_supervisor_that_does_not_listen_stops_no_stream() -> None:
    """Its channel is full of reports; they are kept, and none is lost."""
    with office() as boss:
        visitor, origin = boss.take()
        with visitor, origin:
            refusals = 20_000
            for _ in range(refusals):
                boss.order(TAKE._replace(stream=2))
            visitor.send(b"x")
            assert origin.recv(1) == b"x"
            assert {boss.report()[:2] for _ in range(refusals)} == {(News.REFUSED, 2)}
            boss.order(Order(Verb.CANCEL, TAKE.stream))
            assert boss.report()[:2] == (News.DONE, TAKE.stream)


class Lingering:
    """A stream whose peer does not acknowledge."""

    def __init__(self) -> None:
        self.asked = 0

    def finish(self) -> None:
        """Begin to linger."""

    def settle(self) -> bool:
        """Count that it was asked."""
        self.asked += 1
        return False


def test_streams_that_linger_cost_the_others_nothing_a_turn() -> None:
    """They are looked at now and then, however busy the loop is; many of them more seldom."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    busy, other = socket.socketpair()
    with ours, theirs, busy, other:
        theirs.setblocking(False)
        loop = Loop(theirs, memoryview(bytearray(16)).cast("Q"), pipes=1, capacity=1)
        loop._epoll.register(busy.fileno())
        lingering = [Lingering() for _ in range(500)]
        for stream in lingering:
            loop._part(cast("Stream", stream))
        before = loop._now
        turns = 0
        while loop._now < before + 0.3:
            loop._turn()
            turns += 1
        loop._epoll.close()
    assert turns > 100
    assert {stream.asked for stream in lingering} <= set(range(3, 10))


def test_the_loop_ends_with_its_channel_and_resets_what_it_has() -> None:
    with office() as boss:
        visitor, origin = boss.take()
    for peer in (visitor, origin):
        peer.setblocking(False)
        assert drain(peer) == (b"", "reset")
        peer.close()
