"""A running agent: one supervisor for each relay, and what they share.

    key, leaf, origin ┐
    resolver, choices ┼→ Supervisor for each relay, all in one nursery
    clocks, addresses │    one that is dead, or refuses, disturbs no other
    pump's workers    ┘

The agent ends when it is drained, cancelled, or when no supervisor is left;
then the first final reason is raised.
"""

from __future__ import annotations

import secrets
import socket
from collections.abc import Callable, Sequence
from contextlib import AbstractAsyncContextManager
from functools import partial
from typing import Final, final

import trio

from trunnel.agent.addresses import NetworkChange, watch_addresses
from trunnel.agent.choices import Choices
from trunnel.agent.dial import Dialler
from trunnel.agent.joined import remember_joined
from trunnel.agent.origin import Origin
from trunnel.agent.reach import Reach
from trunnel.agent.resolve import Resolver
from trunnel.agent.road import wanted_of
from trunnel.agent.served import Served
from trunnel.agent.supervisor import Supervisor
from trunnel.agent.verify import Ours, Verifier, why_not
from trunnel.agent.visitor import StreamHandler
from trunnel.agent.wake import Jump, watch_clock
from trunnel.clock import utc_now
from trunnel.errors import ConfigError, TrunnelError
from trunnel.events import EventSink, Notice, Ready
from trunnel.identity.certstore import LeafStore, leaf_proves
from trunnel.identity.keys import IdentityKey, link_certificate
from trunnel.identity.knownrelays import KnownRelays
from trunnel.identity.trust import TrustPolicy
from trunnel.names import Hostname, Target
from trunnel.pump import Workers, open_workers
from trunnel.settings.agent import AgentSettings, DataChoice
from trunnel.settings.invitation import JoinString
from trunnel.streams.nursery import bare_nursery
from trunnel.version import VERSION
from trunnel.wire import control

_INSTANCE_BYTES: Final = 16


@final
class Agent:
    """The state of one running agent; `run` is its life."""

    def __init__(
        self, origin: Target | StreamHandler, settings: AgentSettings, key: IdentityKey, *, on_event: EventSink
    ) -> None:
        self.key = key
        self.ready = trio.Event()
        """Set when the first visitor could come, by whichever relay."""
        self._settings = settings
        self._on_event = on_event
        self.target = str(origin) if isinstance(origin, Target) else "this program"
        """What is exposed, for people."""
        self._drain_reason: str | None = None
        self._drain = trio.Event()
        self._served = served = Served(
            settings,
            LeafStore(settings.state_dir / "leaf" / key.key_id.short, key),
            origin=Origin(origin, connect_timeout=settings.origin_connect_timeout, events=on_event)
            if isinstance(origin, Target)
            else origin,
            on_event=on_event,
        )
        self.supervisors = tuple(
            Supervisor(reach, settings, key_id=key.key_id, hello=_hello(settings), served=served)
            for reach in _reaches(settings, key)
        )

    @property
    def ready_events(self) -> tuple[Ready, ...]:
        """The public addresses, the one to show first."""
        return tuple(event for supervisor in self.supervisors for event in supervisor.ready_events)

    def drain(self, reason: str) -> None:
        """Take no more visitors, let those that are there finish, then return from `run`.  Idempotent."""
        if self._drain_reason is None:
            self._drain_reason = reason
            self._drain.set()

    async def run(self) -> None:
        """Keep the origin reachable until drained; see the module's head for what else ends it.

        Raises:
            RelayIdentityError, Rejected, ConnectError, ConfigError: As `Supervisor.run`, when no relay is left.

        Cancellation: every visitor's stream is reset.
        """
        failures: list[TrunnelError] = []
        async with self._open_workers() as self._served.workers, bare_nursery() as nursery:
            nursery.start_soon(self._end_when_drained, nursery.cancel_scope)
            nursery.start_soon(watch_clock, self._woke)
            nursery.start_soon(self._served.keep)
            nursery.start_soon(self._keep_certificates)
            nursery.start_soon(self._verify)
            async with trio.open_nursery() as supervising:
                for supervisor in self.supervisors:
                    supervising.start_soon(self._supervise, supervisor, failures)
            nursery.cancel_scope.cancel()
        if failures and self._drain_reason is None:
            raise failures[0]

    def _open_workers(self) -> AbstractAsyncContextManager[Workers]:
        """Have workers if visitors come on sockets and go to sockets; they start while we dial."""
        needed = wanted_of(self._settings) is not DataChoice.SESSION and self._served.is_dialled
        return open_workers(None if needed else 0, ends_tls=not self._settings.tls_passthrough, wait=False)

    async def _supervise(self, supervisor: Supervisor, failures: list[TrunnelError]) -> None:
        """Run one supervisor to its end, with what watches the way to its relay."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._forward_ready, supervisor)
            nursery.start_soon(watch_addresses, *_watched(supervisor))
            try:
                await supervisor.run()
            except TrunnelError as exc:
                failures.append(exc)
            nursery.cancel_scope.cancel()

    async def _forward_ready(self, supervisor: Supervisor) -> None:
        await supervisor.ready.wait()
        self.ready.set()
        if self._settings.invitation is not None:
            await self._remember(self._settings.invitation)

    async def _remember(self, invitation: JoinString) -> None:
        """Write down which relay the invitation led to; without that the next start needs it again."""
        text = f"joined {invitation.server}: from now on this key needs no --join and no --server"
        try:
            await trio.to_thread.run_sync(remember_joined, self._settings, invitation)
        except ConfigError as exc:
            text = f"joined {invitation.server}, but that could not be written down, so keep --join ({exc})"
        self._on_event(Notice(code="joined", text=text))

    async def _end_when_drained(self, scope: trio.CancelScope) -> None:
        await self._drain.wait()
        async with trio.open_nursery() as nursery:
            for supervisor in self.supervisors:
                nursery.start_soon(supervisor.drain, self._settings.drain_grace, self._drain_reason or "")
        scope.cancel()

    async def _keep_certificates(self) -> None:
        """Have an authority's certificates for our names, if a person wants them."""
        authority, settings = self._settings.authority, self._settings
        if authority is None:
            return
        from trunnel.agent.certificates import Certificates, groups_of  # noqa: PLC0415 - what asks authorities is large

        def groups() -> Sequence[Sequence[Hostname]]:
            names = self._served.to_certify()
            own = [name for name in names if name in settings.hostnames]
            private = settings.acme_directory is not None
            return groups_of([name for name in names if name not in own], own, private=private)

        certificates = Certificates(
            authority,
            settings.state_dir / "issued" / self.key.key_id.short,
            challenges=self._served.challenges,
            show=self._served.show_issued,
            attachments=lambda: [each.attachment for each in self.supervisors if each.attachment is not None],
            on_event=self._on_event,
        )
        await certificates.run(groups, self._served.wait_changed)

    async def _verify(self) -> None:
        """Look from outside whether visitors are shown our key, if we can know that."""
        settings, served = self._settings, self._served
        if not settings.verify_every:
            return
        await self.ready.wait()
        if reason := why_not(settings):
            text = f"this agent does not check from outside which key visitors are shown: {reason}"
            self._on_event(Notice(code="not-verified", text=text))
            return
        ours = Ours(
            keys=served.keys_for,
            vouched=partial(leaf_proves, key_id=self.key.key_id, spki=self.key.spki),
            visits=served.own_visits,
        )
        verifier = Verifier(
            lambda: self.ready_events,
            ours,
            every=settings.verify_every,
            alpn=[name.encode("ascii") for name in settings.alpn],
            on_event=self._on_event,
        )
        await verifier.run()

    def _woke(self, jump: Jump) -> None:
        del jump
        self._served.time_jumped()
        for supervisor in self.supervisors:
            supervisor.woke()


def _watched(
    supervisor: Supervisor,
) -> tuple[Callable[[], str | None], Callable[[NetworkChange], None]]:
    """Return what `watch_addresses` needs for one relay."""

    def changed(change: NetworkChange) -> None:
        if change.online:
            supervisor.network_changed()

    return lambda: supervisor.relay_ip, changed


def _hello(settings: AgentSettings) -> control.Hello:
    """Return what the agent says first on each carrier; the instance is new for each relay."""
    return control.Hello(
        versions=list(control.VERSIONS),
        instance=secrets.token_hex(_INSTANCE_BYTES),
        agent=control.printable(VERSION),
        share=settings.share,
        name=settings.name,
        where=control.printable(socket.gethostname()),
        data=wanted_of(settings),
        hostnames=[name.value for name in settings.hostnames],
        invitation="" if settings.invitation is None else settings.invitation.secret,
    )


def _reaches(settings: AgentSettings, key: IdentityKey) -> list[Reach]:
    """Return the ways to each relay; they share the resolver and the files."""
    resolver = Resolver()
    choices = Choices(settings.state_dir / "choices")
    certificate = link_certificate(key, now=utc_now(), extension=settings.cert_extension)
    policy = TrustPolicy(
        pin=settings.relay_pin, ca=settings.relay_ca, tofu=settings.relay_tofu, strict=settings.relay_strict
    )
    return [
        Reach(
            Dialler(
                server,
                key=key,
                certificate=certificate,
                policy=policy,
                known=KnownRelays(settings.state_dir / "known_relays"),
                resolver=resolver,
                via=settings.vias.get(server),
                window_max=settings.stream_window,
            ),
            settings.transport,
            choices,
        )
        for server in settings.relay_addresses
    ]
