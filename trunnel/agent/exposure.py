"""What one program exposes: an agent, and perhaps a second one beside it (`--secondary-key`).

The second endpoint has a key, an id, sessions and a certificate of its own,
self-signed here and never from an authority; its visitors reach the same origin
or another.  Names and an invitation are for the first key alone.  Where the first
one's TLS is passed through, the second one's is if the origin is the same, which
speaks it, and ends here otherwise.  Both share the state folder, and with it what
is known of relays and networks.

Both are stopped together.  One that ends for good is told of and does not end
the other; when both have ended, the first one's reason is raised.

Whose an event is stands in it: `agent_id` is filled in here.
"""

from __future__ import annotations

from dataclasses import replace
from typing import Final, final

import msgspec
import trio

from trunnel.agent.agent import Agent
from trunnel.agent.supervisor import Supervisor
from trunnel.errors import TrunnelError
from trunnel.events import Event, EventSink, Notice, Ready, RelayEvent, Starting, Stopping
from trunnel.identity.keys import IdentityKey
from trunnel.names import KeyId
from trunnel.settings.acme import AcmeOptions
from trunnel.settings.agent import AgentSettings

_OF_THE_FIRST: Final = ("name", "hostnames", "join", "acme", "cert_pem", "secondary_key", "secondary_local")
"""Settings of which the second endpoint has the default; those of an authority are, too."""


def secondary_settings(settings: AgentSettings) -> AgentSettings | None:
    """Return the settings of the second endpoint, or None if there is none."""
    if settings.secondary_key is None:
        return None
    asking = {field.name for field in msgspec.structs.fields(AcmeOptions)}
    defaults = {
        field.name: field.default
        for field in msgspec.structs.fields(AgentSettings)
        if field.name in asking or field.name in _OF_THE_FIRST
    }
    extension = settings.secondary_cert_extension
    own: dict[str, object] = {
        "key_file": settings.secondary_key,
        "cert_extension": extension,
        "secondary_cert_extension": b"",
    }
    if settings.secondary_local is not None:
        own["tls_passthrough"] = False
    return msgspec.structs.replace(settings, **defaults, **own)


@final
class Exposure:
    """One agent, or two; see the module's head.  `run` is its life."""

    def __init__(self, first: Agent, second: Agent | None = None, *, on_event: EventSink) -> None:
        self.first = first
        self.second = second
        self.first_ended = trio.Event()
        """Set when the first agent has ended, however."""
        self._on_event = on_event
        self._stopping = False
        self._failures: dict[Agent, TrunnelError] = {}

    @property
    def key(self) -> IdentityKey:
        """The first agent's."""
        return self.first.key

    @property
    def ready(self) -> trio.Event:
        """Set when the first agent's first visitor could come."""
        return self.first.ready

    @property
    def supervisors(self) -> tuple[Supervisor, ...]:
        """The first agent's."""
        return self.first.supervisors

    @property
    def ready_events(self) -> tuple[Ready, ...]:
        """The public addresses of both, the one to show first."""
        return tuple(event for agent in self._agents for event in agent.ready_events)

    @property
    def _agents(self) -> tuple[Agent, ...]:
        return (self.first,) if self.second is None else (self.first, self.second)

    def drain(self, reason: str) -> None:
        """Take no more visitors, let those that are there finish, then return from `run`.  Idempotent."""
        if self._stopping:
            return
        self._stopping = True
        self._on_event(Stopping(reason=reason))
        for agent in self._agents:
            agent.drain(reason)

    async def run(self) -> None:
        """Keep both origins reachable until drained.

        Raises:
            RelayIdentityError, Rejected, ConnectError, ConfigError: As `Agent.run`, when neither is left.

        Cancellation: every visitor's stream is reset.
        """
        for agent in self._agents:
            self._on_event(Starting(agent_id=agent.key.key_id.value, target=agent.target))
        async with trio.open_nursery() as nursery:
            for agent in self._agents:
                nursery.start_soon(self._run, agent)
        if self.failure is not None and len(self._failures) == len(self._agents):
            raise self.failure

    @property
    def failure(self) -> TrunnelError | None:
        """Why the first agent has ended for good, if it has."""
        return self._failures.get(self.first)

    async def _run(self, agent: Agent) -> None:
        try:
            await agent.run()
        except TrunnelError as exc:
            self._failures[agent] = exc
            if self.second is not None and len(self._failures) == 1:
                which, other = ("first", "second") if agent is self.first else ("second", "first")
                text = f"the {which} endpoint ({agent.key.key_id.short}) has ended: {exc}\nthe {other} goes on"
                self._on_event(Notice(code="endpoint-ended", text=text))
        finally:
            if agent is self.first:
                self.first_ended.set()


def tagged(on_event: EventSink, agent: KeyId) -> EventSink:
    """Return a sink that says whose an event is, and hands it on."""

    def take(event: Event) -> None:
        if isinstance(event, RelayEvent):
            event = replace(event, agent_id=agent.value)
        on_event(event)

    return take
