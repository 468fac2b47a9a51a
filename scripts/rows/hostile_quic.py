"""An agent on QUIC that breaks the rules: aioquic for what is lawful, packets of our own making for the rest.

`hostile_agent` does the whole of a lawful beginning (QUIC handshake with a
proven key, hello and welcome).  Then `forge` sends datagrams whose payload is
whatever a row wants, truly encrypted; the lawful part goes on beside it, so
that streams and credit are what the relay says.
"""

from __future__ import annotations

import copy
import ssl
from collections.abc import AsyncIterator, Iterable
from contextlib import asynccontextmanager
from datetime import UTC, datetime

import trio
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection
from aioquic.quic.crypto import CryptoContext
from aioquic.tls import Epoch

from scripts.rows.lab import WAIT, Lab
from trunnel.identity.keys import IdentityKey, link_certificate
from trunnel.transports.alpn import LINK_ALPN_QUIC
from trunnel.wire import control, control_codec

SOURCE = "127.0.4.1"
CONTROL_STREAM = 1
STREAMS = 1_000
"""Streams that the relay may open."""
PAYLOAD = 1_150
"""Bytes of frames in one datagram."""
READ = 2_048


def varint(value: int) -> bytes:
    """Encode an integer as QUIC does (RFC 9000 §16)."""
    for size, prefix in ((1, 0), (2, 1), (4, 2), (8, 3)):
        if value < 1 << (8 * size - 2):
            return (value | prefix << (8 * size - 2)).to_bytes(size, "big")
    raise ValueError(value)


def frame(kind: int, *values: int, tail: bytes = b"") -> bytes:
    """Encode a frame: its type, integers, and bytes as they are."""
    return b"".join(map(varint, (kind, *values))) + tail


def stream_frame(stream_id: int, offset: int, content: bytes) -> bytes:
    """Encode a STREAM frame with offset and length."""
    return frame(0x0E, stream_id, offset, len(content), tail=content)


def client_configuration(key: IdentityKey | None = None) -> QuicConfiguration:
    """Return the configuration of an agent, with a certificate if it has a key."""
    return QuicConfiguration(
        alpn_protocols=[LINK_ALPN_QUIC.decode()],
        certificate=None if key is None else link_certificate(key, now=datetime.now(UTC)),
        idle_timeout=60.0,
        is_client=True,
        private_key=None if key is None else key.private_key,
        verify_mode=ssl.CERT_NONE,
    )


class HostileAgent:
    """One QUIC connection to the relay."""

    def __init__(self, connection: QuicConnection, socket: trio.socket.SocketType, relay: tuple[str, int]) -> None:
        self.connection = connection
        self.ended: events.ConnectionTerminated | None = None
        """How the relay ended it, or None."""
        self.streams: set[int] = set()
        """Streams that the relay has opened."""
        self._socket = socket
        self._relay = relay
        self._messages = control_codec.ControlDecoder()
        self.heard: list[control.Message] = []
        self._news = trio.Event()
        self._keys: CryptoContext | None = None

    async def flush(self) -> None:
        """Send what aioquic has to send."""
        for datagram, _ in self.connection.datagrams_to_send(trio.current_time()):
            await self._socket.sendto(datagram, self._relay)

    async def run(self) -> None:
        """Be a lawful peer for ever."""
        while self.ended is None:
            await self.flush()
            timer = self.connection.get_timer()
            with trio.move_on_at(min(timer or float("inf"), trio.current_time() + 1)):
                self.connection.receive_datagram(await self._socket.recv(READ), self._relay, trio.current_time())
            now = trio.current_time()
            if timer is not None and timer <= now:
                self.connection.handle_timer(now)
            while (event := self.connection.next_event()) is not None:
                self._take(event)
            self._news.set()
            self._news = trio.Event()

    def _take(self, event: events.QuicEvent) -> None:
        if isinstance(event, events.ConnectionTerminated):
            self.ended = event
        elif isinstance(event, events.StreamDataReceived):
            first = event.stream_id not in self.streams
            self.streams.add(event.stream_id)
            if event.stream_id == CONTROL_STREAM:
                self.heard += self._messages.feed_untrusted(event.data[first:])  # the first octet only opens it

    async def until(self, streams: int) -> None:
        """Wait until the relay has opened so many streams, or has ended the connection."""
        with trio.fail_after(WAIT):
            while len(self.streams) < streams and self.ended is None:
                await self._news.wait()

    async def until_ended(self) -> None:
        """Wait until the relay has ended the connection."""
        while self.ended is None:
            await self._news.wait()

    async def greet(self) -> control.Welcome:
        """Say hello; returns the relay's welcome."""
        await self.until(1)
        hello = control_codec.encode(control.Hello(versions=[1], instance="0" * 32, agent="hostile"))
        self.connection.send_stream_data(CONTROL_STREAM, hello)
        await self.flush()
        with trio.fail_after(WAIT):
            while not self.heard:
                await self._news.wait()
        welcome = self.heard[0]
        if not isinstance(welcome, control.Welcome):
            raise ConnectionError(f"not welcome: {welcome}")
        return welcome

    def packet(self, payload: bytes) -> bytes:
        """Return a datagram with *payload* as its frames, encrypted with the connection's keys."""
        connection = self.connection
        number = connection._packet_number  # noqa: SLF001 - forged packets need what aioquic keeps to itself
        connection._packet_number += 1  # noqa: SLF001
        header = bytes([0x41]) + connection._peer_cid.cid + (number & 0xFFFF).to_bytes(2, "big")  # noqa: SLF001
        if self._keys is None:
            keys = connection._cryptos[Epoch.ONE_RTT].send  # noqa: SLF001
            self._keys = copy.copy(keys)  # aioquic forgets its own at the end
        return bytes(self._keys.encrypt_packet(header, payload.ljust(4, b"\0"), number))

    async def forge(self, frames: Iterable[bytes]) -> int:
        """Send *frames*, as many in a datagram as fit, whatever the relay answers; returns how many datagrams."""
        sent = 0
        payload = b""
        for each in frames:
            if payload and len(payload) + len(each) > PAYLOAD:
                await self._socket.sendto(self.packet(payload), self._relay)
                sent, payload = sent + 1, b""
            payload += each
        await self._socket.sendto(self.packet(payload), self._relay)
        return sent + 1

    def credit_of(self, stream_id: int) -> int:
        """Return the offset up to which the relay lets us send on a stream of its own."""
        return self.connection._streams[stream_id].max_stream_data_remote  # noqa: SLF001

    def credits(self, streams: Iterable[int]) -> dict[int, int]:
        """Return the offsets up to which all of *streams* may go together: the connection's credit bounds them, too."""
        left = self.connection._remote_max_data - self.connection._remote_max_data_used  # noqa: SLF001
        granted: dict[int, int] = {}
        for each in streams:
            granted[each] = min(self.credit_of(each), left)
            left -= granted[each]
        return granted


@asynccontextmanager
async def hostile_agent(lab: Lab, *, source: str = SOURCE) -> AsyncIterator[tuple[HostileAgent, control.Welcome]]:
    """Connect to the real relay; yields the connection, and the relay's welcome."""
    connection = QuicConnection(configuration=client_configuration(IdentityKey.generate()))
    streams = connection._local_max_streams_bidi  # noqa: SLF001
    streams.value = streams.sent = STREAMS
    relay = ("127.0.0.1", lab.agents_port)
    with trio.socket.socket(type=trio.socket.SOCK_DGRAM) as socket:
        await socket.bind((source, 0))
        agent = HostileAgent(connection, socket, relay)
        connection.connect(relay, trio.current_time())
        async with trio.open_nursery() as nursery:
            nursery.start_soon(agent.run)
            yield agent, await agent.greet()
            connection.close()
            await agent.flush()
            nursery.cancel_scope.cancel()
