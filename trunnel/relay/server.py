"""The relay's composition root: what is made at start, in what order, and how it stops.

    identity key → TLS context → listeners → nursery:
        ingress (every listener)  → AgentDoor  → sessions → visitors' tasks
                                  → VisitorDoor ┘ → pump's workers
                                  → DataDoor    → lots ┘
        the authorised file's watcher

Stopping (`BoundRelay.drain`): listeners close, agents are told, visitors have
`drain_grace` seconds, then everything ends.  Cancelling `serve_relay` ends it
at once.  No logic lives here.
"""

from __future__ import annotations

import logging
from datetime import timedelta
from typing import final

import trio

from trunnel.clock import utc_now
from trunnel.errors import ConfigError
from trunnel.events import Draining, EventSink, Listening, VisitorRefused, ignore_events
from trunnel.names import KeyId
from trunnel.pump import open_workers
from trunnel.relay.admission import Admission, AdmissionLimits
from trunnel.relay.agents import AgentDoor
from trunnel.relay.attached import AttachedAgents
from trunnel.relay.authorized import AuthorizedAgents, load_authorized
from trunnel.relay.authorized_watch import watch_authorized
from trunnel.relay.credentials import RelayCredentials, load_credentials
from trunnel.relay.ingress import ALL_ROLES, Arrival, Entrance, Role, serve
from trunnel.relay.lots import Lots
from trunnel.relay.parking import DataDoor, room_for_parked
from trunnel.relay.quic import serve_agents_on_quic
from trunnel.relay.sessions import Farewell, Sessions
from trunnel.relay.taking import DataPlane
from trunnel.relay.visitors import VisitorDoor
from trunnel.settings import limits
from trunnel.settings.relay import RelaySettings
from trunnel.streams.listen import HostPort, descriptor_limit, open_listeners
from trunnel.streams.udp import UdpSocket, open_udp_sockets
from trunnel.wire import control
from trunnel.wire.clienthello import ClientHello
from trunnel.wire.proxyprotocol import Address

logger = logging.getLogger(__name__)

_VISITOR_ROLES = frozenset({Role.VISITORS, Role.CHALLENGES})


@final
class BoundRelay:
    """A relay that listens; see `serve_relay`."""

    def __init__(self, entrances: list[Entrance], relay_id: KeyId) -> None:
        self.relay_id = relay_id
        """Id of the key that agents pin."""
        self.entrances = entrances
        """The listeners and whom they are for."""
        self.udp: list[UdpSocket] = []
        """The sockets of agents on QUIC."""
        self._drain = trio.Event()
        self.drain_reason = ""

    def addresses(self, role: Role) -> tuple[HostPort, ...]:
        """Return where connections of one role are accepted."""
        return tuple(entrance.listener.address for entrance in self.entrances if role in entrance.roles)

    @property
    def agents(self) -> tuple[str, ...]:
        """Addresses for agents, `HOST:PORT`."""
        return tuple(str(Address(*address)) for address in self.addresses(Role.AGENTS))

    @property
    def visitors(self) -> tuple[str, ...]:
        """Addresses for visitors, `HOST:PORT`."""
        return tuple(str(Address(*address)) for address in self.addresses(Role.VISITORS))

    @property
    def agents_port(self) -> int:
        """The bound port for agents."""
        return self.addresses(Role.AGENTS)[0][1]

    @property
    def visitors_port(self) -> int:
        """The bound port for visitors."""
        return self.addresses(Role.VISITORS)[0][1]

    def drain(self, reason: str) -> None:
        """Stop accepting, let visitors finish, then return from `serve_relay`.  Idempotent."""
        if not self._drain.is_set():
            self.drain_reason = reason
            self._drain.set()

    async def wait_drain(self) -> None:
        """Wait until `drain` is called."""
        await self._drain.wait()

    def close(self) -> None:
        """Close every listener."""
        for entrance in self.entrances:
            entrance.listener.close()


@final
class _Doors:
    """Ties the ingress to the three doors."""

    def __init__(self, agents: AgentDoor, data: DataDoor, on_event: EventSink) -> None:
        self.agents = agents
        self.data_connections = data
        self._on_event = on_event
        self.visitors: VisitorDoor | None = None

    async def agent(self, arrival: Arrival) -> None:
        """Serve an agent."""
        await self.agents.serve(arrival)

    async def data(self, arrival: Arrival, *, scarce: bool) -> bool:
        """Park a data connection."""
        return await self.data_connections.lead(arrival, scarce=scarce)

    async def visitor(self, arrival: Arrival, hello: ClientHello, raw: bytes) -> None:
        """Lead a visitor into its session."""
        if self.visitors is None:
            raise AssertionError("the doors are complete before the listeners are served")
        await self.visitors.lead(arrival, hello, raw)

    def refused(self, arrival: Arrival, verdict: str) -> None:
        """Report a refusal."""
        self._on_event(VisitorRefused(peer=str(Address(*arrival.peer)), verdict=verdict, stream=arrival.stream_id))


def _open_entrances(settings: RelaySettings) -> list[Entrance]:
    """Bind every listener; on failure none stays open."""
    wanted = (
        [("relay.port", settings.port, ALL_ROLES)]
        if settings.port is not None
        else [
            ("relay.api_port", settings.api_port, frozenset({Role.AGENTS})),
            ("relay.pub_port", settings.pub_port, _VISITOR_ROLES),
            ("relay.alpn_port", settings.alpn_port, _VISITOR_ROLES),
        ]
    )
    entrances: list[Entrance] = []
    try:
        for key, port, roles in wanted:
            if port is not None:
                entrances += [
                    Entrance(listener, roles) for listener in open_listeners(settings.bind_addrs, port, key=key)
                ]
    except ConfigError:
        for entrance in entrances:
            entrance.listener.close()
        raise
    return entrances


def _open_udp(settings: RelaySettings, bound: BoundRelay) -> list[UdpSocket]:
    """Bind the agents' port for QUIC, on the addresses that the listeners got."""
    key, port = ("relay.port", settings.port) if settings.port is not None else ("relay.api_port", settings.api_port)
    hosts = [address[0] for address in bound.addresses(Role.AGENTS)]
    try:
        return open_udp_sockets(hosts, bound.agents_port, key=key)
    except ConfigError as exc:
        if port:
            raise ConfigError(exc.key, f"{exc.reason}; or do without QUIC: --no-quic") from exc
        logger.warning("no_quic", extra={"reason": exc.reason})  # a port of the system's choice, taken for UDP
        return []


async def serve_relay(
    settings: RelaySettings,
    *,
    on_event: EventSink = ignore_events,
    task_status: trio.TaskStatus[BoundRelay] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a relay until it is drained or cancelled.

    Args:
        settings: What to do.
        on_event: Takes each event as it happens; must not block or raise.
        task_status: Started with the `BoundRelay` once every listener is bound.

    Raises:
        ConfigError: It cannot start: a file, an address, a port.

    Cancellation: every connection ends at once.
    """
    credentials = await trio.to_thread.run_sync(load_credentials, settings)
    sessions = Sessions(
        settings.domain_suffixes,
        open_to_all=settings.open or (settings.authorized_agents is None and not settings.beyond_loopback),
        agents_max=settings.agents_max,
    )
    if settings.authorized_agents is not None:
        sessions.authorized = load_authorized(settings.authorized_agents)
    bound = BoundRelay(_open_entrances(settings), credentials.relay_id)
    try:
        if settings.quic:
            bound.udp = _open_udp(settings, bound)
        await _serve(settings, bound, sessions, credentials, on_event=on_event, task_status=task_status)
    finally:
        bound.close()
        for udp in bound.udp:
            udp.close()


async def _serve(
    settings: RelaySettings,
    bound: BoundRelay,
    sessions: Sessions,
    credentials: RelayCredentials,
    *,
    on_event: EventSink,
    task_status: trio.TaskStatus[BoundRelay],
) -> None:
    admission = _admission(settings)
    lots = Lots(bound.relay_id, room=room_for_parked(descriptor_limit()))
    count = None if settings.direct else 0  # without direct there are no two sockets to join
    async with open_workers(count) as workers, trio.open_nursery() as nursery:
        attached = AttachedAgents(
            sessions,
            settings,
            plane=DataPlane(lots=lots, workers=workers),
            public_port=settings.public_port or bound.visitors_port,
            nursery=nursery,
            on_event=on_event,
        )
        agents = AgentDoor(
            attached, admission, settings, relay_id=bound.relay_id, context=credentials.context, on_event=on_event
        )
        doors = _Doors(agents, DataDoor(lots, admission), on_event)
        doors.visitors = VisitorDoor(
            sessions, admission, settings, workers=workers, on_event=on_event, refused=doors.refused
        )

        def reauthorize(authorized: AuthorizedAgents) -> None:
            for session in sessions.reauthorize(authorized):
                attached.announce(session)

        if settings.authorized_agents is not None:
            nursery.start_soon(watch_authorized, settings.authorized_agents, sessions.authorized, reauthorize)

        async def ingress() -> None:
            await serve(bound.entrances, admission=admission, doors=doors, hello_timeout=settings.hello_timeout)

        nursery.start_soon(ingress)
        nursery.start_soon(doors.data_connections.sweep)
        if bound.udp:
            nursery.start_soon(serve_agents_on_quic, bound.udp, credentials, agents, admission, bound.wait_drain)
        on_event(Listening(agents=bound.agents, visitors=bound.visitors, relay_id=bound.relay_id.value))
        task_status.started(bound)
        await bound.wait_drain()
        await _drain(bound, doors, sessions, settings.drain_grace, on_event)
        nursery.cancel_scope.cancel()


def _admission(settings: RelaySettings) -> Admission:
    """Return the relay's counts, with the caps that can be set."""
    return Admission(
        AdmissionLimits(
            half_open_per_address=settings.half_open_per_address,
            visitors_per_address=settings.visitors_per_address,
            visitors_total=settings.visitors_total,
        )
    )


async def _drain(bound: BoundRelay, doors: _Doors, sessions: Sessions, grace: float, on_event: EventSink) -> None:
    """Stop accepting, tell every agent, and wait for visitors and agents to go."""
    bound.close()
    doors.agents.draining = doors.data_connections.draining = True
    deadline = utc_now() + timedelta(seconds=grace)
    on_event(Draining(deadline=deadline.isoformat(timespec="seconds")))
    logger.info("draining", extra={"reason": bound.drain_reason, "sessions": len(sessions)})
    told = control.Drain(min(grace, limits.CONTROL_SECONDS_MAX), control.printable(bound.drain_reason))
    for session in sessions.all():
        session.post(told)
        session.retire(Farewell(reason="the relay stopped", grace=grace))
    with trio.move_on_after(grace + limits.RETIRE_GRACE / 2):
        await sessions.wait_empty()
