"""Which agents are attached: sessions by key, and the names they own.

Everything here is synchronous: an agent that takes over from an older session
gets the names in the same step in which the older one loses them, so a name
is never without an owner in between and never has two.

Rules for a key that connects again (CONS-02):

- the same instance, naming its session: one carrier more, or the next one of
  a session that has lost its last (`joined`);
- the same instance without (it has forgotten the session): the old one ends;
- another instance, and both share: both serve, least loaded first;
- another instance otherwise: the older one is told `replaced` and by whom, and
  waits at least a minute; the newer one serves.
"""

from __future__ import annotations

import math
from collections.abc import Container, Iterable
from dataclasses import dataclass
from typing import final

import trio

from trunnel.errors import LocalProtocolError, RejectCode
from trunnel.names import Hostname, KeyId
from trunnel.relay.applicants import AuthorizationHook
from trunnel.relay.authorized import AuthorizedAgent, AuthorizedAgents
from trunnel.relay.hostnames import NameRules, Standing, standings
from trunnel.relay.lots import Lot
from trunnel.relay.routing import Conflict, RouteTable
from trunnel.settings import limits
from trunnel.transports.base import Session
from trunnel.transports.control_stream import ControlStream
from trunnel.transports.pool import PooledSession
from trunnel.wire import control


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Farewell:
    """Why a session is retired, and what its agent is told."""

    reason: str
    """A sentence, for events and logs."""
    message: control.Rejected | None = None
    """What the agent is told, if anything."""
    grace: float = limits.RETIRE_GRACE
    """Seconds its visitors may go on."""


@final
class AgentSession:
    """One attached agent: a session with its carriers."""

    def __init__(self, *, session_id: str, link: PooledSession, hello: control.Hello, nursery: trio.Nursery) -> None:
        self.session_id = session_id
        self.granted: AuthorizedAgent | None = None
        """What the authorisation hook has given this session; None: the list decides."""
        self.link = link
        """The carriers as one; visitors' streams are opened on it."""
        self.channels: dict[Session, ControlStream] = {}
        """The control stream of each carrier that lives, oldest first."""
        self.hello = hello
        self.nursery = nursery
        """The session's: every visitor's task lives in it."""
        self.lot: Lot | None = None
        """Where its data connections are parked; None if it has none."""
        self.key_id: KeyId = link.peer.key_id
        self.label = ""
        self.hostnames: dict[Hostname, Standing] = {}
        """The names of its own that it asks for, and how each stands; `claims` looks after them."""
        self.alone_since = trio.current_time()
        """When it lost its last carrier, if it has none."""
        self.over = False
        """Its nursery takes nobody any more."""
        self.visitors = 0
        """Streams of visitors that are open."""
        self.on_direct = 0
        """Those of them that need no carrier: they are on data connections."""
        self.farewell: Farewell | None = None
        """Set once, when the session is retired."""
        self.retired = trio.Event()
        self.winding_up = trio.CancelScope()
        """Bounds how long visitors may go on once the session is retired."""
        self._idle = trio.Event()
        self._idle.set()

    @property
    def serves(self) -> bool:
        """Whether it may be given names and visitors: it is neither retired nor over."""
        return self.farewell is None and not self.over

    @property
    def load(self) -> float:
        """How busy it is; without a carrier, busier than any that has one."""
        return self.visitors if self.link.carriers else math.inf

    def enter(self) -> None:
        """Count a visitor's stream."""
        self.visitors += 1
        if self._idle.is_set():
            self._idle = trio.Event()

    def leave(self) -> None:
        """Count a visitor's stream that has ended."""
        self.visitors -= 1
        if not self.visitors:
            self._idle.set()

    async def wait_idle(self) -> None:
        """Wait until no visitor's stream is open."""
        while self.visitors:
            await self._idle.wait()

    def post(self, message: control.Message) -> None:
        """Tell the agent *message*, on every carrier: any of them may be about to be lost.

        Without a carrier nobody hears it; the next one's welcome says how things are then.
        """
        for channel in self.channels.values():
            channel.post(message)

    def let_go(self, reason: str) -> None:
        """End every carrier: the agent has lost them."""
        for carrier in tuple(self.link.carriers):
            carrier.abort(reason)

    def retire(self, farewell: Farewell) -> None:
        """End soon: the shortest grace counts, and the first reason, unless a refusal follows a peaceful one."""
        self.winding_up.deadline = min(self.winding_up.deadline, trio.current_time() + farewell.grace)
        if self.lot is not None:
            self.lot.close()  # nobody is led here any more
        if self.farewell is None or (self.farewell.message is None and farewell.message is not None):
            self.farewell = farewell
            self.retired.set()


@final
class Sessions:
    """Every attached agent of a relay."""

    def __init__(
        self,
        suffixes: Iterable[Hostname],
        *,
        open_to_all: bool,
        agents_max: int,
        reserved: Container[Hostname] = frozenset(),
        own_names: bool = True,
        hook: AuthorizationHook | None = None,
    ) -> None:
        self._suffixes = tuple(suffixes)
        self.reserved = reserved
        """The relay's own names: no agent has one."""
        self.rules = NameRules(suffixes=self._suffixes, reserved=reserved, allowed=own_names)
        """Which names agents may bring."""
        self.hook = hook
        """Judges agents before the list is asked."""
        self._open = open_to_all
        self._agents_max = agents_max
        self._sessions: dict[KeyId, list[AgentSession]] = {}
        self._count = 0
        self._gone = trio.Event()
        self.routes: RouteTable[AgentSession] = RouteTable(lambda session: session.load)
        self.authorized = AuthorizedAgents()
        """The list in force; changed through `reauthorize`."""

    def __len__(self) -> int:
        return self._count

    def all(self) -> list[AgentSession]:
        """Return every attached agent."""
        return [session for group in self._sessions.values() for session in group]

    def entry(self, key_id: KeyId) -> AuthorizedAgent | None:
        """Return what the list says of a key; with `--open` an unknown key has an empty entry."""
        entry = self.authorized.get(key_id)
        if entry is None and self._open:
            return AuthorizedAgent(key_id=key_id)
        return entry

    def entry_of(self, session: AgentSession) -> AuthorizedAgent | None:
        """Return what a session has been given, or what the list says of its key."""
        return session.granted or self.entry(session.key_id)

    def refusal(
        self, key_id: KeyId, hello: control.Hello, granted: AuthorizedAgent | None = None
    ) -> control.Rejected | None:
        """Return why an agent or one more carrier may not attach, or None.  One that replaces another needs no room.

        Args:
            key_id: Its key.
            hello: What it says.
            granted: What the authorisation hook gives it, whatever the list says.
        """
        joined = self.joined(key_id, hello)
        if joined is not None and joined.granted is not None:
            return _refusal_to_join(joined, alone=hello.alone)
        entry = granted or self.entry(key_id)
        if entry is None:
            return control.Rejected(
                RejectCode.UNAUTHORIZED,
                f"this relay does not know the key; its operator lets it in with: trunnel authorize {key_id}",
            )
        if joined is not None:
            return _refusal_to_join(joined, alone=hello.alone)
        if hello.session is not None and not hello.alone:  # it has other carriers: at the relay before us
            return control.Rejected(RejectCode.NO_SESSION, "this process of the relay does not have the session")
        return self._no_room(key_id, hello) or self._conflict(entry)

    def _no_room(self, key_id: KeyId, hello: control.Hello) -> control.Rejected | None:
        """Return why there is no room for a new session."""
        group = self._sessions.get(key_id, [])
        if len(group) >= limits.SHARES_PER_KEY:
            reason = f"{len(group)} agents share this key already"
            return control.Rejected(RejectCode.OVERLOADED, reason, limits.BACKOFF_CAP)
        replaces = any(older.farewell is None and not _serve_beside(older.hello, hello) for older in group)
        if self._count >= self._agents_max and not replaces:
            return control.Rejected(RejectCode.OVERLOADED, "the relay has all the agents it takes", limits.BACKOFF_CAP)
        return None

    def _conflict(self, entry: AuthorizedAgent) -> control.Rejected | None:
        """Return why an agent cannot have its names: lists have each once, hooks may say anything."""
        for name in self.names_of(entry):
            if any(owner.key_id != entry.key_id for owner in self.routes.owners(name)):
                return control.Rejected(RejectCode.NAME_TAKEN, f"another agent has the name {name}")
        return None

    def names_of(self, entry: AuthorizedAgent) -> tuple[Hostname, ...]:
        """Return the public names of an agent: its id and its given names under every suffix.

        None that is the relay's own.  At most `CONTROL_ENDPOINTS_MAX`: an agent serves only what it can be told of.
        """
        labels = (entry.key_id.value, *entry.names)
        names = [suffix.under(str(label)) for suffix in self._suffixes for label in labels]
        names = [name for name in names if name not in self.reserved]
        return tuple(names)[: limits.CONTROL_ENDPOINTS_MAX]

    def joined(self, key_id: KeyId, hello: control.Hello) -> AgentSession | None:
        """Return the session that *hello* joins with one more carrier, or None if it asks for a new one."""
        for session in self._sessions.get(key_id, []):
            if session.session_id == hello.session and session.hello.instance == hello.instance:
                return session
        return None

    def attach(self, session: AgentSession) -> None:
        """Take a welcomed agent in, and retire those that it replaces."""
        entry = self.entry_of(session)
        if entry is None:
            raise LocalProtocolError("attach follows refusal")
        session.label = entry.label
        session.hostnames = self._standings(session)
        for older in self._sessions.get(session.key_id, []):
            if older.hello.instance == session.hello.instance:
                self.routes.release(older)
                older.retire(Farewell(reason="the same agent connected anew", grace=limits.ABORT_FLUSH_TIMEOUT))
            elif not _serve_beside(older.hello, session.hello):
                self.routes.release(older)
                older.retire(_replaced_by(session))
        inherited = [standing.name for standing in session.hostnames.values() if standing.held]
        names = (*self.names_of(entry), *inherited)
        claimed = self.routes.claim(names, session, share=session.hello.share)
        if isinstance(claimed, Conflict):
            raise LocalProtocolError(f"{claimed.name} has another owner")
        self._sessions.setdefault(session.key_id, []).append(session)
        self._count += 1

    def _standings(self, session: AgentSession) -> dict[Hostname, Standing]:
        """Return the names of its own that a new session asks for; those that its key has now it has at once."""
        group = self._sessions.get(session.key_id, [])
        held = {name for other in group for name in self.routes.names(other) if not self.rules.is_given(name)}
        return standings(session.hello.hostnames, self.rules, inherited=held, now=trio.current_time())

    def detach(self, session: AgentSession) -> None:
        """Forget an agent whose session has ended."""
        self.routes.release(session)
        group = self._sessions.get(session.key_id, [])
        if session in group:
            group.remove(session)
            self._count -= 1
            if not group:
                del self._sessions[session.key_id]
            self._gone.set()
            self._gone = trio.Event()

    def reauthorize(self, authorized: AuthorizedAgents) -> list[AgentSession]:
        """Put a new list in force; return the sessions whose names have changed.

        Agents that are not on it are retired with `revoked` (CONS-03).
        """
        self.authorized = authorized
        changed: list[tuple[AgentSession, AuthorizedAgent]] = []
        for session in self.all():
            entry = self.entry_of(session)
            if entry is None:
                self.routes.release(session)
                session.retire(Farewell(reason="revoked", message=_REVOKED))
            elif session.farewell is None:
                session.label = entry.label
                given = [name for name in self.routes.names(session) if self.rules.is_given(name)]
                if set(given) != set(self.names_of(entry)):
                    for name in given:
                        self.routes.release_name(name, session)
                    changed.append((session, entry))
        for session, entry in changed:  # after every release: a name may go from one agent to another
            for name in self.names_of(entry):  # one by one: what a hook has given to somebody stays theirs
                self.routes.claim([name], session, share=session.hello.share)
        return [session for session, _ in changed]

    async def wait_empty(self) -> None:
        """Wait until no agent is attached."""
        while self._count:
            await self._gone.wait()


_REVOKED = control.Rejected(RejectCode.REVOKED, "the relay's operator took this key off the list")


def _refusal_to_join(session: AgentSession, *, alone: bool) -> control.Rejected | None:
    """Return why a session takes no more carriers, or None if it does: one that is *alone* takes the others' place."""
    if session.farewell is not None:
        return control.Rejected(RejectCode.DRAINING, "the session is ending", limits.BACKOFF_BASE)
    if (count := len(session.link.carriers)) < limits.CARRIERS_PER_SESSION or alone:
        return None
    return control.Rejected(RejectCode.OVERLOADED, f"the session has {count} carriers already", limits.BACKOFF_CAP)


def _serve_beside(older: control.Hello, newer: control.Hello) -> bool:
    """Return whether two agents with one key both serve."""
    return older.instance != newer.instance and older.share and newer.share


def _replaced_by(session: AgentSession) -> Farewell:
    where = control.printable(session.hello.where) or "another machine"
    reason = f"another agent with this key connected from {session.link.peer.address} ({where})"
    message = control.Rejected(
        RejectCode.REPLACED,
        control.printable(f"{reason}; give each its own with --key-name, or start both with --share"),
        limits.REPLACED_WAIT,
    )
    return Farewell(reason=f"replaced: {reason}", message=message)
