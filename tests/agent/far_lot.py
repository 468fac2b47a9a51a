"""The relay's end of data connections by script, and a pool that dials it.  Sockets are real, time is virtual."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from types import SimpleNamespace
from typing import cast

import trio
import trio.testing

from tests.agent.far_relay import listen
from tests.agent.stage import NAME, PREFACE
from tests.transports.direct_pairs import PATIENCE, TERMS, tcp_pair
from trunnel.agent.attachment import Attachment
from trunnel.agent.direct import Pool
from trunnel.agent.parking import Parking
from trunnel.agent.visit import Forwarding
from trunnel.agent.visitor import StreamHandler, VisitorInfo
from trunnel.errors import ConnectError
from trunnel.events import Event, StreamClosed
from trunnel.streams.sockets import abort_socket
from trunnel.transports.direct import DirectLink, DirectTerms, admit, offer, prove, read_preface
from trunnel.wire.direct import Answer


class Middling:
    """Chance that draws the most."""

    def uniform(self, a: float, b: float, /) -> float:
        return b


async def settled() -> None:
    """Let everything happen that needs no time; sockets deliver within that cushion."""
    await trio.testing.wait_all_tasks_blocked(0.005)


async def echo(stream: trio.abc.HalfCloseableStream, visitor: VisitorInfo) -> None:
    """Serve a visitor: send back what comes."""
    while chunk := await stream.receive_some():
        await stream.send_all(chunk)


@dataclass
class FarLot:
    """What a relay has parked for one session."""

    parked: list[DirectLink] = field(default_factory=list)
    """The oldest first."""
    failing: ConnectError | None = None
    """How dials fail."""
    opened: trio.Event | None = None
    """What dials wait for, if anything."""
    dials: list[float] = field(default_factory=list)
    """When each began."""
    streams: list[trio.SocketStream] = field(default_factory=list)
    """Our end of whatever was dialled; closed in the end."""
    canary: str = ""
    """How canaries end."""
    canaries: list[float] = field(default_factory=list)
    """When each was asked for."""

    async def connect(self, terms: DirectTerms) -> DirectLink:
        """Dial and prove."""
        self.dials.append(trio.current_time())
        await trio.lowlevel.checkpoint()
        if self.opened is not None:
            await self.opened.wait()
        if self.failing is not None:
            raise self.failing
        with trio.fail_after(PATIENCE, shield=True):  # it takes no time, and would leave a socket open when cancelled
            return await self._exchange(terms)

    async def _exchange(self, terms: DirectTerms) -> DirectLink:
        near, far = await tcp_pair()
        self.streams.append(far)
        links: list[DirectLink] = []

        async def agents_side() -> None:
            links.append(await prove(near, terms, timeout=PATIENCE))

        async with trio.open_nursery() as nursery:
            nursery.start_soon(agents_side)
            self.parked.append(await admit(far, await read_preface(far), terms))
        return links[0]

    async def send_canary(self, attachment: Attachment) -> str:
        del attachment
        await trio.lowlevel.checkpoint()
        self.canaries.append(trio.current_time())
        return self.canary

    @property
    def alive(self) -> list[DirectLink]:
        """Those that the agent has not let go."""
        return [link for link in self.parked if link.is_alive()]

    async def visit(self, header: bytes = PREFACE, first: bytes = b"") -> trio.SocketStream:
        """Take the newest for a visitor; the agent must accept."""
        stream, said = await self.take(header, first)
        assert said is Answer.ACCEPTED
        return stream

    async def take(self, header: bytes = PREFACE, first: bytes = b"") -> tuple[trio.SocketStream, Answer]:
        """Take the newest; return what the agent says."""
        link = self.parked.pop()
        return link.stream, await offer(link, header, first)


@dataclass
class Pooled:
    """A pool that runs, and the relay's side of it."""

    parking: Parking
    lot: FarLot
    nursery: trio.Nursery
    pool: Pool = field(init=False)
    events: list[Event] = field(default_factory=list)
    told: list[str | None] = field(default_factory=list)
    """What `failure` was at each change."""
    over: trio.Event = field(default_factory=trio.Event)

    @property
    def records(self) -> list[StreamClosed]:
        """The closing records."""
        return [event for event in self.events if isinstance(event, StreamClosed)]

    def attachment(self) -> Attachment:
        """Return one of the same session."""
        return cast(
            "Attachment", SimpleNamespace(ended=None, welcome=SimpleNamespace(limits=SimpleNamespace(streams=1_000)))
        )


@asynccontextmanager
async def pooled(
    lot: FarLot | None = None, *, origin: StreamHandler = listen, attached: bool = True, cap: int = 64
) -> AsyncIterator[Pooled]:
    """Run a pool whose visitors *origin* serves."""
    lot = lot or FarLot()
    try:
        async with trio.open_nursery() as nursery:
            parking = Parking(cap, rng=Middling(), now=trio.current_time())
            play = Pooled(parking, lot, nursery)
            forwarding = Forwarding(endpoints={NAME}, origin=origin, terminator=None, events=play.events.append)
            pool = Pool(
                TERMS,
                parking,
                connect=lot.connect,
                canary=lot.send_canary,
                forwarding=forwarding,
                tell=lambda pool: play.told.append(pool.failure),
            )
            play.pool = pool

            async def run() -> None:
                await pool.run()
                play.over.set()

            if attached:
                pool.attach(play.attachment())
            nursery.start_soon(run)
            yield play
            nursery.cancel_scope.cancel()
    finally:
        for stream in lot.streams:
            abort_socket(stream.socket)
