"""The agent's composition root, for the command line and for programs that embed it.

`run_agent` is what `trunnel expose` runs; `open_tunnel` is the same as a
context manager.  Both lock the key for as long as they run, and that of a
second endpoint: one running agent a key.  What an agent does meanwhile is in
`supervisor`, what two have in common in `exposure`.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Iterator
from contextlib import ExitStack, asynccontextmanager
from typing import final

import trio

from trunnel.agent.agent import Agent
from trunnel.agent.exposure import Exposure, secondary_settings, tagged
from trunnel.agent.visitor import StreamHandler
from trunnel.errors import ConfigError, LocalProtocolError, SessionClosed, TrunnelError
from trunnel.events import EventSink, ignore_events
from trunnel.identity.keys import IdentityKey
from trunnel.identity.locking import lock_key
from trunnel.names import KeyId, Target
from trunnel.settings.agent import AgentSettings
from trunnel.settings.load import load_agent
from trunnel.streams.nursery import bare_nursery


async def run_agent(
    origin: Target | StreamHandler,
    settings: AgentSettings,
    *,
    on_event: EventSink = ignore_events,
    task_status: trio.TaskStatus[Exposure] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Keep *origin* reachable through the relay until drained or cancelled.

    Args:
        origin: What visitors reach: a target that is dialled, or a callable that serves each.
        settings: How.
        on_event: Takes each event as it happens; must not block or raise.
        task_status: Started with the `Exposure` once each key is ours; its `drain` ends this call.

    Raises:
        ConfigError: A file cannot be used.
        AuthError: The key is in use.
        RelayIdentityError: The relay is not who it should be.
        Rejected: The relay said no, for good.
        ConnectError: No relay was named, and none is on loopback.

    Cancellation: every visitor's stream is reset.
    """
    async with _locked_exposure(origin, settings, on_event) as exposure:
        task_status.started(exposure)
        await exposure.run()


@asynccontextmanager
async def _locked_exposure(
    origin: Target | StreamHandler, settings: AgentSettings, on_event: EventSink
) -> AsyncIterator[Exposure]:
    """Make one agent, or two, whose keys are ours for as long as the body runs."""
    with ExitStack() as locks:
        agents: list[Agent] = []
        for place, how in _endpoints(origin, settings):
            key = await trio.to_thread.run_sync(IdentityKey.load_or_create, how.key_path)
            if any(key.key_id == other.key.key_id for other in agents):
                reason = f"{how.key_path} is the key of the first endpoint: give --secondary-key another file"
                raise ConfigError("agent.secondary_key", f"{reason}; one that is missing is made")
            locks.enter_context(lock_key(how.key_path, purpose=_purpose(place)))
            agents.append(Agent(place, how, key, on_event=tagged(on_event, key.key_id)))
        yield Exposure(*agents, on_event=on_event)


def _endpoints(
    origin: Target | StreamHandler, settings: AgentSettings
) -> Iterator[tuple[Target | StreamHandler, AgentSettings]]:
    """Yield where the visitors of each endpoint are served, and how."""
    yield origin, settings
    beside = secondary_settings(settings)
    if beside is not None:
        yield settings.secondary_local or origin, beside


def _purpose(origin: Target | StreamHandler) -> str:
    return f"exposing {origin}" if isinstance(origin, Target) else "embedded in a program"


class Endpoint:
    """One public endpoint of a tunnel."""

    def __init__(self, agent: Agent) -> None:
        self._agent = agent

    @property
    def url(self) -> str:
        """The public address to show."""
        return self.urls[0]

    @property
    def urls(self) -> tuple[str, ...]:
        """Every public address."""
        return tuple(event.url for event in self._agent.ready_events)

    @property
    def agent_id(self) -> KeyId:
        """Id of the agent's key."""
        return self._agent.key.key_id

    @property
    def transport(self) -> str:
        """The carrier in use, for example `h2`."""
        return self._agent.ready_events[0].transport

    async def wait_ready(self) -> None:
        """Wait until visitors can come; before that it has no addresses.  Cancellation: no effect."""
        await self._agent.ready.wait()


@final
class Tunnel(Endpoint):
    """A tunnel that has been ready; see `open_tunnel`."""

    def __init__(self, exposure: Exposure) -> None:
        super().__init__(exposure.first)
        self.secondary = None if exposure.second is None else Endpoint(exposure.second)
        """The second endpoint, if the settings ask for one; it becomes ready in its own time."""
        self._exposure = exposure
        self._ended = trio.Event()
        self._reason: SessionClosed | None = None

    async def wait_closed(self) -> None:
        """Wait until the tunnel has ended for good; lost carriers are replaced meanwhile.

        Raises:
            SessionClosed: Always, once it has ended; the cause says why.

        Cancellation: no effect.
        """
        await self._ended.wait()
        raise self._reason or SessionClosed("the tunnel was closed", retryable=False)

    def drain(self, reason: str) -> None:
        """Take no more visitors and end once those that are there have finished."""
        self._exposure.drain(reason)

    def end(self, cause: BaseException | None) -> None:
        """Note the end; for `open_tunnel`."""
        self._reason = SessionClosed("the tunnel was closed" if cause is None else str(cause), retryable=False)
        self._reason.__cause__ = cause
        self._ended.set()


@asynccontextmanager
async def open_tunnel(
    origin: int | str | StreamHandler,
    *,
    settings: AgentSettings | None = None,
    on_event: EventSink = ignore_events,
) -> AsyncIterator[Tunnel]:
    """Expose *origin* for as long as the body runs; yields once visitors can come.

    Args:
        origin: A port, a target as `trunnel expose` takes it, or an async
            callable `(stream, visitor)` that serves each visitor.
        settings: How; by default as `trunnel expose` without flags: configuration file and environment.
        on_event: Takes each event as it happens; must not block or raise.

    Raises:
        InvalidName: *origin* is no target.
        ConfigError, AuthError, RelayIdentityError, Rejected, ConnectError:
            Before the body, as `run_agent`.

    Leaving the body resets what visitors are left; call `drain` before for a
    gentle end.
    """
    target = Target.parse(str(origin)) if isinstance(origin, int | str) else origin
    chosen = settings if settings is not None else load_agent({}).settings
    waiting = trio.CancelScope()

    async def run(exposure: Exposure, tunnel: Tunnel) -> None:
        try:
            await exposure.run()
        except TrunnelError as exc:
            tunnel.end(exc)
        else:
            tunnel.end(None)

    async def give_up(exposure: Exposure) -> None:
        await exposure.first_ended.wait()  # whatever becomes of a second endpoint
        waiting.cancel()

    async with _locked_exposure(target, chosen, on_event) as exposure, bare_nursery() as nursery:
        tunnel = Tunnel(exposure)
        nursery.start_soon(run, exposure, tunnel)
        nursery.start_soon(give_up, exposure)
        with waiting:
            await tunnel.wait_ready()
        if not exposure.ready.is_set():
            raise exposure.failure or LocalProtocolError("the agent ended without a reason")
        yield tunnel
        nursery.cancel_scope.cancel()
