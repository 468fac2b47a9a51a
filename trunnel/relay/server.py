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

from collections.abc import Callable, Container, Sequence
from dataclasses import dataclass
from functools import partial
from typing import final

import trio

from trunnel.events import EventSink, Listening, VisitorRefused, ignore_events
from trunnel.names import Hostname
from trunnel.pump import Workers, open_workers
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
@dataclass(frozen=True, slots=True, kw_only=True)
class _Doors:
    """Ties the ingress to the doors."""

    agents: AgentDoor
    parked: DataDoor
    visitors: VisitorDoor
    own: OwnDoor
    reserved: Container[Hostname]
    """Names of the relay's own."""
    turned_away: Callable[[Arrival, str], None]

    async def agent(self, arrival: Arrival) -> None:
        """Serve an agent."""
        await self.agents.serve(arrival)

    async def data(self, arrival: Arrival, *, scarce: bool) -> bool:
        """Park a data connection."""
        return await self.parked.lead(arrival, scarce=scarce)

    async def visitor(self, arrival: Arrival, hello: ClientHello, raw: bytes) -> None:
        """Lead a visitor into its session, or serve it here if it came for the relay itself."""
        name = hello.server_name
        if name is not None and name in self.reserved:
            await self.own.serve(arrival, name, raw)
        else:
            await self.visitors.lead(arrival, hello, raw)

    def refused(self, arrival: Arrival, verdict: str) -> None:
        """Report a refusal."""
        self.turned_away(arrival, verdict)

    def drain(self) -> None:
        """Take no agents and no data connections any more."""
        self.agents.draining = self.parked.draining = True


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
        await _Running(settings, binding, sessions, own, on_event=on_event).run(task_status)


@final
class _Running:
    """A relay that has its sockets, from the first connection to the last."""

    def __init__(
        self, settings: RelaySettings, binding: Binding, sessions: Sessions, own: Own, *, on_event: EventSink
    ) -> None:
        self._settings = settings
        self._binding = binding
        self._bound = binding.bound
        self._sessions = sessions
        self._own = own
        self._on_event = on_event
        self._admission = _admission(settings)
        self._lots = Lots(self._bound.relay_id, room=room_for_parked(descriptor_limit()))

    async def run(self, task_status: trio.TaskStatus[BoundRelay]) -> None:
        """Serve until the relay is drained."""
        settings, bound = self._settings, self._bound
        count = None if settings.direct else 0  # without direct there are no two sockets to join
        async with open_workers(count) as workers, trio.open_nursery() as nursery:
            attached = await self._attached_agents(workers, nursery)
            listed = self._list_of(attached)
            doors = self._doors(attached, listed, workers)
            await self._open(attached, listed, doors, nursery)
            task_status.started(bound)
            with self._own.certificate.followed(partial(self._show, attached)):
                await bound.wait_drain()
            doors.drain()
            if attached.issuances is not None:
                attached.issuances.close()
            await drain(bound, self._sessions, self._admission, settings, on_event=self._on_event)
            nursery.cancel_scope.cancel()

    # --- its parts ----------------------------------------------------------------------------------

    async def _attached_agents(self, workers: Workers, nursery: trio.Nursery) -> AttachedAgents:
        """Return what runs agents' sessions, in *nursery*."""
        settings = self._settings
        attached = AttachedAgents(
            self._sessions,
            settings,
            plane=DataPlane(lots=self._lots, workers=workers),
            public_port=settings.public_port or self._bound.visitors_port,
            nursery=nursery,
            on_event=self._on_event,
        )
        ledger = settings.state_dir / "issuances.json"
        attached.issuances = await trio.to_thread.run_sync(Issuances, ledger, settings.issuances_per_week)
        return attached

    def _list_of(self, attached: AttachedAgents) -> AuthorizedWatch:
        """Return the list of agents, which is put in force as it changes."""
        return AuthorizedWatch(
            self._settings.authorized_path,
            self._sessions.authorized,
            partial(self._reauthorize, attached),
            needed=self._settings.authorized_agents is not None,
        )

    def _doors(self, attached: AttachedAgents, listed: AuthorizedWatch, workers: Workers) -> _Doors:
        """Return where connections are led."""
        settings, admission, own = self._settings, self._admission, self._own
        agents = AgentDoor(attached, admission, settings, certificate=own.certificate, on_event=self._on_event)
        invitations = Invitations(settings.invitations_path)
        agents.reception = Reception(invitations, listed, self._sessions, on_event=self._on_event)
        visitors = VisitorDoor(
            self._sessions, admission, settings, workers=workers, on_event=self._on_event, refused=self._refused
        )
        visitors.confirm = attached.claims.confirm
        return _Doors(
            agents=agents,
            parked=DataDoor(self._lots, admission),
            visitors=visitors,
            own=OwnDoor(own.certificate, own.challenges, admission, refused=self._refused),
            reserved=own.names,
            turned_away=self._refused,
        )

    # --- its life -----------------------------------------------------------------------------------

    async def _open(
        self, attached: AttachedAgents, listed: AuthorizedWatch, doors: _Doors, nursery: trio.Nursery
    ) -> None:
        """Accept, become the relay of these sockets, and start in *nursery* all that it does then."""
        settings, bound, own = self._settings, self._bound, self._own
        self._binding.hold(doors.visitors, self._sessions)
        nursery.start_soon(listed.run)
        nursery.start_soon(
            partial(
                serve, bound.entrances, admission=self._admission, doors=doors, hello_timeout=settings.hello_timeout
            )
        )
        await listed.refresh()  # the relay before may have let somebody in since
        await self._binding.begin(self._on_event)
        nursery.start_soon(self._binding.await_successor)
        nursery.start_soon(keep_own, own, settings, self._on_event, bound.wait_drain)
        nursery.start_soon(doors.parked.sweep)
        if attached.issuances is not None:
            nursery.start_soon(attached.issuances.keep)
        if bound.udp:
            nursery.start_soon(
                serve_agents_on_quic, bound.udp, own.certificate, doors.agents, self._admission, bound.wait_drain
            )
        self._on_event(Listening(agents=bound.agents, visitors=bound.visitors, relay_id=bound.relay_id.value))

    def _show(self, attached: AttachedAgents, credentials: RelayCredentials) -> None:
        """Be who *credentials* say: another key is another id, another certificate may bring other names."""
        self._bound.relay_id = self._lots.relay_id = credentials.relay_id
        if self._own.names.follow(credentials):
            self._reauthorize(attached, self._sessions.authorized)
            attached.claims.review()

    def _reauthorize(self, attached: AttachedAgents, authorized: AuthorizedAgents) -> None:
        """Put a list in force, and tell those whose names have changed."""
        for session in self._sessions.reauthorize(authorized):
            attached.announce(session)

    def _refused(self, arrival: Arrival, verdict: str) -> None:
        """Report that somebody was turned away."""
        self._on_event(VisitorRefused(peer=str(Address(*arrival.peer)), verdict=verdict, stream=arrival.stream_id))


def _admission(settings: RelaySettings) -> Admission:
    """Return the relay's counts, with the caps that can be set."""
    return Admission(
        AdmissionLimits(
            half_open_per_address=settings.half_open_per_address,
            visitors_per_address=settings.visitors_per_address,
            visitors_total=settings.visitors_total,
        )
    )
