"""One relay's supervisor: dial, have a session, and again, for ever.

    loop: dial (`reach`) → a session (`tenure`) → it ends → wait (`backoff`)
                             └ its relay drains → dial → the next session serves → the old one is relieved
    beside it: visitors on data connections, which outlive the loss of carriers (`road`)

What ends the loop: `drain`, cancellation, a relay that is not who it should be
(RelayIdentityError), a refusal that no retry can change (Rejected), and, if no
relay was named, nobody on loopback within 3 s at the start.  Everything else
is waited out with full jitter (`calling` waits, and dials).

"Connected" is said once a canary has shown that visitors are served, and what
is remembered of a transport is written down then: one that connects, and of
which no session comes, has not worked.

A session that was lost is asked for by its name for `ADOPTION_TIMEOUT` seconds:
the relay keeps the names, and what does not depend on a carrier, for so long.

A relay that drains may be restarting, with another process beside it that
accepts already: make before break.  Within `HANDOVER_JITTER` seconds the next
session is dialled, a new one with a road of its own, while the old one finishes
its visitors.  Where nobody answers, or only who drains, the relay really stops:
that is tried again until the old session ends, and then as after any loss.
Nothing is said of a session that was relieved, nor of a dial that nobody needed.
"""

from __future__ import annotations

import logging
import math
import secrets
from collections.abc import Awaitable, Callable
from typing import final

import msgspec
import trio

from trunnel.agent.announce import Announcer
from trunnel.agent.attachment import Attachment
from trunnel.agent.backoff import Backoff
from trunnel.agent.calling import Caller
from trunnel.agent.dial import Carrier
from trunnel.agent.reach import Reach
from trunnel.agent.road import Road
from trunnel.agent.served import Served
from trunnel.agent.tenure import Ended, Surroundings, Tenure
from trunnel.errors import ConfigError, ConnectError, LocalProtocolError, RejectCode, Rejected, SessionClosed
from trunnel.events import Connecting, Disconnected, EventSink, Notice, Ready, RejectedByRelay
from trunnel.names import KeyId
from trunnel.settings import limits
from trunnel.settings.agent import AgentSettings
from trunnel.streams.nursery import bare_nursery
from trunnel.transports.race import Chosen
from trunnel.wire import control

logger = logging.getLogger(__name__)


@final
class Supervisor:
    """Keeps the agent attached to one relay; `run` is its life."""

    def __init__(
        self, reach: Reach, settings: AgentSettings, *, key_id: KeyId, hello: control.Hello, served: Served
    ) -> None:
        self.ready = trio.Event()
        """Set when the first visitor could come."""
        self.draining = False
        self._reach = reach
        self._settings = settings
        self._hello = hello  # what the next session begins with
        self._told: Ended | None = None  # the end that was told last, if it was told early
        self._served = served
        self._on_event: EventSink = served.on_event
        self._random = secrets.SystemRandom()
        self._backoff = Backoff(self._random)
        self._announcer = Announcer(self.relay, settings, key_id=key_id, served=served)
        self._around = Surroundings(
            reach=reach, settings=settings, served=served, announcer=self._announcer, relieve=self._relieve
        )
        self._present: Tenure | None = None  # serves the visitors that come from now on
        self._tenures: list[Tenure] = []  # all that are not over, the oldest first
        self._road = self._new_road()  # of the next session, or the present one
        self._roads: list[Road] = []  # all that are not at their end
        self._lasting: trio.Nursery | None = None
        self._pursuit = trio.CancelScope()  # the loop
        self._drained = trio.Event()
        self._caller = Caller(reach)

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
    def attachment(self) -> Attachment | None:
        """The attachment that serves the visitors to come, if any, or is about to."""
        tenure = self._present or self._starting
        return None if tenure is None else tenure.attachment

    @property
    def _starting(self) -> Tenure | None:
        """The session that does not serve yet, if any."""
        return next((tenure for tenure in self._tenures if tenure.serving_since is None), None)

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
                    for road in self._roads:
                        nursery.start_soon(road.drain)
                    starting = self._starting
                    if starting is None or starting.attachment is None:
                        self._pursuit.cancel()  # there will be no other session; those that serve go on
                    for tenure in self._tenures:
                        nursery.start_soon(tenure.drain, grace, reason)
        finally:
            self._drained.set()

    def network_changed(self) -> None:
        """Take note that the way to the relay has changed."""
        self._hurry()
        for tenure in self._tenures:
            tenure.network_changed()

    def woke(self) -> None:
        """Take note that the machine has slept."""
        self._hurry()
        for tenure in self._tenures:
            tenure.woke()

    def _hurry(self) -> None:
        self._caller.hurry()
        self._road.renew()

    # --- the loop -----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Attach again and again until drained; see the module's head for what else ends it.

        Raises:
            RelayIdentityError, Rejected, ConnectError, SessionClosed: For good; it was reported.
            ConfigError: A file cannot be used, at the first attempt.
        """
        async with bare_nursery() as self._lasting:
            await self._nursery.start(self._keep_road, self._road)
            with self._pursuit:
                await self._pursue()
            if self.draining:
                await self._drained.wait()
            self._nursery.cancel_scope.cancel()

    @property
    def _nursery(self) -> trio.Nursery:
        """Of all sessions and roads."""
        if self._lasting is None:
            raise LocalProtocolError("a supervisor that does not run has no sessions")
        return self._lasting

    async def _pursue(self) -> None:
        attempt = 0
        while True:
            attempt += 1
            self._say_connecting(attempt)
            ended, served = await self._attempt()
            if self.draining:
                return
            if not ended.retryable:
                self._report(ended, None)
                raise ended
            if served is not None:
                attempt *= not self._backoff.session_lasted(served)
            asked = _hint(ended)
            delay = self._backoff.next_delay(asked)
            if ended is not self._told:
                self._report(ended, round(delay, 1))
            if await self._caller.pause(delay, at_least=asked or 0.0):
                self._backoff = Backoff(self._random)

    async def _attempt(self) -> tuple[Ended, float | None]:
        """Dial, and serve as long as it goes; return why it ended, and for how many seconds the last session served."""
        named = bool(self._settings.servers) or self.ready.is_set()
        begun = await self._begin(self._caller.call if named else self._caller.look)
        if not isinstance(begun, Tenure):
            return begun, None
        last = await self._follow(begun)
        if last.ended is None or last.serving_since is None:
            raise LocalProtocolError("a session that has begun, and is over, has ended")
        return last.ended, trio.current_time() - last.serving_since

    async def _follow(self, tenure: Tenure) -> Tenure:
        """Return the last one, once it is over, of those that take over from one another, beginning with *tenure*."""
        while True:
            await tenure.wait_leaving()
            successor = await self._succeed(tenure) if tenure.relay_drains and not self.draining else None
            if successor is None:
                await tenure.wait_over()
                return tenure
            tenure = successor

    async def _succeed(self, old: Tenure) -> Tenure | None:
        """Have a session that takes over from *old*, whose relay drains; None: there is none, and *old* is over."""
        await self._begin_anew()
        async with bare_nursery() as nursery:
            nursery.start_soon(self._tell_gap, old)
            successor = await self._dial_successor(old)
            nursery.cancel_scope.cancel()
        return successor

    async def _tell_gap(self, old: Tenure) -> None:
        """Say that nobody is served, once that takes longer than a change from one relay to the next."""
        await old.wait_over()
        await trio.sleep(limits.HANDOVER_GAP)
        if old.ended is not None and not self.draining:
            self._report(old.ended, 0.0)
            self._told = old.ended

    async def _dial_successor(self, old: Tenure) -> Tenure | None:
        backoff = Backoff(self._random)
        await trio.sleep(self._random.uniform(0.0, limits.HANDOVER_JITTER))
        while True:
            self._say_connecting(1)
            begun = await self._begin(self._caller.call)
            if isinstance(begun, Tenure):
                return begun
            logger.info("no_successor", extra={"relay": self.relay, "reason": str(begun)})
            patience = backoff.next_delay(_hint(begun)) if begun.retryable and not self.draining else math.inf
            with trio.move_on_after(patience):
                await old.wait_over()
            if old.is_over:
                return None

    # --- one session --------------------------------------------------------------------------------

    async def _begin(self, dial: Callable[[], Awaitable[Chosen[Carrier]]]) -> Tenure | Ended:
        """Dial, and return the session that serves then, or why there is none; raises ConfigError at the first."""
        try:
            return await self._open(await dial())
        except (ConnectError, Rejected, SessionClosed) as exc:
            return exc
        except ConfigError as exc:
            if not self.ready.is_set():
                raise
            return ConnectError(str(exc))  # it worked before: a file may be mended, or the disk have room again

    async def _open(self, chosen: Chosen[Carrier]) -> Tenure:
        """Have a session that begins with *chosen*; raises as `Tenure.run`."""
        trust = chosen.value.trust
        if trust.notice is not None:
            self._on_event(Notice(code=f"trust-{trust.how.value}", text=trust.notice))
        if self._road.left:
            await self._begin_anew()
        tenure = Tenure(chosen, self._hello, road=self._road, around=self._around)
        try:
            await self._nursery.start(self._keep, tenure)
        finally:
            if tenure.session is not None:
                self._hello = msgspec.structs.replace(self._hello, session=tenure.session, alone=True, invitation="")
        self.ready.set()
        return tenure

    async def _keep(self, tenure: Tenure, task_status: trio.TaskStatus[None]) -> None:
        """Run a session to its end."""
        self._tenures.append(tenure)
        try:
            await tenure.run(task_status)
        finally:
            self._tenures.remove(tenure)
            if self._present is tenure:
                self._present = None

    def _relieve(self, tenure: Tenure) -> None:
        """Let *tenure*, which serves now, be the present one."""
        if self._present is not None:
            self._present.relieved()
        self._present = tenure
        *leaving, _ = self._tenures
        for oldest in leaving[: -limits.HANDOVERS_MAX]:
            oldest.cut("newer sessions have taken its place")

    async def _begin_anew(self) -> None:
        """Have a new road, and no session to come back to."""
        self._hello = msgspec.structs.replace(self._hello, session=None, alone=False)
        self._road = self._new_road()
        await self._nursery.start(self._keep_road, self._road)

    # --- roads --------------------------------------------------------------------------------------

    def _new_road(self) -> Road:
        def changed() -> None:
            present = self._present
            if present is not None and present.road is road:
                self._announcer.road(road.path, road.why)

        road = Road(
            self._reach,
            self._settings,
            forwarding=self._served.forwarding,
            on_event=self._on_event,
            changed=changed,
        )
        return road

    async def _keep_road(self, road: Road, task_status: trio.TaskStatus[None]) -> None:
        """Hold a road to its end."""
        self._roads.append(road)
        try:
            await road.run(task_status)
        finally:
            self._roads.remove(road)

    # --- what is told -------------------------------------------------------------------------------

    def _say_connecting(self, attempt: int) -> None:
        self._on_event(Connecting(relay=self.relay, transport=self._reach.wanted, attempt=attempt))

    def _report(self, ended: Ended, retry_in: float | None) -> None:
        relay = self.relay
        if isinstance(ended, Rejected):
            event = RejectedByRelay(code=ended.code.value, reason=ended.reason, retry_in=retry_in, relay=relay)
            self._on_event(event)
        else:
            self._on_event(Disconnected(reason=str(ended), retry_in=retry_in, relay=relay))


def _hint(ended: Ended) -> float | None:
    """Return how long the relay asks us to wait, in seconds."""
    if not isinstance(ended, Rejected):
        return None
    return max(ended.retry_after or 0.0, limits.REPLACED_WAIT if ended.code is RejectCode.REPLACED else 0.0)
