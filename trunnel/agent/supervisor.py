"""The agent's life: dial, attach, serve, and again, for ever.

    loop: dial → attach → serve visitors → the session ends → wait (`backoff`)

What ends the loop: `drain`, cancellation, a relay that is not who it should be
(RelayIdentityError), a refusal that no retry can change (Rejected), and, if no
relay was named, nobody on loopback within 3 s at the start.  Everything else
is waited out with full jitter.
"""

from __future__ import annotations

import secrets
import socket
from typing import Final, final

import trio

from trunnel.agent.attachment import Attachment, attached
from trunnel.agent.backoff import Backoff
from trunnel.agent.dial import Carrier, Dialler
from trunnel.agent.forward import Forwarding
from trunnel.agent.origin import Origin
from trunnel.agent.terminate import Terminator
from trunnel.agent.visitor import StreamHandler
from trunnel.clock import utc_now
from trunnel.errors import ConfigError, ConnectError, RejectCode, Rejected, SessionClosed
from trunnel.events import (
    Connected,
    Connecting,
    Disconnected,
    EventSink,
    Notice,
    Ready,
    RejectedByRelay,
    Starting,
    Stopping,
)
from trunnel.identity.certstore import LeafStore
from trunnel.identity.contexts import link_client_context
from trunnel.identity.keys import IdentityKey, link_certificate
from trunnel.identity.knownrelays import KnownRelays
from trunnel.identity.trust import TrustPolicy
from trunnel.names import Hostname, Target
from trunnel.settings import limits
from trunnel.settings.agent import AgentSettings
from trunnel.streams.nursery import bare_nursery
from trunnel.transports.alpn import LINK_ALPN_H2
from trunnel.version import VERSION
from trunnel.wire import control

NOBODY_ON_LOOPBACK: Final = """\
no relay answers on {server} ({reason})
1. start one here, in a second terminal: trunnel serve
2. or name yours: --server HOST
3. or see how to run one on a public host: trunnel serve --help"""
"""What to do when no relay was named and none is found."""
_INSTANCE_BYTES: Final = 16


@final
class Agent:
    """The state of one running agent; `run` is its life."""

    def __init__(
        self, origin: Target | StreamHandler, settings: AgentSettings, key: IdentityKey, *, on_event: EventSink
    ) -> None:
        self.key = key
        self.attachment: Attachment | None = None
        """The present attachment, if any."""
        self.ready = trio.Event()
        """Set when the first visitor could come."""
        self.ready_events: tuple[Ready, ...] = ()
        """The public addresses, the one to show first."""
        self._settings = settings
        self._on_event = on_event
        self._target = str(origin) if isinstance(origin, Target) else "this program"
        self._served: set[Hostname] = set()
        self._leaves = LeafStore(settings.state_dir / "leaf" / key.key_id.short, key)
        self._terminator: Terminator | None = None
        self._origin = (
            Origin(origin, connect_timeout=settings.origin_connect_timeout, events=on_event)
            if isinstance(origin, Target)
            else origin
        )
        self._backoff = Backoff(secrets.SystemRandom())
        self._drain_reason: str | None = None
        self._drain = trio.Event()
        self._hello = control.Hello(
            versions=list(control.VERSIONS),
            instance=secrets.token_hex(_INSTANCE_BYTES),
            agent=control.printable(VERSION),
            share=settings.share,
            name=settings.name,
            where=control.printable(socket.gethostname()),
        )
        certificate = link_certificate(key, now=utc_now(), extension=settings.cert_extension)
        self._dialler = Dialler(
            server=settings.relay_address,
            context=link_client_context(key, certificate, alpn=[LINK_ALPN_H2]),
            policy=TrustPolicy(
                pin=settings.relay_pin, ca=settings.relay_ca, tofu=settings.relay_tofu, strict=settings.relay_strict
            ),
            known=KnownRelays(settings.state_dir / "known_relays"),
        )

    def drain(self, reason: str) -> None:
        """Take no more visitors, let those that are there finish, then return from `run`.  Idempotent."""
        if self._drain_reason is None:
            self._drain_reason = reason
            self._on_event(Stopping(reason=reason))
            self._drain.set()

    # --- the loop -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Attach again and again until drained; see the module's head for what else ends it."""
        self._on_event(Starting(agent_id=self.key.key_id.value, target=self._target))
        async with bare_nursery() as nursery:
            nursery.start_soon(self._end_when_drained, nursery.cancel_scope)
            await self._loop()
            nursery.cancel_scope.cancel()

    async def _end_when_drained(self, scope: trio.CancelScope) -> None:
        await self._drain.wait()
        if self.attachment is not None:
            await self.attachment.drain(self._settings.drain_grace, self._drain_reason or "")
        scope.cancel()

    async def _loop(self) -> None:
        attempt = 0
        while True:
            attempt += 1
            started = trio.current_time()
            hint: float | None = None
            self._on_event(Connecting(relay=str(self._dialler.server), transport="h2", attempt=attempt))
            ended: ConnectError | Rejected | SessionClosed
            try:
                carrier = await self._dial()
                ended = await self._attach(carrier)
            except (ConnectError, Rejected, SessionClosed) as exc:
                ended = exc
            except ConfigError as exc:
                if not self.ready.is_set():
                    raise
                ended = ConnectError(str(exc))  # it worked before: a file may be mended, or the disk have room again
            if self._drain.is_set():
                return
            if not ended.retryable:
                self._report_final(ended)
                raise ended
            if isinstance(ended, Rejected):
                least = limits.REPLACED_WAIT if ended.code is RejectCode.REPLACED else 0.0
                hint = max(ended.retry_after or 0.0, least)
            if self._backoff.session_lasted(trio.current_time() - started):
                attempt = 0
            delay = self._backoff.next_delay(hint)
            self._report(ended, delay)
            await trio.sleep(delay)

    def _report_final(self, ended: ConnectError | Rejected | SessionClosed) -> None:
        if isinstance(ended, Rejected):
            self._on_event(RejectedByRelay(code=ended.code.value, reason=ended.reason, retry_in=None))
        else:
            self._on_event(Disconnected(reason=str(ended), retry_in=None))

    def _report(self, ended: ConnectError | Rejected | SessionClosed, delay: float) -> None:
        retry_in = round(delay, 1)
        if isinstance(ended, Rejected):
            self._on_event(RejectedByRelay(code=ended.code.value, reason=ended.reason, retry_in=retry_in))
        else:
            self._on_event(Disconnected(reason=str(ended), retry_in=retry_in))

    async def _dial(self) -> Carrier:
        """Dial the relay; without a named one, and before it was ever reached, only for so long."""
        if self._settings.server is not None or self.ready.is_set():
            return await self._dialler.dial()
        reason = "it does not answer"
        with trio.move_on_after(limits.DEFAULT_RELAY_TIMEOUT):
            while True:
                try:
                    return await self._dialler.dial()
                except ConnectError as exc:
                    if not exc.retryable:
                        raise
                    reason = str(exc)
                await trio.sleep(limits.DEFAULT_RELAY_PAUSE)
        error = ConnectError(NOBODY_ON_LOOPBACK.format(server=self._dialler.server, reason=reason))
        error.retryable = False
        raise error

    async def _attach(self, carrier: Carrier) -> SessionClosed | Rejected:
        """Serve visitors on one carrier until its session ends; return why it did."""
        if carrier.trust.notice is not None:
            self._on_event(Notice(code=f"trust-{carrier.trust.how.value}", text=carrier.trust.notice))
        async with attached(carrier, self._hello, window_max=self._settings.stream_window) as attachment:
            if not attachment.endpoints:
                return SessionClosed("the relay gave this agent no address")
            await self._prepare(attachment)
            self._on_event(
                Connected(
                    relay=str(self._dialler.server),
                    relay_id=carrier.trust.relay_id.value,
                    session=attachment.welcome.session,
                    transport=attachment.link.transport,
                    why="HTTP/2 over TLS on TCP",
                )
            )
            async with bare_nursery() as nursery:
                nursery.start_soon(attachment.serve_visitors, self._forwarding(), nursery)
                self.attachment = attachment
                try:
                    self._announce(attachment)
                    ended = await self._follow_endpoints(attachment)
                finally:
                    self.attachment = None
                with trio.move_on_after(limits.ABORT_FLUSH_TIMEOUT):
                    await attachment.wait_idle()  # what had arrived is delivered, then each visitor is aborted
                nursery.cancel_scope.cancel()
        return ended

    def _forwarding(self) -> Forwarding:
        settings = self._settings
        return Forwarding(
            endpoints=self._served,
            origin=self._origin,
            terminator=self._terminator,
            proxy_protocol=settings.proxy_protocol,
            first_byte_timeout=settings.first_byte_timeout,
            idle_timeout=settings.idle_timeout,
            events=self._on_event,
        )

    # --- our public addresses -----------------------------------------------------------------------

    async def _prepare(self, attachment: Attachment) -> None:
        """Get ready to serve the endpoints that the relay gave us: names and leaf certificate."""
        names = [Hostname(endpoint.hostname) for endpoint in self._in_order(attachment)]
        self._served.clear()
        self._served.update(names)
        if self._settings.tls_passthrough or not names:
            return
        leaf = await trio.to_thread.run_sync(lambda: self._leaves.leaf(names, now=utc_now()))
        if self._terminator is None:
            self._terminator = Terminator(leaf, alpn=[name.encode("ascii") for name in self._settings.alpn])
        else:
            self._terminator.replace_leaf(leaf)

    async def _follow_endpoints(self, attachment: Attachment) -> SessionClosed | Rejected:
        """Serve and report new public addresses until the session has ended; return why it did."""
        while True:
            with trio.move_on_after(limits.LEAF_CHECK):  # a leaf is renewed long before it ends
                ended = await attachment.wait_changed()
                if ended is not None:
                    return ended
            await self._prepare(attachment)
            if self._events_of(attachment) != self.ready_events:
                self._announce(attachment)
            await trio.sleep(limits.ENDPOINTS_PAUSE)

    def _in_order(self, attachment: Attachment) -> list[control.Endpoint]:
        """Return the endpoints, those first that the settings ask to show."""
        wanted = self._settings.name
        suffix = self._settings.domain_suffix

        def rank(endpoint: control.Endpoint) -> tuple[bool, bool]:
            label, _, rest = endpoint.hostname.partition(".")
            return (suffix is not None and rest != suffix.value, wanted is not None and label != wanted)

        return sorted(attachment.endpoints, key=rank)

    def _announce(self, attachment: Attachment) -> None:
        """Report every public address; the first visitor may come."""
        endpoints = self._in_order(attachment)
        wanted = self._settings.name
        if wanted is not None and not any(e.hostname.startswith(f"{wanted}.") for e in endpoints):
            command = f"trunnel authorize {self.key.key_id} --name {wanted}"
            text = f"the relay has not given this agent the name {wanted}; its operator does so with: {command}"
            self._on_event(Notice(code="name-not-given", text=text))
        self.ready_events = self._events_of(attachment) or self.ready_events
        for event in self.ready_events:
            self._on_event(event)
        self.ready.set()

    def _events_of(self, attachment: Attachment) -> tuple[Ready, ...]:
        """Describe every public address, the one to show first."""
        leaf = None if self._settings.tls_passthrough or self._terminator is None else self._terminator.leaf
        return tuple(
            Ready(
                url=endpoint.url,
                hostname=endpoint.hostname,
                port=attachment.welcome.public_port,
                agent_id=self.key.key_id.value,
                transport=attachment.link.transport,
                data_path="session",
                certificate=None if leaf is None else str(leaf.path),
                fingerprint=None if leaf is None else leaf.fingerprint,
            )
            for endpoint in self._in_order(attachment)
        )
