"""A relay and agents in one process, on loopback and ports of the system's choice, and visitors that speak TLS."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import TypeVar, cast

import trio
import trio.testing
from OpenSSL import SSL

import trunnel
from trunnel.agent.exposure import Exposure
from trunnel.agent.runner import run_agent
from trunnel.events import Event
from trunnel.names import Hostname
from trunnel.streams.tls import TlsRole, TlsStream

Kind = TypeVar("Kind", bound=Event)
PATIENCE = 10
"""Seconds until a test gives up; nothing is measured by it."""


@dataclass
class Log:
    """The events of one program, and a way to wait for them."""

    events: list[Event] = field(default_factory=list)
    _news: trio.Event = field(default_factory=trio.Event)

    def __call__(self, event: Event) -> None:
        self.events.append(event)
        self._news.set()

    def of(self, kind: type[Kind]) -> list[Kind]:
        """Return the events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    async def wait(self, kind: type[Kind], count: int = 1) -> Kind:
        """Wait for the *count*-th event of one kind and return it."""
        with trio.fail_after(PATIENCE):
            while len(found := self.of(kind)) < count:
                self._news = trio.Event()
                await self._news.wait()
        return found[count - 1]


@dataclass
class House:
    """A running relay, and what its agents need."""

    relay: trunnel.BoundRelay
    log: Log
    folder: Path
    nursery: trio.Nursery
    settings: trunnel.RelaySettings

    def agent_settings(self, key: str = "default", **options: object) -> trunnel.AgentSettings:
        """Return the settings of an agent; each key has a state folder of its own."""
        options.setdefault("servers", (trunnel.ServerAddress("localhost", self.relay.agents_port),))
        options.setdefault("state_dir", self.folder / key)
        return trunnel.AgentSettings(**options)  # type: ignore[arg-type]

    async def expose(
        self, origin: trunnel.StreamHandler | trunnel.Target, key: str = "default", **options: object
    ) -> tuple[Exposure, Log]:
        """Run an agent in the house's nursery; returns once it is ready."""
        log = Log()
        settings = self.agent_settings(key, **options)
        agent: Exposure = await self.nursery.start(partial(run_agent, origin, settings, on_event=log))
        with trio.fail_after(PATIENCE):
            await agent.ready.wait()
        return agent, log

    async def visit(self, hostname: str, *alpn: bytes) -> TlsStream:
        """Connect as a visitor of *hostname*; the agent's own certificate is not checked."""
        return await visit(self.relay.visitors_port, hostname, *alpn)

    async def ask(self, hostname: str) -> bytes:
        """Say `hi` and return all that is answered."""
        with trio.fail_after(PATIENCE):
            visitor = await self.visit(hostname)
            await visitor.send_all(b"hi")
            await visitor.send_eof()
            return await read_to_end(visitor)


async def visit(port: int, hostname: str, *alpn: bytes, host: str = "127.0.0.1") -> TlsStream:
    """Connect and run a visitor's handshake."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.clear_mode(0x1)  # SSL_MODE_ENABLE_PARTIAL_WRITE: TlsStream asks for whole writes
    if alpn:
        context.set_alpn_protos(list(alpn))
    stream = await trio.open_tcp_stream(host, port)
    return await TlsStream.handshake(
        stream, context, role=TlsRole.CLIENT, server_name=Hostname(hostname), timeout=PATIENCE
    )


async def read_to_end(stream: trio.abc.ReceiveStream) -> bytes:
    """Return what comes until the end; closes the stream."""
    answer = b""
    async with stream:
        while chunk := await stream.receive_some():
            answer += chunk
    return answer


async def knock(port: int, opening: bytes) -> bytes:
    """Send *opening* in plain TCP and return what is answered."""
    stream = await trio.open_tcp_stream("127.0.0.1", port)
    with trio.fail_after(PATIENCE):
        await stream.send_all(opening)
        return await read_to_end(stream)


async def greet(stream: trio.abc.HalfCloseableStream, visitor: trunnel.VisitorInfo) -> None:
    """Serve a visitor: read to its end, answer with the name that it asked for."""
    while await stream.receive_some():
        pass
    await stream.send_all(visitor.hostname.value.encode())


@dataclass
class Gate:
    """An origin that answers `in`, waits to be told, then answers `out`."""

    entered: trio.Event = field(default_factory=trio.Event)
    opened: trio.Event = field(default_factory=trio.Event)

    async def serve(self, stream: trio.abc.HalfCloseableStream, visitor: trunnel.VisitorInfo) -> None:
        await stream.send_all(b"in")
        self.entered.set()
        await self.opened.wait()
        await stream.send_all(b"out")


async def until(condition: Callable[[], object]) -> None:
    """Wait until *condition* holds."""
    with trio.fail_after(PATIENCE):
        while not condition():
            await trio.testing.wait_all_tasks_blocked(0.001)


@asynccontextmanager
async def house(folder: Path, **options: object) -> AsyncIterator[House]:
    """Run a relay on loopback with these settings, and perhaps `authorize`; everything in it ends with the body."""
    authorize = cast("trunnel.AuthorizationHook | None", options.pop("authorize", None))
    options.setdefault("bind_addrs", ("127.0.0.1",))
    settings = trunnel.RelaySettings(state_dir=folder / "relay", api_port=0, pub_port=0, **options)  # type: ignore[arg-type]
    log = Log()
    async with trio.open_nursery() as nursery:
        relay: trunnel.BoundRelay = await nursery.start(
            partial(trunnel.serve_relay, settings, authorize=authorize, on_event=log)
        )
        yield House(relay, log, folder, nursery, settings)
        nursery.cancel_scope.cancel()
