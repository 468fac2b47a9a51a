"""Many visitors who stay: `python -m scripts.bench.crowd JSON`, one process.

The JSON object has `port`, `names` (each visitor's, in turn), `count`,
`sources` (addresses of 127/8 that they come from) and `tls`.  Once all are
there it prints how many seconds that took; then it reads commands, one a line,
and prints a JSON object for each:

    active SECONDS      one in a hundred asks ten times a second, each time another one in a hundred
    everybody           each asks once: who is not answered is lost
    stall               each asks for more than it will ever read
"""

from __future__ import annotations

import json
import resource
import select
import socket
import ssl
import sys
import time
from collections import deque
from dataclasses import dataclass

from scripts.bench.hello import client_hello
from scripts.bench.load import STUCK, Figures, exactly, spread
from scripts.bench.plain import GET, GREETED, GREETING, RESPONSE

RAMP = 64
"""Visitors that are on their way at a time."""
ACTIVE_EVERY = 0.1
SHARE = 100
ENDLESS = b"down 1000000000000\n"
PAGE_HEAD_MAX = 4_096


@dataclass(frozen=True)
class Party:
    """Who comes."""

    port: int
    names: list[str]
    count: int
    sources: int = 1
    tls: bool = False


def dial(party: Party, number: int) -> socket.socket:
    """Begin the connection of one visitor."""
    sock = socket.socket()
    sock.setsockopt(socket.IPPROTO_IP, socket.IP_BIND_ADDRESS_NO_PORT, 1)
    sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
    sock.bind((f"127.0.7.{number % party.sources + 1}", 0))
    sock.settimeout(STUCK)
    sock.connect(("127.0.0.1", party.port))
    return sock


def gather_plain(party: Party) -> list[socket.socket]:
    """Let everybody in, `RAMP` at a time; each is there when the origin has greeted it."""
    hellos = [client_hello(name) for name in party.names]
    there: list[socket.socket] = []
    coming: deque[socket.socket] = deque()
    for number in range(party.count + RAMP):
        if number < party.count:
            sock = dial(party, number)
            sock.sendall(hellos[number % len(hellos)] + GREETING)
            coming.append(sock)
        if coming and (len(coming) >= RAMP or number >= party.count):
            sock = coming.popleft()
            if exactly(sock, len(GREETED)) != GREETED:
                raise SystemExit(f"visitor {len(there) + 1} is not greeted")
            there.append(sock)
    return there


def gather_tls(party: Party) -> list[socket.socket]:
    """Let everybody in, one after the other; each has had one page."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    there: list[socket.socket] = []
    for number in range(party.count):
        sock = context.wrap_socket(dial(party, number), server_hostname=party.names[number % len(party.names)])
        sock.sendall(GET)
        if b" 200 " not in sock.recv(PAGE_HEAD_MAX):
            raise SystemExit(f"visitor {number + 1} has no page")
        there.append(sock)
    return there


def ask(visitors: list[socket.socket], latencies: list[float]) -> int:
    """Let *visitors* ask at once; returns how many were not answered rightly."""
    poll = select.epoll()
    waiting = {sock.fileno(): sock for sock in visitors}
    begun = time.perf_counter()
    failed = 0
    for descriptor, sock in waiting.items():
        poll.register(descriptor, select.EPOLLIN)
        sock.send(GET)
    while waiting and (ready := poll.poll(STUCK)):
        for descriptor, _ in ready:
            sock = waiting.pop(descriptor)
            poll.unregister(descriptor)
            try:
                failed += exactly(sock, len(RESPONSE)) != RESPONSE
            except OSError:
                failed += 1
            latencies.append(time.perf_counter() - begun)
    return failed + len(waiting)


def active(visitors: list[socket.socket], seconds: float) -> Figures:
    """Let one in a hundred ask ten times a second; latencies count from when all of them were to ask."""
    latencies: list[float] = []
    failed = turn = 0
    end = time.perf_counter() + seconds
    while (begun := time.perf_counter()) < end:
        failed += ask(visitors[turn % SHARE :: SHARE], latencies)
        turn += 1
        time.sleep(max(0.0, ACTIVE_EVERY - (time.perf_counter() - begun)))
    return {"count": len(latencies), "failed": failed, **spread(latencies)}


def everybody(visitors: list[socket.socket]) -> Figures:
    """Let each ask once."""
    latencies: list[float] = []
    lost = sum(ask(visitors[first : first + SHARE], latencies) for first in range(0, len(visitors), SHARE))
    return {"count": len(visitors), "failed": lost, **spread(latencies)}


def stall(visitors: list[socket.socket]) -> Figures:
    """Let each ask for what it will not read."""
    for sock in visitors:
        sock.sendall(ENDLESS)
    return {"count": len(visitors), "failed": 0}


def main() -> None:
    """Gather, follow commands until standard input ends."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    party = Party(**json.loads(sys.argv[1]))
    begun = time.perf_counter()
    visitors = gather_tls(party) if party.tls else gather_plain(party)
    print(json.dumps({"seconds": time.perf_counter() - begun}), flush=True)
    for line in sys.stdin:
        word, *rest = line.split()
        match word:
            case "active":
                figures = active(visitors, float(rest[0]))
            case "everybody":
                figures = everybody(visitors)
            case _:
                figures = stall(visitors)
        print(json.dumps(figures), flush=True)


if __name__ == "__main__":
    main()
