"""A visitor on a data connection whose TLS the agent ends: in a worker, or here, by the same rules.

The relay's end of the data connection is the visitor's socket: what a relay
moves between the two is no matter here.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
import trio

from tests.agent.stage import NAME, PREFACE, a_leaf, closed_port, terminator, visit_over
from tests.transports.direct_pairs import park, tcp_pair
from tests.tunnels import until
from trunnel import capabilities
from trunnel.agent.forward import OnLink, forward_stream
from trunnel.agent.origin import Origin
from trunnel.agent.visit import Forwarding
from trunnel.agent.visitor import StreamHandler
from trunnel.events import Event, StreamClosed
from trunnel.names import Target
from trunnel.pump import Workers, open_workers
from trunnel.pump.employed import Employed
from trunnel.pump.leaf import encode_leaves
from trunnel.streams.abort import abort_stream
from trunnel.streams.tls import TlsStream
from trunnel.transports.direct import DirectLink, offer, wait_taken
from trunnel.wire.direct import Answer

ALPN = (b"http/1.1",)
"""What the endpoints speak."""
_LINUX = [
    pytest.mark.skipif(not capabilities.HAS_PUMP, reason="no splice on this system"),
    pytest.mark.may_skip("Linux only"),
]
with_workers = pytest.mark.parametrize("", [pytest.param(marks=_LINUX, id="worker")])
"""Where TLS is ended in a worker."""
both_ways = pytest.mark.parametrize("way", [pytest.param("worker", marks=_LINUX), "here"])
"""Where TLS is ended; nobody can tell."""


@dataclass
class Offloading:
    """An agent's end of data connections, and what came of its visitors."""

    nursery: trio.Nursery
    forwarding: Forwarding
    events: list[Event]
    relays: list[trio.SocketStream] = field(default_factory=list[trio.SocketStream])
    """The other ends; closed in the end."""
    visits: list[trio.CancelScope] = field(default_factory=list[trio.CancelScope])
    """One for each visitor; cancelling it is the end of the session."""

    @property
    def workers(self) -> Workers:
        """Those who end TLS."""
        assert self.forwarding.workers is not None
        return self.forwarding.workers

    @property
    def load(self) -> int:
        """The streams in workers' hands."""
        return sum(worker.load for worker in self.workers.employed)

    async def take(self) -> trio.SocketStream:
        """Have a data connection taken for a visitor; return what the visitor's TLS is to run on."""
        near, far = await tcp_pair()
        self.relays.append(far)
        agents, relays = await park(near, far)
        self.nursery.start_soon(self._attend, agents)
        assert await offer(relays, PREFACE, b"") is Answer.ACCEPTED
        return relays.stream

    async def visit(self, *alpn: bytes) -> TlsStream:
        """Be a visitor, whose handshake is done."""
        return await visit_over(await self.take(), NAME, *alpn)

    async def _attend(self, link: DirectLink) -> None:
        scope = trio.CancelScope()
        self.visits.append(scope)
        with scope:
            await forward_stream(OnLink(link, await wait_taken(link)), self.forwarding)

    async def closed(self, count: int = 1) -> StreamClosed:
        """Wait for the *count*-th closing record and return it; there is none after it."""
        await until(lambda: len(self.records) >= count)
        assert len(self.records) == count
        return self.records[-1]

    @property
    def records(self) -> list[StreamClosed]:
        """The closing records."""
        return [event for event in self.events if isinstance(event, StreamClosed)]


@asynccontextmanager
async def agents_end(
    origin: Origin | StreamHandler | None, workers: Workers | None, **options: object
) -> AsyncIterator[Offloading]:
    """Serve visitors of *origin* (None: a port on which nobody listens)."""
    events: list[Event] = []
    if origin is None:
        origin = Origin(Target(port=await closed_port()), connect_timeout=0.3, events=events.append)
    options.setdefault("terminator", terminator(*ALPN))
    forwarding = Forwarding(endpoints={NAME}, origin=origin, events=events.append, workers=workers, **options)  # type: ignore[arg-type]
    async with trio.open_nursery() as nursery:
        play = Offloading(nursery, forwarding, events)
        try:
            yield play
        finally:
            nursery.cancel_scope.cancel()
            for stream in play.relays:
                abort_stream(stream)


@asynccontextmanager
async def crew(way: str = "worker", count: int = 1) -> AsyncIterator[Workers | None]:
    """Workers who show the leaf of the tests; None if *way* is "here"."""
    if way == "here":
        yield None
        return
    async with open_workers(count, ends_tls=True) as workers:
        workers.show(encode_leaves([a_leaf()], ALPN))
        yield workers


@asynccontextmanager
async def offloading(
    origin: Origin | StreamHandler | None, way: str = "worker", **options: object
) -> AsyncIterator[Offloading]:
    """Serve visitors of *origin* with one worker, or here; nothing is left in the worker's hands."""
    async with crew(way) as workers:
        hired = () if workers is None else workers.employed
        async with agents_end(origin, workers, **options) as play:
            yield play
        if workers is not None:
            await until(lambda: all(worker.load == 0 for worker in hired))


def memory_of(worker: Employed) -> bytes:
    """Return all that a worker has in memory and can write to."""
    found: list[bytes] = []
    process = Path(f"/proc/{worker.process.pid}")
    with (process / "mem").open("rb", buffering=0) as memory:
        for line in (process / "maps").read_text(encoding="ascii").splitlines():
            span, rights, *_, name = f"{line} ".split(" ", 5)
            if rights.startswith("rw") and "[v" not in name:
                start, end = (int(edge, 16) for edge in span.split("-"))
                memory.seek(start)
                found.append(memory.read(end - start))
    return b"".join(found)
