"""Two QUIC connections and the datagrams between them, in virtual time; and packets forged in a peer's name."""

from __future__ import annotations

import heapq
import random
import ssl
from collections.abc import Callable, Iterator
from datetime import UTC, datetime
from functools import cache
from itertools import count
from typing import TypeVar

from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.tls import Epoch

from trunnel.identity.keys import IdentityKey, link_certificate
from trunnel.settings import limits
from trunnel.transports.quic_credit import CreditedConnection

CLIENT, SERVER = ("192.0.2.1", 1), ("192.0.2.2", 2)
DELAY = 0.01
"""Seconds one way."""
STEPS_MAX = 200_000

Lose = Callable[[bytes], bool]
Event = TypeVar("Event", bound=events.QuicEvent)


@cache
def key_of(name: str) -> IdentityKey:
    """Return the key of a test's party."""
    del name
    return IdentityKey.generate()


def configuration(*, client: bool, certificate: bool = True) -> QuicConfiguration:
    """Return a configuration, with or without a certificate."""
    key = key_of("client" if client else "server")
    return QuicConfiguration(
        alpn_protocols=["test"],
        certificate=link_certificate(key, now=datetime.now(UTC)) if certificate else None,
        congestion_control_algorithm="cubic",
        idle_timeout=limits.DEAD_AFTER,
        is_client=client,
        private_key=key.private_key if certificate else None,
        verify_mode=ssl.CERT_NONE,
    )


class Wire:
    """A client, a server, and what is on its way between them."""

    def __init__(self, *, certificate: bool = True, connect: bool = True, accept: int = 0) -> None:
        """Connect both ends.

        Args:
            certificate: Whether the client shows one.
            connect: Whether to complete the handshake.
            accept: Streams that the server lets the client have open.
        """
        self.now = 100.0
        self.lose: dict[QuicConnection, Lose] = {}
        self.client = CreditedConnection.for_client(configuration(client=True, certificate=certificate))
        self.server = CreditedConnection.for_server(
            configuration(client=False),
            original_destination_connection_id=self.client.original_destination_connection_id,
            accept=accept,
        )
        self.events: dict[QuicConnection, list[events.QuicEvent]] = {self.client: [], self.server: []}
        self.received: dict[tuple[QuicConnection, int], bytearray] = {}
        self.reading = True
        """Whether what comes is consumed at once."""
        self._order = count()
        self._flying: list[tuple[float, int, CreditedConnection, bytes]] = []
        self.client.connect(SERVER, now=self.now)
        if connect:
            self.settle()

    @property
    def ends(self) -> tuple[CreditedConnection, CreditedConnection]:
        """Both connections."""
        return self.client, self.server

    def other(self, end: QuicConnection) -> CreditedConnection:
        """Return the other end."""
        return self.server if end is self.client else self.client

    def flush(self) -> int:
        """Send what both have to send, and take their events; return the datagrams sent."""
        sent = 0
        for end in self.ends:
            for datagram, _ in end.datagrams_to_send(self.now):
                sent += 1
                if not self.lose.get(end, _keep)(datagram):
                    heapq.heappush(self._flying, (self.now + DELAY, next(self._order), self.other(end), datagram))
            while (event := end.next_event()) is not None:
                self.events[end].append(event)
                if isinstance(event, events.StreamDataReceived):
                    self.received.setdefault((end, event.stream_id), bytearray()).extend(event.data)
                    if self.reading:
                        end.consumed(event.stream_id, len(event.data), unread=0, now=self.now)
        return sent

    def step(self, within: float = 1.0) -> bool:
        """Go on to the next arrival or timer; False if there is none *within* so many seconds."""
        self.flush()
        times = [end.get_timer() for end in self.ends]
        due = [at for at in times if at is not None] + [each[0] for each in self._flying[:1]]
        if not due or min(due) > self.now + within:
            return False
        self.now = max(self.now, min(due))
        while self._flying and self._flying[0][0] <= self.now:
            _, _, end, datagram = heapq.heappop(self._flying)
            end.receive_untrusted(datagram, CLIENT if end is self.server else SERVER, self.now)
        for end in self.ends:
            timer = end.get_timer()
            if timer is not None and timer <= self.now:
                end.handle_timer(self.now)
        self.flush()
        return True

    def settle(self) -> None:
        """Go on until nothing happens any more."""
        for _ in range(STEPS_MAX):
            if not self.step():
                return
        raise AssertionError("it never came to rest")

    def run(self, done: Callable[[], bool]) -> None:
        """Go on until *done*."""
        for _ in range(STEPS_MAX):
            if done():
                return
            self.step(limits.DEAD_AFTER)
        raise AssertionError("it never came to that")

    def happened(self, end: QuicConnection, kind: type[Event]) -> list[Event]:
        """Return the events of one kind."""
        return [event for event in self.events[end] if isinstance(event, kind)]

    def open(self, amount: int = 1) -> list[int]:
        """Let the server open streams; return their ids."""
        opened: list[int] = []
        for _ in range(amount):
            opened.append(self.server.get_next_available_stream_id())
            self.server.send_stream_data(opened[-1], b"\0")
        return opened

    def write(self, end: CreditedConnection, stream_id: int, payload: bytes) -> Iterator[int]:
        """Write *payload* as room comes; yields how much is left."""
        left = memoryview(payload)
        while left:
            while left and (room := end.room(stream_id)):
                end.send_stream_data(stream_id, bytes(left[:room]))
                left = left[room:]
            yield len(left)

    def transfer(self, end: CreditedConnection, stream_id: int, payload: bytes) -> None:
        """Write all of *payload*, while the other end reads."""
        for _ in self.write(end, stream_id, payload):
            self.step()
        self.settle()

    def forge(self, end: CreditedConnection, payload: bytes) -> None:
        """Let *end* receive a packet of the other one with frames of our choice, truly encrypted."""
        peer = self.other(end)
        number = peer._packet_number
        peer._packet_number += 1
        header = bytes([0x41]) + peer._peer_cid.cid + (number & 0xFFFF).to_bytes(2, "big")
        datagram = peer._cryptos[Epoch.ONE_RTT].encrypt_packet(header, payload.ljust(4, b"\0"), number)
        end.receive_untrusted(datagram, CLIENT if end is self.server else SERVER, self.now)


def _keep(_: bytes) -> bool:
    return False


def losing(share: float, *, seed: int) -> Lose:
    """Return a line that loses *share* of the datagrams."""
    chance = random.Random(seed)
    return lambda _: chance.random() < share


def varint(value: int) -> bytes:
    """Encode an integer as QUIC does (RFC 9000 §16)."""
    for size, prefix in ((1, 0), (2, 1), (4, 2), (8, 3)):
        if value < 1 << (8 * size - 2):
            return (value | prefix << (8 * size - 2)).to_bytes(size, "big")
    raise ValueError(value)


def frame(kind: int, *values: int, tail: bytes = b"") -> bytes:
    """Encode a frame: its type, integers, and bytes as they are."""
    return b"".join(map(varint, (kind, *values))) + tail


def stream_frame(stream_id: int, offset: int, content: bytes, *, fin: bool = False) -> bytes:
    """Encode a STREAM frame with offset and length."""
    return frame(0x0E | fin, stream_id, offset, len(content), tail=content)
