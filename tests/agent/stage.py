"""What the tests of forwarding share: a session in memory, a leaf, origins, and visitors that speak TLS."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import pytest
import trio
from OpenSSL import SSL

from trunnel.agent.forward import InSession, forward_stream
from trunnel.agent.origin import Origin
from trunnel.agent.terminate import Terminator
from trunnel.agent.visit import Forwarding
from trunnel.agent.visitor import VisitorInfo
from trunnel.events import Event, StreamClosed
from trunnel.identity.certstore import Leaf, LeafStore
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname, KeyId, Target
from trunnel.streams.tls import TlsRole, TlsStream
from trunnel.transports.base import Peer, Stream
from trunnel.transports.memory import MemorySession, memory_session_pair
from trunnel.wire.proxyprotocol import Address, visitor_preface

NAME = Hostname("app.localhost")
VISITOR, LOCAL = Address("198.51.100.7", 50_000), Address("203.0.113.1", 443)
PREFACE = visitor_preface(
    visitor=VISITOR, local=LOCAL, authority=NAME, alpn=b"http/1.1", stream="stream-1", endpoint=NAME
)


@functools.cache
def a_leaf(number: int = 0) -> Leaf:
    """Return a key and certificate for `NAME`, one for each *number*; made once."""
    with tempfile.TemporaryDirectory() as folder:
        return LeafStore(Path(folder), IdentityKey.generate()).leaf([NAME], now=datetime.now(UTC))


def terminator(*alpn: bytes) -> Terminator:
    """Return what ends visitors' TLS; `http/1.1` unless told otherwise."""
    return Terminator([a_leaf()], alpn=alpn or (b"http/1.1",))


@dataclass
class Stage:
    """A session whose agent's end forwards every stream."""

    relay: MemorySession
    nursery: trio.Nursery
    events: list[Event] = field(default_factory=list)
    ended: trio.Event = field(default_factory=trio.Event)

    async def open(self, preface: bytes = PREFACE) -> Stream:
        """Open a stream as the relay does for a visitor."""
        stream = await self.relay.open_stream()
        await stream.send_all(preface)
        return stream

    async def open_tls(self, *alpn: bytes) -> TlsStream:
        """Open a stream and run a visitor's TLS handshake inside it."""
        return await visit_over(await self.open(), NAME, *alpn)

    def note(self, event: Event) -> None:
        """Take an event of the agent's."""
        self.events.append(event)
        if isinstance(event, StreamClosed):
            self.ended.set()

    async def closed(self) -> StreamClosed:
        """Wait for the first closing record and return it; there must be one only."""
        with trio.fail_after(5):
            await self.ended.wait()
        (record,) = [event for event in self.events if isinstance(event, StreamClosed)]
        return record


@asynccontextmanager
async def stage(origin: Origin | Callable[..., Awaitable[None]] | None, **options: object) -> AsyncIterator[Stage]:
    """Yield a stage; *origin* None is a port on which nobody listens."""
    peer = Peer(key_id=KeyId.of_spki(b"a key"), address="test")
    if origin is None:
        origin = Origin(Target(port=await closed_port()), connect_timeout=0.3)
    options.setdefault("terminator", None)
    async with memory_session_pair(peer, peer) as (relay, agent), trio.open_nursery() as nursery:
        play = Stage(relay, nursery)
        forwarding = Forwarding(endpoints={NAME}, origin=origin, events=play.note, **options)  # type: ignore[arg-type]

        async def accept() -> None:
            while True:
                nursery.start_soon(forward_stream, InSession(await agent.accept_stream()), forwarding)

        nursery.start_soon(accept)
        yield play
        nursery.cancel_scope.cancel()


async def visit_over(stream: trio.abc.HalfCloseableStream, name: Hostname, *alpn: bytes) -> TlsStream:
    """Run a visitor's TLS handshake over *stream*."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.clear_mode(0x1)  # SSL_MODE_ENABLE_PARTIAL_WRITE: TlsStream asks for whole writes
    if alpn:
        context.set_alpn_protos(list(alpn))
    return await TlsStream.handshake(
        stream, context, role=TlsRole.CLIENT, server_name=name, timeout=5, tolerate_truncation=False
    )


async def closed_port() -> int:
    """Return a port on which nobody listens."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        return int(listener.socket.getsockname()[1])


@asynccontextmanager
async def origin_of(handler: Callable[[trio.SocketStream], Awaitable[None]]) -> AsyncIterator[Origin]:
    """Yield an origin that serves each connection with *handler*."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        nursery.start_soon(trio.serve_listeners, handler, [listener])
        yield Origin(Target(port=listener.socket.getsockname()[1]))
        nursery.cancel_scope.cancel()


async def echo(stream: trio.SocketStream) -> None:
    """Send back what comes, and the end."""
    async with stream:
        while chunk := await stream.receive_some():
            await stream.send_all(chunk)


async def origin_that_must_not_be_called(stream: trio.abc.HalfCloseableStream, visitor: VisitorInfo) -> None:
    """Fail the test: an origin for visitors that must not come so far."""
    pytest.fail("the origin was reached")
