"""The limit that the QUIC carrier is held against: two connections that exchange datagrams in memory.

    python -m scripts.bench.bare_quic [--bytes N] [--datagram N] [--idle N]

Two plain aioquic `QuicConnection` objects, and two `CreditedConnection`s, move
bytes on one stream from the server to the client, in one process, without
sockets and tasks.  Prints megabytes a second for each; with `--idle`, also with
so many idle streams open beside the busy one, and their share of the speed without.
"""

from __future__ import annotations

import argparse
import logging
import ssl
import time
from datetime import UTC, datetime

from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.events import StreamDataReceived

from trunnel.identity.keys import IdentityKey, link_certificate
from trunnel.transports.quic_credit import CreditedConnection

CLIENT, SERVER = ("192.0.2.1", 1), ("192.0.2.2", 2)
ALPN = "bare-quic"
AMOUNT = 20_000_000
BATCH = 64 * 1024
UNSENT = 256 * 1024
HANDSHAKE = 2.0
"""Seconds that handshake and opening of streams may take."""
WARMED = 0.25
"""Share of the bytes that are not timed: windows grow."""


def configuration(*, client: bool, datagram: int) -> QuicConfiguration:
    """Return a configuration with a key and certificate of its own."""
    key = IdentityKey.generate()
    return QuicConfiguration(
        alpn_protocols=[ALPN],
        certificate=link_certificate(key, now=datetime.now(UTC)),
        congestion_control_algorithm="cubic",
        is_client=client,
        max_datagram_size=datagram,
        private_key=key.private_key,
        verify_mode=ssl.CERT_NONE,
    )


class Pair:
    """Two connections of one kind, and the datagrams between them."""

    def __init__(self, kind: type[QuicConnection], *, datagram: int) -> None:
        """Shake hands.

        Args:
            kind: `QuicConnection` or `CreditedConnection`.
            datagram: Bytes of a datagram at most.
        """
        theirs = configuration(client=True, datagram=datagram)
        ours = configuration(client=False, datagram=datagram)
        self.client, self.server = self._connections(kind, theirs, ours)
        self.client.connect(SERVER, now=time.perf_counter())
        self._settle()

    @staticmethod
    def _connections(
        kind: type[QuicConnection], theirs: QuicConfiguration, ours: QuicConfiguration
    ) -> tuple[QuicConnection, QuicConnection]:
        if kind is CreditedConnection:
            client: QuicConnection = CreditedConnection.for_client(theirs)
            cid = client.original_destination_connection_id
            return client, CreditedConnection.for_server(ours, original_destination_connection_id=cid)
        client = QuicConnection(configuration=theirs)
        cid = client.original_destination_connection_id
        return client, QuicConnection(configuration=ours, original_destination_connection_id=cid)

    def _settle(self) -> None:
        until = time.perf_counter() + HANDSHAKE
        quiet = 0
        while quiet < 10 and time.perf_counter() < until:
            quiet = 0 if self.turn() else quiet + 1
            time.sleep(0.001)

    def turn(self) -> int:
        """Carry what both have to send; return the bytes of streams that came to the client."""
        now = time.perf_counter()
        moved = stream_id = 0
        for sender, receiver, address in ((self.client, self.server, CLIENT), (self.server, self.client, SERVER)):
            timer = sender.get_timer()
            if timer is not None and timer <= now:
                sender.handle_timer(now)
            for datagram, _ in sender.datagrams_to_send(now):
                receiver.receive_datagram(datagram, address, now)
        while (event := self.client.next_event()) is not None:
            if isinstance(event, StreamDataReceived):
                moved += len(event.data)
                stream_id = event.stream_id
        if moved and isinstance(self.client, CreditedConnection):
            self.client.consumed(stream_id, moved, unread=0, now=now)
        while self.server.next_event() is not None:
            pass
        return moved

    def open_idle(self, amount: int) -> None:
        """Open streams that stay idle."""
        for _ in range(amount):
            self.server.send_stream_data(self.server.get_next_available_stream_id(), b"\0")
        self._settle()

    def transfer(self, amount: int) -> float:
        """Move *amount* bytes on a new stream; return megabytes a second of the warm part."""
        stream = self.server.get_next_available_stream_id()
        chunk = bytes(BATCH)
        written = moved = marked = 0
        begun = 0.0
        while moved < amount:
            if isinstance(self.server, CreditedConnection):
                while written < amount and (room := self.server.room(stream)):
                    self.server.send_stream_data(stream, chunk[:room])
                    written += min(BATCH, room)
            elif written - moved < 2 * UNSENT:
                self.server.send_stream_data(stream, chunk)
                written += BATCH
            moved += self.turn()
            if not begun and moved > amount * WARMED:
                begun, marked = time.process_time(), moved
        return (moved - marked) / (time.process_time() - begun) / 1e6


def measure(kind: type[QuicConnection], *, amount: int, datagram: int, idle: int = 0) -> float:
    """Return megabytes a second of one transfer.

    Args:
        kind: `QuicConnection` or `CreditedConnection`.
        amount: Bytes to move.
        datagram: Bytes of a datagram at most.
        idle: Idle streams open beside the busy one; aioquic alone takes 127.
    """
    pair = Pair(kind, datagram=datagram)
    pair.open_idle(idle)
    return pair.transfer(amount)


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(prog="python -m scripts.bench.bare_quic")
    parser.add_argument("--bytes", type=int, default=AMOUNT, dest="amount")
    parser.add_argument("--datagram", type=int, default=1400)
    parser.add_argument("--idle", type=int, default=0)
    arguments = parser.parse_args()
    logging.getLogger("quic").setLevel(logging.ERROR)
    amount, datagram = arguments.amount, arguments.datagram
    plain = measure(QuicConnection, amount=amount, datagram=datagram)
    print(f"QuicConnection      {plain:6.1f} MB/s")
    credited = measure(CreditedConnection, amount=amount, datagram=datagram)
    print(f"CreditedConnection  {credited:6.1f} MB/s  {credited / plain:.0%}")
    if arguments.idle:
        beside = measure(CreditedConnection, amount=amount, datagram=datagram, idle=arguments.idle)
        print(f"  {arguments.idle:4} idle streams  {beside:6.1f} MB/s  {beside / credited:.0%}")


if __name__ == "__main__":
    main()
