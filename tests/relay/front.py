"""The agents' side of a relay without its ports: agents come over carriers in memory, so that time can be virtual."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar

import trio
import trio.testing

from trunnel.clock import utc_now
from trunnel.events import CarrierLost, CarrierOpened, Event, SessionEnded, SessionOpened
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname, KeyId
from trunnel.relay.admission import Admission, Admit
from trunnel.relay.agents import AgentDoor
from trunnel.relay.attached import AttachedAgents
from trunnel.relay.authorized import parse_authorized
from trunnel.relay.certificate import RelayCertificate
from trunnel.relay.credentials import self_signed
from trunnel.relay.lots import Lots
from trunnel.relay.sessions import AgentSession, Sessions
from trunnel.relay.taking import DataPlane
from trunnel.settings.relay import RelaySettings
from trunnel.transports.base import Peer
from trunnel.transports.control_stream import ControlStream
from trunnel.transports.memory import MemorySession, memory_session_pair
from trunnel.wire import control

Kind = TypeVar("Kind", bound=Event)
A, B = KeyId.of_spki(b"a"), KeyId.of_spki(b"b")
SUFFIX = Hostname("one.example")
NAME = f"{A}.{SUFFIX}"
"""A's name."""
MOMENT = 0.01
"""Seconds before or after a deadline."""
PEER_PORT = 4_000
RELAY = IdentityKey.generate()
"""The relay's key."""


def hello(instance: int = 0, *, session: str | None = None, alone: bool = False, share: bool = False) -> control.Hello:
    return control.Hello(
        versions=[1], instance=f"{instance:032x}", agent="test", where="box", session=session, alone=alone, share=share
    )


@dataclass(eq=False)
class Caller:
    """An agent's end of one carrier that has been answered."""

    link: MemorySession
    """The agent's end."""
    near: MemorySession
    """The relay's end."""
    channel: ControlStream
    answer: control.Message

    @property
    def session(self) -> str:
        """The session that the carrier belongs to."""
        assert isinstance(self.answer, control.Welcome), self.answer
        return self.answer.session

    async def say(self, message: control.Message) -> control.Message:
        """Send *message* and return what is answered."""
        await self.channel.send(message)
        return await self.hear()

    async def hear(self) -> control.Message:
        """Return what the relay says next, its pings apart."""
        while isinstance(message := await self.channel.receive(), control.Ping):
            pass
        return message

    async def lose(self) -> None:
        """Lose the carrier; returns once everybody has noticed."""
        self.link.abort("cut")
        await trio.testing.wait_all_tasks_blocked()


@dataclass
class Front:
    """A relay's sessions, and the door that agents come in by."""

    sessions: Sessions
    attached: AttachedAgents
    door: AgentDoor
    events: list[Event]
    nursery: trio.Nursery
    _stack: AsyncExitStack
    _admission: Admission
    _ports: int = PEER_PORT
    callers: list[Caller] = field(default_factory=list)
    """Every carrier that was answered, oldest first."""
    failures: list[Exception] = field(default_factory=list)
    """What ended a carrier's task, as a connection's boundary would log it."""

    def authorize(self, *lines: str) -> None:
        """Put a list of agents in force, as the relay does."""
        for session in self.sessions.reauthorize(parse_authorized("\n".join(lines))):
            self.attached.announce(session)

    def owner(self, name: str) -> AgentSession | None:
        """Return who serves a name."""
        return self.sessions.routes.lookup(Hostname(name))

    def of(self, kind: type[Kind]) -> list[Kind]:
        """Return the events of one kind so far."""
        return [event for event in self.events if isinstance(event, kind)]

    def story(self) -> list[str]:
        """Return what happened to sessions and carriers, in a word each."""
        words: list[str] = []
        for event in self.events:
            match event:
                case SessionOpened():
                    words.append("session")
                case CarrierOpened(carriers=count):
                    words.append(f"carrier {count}")
                case CarrierLost(carriers=count):
                    words.append(f"lost {count}")
                case SessionEnded(reason=reason):
                    words.append(f"over: {reason}")
                case _:
                    pass
        return words

    async def connect(self, key: KeyId = A) -> tuple[MemorySession, MemorySession, ControlStream]:
        """Bring a carrier to the door; returns both ends and the agent's control stream, on which nothing was said."""
        self._ports += 1
        relay = Peer(key_id=KeyId.of_spki(b"relay"), address="relay")
        peer = Peer(key_id=key, address=f"198.51.100.7:{self._ports}")
        near, link = await self._stack.enter_async_context(memory_session_pair(relay, peer))
        decision = self._admission.admit_connection("198.51.100.7")
        assert isinstance(decision, Admit)

        async def serve() -> None:
            with decision.ticket:
                try:
                    await self.door.greet(near, decision.ticket, RELAY.key_id)
                except Exception as exc:  # noqa: BLE001 - as the ingress does
                    self.failures.append(exc)
                finally:
                    near.abort("the connection's task has ended")

        self.nursery.start_soon(serve)
        return near, link, ControlStream(link, await link.accept_stream(), control.Phase.EXPECT_ANSWER)

    async def call(self, asking: control.Hello | None = None, key: KeyId = A) -> Caller:
        """Come as an agent with one more carrier; returns once the relay has answered."""
        near, link, channel = await self.connect(key)
        await channel.send(asking or hello())
        caller = Caller(link, near, channel, await channel.receive())
        self.callers.append(caller)
        await trio.testing.wait_all_tasks_blocked()
        return caller

    async def join(self, other: Caller, *, instance: int = 0, alone: bool = False, key: KeyId = A) -> Caller:
        """Come with one more carrier for the session of *other*."""
        return await self.call(hello(instance, session=other.session, alone=alone), key)

    def visitor(self, session: AgentSession) -> trio.Event:
        """Put a visitor into *session* that stays; the event is set once it has gone."""
        gone = trio.Event()

        async def stay() -> None:
            try:
                await trio.sleep_forever()
            finally:
                session.leave()
                gone.set()

        session.enter()
        session.nursery.start_soon(stay)
        return gone


@asynccontextmanager
async def front(
    *lines: str, agents_max: int = 10, on_event: Callable[[Event], None] | None = None
) -> AsyncIterator[Front]:
    """Run the agents' side of a relay; with no *lines* it is open to all."""
    events: list[Event] = []
    sink = on_event or events.append
    sessions = Sessions((SUFFIX,), open_to_all=not lines, agents_max=agents_max)
    settings = RelaySettings(state_dir=Path("unused"))
    admission = Admission()
    async with AsyncExitStack() as stack, trio.open_nursery() as nursery:
        attached = AttachedAgents(
            sessions,
            settings,
            plane=DataPlane(lots=Lots(RELAY.key_id)),
            public_port=443,
            nursery=nursery,
            on_event=sink,
        )
        door = AgentDoor(
            attached,
            admission,
            settings,
            certificate=RelayCertificate(self_signed(settings, RELAY, now=utc_now())),
            on_event=sink,
        )
        made = Front(sessions, attached, door, events, nursery, stack, admission)
        if lines:
            made.authorize(*lines)
        yield made
        nursery.cancel_scope.cancel()
    assert admission.half_open.total == 0, "a ticket was not given back"


def owner(place: Front) -> AgentSession:
    """Return the session that serves A's name."""
    found = place.owner(NAME)
    assert found is not None
    return found


def rejected(caller: Caller) -> control.Rejected:
    """Return the refusal that a carrier got."""
    assert isinstance(caller.answer, control.Rejected)
    return caller.answer
