"""Peers that break the rules: a relay and an agent that speak HTTP/2 frame by frame.

Both do the whole of a lawful beginning (TLS with a proven key, preface,
SETTINGS, hello and welcome) and then send whatever a row wants.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager, suppress
from datetime import UTC, datetime
from typing import Self

import trio

from scripts.rows.lab import WAIT, Lab, Program
from trunnel.identity.contexts import link_client_context, link_server_context
from trunnel.identity.keys import IdentityKey, link_certificate
from trunnel.streams.tls import TlsRole, TlsStream
from trunnel.transports import h2_frames as frames
from trunnel.transports.alpn import LINK_ALPN_H2
from trunnel.transports.h2_frames import FrameReader, FrameType, Piece
from trunnel.wire import control, control_codec

REQUEST = b"\x83\x87\x04\x08/trunnel\x01\x05relay"
"""A request's header block: POST, https, /trunnel, an authority."""
RESPONSE = b"\x88"


def headers(stream_id: int, block: bytes = REQUEST, *, flags: int = frames.END_HEADERS) -> bytes:
    """Return a HEADERS frame."""
    return frames.encode_frame(FrameType.HEADERS, flags, stream_id, block)


def reset(stream_id: int) -> bytes:
    """Return an RST_STREAM frame (CANCEL)."""
    return frames.encode_frame(FrameType.RST_STREAM, 0, stream_id, (8).to_bytes(4, "big"))


class Wire:
    """HTTP/2 frames over one TLS connection."""

    def __init__(self, tls: TlsStream, *, expect_preface: bool) -> None:
        self.tls = tls
        self._reader = FrameReader(expect_preface=expect_preface)
        self._pieces: list[Piece] = []
        self.goaway: int | None = None
        """Code of the GOAWAY that came, or None."""
        self.frames_seen = 0

    async def send(self, *parts: bytes) -> None:
        """Send frames."""
        await self.tls.send_all(b"".join(parts))

    async def next_piece(self) -> Piece | None:
        """Return the next frame (or part of DATA), None at the end of the connection."""
        while not self._pieces:
            try:
                chunk = await self.tls.receive_some(65536)
            except trio.BrokenResourceError:
                return None
            if not chunk:
                return None
            self._pieces += self._reader.feed_untrusted(bytes(chunk))
        piece = self._pieces.pop(0)
        self.frames_seen += 1
        if piece.header.kind == FrameType.GOAWAY:
            self.goaway = int.from_bytes(piece.payload[4:8], "big")
        return piece

    async def read_control(self) -> control.Message:
        """Return the next control message on stream 1."""
        decoder = control_codec.ControlDecoder()
        while (piece := await self.next_piece()) is not None:
            if piece.header.kind == FrameType.DATA and piece.header.stream_id == 1:
                for message in decoder.feed_untrusted(piece.payload):
                    return message
        raise ConnectionError("the peer ended before it spoke")

    async def drain(self) -> None:
        """Read until the peer ends."""
        while await self.next_piece() is not None:
            pass

    async def flood_deaf(self, chunks: Sequence[bytes]) -> int:
        """Send chunk after chunk and read nothing until that is over; returns how many went out."""
        sent = 0
        with trio.move_on_after(WAIT / 3), suppress(trio.BrokenResourceError):
            for chunk in chunks:
                await self.tls.send_all(chunk)
                sent += 1
        with trio.move_on_after(WAIT / 3):
            await self.drain()
        return sent

    async def flood(self, chunks: Sequence[bytes]) -> int:
        """Send chunk after chunk until all are out or the peer has ended; returns how many went out."""
        sent = 0
        async with trio.open_nursery() as nursery:

            async def watch() -> None:
                await self.drain()
                nursery.cancel_scope.cancel()

            nursery.start_soon(watch)
            try:
                for chunk in chunks:
                    await self.tls.send_all(chunk)
                    sent += 1
                with trio.move_on_after(WAIT / 3):
                    await trio.sleep_forever()
            except trio.BrokenResourceError:
                with trio.move_on_after(WAIT / 3):
                    await trio.sleep_forever()
            nursery.cancel_scope.cancel()
        return sent

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        self.tls.abort()


@asynccontextmanager
async def hostile_relay(lab: Lab, target: int) -> AsyncIterator[tuple[Wire, Program]]:
    """Pretend to be a relay; yields the wire to a real agent that we have welcomed, and the agent."""
    key = IdentityKey.generate()
    certificate = link_certificate(key, now=datetime.now(UTC), names=["localhost", "127.0.0.1"])
    context = link_server_context(key, [certificate], alpn=[LINK_ALPN_H2])
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    state = lab.folder / f"agent-of-{port}"
    agent = lab.spawn("expose", str(target), "--server", f"127.0.0.1:{port}", "--state-dir", str(state))
    async with listener:
        raw = await listener.accept()
    tls = await TlsStream.handshake(raw, context, role=TlsRole.SERVER, timeout=WAIT)
    async with Wire(tls, expect_preface=False) as wire:
        await wire.send(frames.PREFACE, frames.encode_settings({}), headers(1))
        hello = await wire.read_control()
        if not isinstance(hello, control.Hello):
            raise ConnectionError("not a hello")
        limits = control.SessionLimits(
            streams=100, heartbeat=10.0, dead_after=20.0, first_byte_timeout=30.0, idle_timeout=60.0
        )
        endpoint = control.Endpoint("a.localhost", "https://a.localhost")
        welcome = control_codec.encode(
            control.Welcome(
                version=1,
                session="hostile",
                relay=key.key_id.value,
                suffixes=["localhost"],
                public_port=443,
                endpoints=[endpoint],
                limits=limits,
            )
        )
        await wire.send(frames.encode_frame(FrameType.DATA, 0, 1, welcome))
        await agent.event("ready")
        yield wire, agent


@asynccontextmanager
async def hostile_agent(lab: Lab, *, key: IdentityKey | None = None) -> AsyncIterator[tuple[Wire, control.Welcome]]:
    """Pretend to be an agent; yields the wire to the real relay, which has welcomed us."""
    key = key or IdentityKey.generate()
    context = link_client_context(key, link_certificate(key, now=datetime.now(UTC)), alpn=[LINK_ALPN_H2])
    raw = await lab.connect(source="127.0.4.1", port=lab.agents_port)
    tls = await TlsStream.handshake(raw, context, role=TlsRole.CLIENT, timeout=WAIT)
    async with Wire(tls, expect_preface=True) as wire:
        hello = control_codec.encode(control.Hello(versions=[1], instance="0" * 32, agent="hostile"))
        await wire.send(
            frames.encode_settings({frames.Setting.MAX_CONCURRENT_STREAMS: 1000}),
            headers(1, RESPONSE),
            frames.encode_frame(FrameType.DATA, 0, 1, hello),
        )
        welcome = await wire.read_control()
        if not isinstance(welcome, control.Welcome):
            raise ConnectionError(f"not welcome: {welcome}")
        yield wire, welcome
