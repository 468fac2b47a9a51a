"""The data connections of one session: dialled ahead of need, parked, taken by visitors.

    _attend, one task a connection:   dial → prove → parked → taken → `forward_stream` → closed
    _keep                             dials what `parking` wants, lets go what it does not
    _watch                            canaries over a parked connection: is this road open?

All of it outlives carriers: a `Pool` belongs to a session, not to an attachment.
`attach` and `detach` tell it of the latter; detached it goes on, and its
visitors with it, for `ADOPTION_TIMEOUT`, as the relay does.

Up or not: the road is up once a canary has come through, and down when two in a
row have not, or when a dial fails while nothing is parked.  Down, what is
parked is let go, and dialled anew after a pause.  A dial that fails while others
are parked only pauses dialling.

The relay takes the newest; so the oldest are let go.
"""

from __future__ import annotations

import logging
import math
from collections.abc import Awaitable, Callable
from typing import Final, final

import trio

from trunnel.agent.attachment import Attachment
from trunnel.agent.forward import OnLink, forward_stream
from trunnel.agent.parking import Parking
from trunnel.agent.visit import Forwarding
from trunnel.errors import ConnectError, RemoteProtocolError
from trunnel.settings import limits
from trunnel.streams.listen import descriptor_limit
from trunnel.transports.direct import DirectLink, DirectRefused, DirectTerms, wait_taken
from trunnel.wire.direct import Refusal

logger = logging.getLogger(__name__)

Connect = Callable[[DirectTerms], Awaitable[DirectLink]]
"""Dials and proves one data connection; raises ConnectError."""
SendCanary = Callable[[Attachment], Awaitable[str]]
"""Has a canary come on a data connection; returns why it failed, or an empty text."""

_OF_THE_RELAY: Final = frozenset({Refusal.UNKNOWN_SESSION, Refusal.FULL, Refusal.DRAINING})
"""Refusals that say nothing of the network."""
_LOST: Final = (trio.BrokenResourceError, trio.ClosedResourceError, RemoteProtocolError)


@final
class Pool:
    """See the module's head; `run` is its life."""

    def __init__(
        self,
        terms: DirectTerms,
        parking: Parking,
        *,
        connect: Connect,
        canary: SendCanary,
        forwarding: Forwarding,
        tell: Callable[[Pool], None],
    ) -> None:
        """Have nothing parked yet.

        Args:
            terms: What connections are proved with.
            parking: How many are wanted.
            connect: How one is had.
            canary: How the road is tried.
            forwarding: What the visitors have in common.
            tell: Called when `failure` has changed.
        """
        self.terms = terms
        """Which session it belongs to."""
        self.visits = forwarding.visits
        """The visitors on data connections."""
        self.failure: str | None = None
        """Why the road is down, empty if it is up; None while nobody knows."""
        self.refused = False
        """Whether that is the relay's will, and no fault of the network."""
        self._parking = parking
        self._connect = connect
        self._canary = canary
        self._forwarding = forwarding
        self._tell = tell
        self._parked: dict[DirectLink, float] = {}  # since when, the oldest first
        self._dialling = 0
        self._generation = 0  # dials of an older one are of another network
        self._filling = True
        self._nursery: trio.Nursery | None = None
        self._life = trio.CancelScope()
        self._attachment: Attachment | None = None
        self._known = trio.Event()  # `failure` is not None
        self._news = trio.Event()  # for `_keep`
        self._ask = trio.Event()  # for `_watch`: a canary is due

    @property
    def parked(self) -> int:
        """Connections that wait for a visitor."""
        return len(self._parked)

    @property
    def ended(self) -> bool:
        """Whether it is over, or about to be."""
        return self._life.cancel_called

    # --- its life ---------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep connections parked and serve who takes them, until ended.

        Cancellation: parked connections and visitors were aborted.
        """
        with self._life:
            async with trio.open_nursery() as nursery:
                self._nursery = nursery
                nursery.start_soon(self._watch)
                await self._keep()

    def attach(self, attachment: Attachment) -> None:
        """Go on with *attachment*, which is one of the same session: what failed while it was away may work now."""
        self._attachment = attachment
        self.visits.most = min(attachment.welcome.limits.streams, (descriptor_limit() or math.inf) / 2)
        self._life.deadline = math.inf
        if self.failure:
            self._parking.begin_anew(trio.current_time())
            self._news.set()
        self._ask.set()

    def detach(self) -> None:
        """Go on without a carrier, but not for ever."""
        self._attachment = None
        self._life.deadline = trio.current_time() + limits.ADOPTION_TIMEOUT

    def end(self) -> None:
        """End now, with every visitor: the session is over."""
        self._life.cancel()

    def renew(self) -> None:
        """Let go of what is parked and dial anew: the network has changed, or the machine has slept."""
        self._generation += 1
        self._dialling = 0
        self._parking.begin_anew(trio.current_time())
        self._let_go(len(self._parked))
        self._ask.set()
        self._news.set()

    def retire(self) -> None:
        """Dial no more, and say no more of the road: one of the two sides stops."""
        self._filling = False

    async def drain(self) -> None:
        """Dial no more, and wait until the last visitor has gone.  Cancellation: visitors stay."""
        self.retire()
        await self.visits.wait_idle()

    def presume(self, failure: str, *, rest: float) -> None:
        """Take the road for down, as it was not long ago, and dial first after *rest* seconds."""
        self._parking.rest(rest, trio.current_time())
        self._set_failure(failure)

    async def wait_known(self) -> None:
        """Wait until it is known whether the road is up.  Cancellation: no effect."""
        await self._known.wait()

    # --- connections ------------------------------------------------------------------------------

    async def _keep(self) -> None:
        while True:
            self._news = trio.Event()
            now = trio.current_time()
            self._parking.decay(now)
            self._let_go(self._parking.surplus(len(self._parked)))
            self._fill(now)
            with trio.CancelScope(deadline=self._parking.next_look(now)):
                await self._news.wait()

    def _fill(self, now: float) -> None:
        """Begin the dials that are due."""
        if self._nursery is None or not self._filling:
            return
        for _ in range(self._parking.to_dial(len(self._parked), self._dialling, now)):
            self._dialling += 1
            self._nursery.start_soon(self._attend)

    def _let_go(self, count: int) -> None:
        """Close the oldest *count* of those that are parked; their tasks end by that."""
        for link in tuple(self._parked)[:count]:
            del self._parked[link]
            link.abort()

    async def _attend(self) -> None:
        """See one connection through its life."""
        generation = self._generation
        try:
            link = await self._connect(self.terms)
        except ConnectError as exc:
            if generation == self._generation:
                self._dialling -= 1
                self._dial_failed(exc)
            return
        if generation != self._generation:
            link.abort()
            return
        self._dialling -= 1
        self._parked[link] = trio.current_time()
        if self.failure != "":
            self._ask.set()
        try:
            header = await wait_taken(link)
        except _LOST as exc:
            self._parked_lost(link, str(exc))
            return
        except BaseException:
            self._parked.pop(link, None)
            raise
        if self._parked.pop(link, None) is None:  # let go in the moment in which it was taken
            link.abort()
            return
        self._parking.taken(len(self._parked))
        self._fill(trio.current_time())
        await forward_stream(OnLink(link, header), self._forwarding)

    def _dial_failed(self, error: ConnectError) -> None:
        if not self._filling:
            return
        logger.info("data_connection_failed", extra={"reason": str(error), "parked": len(self._parked)})
        self._parking.failed(trio.current_time())
        self._news.set()
        if not self._parked:
            self.refused = isinstance(error, DirectRefused) and error.refusal in _OF_THE_RELAY
            self._set_failure(str(error))

    def _parked_lost(self, link: DirectLink, reason: str) -> None:
        link.abort()
        since = self._parked.pop(link, None)
        if since is None or not self._filling:
            return  # we have let it go, or the relay knows that we stop
        now = trio.current_time()
        if self._parking.lost(now - since, now):
            logger.info("data_connection_lost", extra={"reason": reason, "seconds": now - since})
            if not self._parked:
                self._set_failure(f"connections that wait for visitors are cut off: {reason}")
        self._news.set()

    # --- is the road open? ------------------------------------------------------------------------

    def _set_failure(self, reason: str) -> None:
        """Take note that the road is down for *reason*, or up (an empty text)."""
        known, self.failure = self.failure, reason
        self._known.set()
        if known != reason:
            self._tell(self)
        self.refused = False

    async def _watch(self) -> None:
        """Send canaries while something is parked: at once when asked, and every `CANARY_INTERVAL`."""
        failures = 0
        while True:
            self._ask = trio.Event()
            attachment = self._attachment
            if attachment is not None and self._parked and self._filling:
                generation = self._generation
                failure = await self._canary(attachment)
                stands = attachment is self._attachment and attachment.ended is None and self._filling
                if stands and generation == self._generation:
                    failures = self._judge(failure, failures)
            with trio.move_on_after(limits.CANARY_RETRY if failures else limits.CANARY_INTERVAL):
                await self._ask.wait()

    def _judge(self, failure: str, failures: int) -> int:
        """Take a canary's outcome after so many *failures*; return how many there are in a row now."""
        if not failure:
            self._parking.served(trio.current_time())
            self._set_failure("")
            return 0
        logger.info("data_canary_failed", extra={"reason": failure})
        if failures + 1 < limits.CANARY_FAILURES:
            return failures + 1
        self._parking.failed(trio.current_time())
        self._let_go(len(self._parked))
        self._news.set()
        self._set_failure(failure)
        return 0
