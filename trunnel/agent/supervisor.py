"""One relay's supervisor: dial, attach, serve, and again, for ever.

    loop: dial (`reach`) → attach → canary → serve visitors → the session ends → wait (`backoff`)
    beside it: visitors on data connections, which outlive the loss of carriers (`road`)

What ends the loop: `drain`, cancellation, a relay that is not who it should be
(RelayIdentityError), a refusal that no retry can change (Rejected), and, if no
relay was named, nobody on loopback within 3 s at the start.  Everything else
is waited out with full jitter.  Another network, or waking from sleep, ends at
once a wait (but for what the relay asked) and a dial: it began on the old one.

"Connected" is said once a canary has shown that visitors are served, and what
is remembered of a transport is written down then: one that connects, and of
which no session comes, has not worked.

A session that was lost is asked for by its name for `ADOPTION_TIMEOUT` seconds:
the relay keeps the names, and what does not depend on a carrier, for so long.
"""

from __future__ import annotations

import secrets
from functools import partial
from typing import Final, final

import msgspec
import trio

from trunnel.agent.announce import Announcer
from trunnel.agent.attachment import Attachment, attached
from trunnel.agent.backoff import Backoff
from trunnel.agent.canary import first_canary, keep_watch
from trunnel.agent.carriers import CarrierKeeper
from trunnel.agent.dial import Carrier
from trunnel.agent.reach import Reach
from trunnel.agent.road import Road
from trunnel.agent.served import Served
from trunnel.errors import ConfigError, ConnectError, RejectCode, Rejected, SessionClosed
from trunnel.events import Connecting, Disconnected, EventSink, Notice, Ready, RejectedByRelay
from trunnel.names import Hostname, KeyId
from trunnel.settings import limits
from trunnel.settings.agent import AgentSettings
from trunnel.streams.nursery import bare_nursery
from trunnel.transports.race import Chosen
from trunnel.transports.selection import TransportKind
from trunnel.wire import control

NOBODY_ON_LOOPBACK: Final = """\
no relay answers on {server} ({reason})
1. start one here, in a second terminal: trunnel serve
2. or name yours: --server HOST
3. or see how to run one on a public host: trunnel serve --help"""
"""What to do when no relay was named and none is found."""

Ended = ConnectError | Rejected | SessionClosed
"""Why an attempt or a session came to its end."""


@final
class Supervisor:
    """Keeps the agent attached to one relay; `run` is its life."""

    def __init__(
        self, reach: Reach, settings: AgentSettings, *, key_id: KeyId, hello: control.Hello, served: Served
    ) -> None:
        self.attachment: Attachment | None = None
        """The present attachment, if any."""
        self.ready = trio.Event()
        """Set when the first visitor could come."""
        self.draining = False
        self._reach = reach
        self._settings = settings
        self._hello = hello
        self._served = served
        self._on_event: EventSink = served.on_event
        self._backoff = Backoff(secrets.SystemRandom())
        self._keeper: CarrierKeeper | None = None
        self._announcer = Announcer(self.relay, settings, key_id=key_id, served=served)
        self._road = Road(
            reach, settings, forwarding=served.forwarding, on_event=served.on_event, changed=self._road_changed
        )
        self._serving_since: float | None = None
        self._pursuit = trio.CancelScope()  # the loop
        self._drained = trio.Event()
        self._dialling = trio.CancelScope()
        self._news = trio.Event()  # the network has changed since the last dial began

    @property
    def relay(self) -> str:
        """The relay, as it was named."""
        return str(self._reach.server)

    @property
    def relay_ip(self) -> str | None:
        """The relay's IP address, as dialled last."""
        return self._reach.dialler.last_address

    @property
    def ready_events(self) -> tuple[Ready, ...]:
        """The public addresses at this relay, the one to show first."""
        return self._announcer.ready_events

    @property
    def road(self) -> Road:
        """The road of visitors' bytes."""
        return self._road

    async def drain(self, grace: float, reason: str) -> None:
        """Take no more visitors, and let those that are there finish, at most *grace* seconds."""
        self.draining = True
        try:
            with trio.move_on_after(grace):
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._road.drain)
                    if self.attachment is None:
                        self._pursuit.cancel()
                    else:
                        await self.attachment.drain(grace, reason)
        finally:
            self._drained.set()

    def network_changed(self) -> None:
        """Take note that the way to the relay has changed."""
        self._hurry()
        self._road.renew()
        if self._keeper is not None:
            self._keeper.network_changed()

    def woke(self) -> None:
        """Take note that the machine has slept."""
        self._hurry()
        self._road.renew()
        if self._keeper is not None:
            self._keeper.woke()

    def _hurry(self) -> None:
        self._news.set()
        self._dialling.cancel()

    # --- the loop -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Attach again and again until drained; see the module's head for what else ends it.

        Raises:
            RelayIdentityError, Rejected, ConnectError, SessionClosed: For good; it was reported.
            ConfigError: A file cannot be used, at the first attempt.
        """
        async with bare_nursery() as lasting:
            await lasting.start(self._road.run)
            with self._pursuit:
                await self._pursue()
            if self.draining:
                await self._drained.wait()
            lasting.cancel_scope.cancel()

    async def _pursue(self) -> None:
        attempt = 0
        while True:
            attempt += 1
            self._on_event(Connecting(relay=self.relay, transport=self._reach.wanted, attempt=attempt))
            ended = await self._attempt()
            if self.draining:
                return
            if not ended.retryable:
                self._report(ended, None)
                raise ended
            if self._serving_since is not None:
                attempt *= not self._backoff.session_lasted(trio.current_time() - self._serving_since)
            asked = _hint(ended)
            delay = self._backoff.next_delay(asked)
            self._report(ended, round(delay, 1))
            await self._pause(delay, at_least=asked or 0.0)

    async def _attempt(self) -> Ended:
        """Dial and serve once; return why it ended."""
        self._serving_since = None
        try:
            return await self._attach(await self._dial())
        except (ConnectError, Rejected, SessionClosed) as exc:
            return exc
        except ConfigError as exc:
            if not self.ready.is_set():
                raise
            return ConnectError(str(exc))  # it worked before: a file may be mended, or the disk have room again

    async def _pause(self, delay: float, *, at_least: float) -> None:
        """Wait *delay* seconds; news of the network ends the wait once *at_least* seconds are over."""
        await trio.sleep(at_least)
        with trio.move_on_after(max(0.0, delay - at_least)):
            await self._news.wait()
            self._backoff = Backoff(secrets.SystemRandom())

    def _report(self, ended: Ended, retry_in: float | None) -> None:
        relay = self.relay
        if isinstance(ended, Rejected):
            event = RejectedByRelay(code=ended.code.value, reason=ended.reason, retry_in=retry_in, relay=relay)
            self._on_event(event)
        else:
            self._on_event(Disconnected(reason=str(ended), retry_in=retry_in, relay=relay))

    async def _dial(self) -> Chosen[Carrier]:
        """Dial the relay; without a named one, and before it was ever reached, only for so long."""
        if self._settings.servers or self.ready.is_set():
            return await self._first()
        reason = "it does not answer"
        with trio.move_on_after(limits.DEFAULT_RELAY_TIMEOUT):
            while True:
                try:
                    return await self._first()
                except ConnectError as exc:
                    if not exc.retryable:
                        raise
                    reason = str(exc)
                await trio.sleep(limits.DEFAULT_RELAY_PAUSE)
        error = ConnectError(NOBODY_ON_LOOPBACK.format(server=self.relay, reason=reason))
        error.retryable = False
        raise error

    async def _first(self) -> Chosen[Carrier]:
        """Dial the relay, anew whenever the network has changed meanwhile."""
        while True:
            self._news = trio.Event()
            with trio.CancelScope() as self._dialling:
                return await self._reach.first()

    # --- one session --------------------------------------------------------------------------------

    async def _attach(self, chosen: Chosen[Carrier]) -> SessionClosed | Rejected:
        """Serve visitors until the session that begins with *chosen* has ended; return why it did."""
        trust = chosen.value.trust
        if trust.notice is not None:
            self._on_event(Notice(code=f"trust-{trust.how.value}", text=trust.notice))
        try:
            return await self._hold(chosen)
        except SessionClosed:  # it connects, and no session comes of it
            if not self.draining:
                await self._reach.note({chosen.transport: False})
            raise

    async def _hold(self, chosen: Chosen[Carrier]) -> SessionClosed | Rejected:
        """Attach, serve, and wind up; raises as `_serve`."""
        async with attached(chosen.value, self._hello, window_max=self._settings.stream_window) as attachment:
            self._hello = msgspec.structs.replace(self._hello, session=attachment.welcome.session, alone=True)
            if not attachment.endpoints:
                return SessionClosed("the relay gave this agent no address")
            await self._prepare(attachment)
            async with bare_nursery() as nursery:
                ended: SessionClosed | Rejected = SessionClosed("no visitor could be served")
                self._road.attach(attachment)
                try:
                    ended = await self._serve(attachment, chosen, nursery)
                finally:
                    self._road.detach(attachment.ended or ended)
                with trio.move_on_after(limits.ABORT_FLUSH_TIMEOUT):
                    await attachment.wait_idle()  # what had arrived is delivered, then each visitor is aborted
                nursery.cancel_scope.cancel()
        return ended

    async def _serve(
        self, attachment: Attachment, chosen: Chosen[Carrier], nursery: trio.Nursery
    ) -> SessionClosed | Rejected:
        """Serve visitors in *nursery* until the session has ended; return why it did.

        Raises:
            SessionClosed, Rejected: No visitor could be served.
        """
        nursery.start_soon(attachment.serve_visitors, self._served.forwarding(attachment.visits), nursery)
        self.attachment = attachment
        try:
            taken = await first_canary(attachment, self._on_event, relay=self.relay)
            self._reach.round_trip = taken / 2
            await self._road.settle()
            self._serving_since = trio.current_time()
            self._announcer.transport(attachment, chosen.transport.value, chosen.why)
            self._announcer.road(self._road.path, self._road.why)
            self._announcer.addresses(attachment)
            self.ready.set()
            self._keeper = CarrierKeeper(
                attachment,
                self._reach,
                pool_size=self._settings.pool_size,
                announce=partial(self._announcer.transport, attachment),
            )
            nursery.start_soon(self._keeper.run)
            nursery.start_soon(keep_watch, attachment, self._on_event, self.relay)
            nursery.start_soon(self._follow_leaf, attachment)
            nursery.start_soon(self._reach.note, _outcomes(chosen))
            return await self._follow_endpoints(attachment)
        finally:
            self.attachment = self._keeper = None

    def _road_changed(self) -> None:
        if self.attachment is not None and self._serving_since is not None:
            self._announcer.road(self._road.path, self._road.why)

    # --- our public addresses -----------------------------------------------------------------------

    async def _prepare(self, attachment: Attachment) -> None:
        """Get ready to serve the endpoints that the relay gave us: names and leaf certificate."""
        attachment.acknowledge_endpoints()
        names = [Hostname(endpoint.hostname) for endpoint in self._announcer.in_order(attachment)]
        await self._served.prepare(self._reach.server, names)

    async def _follow_endpoints(self, attachment: Attachment) -> SessionClosed | Rejected:
        """Serve and report new public addresses until the session has ended; return why it did."""
        while True:
            with trio.move_on_after(limits.LEAF_CHECK):  # a leaf is renewed long before it ends
                ended = await attachment.wait_changed()
                if ended is not None:
                    return ended
            await self._prepare(attachment)
            self._announcer.changed_addresses(attachment)
            with trio.move_on_after(limits.ENDPOINTS_PAUSE):
                await attachment.link.wait_closed()

    async def _follow_leaf(self, attachment: Attachment) -> None:
        """Report our addresses again when the certificate has changed: another relay may have given us names."""
        while True:
            await self._served.wait_leaf_changed()
            self._announcer.changed_addresses(attachment)


def _outcomes(chosen: Chosen[Carrier]) -> dict[TransportKind, bool]:
    """Return what is worth remembering of the dial that led to a session."""
    lost = {} if chosen.passed_over is None else {chosen.passed_over: False}
    return {**lost, chosen.transport: True}


def _hint(ended: Ended) -> float | None:
    """Return how long the relay asks us to wait, in seconds."""
    if not isinstance(ended, Rejected):
        return None
    return max(ended.retry_after or 0.0, limits.REPLACED_WAIT if ended.code is RejectCode.REPLACED else 0.0)
