"""The road of visitors' bytes at one relay: data connections, or streams inside the session.

A `Road` outlives sessions: it keeps the `Pool` of the last session until that
one is over, so that visitors on data connections live through the loss of every
carrier.

    the session is adopted again     its pool goes on, as if nothing had happened
    the relay gives another session  the old pool ends
    nobody adopts it in time         the pool ends by itself (`Pool.detach`)
    the relay ends it with a reason  the pool ends
    the relay drains (`leave`)       nothing more is dialled; once the session is over the last visitors finish,
                                     and the road is at its end: the session after this one has a road of its own

Which road it is, and why, is told whenever that changes.  Where data connections
did not work on this network a short while ago, nobody waits for them: that is
said, and they are tried again in the background.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable
from datetime import datetime
from functools import partial
from typing import Final, final

import trio

from trunnel.agent.attachment import Attachment
from trunnel.agent.canary import send_canary
from trunnel.agent.choices import Outcome
from trunnel.agent.direct import Pool
from trunnel.agent.parking import Parking, pause_after
from trunnel.agent.reach import Reach
from trunnel.agent.visit import Forwarding, Visits
from trunnel.clock import utc_now
from trunnel.errors import Rejected, SessionClosed
from trunnel.events import EventSink
from trunnel.settings import limits
from trunnel.settings.agent import AgentSettings, DataChoice
from trunnel.transports.direct import DirectTerms
from trunnel.transports.selection import ago
from trunnel.wire import control

DIRECT: Final = control.DataPath.DIRECT.value
SESSION: Final = control.DataPath.SESSION.value
NONE: Final = "none"
"""No road: data connections do not work, and nothing else is wanted."""

_UP: Final = "each visitor on a TCP connection of its own"
_UNKNOWN: Final = "no data connection has answered yet"
_NOT_OFFERED: Final = "the relay takes no data connections"
_AS_ASKED: Final = "as asked"
_ADVISORY: Final = "on data connections nothing vouches for the addresses that --proxy-protocol tells"


def wanted_of(settings: AgentSettings) -> DataChoice:
    """Return what a relay is told in the hello."""
    return DataChoice.SESSION if settings.proxy_protocol is not None else settings.data


@final
class Road:
    """See the module's head; `run` is its life, as long as its supervisor's unless it is left."""

    def __init__(
        self,
        reach: Reach,
        settings: AgentSettings,
        *,
        forwarding: Callable[[Visits], Forwarding],
        on_event: EventSink,
        changed: Callable[[], None],
    ) -> None:
        """Begin without a session.

        Args:
            reach: The ways to the relay.
            settings: The agent's.
            forwarding: Makes what the visitors of one pool have in common.
            on_event: Takes canaries.
            changed: Called when `path` or `why` have changed.
        """
        self.path = SESSION
        """`direct`, `session` or `none`."""
        self.why = _UNKNOWN
        """Why that one, for people."""
        self.left = False
        """Whether its last session has come."""
        self._reach = reach
        self._wanted = wanted_of(settings)
        self._unwanted = _AS_ASKED if settings.proxy_protocol is None else _ADVISORY
        self._forwarding = forwarding
        self._on_event = on_event
        self._changed = changed
        self._nursery: trio.Nursery | None = None
        self._life = trio.CancelScope()
        self._pool: Pool | None = None
        self._attached = False
        self._noted: bool | None = None  # what is remembered of this network, as far as we know

    @property
    def pool(self) -> Pool | None:
        """The data connections of the last session, if it has any."""
        return self._pool

    async def run(self, task_status: trio.TaskStatus[None] = trio.TASK_STATUS_IGNORED) -> None:
        """Hold what outlives sessions, until it was left and the last visitor has gone.

        Cancellation: every visitor on a data connection is aborted.
        """
        with self._life:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                try:
                    task_status.started()
                    await trio.sleep_forever()
                finally:
                    self._nursery = None  # nothing begins any more

    # --- sessions ---------------------------------------------------------------------------------

    def attach(self, attachment: Attachment) -> None:
        """Go on with the session of *attachment*, or begin with it."""
        self._attached = True
        offered, session = attachment.welcome.direct, attachment.welcome.session
        wanted = None if offered is None or self._wanted is DataChoice.SESSION else offered
        if wanted is None:
            self._end_pool()
            self._set(*self._without(self._unwanted if self._wanted is DataChoice.SESSION else _NOT_OFFERED))
            return
        terms = DirectTerms(wanted.key, attachment.link.peer.key_id, session)
        if self._pool is None or self._pool.ended or self._pool.terms != terms:
            self._end_pool()
            self._begin_pool(terms, wanted.parked)
        if self._pool is not None:
            self._pool.attach(attachment)

    def detach(self, ended: SessionClosed | Rejected) -> None:
        """Go on without the session's carriers; the end of the session itself ends its pool."""
        self._attached = False
        if isinstance(ended, Rejected):
            self._end_pool()
        elif self._pool is not None and not self.left:
            self._pool.detach()
        if self.left and self._nursery is not None:
            self._nursery.start_soon(self._finish)

    def leave(self, grace: float) -> None:
        """Begin no session after the present one, and end *grace* seconds from now at the latest; see the head."""
        self.left = True
        self._life.deadline = trio.current_time() + grace
        if self._pool is not None:
            self._pool.retire()

    async def _finish(self) -> None:
        await self.drain()
        self._life.cancel()

    async def settle(self) -> None:
        """Wait, for a short time, until it is known which road it is.

        Raises:
            SessionClosed: Data connections are the only road wanted, and there are none.
        """
        only = self._wanted is DataChoice.DIRECT
        if self._pool is not None:
            with trio.move_on_after(limits.CANARY_TIMEOUT if only else limits.DIRECT_READY_WAIT):
                await self._pool.wait_known()
        if only and self.path != DIRECT:
            raise SessionClosed(f"visitors would not be served: {self.why}")

    def renew(self) -> None:
        """Dial data connections anew: the network has changed, or the machine has slept."""
        self._noted = None
        if self._pool is not None:
            self._pool.renew()

    async def drain(self) -> None:
        """Wait until the last visitor on a data connection has gone.  Cancellation: visitors stay."""
        if self._pool is not None:
            await self._pool.drain()

    # --- the pool ---------------------------------------------------------------------------------

    def _begin_pool(self, terms: DirectTerms, cap: int) -> None:
        if self._nursery is None:
            return
        self._pool = Pool(
            terms,
            Parking(cap, rng=secrets.SystemRandom(), now=trio.current_time()),
            connect=self._reach.dialler.dial_direct,
            canary=partial(
                send_canary, on_event=self._on_event, relay=str(self._reach.server), path=control.DataPath.DIRECT
            ),
            forwarding=self._forwarding(Visits()),
            tell=self._tell,
        )
        self._set(*self._without(_UNKNOWN))
        self._nursery.start_soon(self._run_pool, self._pool)

    async def _run_pool(self, pool: Pool) -> None:
        remembered = await self._reach.recall_direct()
        if remembered is not None and not pool.ended:
            self._noted = remembered.worked
            if not remembered.worked:
                now = utc_now()
                pool.presume(_remembered_words(remembered, now), rest=_rest_left(remembered, now))
        await pool.run()

    def _end_pool(self) -> None:
        if self._pool is not None:
            self._pool.end()
            self._pool = None

    def _tell(self, pool: Pool) -> None:
        """Take note that *pool* is up, or down, or down for another reason."""
        if pool is not self._pool or pool.failure is None:
            return
        works = not pool.failure
        self._set(*((DIRECT, _UP) if works else self._without(pool.failure)))
        if self._attached and not pool.refused and works != self._noted and self._nursery is not None:
            self._noted = works
            self._nursery.start_soon(self._note, pool.failure)

    async def _note(self, failure: str) -> None:
        """Remember how data connections do here, but no failure that comes with the news that the relay drains."""
        if failure:
            await trio.sleep(limits.DIRECT_NOTE_PAUSE)
        if not (failure and self.left):
            await self._reach.note_direct(failure)

    def _without(self, why: str) -> tuple[str, str]:
        """Return the road without data connections."""
        return (NONE if self._wanted is DataChoice.DIRECT else SESSION), why

    def _set(self, path: str, why: str) -> None:
        if (path, why) != (self.path, self.why):
            self.path, self.why = path, why
            self._changed()


def _remembered_words(remembered: Outcome, now: datetime) -> str:
    """Say what is remembered of data connections that did not work."""
    reason = f" ({remembered.reason})" if remembered.reason else ""
    return f"data connections did not work on this network {ago(remembered.at, now)}{reason}"


def _rest_left(remembered: Outcome, now: datetime) -> float:
    """Return the seconds until data connections are to be tried again."""
    pause = pause_after(remembered.failures)
    return pause - min(pause, max(0.0, (now - remembered.at).total_seconds()))
