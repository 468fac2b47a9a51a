"""A flood of Initial packets, a process of its own: `python -m scripts.rows.initials PORT RATE SECONDS`.

True ClientHellos in true Initial packets, as aioquic sends them first, made
before the flood begins, each with a connection id of its own.  They come from
`ADDRESSES` addresses of 127.0.0.0/8, each of which sends rarely and answers
nothing, as a forged address would.  Prints `begun`, then `done` with what went
out and what came back.
"""

from __future__ import annotations

import json
import resource
import select
import socket
import sys
import time
from collections import Counter

from aioquic.quic.connection import QuicConnection

from scripts.rows.hostile_quic import client_configuration

ADDRESSES = 2_000
INITIALS = 2_000
"""Different ones.  They come again: what a Retry answered left nothing behind."""
SLOT = 0.005
"""Seconds between two bursts."""
READ = 2_048
TYPE = 0x30
"""The bits of a long header that say what packet it is (RFC 9000 §17.2); version 1."""
RETRY = 0x30


def address(number: int) -> str:
    """Return the source address of this number."""
    return f"127.{64 + number // 250 % 64}.{number // 50 % 5}.{number % 50 + 1}"


def initial() -> bytes:
    """Return the first datagram of a new client."""
    client = QuicConnection(configuration=client_configuration())
    client.connect(("127.0.0.1", 1), now=0.0)
    return client.datagrams_to_send(now=0.0)[0][0]


class Flood:
    """The sockets, and what they sent and got."""

    def __init__(self, port: int) -> None:
        self._relay = ("127.0.0.1", port)
        self._epoll = select.epoll()
        self._sockets: list[socket.socket] = []
        self._by_descriptor: dict[int, int] = {}
        self.sent: Counter[int] = Counter()
        self.got: Counter[int] = Counter()
        self.retries = self.others = self.refused = 0
        for number in range(ADDRESSES):
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.setblocking(False)
            sock.bind((address(number), 0))
            self._sockets.append(sock)
            self._by_descriptor[sock.fileno()] = number
            self._epoll.register(sock, select.EPOLLIN)

    def send(self, number: int, datagram: bytes) -> None:
        """Send from the address of this number."""
        try:
            self._sockets[number].sendto(datagram, self._relay)
        except OSError:
            self.refused += 1
        else:
            self.sent[number] += len(datagram)

    def collect(self, timeout: float) -> None:
        """Count what has come back."""
        for descriptor, _ in self._epoll.poll(timeout):
            number = self._by_descriptor[descriptor]
            try:
                answer = self._sockets[number].recv(READ)
            except OSError:
                continue
            self.got[number] += len(answer)
            if answer[0] & TYPE == RETRY:
                self.retries += 1
            else:
                self.others += 1

    def result(self) -> dict[str, object]:
        """Return what is printed at the end."""
        return {
            "event": "done",
            "sent": self.sent.total(),
            "got": self.got.total(),
            "worst": max((self.got[number] / sent for number, sent in self.sent.items()), default=0.0),
            "retries": self.retries,
            "others": self.others,
            "refused": self.refused,
        }


def main(port: int, rate: int, seconds: float) -> None:
    """Prepare, flood, count."""
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    datagrams = [initial() for _ in range(INITIALS)]
    flood = Flood(port)
    print(json.dumps({"event": "begun"}), flush=True)
    begun, sent = time.perf_counter(), 0
    while (now := time.perf_counter()) < begun + seconds:
        while sent < (now - begun) * rate:
            flood.send(sent % ADDRESSES, datagrams[sent % INITIALS])
            sent += 1
        flood.collect(SLOT)
    print(json.dumps({**flood.result(), "datagrams": sent}), flush=True)


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), float(sys.argv[3]))
