"""The visitors of the plain scenarios, one process for all of them, the same for every peer.

    python -m scripts.bench.load bulk ADDRESS HELLO DIRECTION STREAMS BYTES
    python -m scripts.bench.load connect ADDRESS HELLO SECONDS CONCURRENCY
    python -m scripts.bench.load request ADDRESS HELLO SECONDS CONNECTIONS
    python -m scripts.bench.load exchange ADDRESS HELLO SECONDS
    python -m scripts.bench.load keep-downloading ADDRESS HELLO BYTES     prints a line, goes on until killed

ADDRESS is a port of 127.0.0.1, HELLO is a ClientHello in hexadecimal.  Each
prints one JSON object, with `failed`: how many streams did not get exactly
what they should.  One failure and there is no figure.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from contextlib import suppress

from scripts.bench.pattern import CHUNK, block, matches
from scripts.bench.plain import CLOSING, GET, GET_ONCE, GREETED, GREETING, RESPONSE

HOST = "127.0.0.1"
EXCHANGE = bytes(range(100))
EXCHANGE_PAUSE = 0.004
"""Seconds between exchanges."""
STUCK = 15.0
"""Seconds without a byte after which a stream has failed."""
READ, WRITE = select.EPOLLIN, select.EPOLLOUT
Figures = dict[str, float]


def opened(port: int, hello: bytes) -> socket.socket:
    """Return a connection whose tunnel is there: the origin has greeted."""
    sock = socket.create_connection((HOST, port), timeout=STUCK)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.sendall(hello + GREETING)
    if exactly(sock, len(GREETED)) != GREETED:
        raise ConnectionError("the origin does not greet")
    return sock


def exactly(sock: socket.socket, count: int) -> bytes:
    """Read *count* bytes, or fewer at the end of the stream."""
    found = b""
    while len(found) < count and (chunk := sock.recv(count - len(found))):
        found += chunk
    return found


class Download:
    """One stream that fetches the pattern."""

    direction = b"down"
    interest = READ
    buffer = bytearray(CHUNK)
    view = memoryview(buffer)

    def __init__(self, sock: socket.socket, amount: int) -> None:
        self.sock = sock
        self.amount = amount
        self.moved = 0
        self.exact = True

    def go_on(self) -> bool:
        """Read once; returns whether there is more."""
        count = self.sock.recv_into(self.buffer, CHUNK)
        self.exact = self.exact and matches(self.view[:count], self.moved)
        self.moved += count
        return count > 0

    def good(self) -> bool:
        """Whether everything came, and nothing else."""
        return self.exact and self.moved == self.amount


class Upload(Download):
    """One stream that sends the pattern; the origin says whether it came."""

    direction = b"up"
    interest = WRITE
    said = b""

    def go_on(self) -> bool:
        """Send once, or read the answer; returns whether there is more."""
        if self.moved < self.amount:
            self.moved += self.sock.send(block(self.moved, min(CHUNK, self.amount - self.moved)))
            if self.moved == self.amount:
                self.interest = READ
            return True
        chunk = self.sock.recv(CHUNK)
        self.said += chunk
        return bool(chunk)

    def good(self) -> bool:
        """Whether the origin has everything."""
        return self.said == b"ok\n"


def bulk(port: int, hello: bytes, direction: str, streams: int, amount: int) -> Figures:
    """Move *amount* bytes in all over *streams* streams at once; time counts from the command to the last byte."""
    kind = Upload if direction == "up" else Download
    each = [kind(opened(port, hello), amount // streams) for _ in range(streams)]
    poll = select.epoll()
    waiting = {}
    begun = time.perf_counter()
    for stream in each:
        stream.sock.sendall(b"%s %d\n" % (stream.direction, stream.amount))
        stream.sock.setblocking(False)
        poll.register(stream.sock, stream.interest)
        waiting[stream.sock.fileno()] = stream
    while waiting and (ready := poll.poll(STUCK)):
        for descriptor, _ in ready:
            stream = waiting[descriptor]
            before = stream.interest
            more = False
            with suppress(OSError):
                more = stream.go_on()
            if not more:
                poll.unregister(descriptor)
                del waiting[descriptor]
            elif stream.interest != before:
                poll.modify(descriptor, stream.interest)
    seconds = time.perf_counter() - begun
    failed = sum(not stream.good() for stream in each)
    return {"bytes": amount, "seconds": seconds, "rate": amount / seconds, "failed": failed, "hung": len(waiting)}


def dial(port: int) -> socket.socket:
    """Begin a connection without waiting for it."""
    sock = socket.socket()
    sock.setblocking(False)
    sock.connect_ex((HOST, port))
    return sock


class Asking:
    """One new connection: a hello and a request, a response, the end."""

    __slots__ = ("begun", "got", "sent", "sock")

    def __init__(self, port: int, request: bytes) -> None:
        self.sock = dial(port)
        self.begun = time.perf_counter()
        self.got = b""
        self.sent = False
        self.send(request)

    def send(self, request: bytes) -> None:
        """Ask, if the connection is there."""
        with suppress(BlockingIOError):
            self.sock.send(request)
            self.sent = True

    def read(self) -> bool:
        """Read once; returns whether there is more."""
        try:
            chunk = self.sock.recv(4_096)
        except OSError:
            self.got = b""
            return False
        self.got += chunk
        return bool(chunk)


def connect(port: int, hello: bytes, seconds: float, concurrency: int) -> Figures:
    """Open connections, *concurrency* at a time, one request each, until the origin ends each."""
    poll = select.epoll()
    waiting: dict[int, Asking] = {}
    request = hello + GET_ONCE
    latencies: list[float] = []
    failed = 0

    def begin() -> None:
        asking = Asking(port, request)
        waiting[asking.sock.fileno()] = asking
        poll.register(asking.sock, READ if asking.sent else WRITE)

    begun = time.perf_counter()
    end = begun + seconds
    for _ in range(concurrency):
        begin()
    while waiting and (ready := poll.poll(STUCK)):
        for descriptor, _ in ready:
            asking = waiting[descriptor]
            if not asking.sent:
                asking.send(request)
                poll.modify(descriptor, READ)
            elif not asking.read():
                del waiting[descriptor]
                asking.sock.close()
                now = time.perf_counter()
                failed += asking.got != CLOSING
                latencies.append(now - asking.begun)
                if now < end:
                    begin()
    seconds = time.perf_counter() - begun
    failed += len(waiting)
    return {"rate": len(latencies) / seconds, "count": len(latencies), "failed": failed, **spread(latencies)}


def request(port: int, hello: bytes, seconds: float, connections: int) -> Figures:
    """Ask again and again on *connections* connections that stay."""
    sockets = {sock.fileno(): sock for sock in (opened(port, hello) for _ in range(connections))}
    poll = select.epoll()
    for descriptor in sockets:
        poll.register(descriptor, READ)
    clock = time.perf_counter
    latencies: list[float] = []
    failed = 0
    begun = clock()
    asked = dict.fromkeys(sockets, begun)
    for sock in sockets.values():
        sock.send(GET)
    end = begun + seconds
    while sockets and (ready := poll.poll(STUCK)):
        for descriptor, _ in ready:
            response = sockets[descriptor].recv(4_096)
            if len(response) < len(RESPONSE):
                response += exactly(sockets[descriptor], len(RESPONSE) - len(response))
            now = clock()
            if response != RESPONSE:
                failed += 1
                poll.unregister(descriptor)
                sockets.pop(descriptor).close()
            elif now < end:
                latencies.append(now - asked[descriptor])
                asked[descriptor] = now
                sockets[descriptor].send(GET)
            else:
                poll.unregister(descriptor)
                sockets.pop(descriptor).close()
    return {"rate": len(latencies) / seconds, "count": len(latencies), "failed": failed + len(sockets)} | spread(
        latencies
    )


def exchange(port: int, hello: bytes, seconds: float) -> Figures:
    """Send 100 bytes and wait for them, again and again with a pause."""
    latencies: list[float] = []
    failed = 0
    with opened(port, hello) as sock:
        sock.sendall(b"echo\n")
        end = time.perf_counter() + seconds
        while (begun := time.perf_counter()) < end and not failed:
            sock.sendall(EXCHANGE)
            failed += exactly(sock, len(EXCHANGE)) != EXCHANGE
            latencies.append(time.perf_counter() - begun)
            time.sleep(EXCHANGE_PAUSE)
    return {"count": len(latencies), "failed": failed, **spread(latencies)}


def spread(latencies: list[float]) -> Figures:
    """Return the median and the 99th percentile in seconds."""
    ordered = sorted(latencies) or [0.0]
    return {f"p{share}": ordered[min(len(ordered) - 1, len(ordered) * share // 100)] for share in (50, 99)}


def main() -> None:
    """Run what the command line asks for."""
    kind, port, hello, *rest = sys.argv[1:]
    where, greeting = int(port), bytes.fromhex(hello)
    if kind == "keep-downloading":
        print("started", flush=True)
        while not bulk(where, greeting, "down", 1, int(rest[0]))["failed"]:
            pass
        raise SystemExit(1)
    runs = {
        "bulk": lambda: bulk(where, greeting, rest[0], int(rest[1]), int(rest[2])),
        "connect": lambda: connect(where, greeting, float(rest[0]), int(rest[1])),
        "request": lambda: request(where, greeting, float(rest[0]), int(rest[1])),
        "exchange": lambda: exchange(where, greeting, float(rest[0])),
    }
    print(json.dumps(runs[kind]()))


if __name__ == "__main__":
    main()
