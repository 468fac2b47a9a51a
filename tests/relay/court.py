"""Claims without a network: sessions without carriers, and a DNS that answers when it is told to."""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field

import trio
import trio.testing

from trunnel.names import Hostname, KeyId
from trunnel.relay.authorized import parse_authorized
from trunnel.relay.claims import Claims
from trunnel.relay.dnsproof import Denied, Proof, Proven
from trunnel.relay.sessions import AgentSession, Farewell, Sessions
from trunnel.transports.base import Peer
from trunnel.transports.pool import open_pool
from trunnel.wire import control

SUFFIX = Hostname("t.example")
RELAY = Hostname("relay.example")


@dataclass
class Question:
    """One look at DNS that has not ended."""

    name: Hostname
    key_id: KeyId
    asked_at: float
    answered: trio.Event = field(default_factory=trio.Event)


@dataclass
class Names:
    """What DNS says now: which keys each name is led to; and what was asked."""

    led: dict[Hostname, set[KeyId]] = field(default_factory=dict)
    unclear: bool = False
    held_back: bool = False
    """Whether questions wait for `answer`."""
    waiting: list[Question] = field(default_factory=list)
    asked: list[tuple[Hostname, KeyId]] = field(default_factory=list)
    proved: set[tuple[Hostname, KeyId]] = field(default_factory=set)
    """Everything that was ever proven."""
    most_at_once: int = 0

    async def prove(self, name: Hostname, key_id: KeyId) -> Proof:
        """As `dnsproof.prove`: what is true at the moment of the answer."""
        question = Question(name, key_id, trio.current_time())
        self.asked.append((name, key_id))
        self.waiting.append(question)
        self.most_at_once = max(self.most_at_once, len(self.waiting))
        try:
            if self.held_back:
                await question.answered.wait()
            else:
                await trio.lowlevel.checkpoint()
        finally:
            self.waiting.remove(question)
        if self.unclear:
            return Denied("no answer from DNS", transient=True)
        if key_id not in self.led.get(name, set()):
            return Denied("it has no CNAME record")
        self.proved.add((name, key_id))
        return Proven("cname")

    def lead(self, name: Hostname, *keys: KeyId) -> None:
        """Set the records of *name*."""
        self.led[name] = set(keys)

    async def answer(self, count: int | None = None) -> None:
        """Answer what waits, the oldest first, and let what follows happen."""
        for question in self.waiting[:count]:
            question.answered.set()
        await trio.testing.wait_all_tasks_blocked()


class Court:
    """Sessions, their claims, and what they were told."""

    def __init__(self, stack: AsyncExitStack, nursery: trio.Nursery) -> None:
        self.reserved = {RELAY}
        self.sessions = Sessions([SUFFIX], open_to_all=True, agents_max=100, reserved=self.reserved)
        self.dns = Names()
        self.told: list[AgentSession] = []
        self.claims = Claims(self.sessions, self.dns.prove, self.told.append)
        self._stack = stack
        self._nursery = nursery
        self._made = 0

    async def attach(
        self, key_id: KeyId, *names: Hostname, instance: int | None = None, share: bool = False
    ) -> AgentSession:
        """Attach an agent that asks for *names*, and let what follows happen."""
        self._made += 1
        link = await self._stack.enter_async_context(
            open_pool(Peer(key_id=key_id, address="198.51.100.7:1"), lasting=True)
        )
        hello = control.Hello(
            versions=[1],
            instance=f"{self._made if instance is None else instance:032x}",
            agent="test",
            share=share,
            hostnames=[name.value for name in names],
        )
        session = AgentSession(session_id=f"s-{self._made}", link=link, hello=hello, nursery=self._nursery)
        self.sessions.attach(session)
        self._nursery.start_soon(self.claims.keep, session)
        await trio.testing.wait_all_tasks_blocked()
        return session

    def leave(self, session: AgentSession) -> None:
        """End a session, as the relay does when its agent drains."""
        self.sessions.routes.release(session)
        session.retire(Farewell(reason="the agent stopped"))
        session.over = True
        self.sessions.detach(session)

    def list_agents(self, *lines: str) -> None:
        """Put a list in force: who is not on it is let in no more."""
        self.sessions._open = False
        self.sessions.reauthorize(parse_authorized("\n".join(lines)))

    def owners(self, name: Hostname) -> tuple[AgentSession, ...]:
        return self.sessions.routes.owners(name)

    def check(self, names: Iterable[Hostname]) -> None:
        """One key for each name at most, and none that DNS never named."""
        for name in names:
            keys = {owner.key_id for owner in self.owners(name)}
            assert len(keys) <= 1, f"{name} has owners with different keys"
            assert all((name, key) in self.dns.proved for key in keys), f"{name} is routed without a proof"
            assert all(owner.serves for owner in self.owners(name)), f"{name} is routed to a session that is retired"


@asynccontextmanager
async def court() -> AsyncIterator[Court]:
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        yield Court(stack, nursery)
        nursery.cancel_scope.cancel()
