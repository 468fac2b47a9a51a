"""A running ingress over real sockets, with doors that note who came."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio
import trio.testing

from tests.wire.hello_builder import Hello, alpn
from trunnel.relay.admission import Admission, AdmissionLimits
from trunnel.relay.ingress import ALL_ROLES, Arrival, Entrance, Role, serve
from trunnel.streams.listen import HostPort, TcpListener, open_listeners
from trunnel.wire.clienthello import ClientHello

NAMED = Hello().with_name(b"a.example")


def offering(*protocols: bytes, name: bytes | None = b"a.example") -> bytes:
    """Return a hello that offers exactly *protocols*."""
    kind, body = alpn(*protocols)
    return Hello().with_name(name).replacing(kind, body).stream()


AGENT = offering(b"trunnel-h2/1", name=None)
VISITOR = NAMED.stream()
CHALLENGE = offering(b"acme-tls/1")


@dataclass
class Recorder:
    """Doors that note who came and end when told to."""

    agents: list[tuple[Arrival, bytes]] = field(default_factory=list)
    visitors: list[tuple[Arrival, ClientHello, bytes]] = field(default_factory=list)
    verdicts: list[str] = field(default_factory=list)
    data_connections: list[tuple[Arrival, bytes]] = field(default_factory=list)
    stay: trio.Event | None = None
    error: Exception | None = None

    async def agent(self, arrival: Arrival) -> None:
        waiting = arrival.consumed or await arrival.stream.receive_some()
        self.agents.append((arrival, bytes(waiting)))
        await self._leave(arrival, b"agent")

    async def visitor(self, arrival: Arrival, hello: ClientHello, raw: bytes) -> None:
        self.visitors.append((arrival, hello, raw))
        await self._leave(arrival, b"visitor")
        await arrival.stream.aclose()  # it is this door's own now

    async def data(self, arrival: Arrival, *, scarce: bool) -> bool:
        waiting = arrival.consumed or await arrival.stream.receive_some()
        self.data_connections.append((arrival, bytes(waiting)))
        await self._leave(arrival, b"scarce" if scarce else b"data")
        return False

    def refused(self, arrival: Arrival, verdict: str) -> None:
        assert len(arrival.stream_id) == 16
        self.verdicts.append(verdict)

    async def _leave(self, arrival: Arrival, word: bytes) -> None:
        if self.error is not None:
            raise self.error
        await arrival.stream.send_all(word)
        if self.stay is not None:
            await self.stay.wait()


@dataclass
class House:
    """A running ingress."""

    listener: TcpListener
    doors: Recorder
    admission: Admission

    async def dial(self, opening: bytes = b"") -> trio.SocketStream:
        """Connect and send; see `dial`."""
        return await dial(self.listener.address, opening)

    async def ask(self, opening: bytes, *, eof: bool = False) -> bytes | None:
        """Return what the peer of a connection sees until its end; None if it is reset without a word."""
        answer = b""
        try:
            with trio.fail_after(10):
                async with await self.dial(opening) as stream:
                    if eof:
                        await stream.send_eof()
                    async for chunk in stream:
                        answer += chunk
        except trio.BrokenResourceError:
            assert not answer, "a reset must not overtake what was said"
            return None
        return answer


async def dial(address: HostPort, opening: bytes = b"") -> trio.SocketStream:
    """Connect and send; raises BrokenResourceError if the relay resets the connection first."""
    try:
        stream = await trio.open_tcp_stream(*address)
    except OSError as exc:
        raise trio.BrokenResourceError from exc
    try:
        await stream.send_all(opening)
    except trio.BrokenResourceError:
        await stream.aclose()
        raise
    return stream


@asynccontextmanager
async def house(
    *, roles: frozenset[Role] = ALL_ROLES, caps: AdmissionLimits | None = None, hello_timeout: float = 10
) -> AsyncIterator[House]:
    (listener,) = open_listeners(["127.0.0.1"], 0)
    built = House(listener, Recorder(), Admission(caps))
    async with trio.open_nursery() as nursery:

        async def run() -> None:
            await serve(
                [Entrance(listener, roles)], admission=built.admission, doors=built.doors, hello_timeout=hello_timeout
            )

        nursery.start_soon(run)
        try:
            yield built
        finally:
            listener.close()
            nursery.cancel_scope.cancel()
    assert built.admission.half_open.total == 0, "a ticket was not given back"


async def until(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds, however long the kernel takes."""
    with trio.fail_after(10):
        while not condition():
            await trio.testing.wait_all_tasks_blocked(0.001)
