"""One session of the agent at a relay, from its first carrier to its end.

    attach → names and leaf → canary → serving: told to people, carriers kept, canaries sent, addresses followed
        the relay drains   nothing more is dialled for it, neither carriers nor data connections
        relieved           another session has the visitors that come from now on: no more is told of this one,
                           and it ends with its last visitor, by the relay
                           relieved or not, it ends with the grace that the relay has named
    → over, by whichever side

What fails before it serves is raised; afterwards `ended` says why it is over.
Who dials, who comes after it, and when, is the `supervisor`'s affair.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from typing import final

import trio

from trunnel.agent.announce import Announcer
from trunnel.agent.attachment import Attachment, attached
from trunnel.agent.canary import first_canary, keep_watch
from trunnel.agent.carriers import CarrierKeeper
from trunnel.agent.dial import Carrier
from trunnel.agent.reach import Reach
from trunnel.agent.road import Road
from trunnel.agent.served import Served
from trunnel.errors import ConfigError, ConnectError, ErrorCode, LocalProtocolError, Rejected, SessionClosed
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.settings.agent import AgentSettings
from trunnel.streams.nursery import bare_nursery
from trunnel.transports.race import Chosen
from trunnel.transports.selection import TransportKind
from trunnel.wire import control

Ended = ConnectError | Rejected | SessionClosed
"""Why an attempt or a session came to its end."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Surroundings:
    """What all sessions at one relay have in common."""

    reach: Reach
    settings: AgentSettings
    served: Served
    announcer: Announcer
    relieve: Callable[[Tenure], None]
    """Called when a session begins to serve, before that is told: the one before it is to fall silent."""

    @property
    def relay(self) -> str:
        """The relay, as it was named."""
        return str(self.reach.server)


@final
class Tenure:
    """See the module's head; `run` is its life."""

    def __init__(self, chosen: Chosen[Carrier], hello: control.Hello, *, road: Road, around: Surroundings) -> None:
        """Begin with one carrier.

        Args:
            chosen: The carrier, which this owns.
            hello: What is said first on it.
            road: That of the visitors' bytes; only those that go on in one session share it.
            around: What it shares with all others.
        """
        self.attachment: Attachment | None = None
        """While visitors may come in it."""
        self.session: str | None = None
        """Its name, once the relay has said it."""
        self.serving_since: float | None = None
        """When it was found to serve visitors."""
        self.ended: Ended | None = None
        """Why it is over."""
        self.road = road
        self._chosen = chosen
        self._hello = hello
        self._around = around
        self._on_trial = True  # a failure now would be put down to the transport
        self._keeper: CarrierKeeper | None = None
        self._keeping = trio.CancelScope()
        self._present = trio.CancelScope()  # what is done for visitors who are still to come
        self._ends_at = math.inf
        self._leaving = trio.Event()  # over, or about to be
        self._over = trio.Event()

    # --- from outside -------------------------------------------------------------------------------

    async def wait_leaving(self) -> None:
        """Wait until the relay drains, or it is over.  Cancellation: no effect."""
        await self._leaving.wait()

    async def wait_over(self) -> None:
        """Wait until it is over.  Cancellation: no effect."""
        await self._over.wait()

    @property
    def is_over(self) -> bool:
        """Whether it is over."""
        return self._over.is_set()

    @property
    def relay_drains(self) -> bool:
        """Whether it is the last one at this process of the relay."""
        return self.road.left

    def relieved(self) -> None:
        """Fall silent: another session has the visitors that come from now on."""
        self._present.cancel()

    def cut(self, reason: str) -> None:
        """End it now, with its visitors."""
        if self.attachment is not None:
            self.attachment.link.abort(reason, code=ErrorCode.NO_ERROR)

    async def drain(self, grace: float, reason: str) -> None:
        """Take no more visitors, and return when those that are there have finished, or after *grace* seconds."""
        self._on_trial = False
        if self.attachment is not None:
            await self.attachment.drain(grace, reason)

    def network_changed(self) -> None:
        """Take note that carriers would now start from another address."""
        if self._keeper is not None:
            self._keeper.network_changed()

    def woke(self) -> None:
        """Take note that the machine has slept."""
        if self._keeper is not None:
            self._keeper.woke()

    # --- its life -----------------------------------------------------------------------------------

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Attach and serve visitors to the end; started once the first could come and people have been told.

        Raises:
            SessionClosed, Rejected, ConfigError: Before it is started, and only then.

        Cancellation: every visitor's stream is reset.
        """
        try:
            await self._attach(task_status)
        except (ConfigError, Rejected, SessionClosed) as exc:
            if self.serving_since is None:
                if self._on_trial and isinstance(exc, SessionClosed):  # it connects, and no session comes of it
                    await self._around.reach.note({self._chosen.transport: False})
                raise
            self.ended = exc if not isinstance(exc, ConfigError) else ConnectError(str(exc))  # a file may be mended
        finally:
            self.attachment = None
            self._leaving.set()
            self._over.set()

    async def _attach(self, task_status: trio.TaskStatus[None]) -> None:
        """Attach, serve, and wind up; raises as `run`."""
        window = self._around.settings.stream_window
        async with attached(self._chosen.value, self._hello, window_max=window) as attachment:
            self.session = attachment.welcome.session
            if not attachment.endpoints:
                self._on_trial = False
                raise SessionClosed("the relay gave this agent no address")
            await self._prepare(attachment)
            async with bare_nursery() as nursery:
                ended: SessionClosed | Rejected = SessionClosed("no visitor could be served")
                self.road.attach(attachment)
                try:
                    await self._serve(attachment, nursery, task_status)
                    ended = await self._outlast(attachment)
                finally:
                    self._leave_road(attachment)
                    self.road.detach(attachment.ended or ended)
                self.attachment = None
                with trio.move_on_after(limits.ABORT_FLUSH_TIMEOUT):
                    await attachment.wait_idle()  # what had arrived is delivered, then each visitor is aborted
                nursery.cancel_scope.cancel()
        self.ended = ended

    async def _serve(self, attachment: Attachment, nursery: trio.Nursery, task_status: trio.TaskStatus[None]) -> None:
        """Serve visitors in *nursery*; returns once the session has ended, or was relieved.

        Raises:
            SessionClosed, Rejected: No visitor could be served.
        """
        around = self._around
        nursery.start_soon(attachment.serve_visitors, around.served.forwarding(attachment.visits), nursery)
        self.attachment = attachment
        taken = await first_canary(attachment, around.served.on_event, relay=around.relay)
        around.reach.round_trip = taken / 2
        await self.road.settle()
        self._on_trial = False
        self.serving_since = trio.current_time()
        around.relieve(self)
        self._announce(attachment)
        task_status.started()
        nursery.start_soon(self._heed_drain, attachment)
        nursery.start_soon(around.reach.note, _outcomes(self._chosen))
        with self._present:
            await self._tend(attachment)

    def _announce(self, attachment: Attachment) -> None:
        announcer = self._around.announcer
        announcer.transport(attachment, self._chosen.transport.value, self._chosen.why)
        announcer.road(self.road.path, self.road.why)
        announcer.addresses(attachment)

    async def _tend(self, attachment: Attachment) -> None:
        """Do what visitors who are still to come need, until the session has ended."""
        async with bare_nursery() as nursery:
            nursery.start_soon(self._keep_open, attachment)
            nursery.start_soon(self._follow_leaf, attachment)
            await self._follow_endpoints(attachment)
            nursery.cancel_scope.cancel()

    async def _keep_open(self, attachment: Attachment) -> None:
        """Keep the right carriers, and see that visitors are served, until the relay drains.

        What is dialled then reaches another process, and a canary would stand for visitors who do not come.
        """
        around = self._around
        announce = partial(around.announcer.transport, attachment)
        with self._keeping:
            self._keeper = CarrierKeeper(
                attachment, around.reach, pool_size=around.settings.pool_size, announce=announce
            )
            try:
                async with bare_nursery() as nursery:
                    nursery.start_soon(keep_watch, attachment, around.served.on_event, around.relay)
                    await self._keeper.run()
                    nursery.cancel_scope.cancel()
            finally:
                self._keeper = None

    # --- the end ------------------------------------------------------------------------------------

    async def _heed_drain(self, attachment: Attachment) -> None:
        await attachment.relay_drains.wait()
        self._leave_road(attachment)

    def _leave_road(self, attachment: Attachment) -> None:
        """Dial nothing more if the relay drains; its visitors have the grace that it named."""
        if self.road.left or not attachment.relay_drains.is_set():
            return
        grace = attachment.relay_grace + limits.ABORT_FLUSH_TIMEOUT  # the relay is to be the first to end it
        self.road.leave(grace)
        self._present.deadline = self._ends_at = trio.current_time() + grace  # whether anybody takes over or not
        self._keeping.cancel()
        self._leaving.set()

    async def _outlast(self, attachment: Attachment) -> SessionClosed | Rejected:
        """Wait for the end of the session; return why it came."""
        with trio.move_on_at(self._ends_at):
            await attachment.link.wait_closed()
        attachment.link.abort("its relay was to have stopped", code=ErrorCode.NO_ERROR)  # no effect if it has ended
        if attachment.ended is None:
            raise LocalProtocolError("a session that was aborted has ended")
        return attachment.ended

    # --- our public addresses -----------------------------------------------------------------------

    async def _prepare(self, attachment: Attachment) -> None:
        """Get ready to serve the endpoints that the relay gave us: names and leaf certificate."""
        attachment.acknowledge_endpoints()
        around = self._around
        names = [Hostname(endpoint.hostname) for endpoint in around.announcer.in_order(attachment)]
        await around.served.prepare(around.reach.server, names)

    async def _follow_endpoints(self, attachment: Attachment) -> None:
        """Serve and report new public addresses until the session has ended."""
        while True:
            with trio.move_on_after(limits.LEAF_CHECK):  # a leaf is renewed long before it ends
                if await attachment.wait_changed() is not None:
                    return
            await self._prepare(attachment)
            self._around.announcer.changed_addresses(attachment)
            with trio.move_on_after(limits.ENDPOINTS_PAUSE):
                await attachment.link.wait_closed()

    async def _follow_leaf(self, attachment: Attachment) -> None:
        """Report our addresses again when the certificate has changed: another relay may have given us names."""
        while True:
            await self._around.served.wait_changed()
            self._around.announcer.changed_addresses(attachment)


def _outcomes(chosen: Chosen[Carrier]) -> dict[TransportKind, bool]:
    """Return what is worth remembering of the dial that led to a session."""
    lost = {} if chosen.passed_over is None else {chosen.passed_over: False}
    return {**lost, chosen.transport: True}
