"""The relay's composition root: what is made at start, in what order, and how it stops.

    identity key → certificate → listeners → nursery:
        ingress (every listener)  → AgentDoor  → sessions → visitors' tasks
                                  → VisitorDoor ┘ → pump's workers
                                  → DataDoor    → lots ┘
                                  → OwnDoor (the relay's own names)
        the authorised file's watcher, the certificate's keeper

Where the sockets come from is `binding`'s affair, stopping (`BoundRelay.drain`)
that of `draining`: listeners close, agents are told, visitors have some time,
then everything ends.  Cancelling `serve_relay` ends it at once.  No logic lives
here.
"""

from __future__ import annotations

from collections.abc import Container, Sequence
from typing import final

import trio

from trunnel.events import EventSink, Listening, VisitorRefused, ignore_events
from trunnel.names import Hostname
from trunnel.pump import open_workers
from trunnel.relay.admission import Admission, AdmissionLimits
from trunnel.relay.agents import AgentDoor
from trunnel.relay.applicants import AuthorizationHook
from trunnel.relay.attached import AttachedAgents
from trunnel.relay.authorized import AuthorizedAgents, load_authorized, load_if_there
from trunnel.relay.authorized_watch import AuthorizedWatch
from trunnel.relay.binding import Binding, open_binding
from trunnel.relay.bound import BoundRelay
from trunnel.relay.credentials import RelayCredentials
from trunnel.relay.draining import drain
from trunnel.relay.entrances import Given
from trunnel.relay.ingress import Arrival, serve
from trunnel.relay.invitations import Invitations
from trunnel.relay.issuance import Issuances
from trunnel.relay.lots import Lots
from trunnel.relay.own import Own, keep_own, load_own
from trunnel.relay.ownnames import OwnDoor
from trunnel.relay.parking import DataDoor, room_for_parked
from trunnel.relay.quic import serve_agents_on_quic
from trunnel.relay.reception import Reception
from trunnel.relay.sessions import Sessions
from trunnel.relay.taking import DataPlane
from trunnel.relay.visitors import VisitorDoor
from trunnel.settings.relay import RelaySettings
from trunnel.streams.listen import descriptor_limit
from trunnel.wire.clienthello import ClientHello
from trunnel.wire.proxyprotocol import Address


@final
class _Doors:
    """Ties the ingress to the doors."""

    def __init__(self, agents: AgentDoor, data: DataDoor, reserved: Container[Hostname], on_event: EventSink) -> None:
        self.agents = agents
        self.data_connections = data
        self._reserved = reserved
        self._on_event = on_event
        self.visitors: VisitorDoor | None = None
        self.own: OwnDoor | None = None

    async def agent(self, arrival: Arrival) -> None:
        """Serve an agent."""
        await self.agents.serve(arrival)

    async def data(self, arrival: Arrival, *, scarce: bool) -> bool:
        """Park a data connection."""
        return await self.data_connections.lead(arrival, scarce=scarce)

    async def visitor(self, arrival: Arrival, hello: ClientHello, raw: bytes) -> None:
        """Lead a visitor into its session, or serve it here if it came for the relay itself."""
        if self.visitors is None or self.own is None:
            raise AssertionError("the doors are complete before the listeners are served")
        name = hello.server_name
        if name is not None and name in self._reserved:
            await self.own.serve(arrival, name, raw)
            return
        await self.visitors.lead(arrival, hello, raw)

    def refused(self, arrival: Arrival, verdict: str) -> None:
        """Report a refusal."""
        self._on_event(VisitorRefused(peer=str(Address(*arrival.peer)), verdict=verdict, stream=arrival.stream_id))


async def serve_relay(
    settings: RelaySettings,
    *,
    given: Sequence[Given] = (),
    authorize: AuthorizationHook | None = None,
    on_event: EventSink = ignore_events,
    task_status: trio.TaskStatus[BoundRelay] = trio.TASK_STATUS_IGNORED,
) -> None:
    """Run a relay until it is drained or cancelled.

    Args:
        settings: What to do.
        given: Sockets that a supervisor has made; ours from here on.  They are not
            needed where those of a running relay are taken over.
        authorize: Judges each agent that would attach, before the list of agents is asked; see `applicants`.
        on_event: Takes each event as it happens; must not block or raise.
        task_status: Started with the `BoundRelay` once every listener is bound.

    Raises:
        ConfigError: It cannot start: a file, an address, a port.

    Cancellation: every connection ends at once.
    """
    own = await trio.to_thread.run_sync(load_own, settings)
    sessions = Sessions(
        settings.domain_suffixes,
        open_to_all=settings.open or (settings.authorized_agents is None and not settings.beyond_loopback),
        agents_max=settings.agents_max,
        reserved=own.names,
        own_names=settings.own_names,
        hook=authorize,
    )
    load = load_if_there if settings.authorized_agents is None else load_authorized
    sessions.authorized = await trio.to_thread.run_sync(load, settings.authorized_path)
    async with open_binding(settings, given, own.certificate.current.relay_id) as binding:
        await _serve(settings, binding, sessions, own, on_event=on_event, task_status=task_status)


async def _serve(
    settings: RelaySettings,
    binding: Binding,
    sessions: Sessions,
    own: Own,
    *,
    on_event: EventSink,
    task_status: trio.TaskStatus[BoundRelay],
) -> None:
    bound, admission = binding.bound, _admission(settings)
    path = settings.state_dir / "issuances.json"
    issuances = await trio.to_thread.run_sync(Issuances, path, settings.issuances_per_week)
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
        attached.issuances = issuances
        nursery.start_soon(issuances.keep)
        agents = AgentDoor(attached, admission, settings, certificate=own.certificate, on_event=on_event)
        doors = _Doors(agents, DataDoor(lots, admission), own.names, on_event)
        doors.own = OwnDoor(own.certificate, own.challenges, admission, refused=doors.refused)
        doors.visitors = VisitorDoor(
            sessions, admission, settings, workers=workers, on_event=on_event, refused=doors.refused
        )
        doors.visitors.confirm = attached.claims.confirm

        def show(credentials: RelayCredentials) -> None:
            bound.relay_id = lots.relay_id = credentials.relay_id
            if own.names.follow(credentials):
                reauthorize(sessions.authorized)

        def reauthorize(authorized: AuthorizedAgents) -> None:
            for session in sessions.reauthorize(authorized):
                attached.announce(session)

        listed = AuthorizedWatch(
            settings.authorized_path, sessions.authorized, reauthorize, needed=settings.authorized_agents is not None
        )
        nursery.start_soon(listed.run)
        agents.reception = Reception(Invitations(settings.invitations_path), listed, sessions, on_event=on_event)

        async def ingress() -> None:
            await serve(bound.entrances, admission=admission, doors=doors, hello_timeout=settings.hello_timeout)

        binding.hold(doors.visitors, sessions)
        nursery.start_soon(ingress)
        await binding.begin(on_event)
        nursery.start_soon(binding.await_successor)
        nursery.start_soon(keep_own, own, settings, on_event, bound.wait_drain)
        nursery.start_soon(doors.data_connections.sweep)
        if bound.udp:
            nursery.start_soon(serve_agents_on_quic, bound.udp, own.certificate, agents, admission, bound.wait_drain)
        on_event(Listening(agents=bound.agents, visitors=bound.visitors, relay_id=bound.relay_id.value))
        task_status.started(bound)
        with own.certificate.followed(show):
            await bound.wait_drain()
        doors.agents.draining = doors.data_connections.draining = True
        await drain(bound, sessions, admission, settings, on_event=on_event)
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
