"""Data connections over loopback: an agent's and a relay's end, parked or taken, and peers that keep to no rule."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
import trio.testing

from trunnel.names import KeyId
from trunnel.transports.direct import (
    DirectLink,
    DirectTerms,
    Seal,
    admit,
    answer,
    offer,
    prove,
    read_preface,
    wait_taken,
)
from trunnel.wire.direct import Answer

TERMS = DirectTerms(bytes(range(32)), KeyId.of_spki(b"relay"), "s-1")
HEADER = b"a PROXY header" * 9
FIRST = b"the visitor's ClientHello" * 60
PATIENCE = 5.0
"""Seconds that nothing here needs."""


async def tcp_pair() -> tuple[trio.SocketStream, trio.SocketStream]:
    """Return the agent's and the relay's end of a TCP connection."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        dialled = await trio.testing.open_stream_to_socket_listener(listener)
        return dialled, await listener.accept()


@asynccontextmanager
async def both_ends() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """A TCP connection, closed afterwards."""
    near, far = await tcp_pair()
    async with near, far:
        yield near, far


def is_closed(stream: trio.SocketStream) -> bool:
    """Whether our end has no descriptor any more."""
    return stream.socket.fileno() < 0


async def relay_admits(stream: trio.SocketStream, terms: DirectTerms = TERMS) -> DirectLink:
    """Do what a relay does with a new data connection."""
    return await admit(stream, await read_preface(stream), terms)


async def park(agent: trio.SocketStream, relay: trio.SocketStream) -> tuple[DirectLink, DirectLink]:
    """Run the exchange over a connection; return the agent's and the relay's link."""
    links: dict[str, DirectLink] = {}

    async def agents_side() -> None:
        links["agent"] = await prove(agent, TERMS, timeout=PATIENCE)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(agents_side)
        links["relay"] = await relay_admits(relay)
    return links["agent"], links["relay"]


async def take(agent: DirectLink, relay: DirectLink, first: bytes = FIRST, code: int = 0) -> tuple[bytes, Answer]:
    """Take a parked connection; return the header that the agent got and the answer that the relay got."""
    headers: list[bytes] = []

    async def agents_side() -> None:
        headers.append(await wait_taken(agent))
        await answer(agent, code)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(agents_side)
        said = await offer(relay, HEADER, first)
    return headers[0], said


@asynccontextmanager
async def parked() -> AsyncIterator[tuple[DirectLink, DirectLink]]:
    """A parked connection: the agent's and the relay's link."""
    async with both_ends() as (near, far):
        yield await park(near, far)


async def send_slowly(stream: trio.SocketStream, payload: bytes) -> None:
    """Send a byte a segment, and let the other side read each."""
    for at in range(len(payload)):
        await stream.send_all(payload[at : at + 1])
        await trio.testing.wait_all_tasks_blocked()


async def reads(stream: trio.SocketStream, size: int) -> bytes:
    """Read *size* bytes as a peer that we play."""
    received = b""
    while len(received) < size:
        received += await stream.receive_some(size - len(received))
    return received


@dataclass
class Middle:
    """Somebody between the ends, who passes everything on in small pieces."""

    passed: list[bytes] = field(default_factory=list[bytes])

    async def carry(self, source: trio.SocketStream, sink: trio.SocketStream) -> None:
        """Pass one direction on, a byte a segment."""
        while chunk := await source.receive_some():
            self.passed.append(chunk)
            await send_slowly(sink, chunk)


def link_of(stream: trio.SocketStream) -> DirectLink:
    """Return a link of a connection on which nothing was proved."""
    return DirectLink(stream, rtt=0.0, incoming=Seal(bytes(32), b""), outgoing=Seal(bytes(32), b""))
