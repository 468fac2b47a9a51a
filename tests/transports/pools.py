"""Sessions of several carriers, for tests: pools over any transport, and a carrier whose behaviour a test sets."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass

import trio
import trio.testing

from tests.transports.conformance import AGENT, RELAY, Maker
from trunnel.errors import ErrorCode, SessionClosed
from trunnel.streams.nursery import bare_nursery
from trunnel.transports.base import Peer, Session, SessionStatistics, Stream
from trunnel.transports.memory import memory_session_pair
from trunnel.transports.pool import PooledSession, open_pool


class Watched(Session):
    """One end of a memory session that is as silent as a test says."""

    def __init__(self, inner: Session) -> None:
        self.inner = inner
        self.silent_since: float | None = None
        self.heard: float | None = None
        self.hold: trio.Event | None = None
        """What `open_stream` waits for before it does anything."""

    @property
    def transport(self) -> str:
        return self.inner.transport

    @property
    def peer(self) -> Peer:
        return self.inner.peer

    @property
    def closed(self) -> SessionClosed | None:
        return self.inner.closed

    @property
    def last_heard(self) -> float:
        return self.inner.last_heard if self.heard is None else self.heard

    @property
    def unanswered_since(self) -> float | None:
        return self.silent_since

    async def open_stream(self) -> Stream:
        if self.hold is not None:
            await self.hold.wait()
        return await self.inner.open_stream()

    async def accept_stream(self) -> Stream:
        return await self.inner.accept_stream()

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        self.inner.go_away(code)

    def abort(self, reason: str, *, code: ErrorCode = ErrorCode.CANCEL, retryable: bool = True) -> None:
        self.inner.abort(reason, code=code, retryable=retryable)

    async def wait_closed(self) -> SessionClosed:
        return await self.inner.wait_closed()

    def statistics(self) -> SessionStatistics:
        return self.inner.statistics()


@dataclass(eq=False)
class Carrier:
    """A carrier in a pool: both ends, and the task that carries it."""

    near: Watched
    far: Session
    scope: trio.CancelScope
    ended: list[SessionClosed]


@dataclass
class Pool:
    """The relay's pool of a test, and what carries it."""

    session: PooledSession
    nursery: trio.Nursery
    stack: AsyncExitStack

    async def add(self) -> Carrier:
        """Take one more carrier in."""
        near, far = await self.stack.enter_async_context(memory_session_pair(RELAY, AGENT))
        carrier = Carrier(Watched(near), far, trio.CancelScope(), [])

        async def run() -> None:
            with carrier.scope:
                carrier.ended.append(await self.session.carry(carrier.near))

        self.nursery.start_soon(run)
        await trio.testing.wait_all_tasks_blocked()
        return carrier


@asynccontextmanager
async def pool(carriers: int = 0, *, lasting: bool = True) -> AsyncIterator[tuple[Pool, list[Carrier]]]:
    """Yield a relay's pool and its first carriers."""
    async with AsyncExitStack() as stack, open_pool(AGENT, lasting=lasting) as session, bare_nursery() as nursery:
        made = Pool(session, nursery, stack)
        yield made, [await made.add() for _ in range(carriers)]
        nursery.cancel_scope.cancel()


@asynccontextmanager
async def pooled(*makers: Maker) -> AsyncIterator[tuple[Session, Session]]:
    """Yield a relay's and an agent's pool over a pair of carriers from each of *makers*."""
    async with AsyncExitStack() as stack:
        pairs = [await stack.enter_async_context(make()) for make in makers]
        relay = await stack.enter_async_context(open_pool(AGENT, lasting=False))
        agent = await stack.enter_async_context(open_pool(RELAY, lasting=False))
        nursery = await stack.enter_async_context(bare_nursery())
        for relay_end, agent_end in pairs:
            nursery.start_soon(relay.carry, relay_end)
            nursery.start_soon(agent.carry, agent_end)
        for session in (relay, agent):
            while len(session.carriers) < len(makers):
                await session.wait_carriers_changed()
        yield relay, agent
        nursery.cancel_scope.cancel()
