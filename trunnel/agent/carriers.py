"""Keeps the right carriers in one session: grows the pool, replaces, falls back, returns to QUIC.

One task looks at the carriers every `CARRIER_LOOK` seconds, and at once when
one has come or gone, and does what `pooling` says, one dial at a time; another
tries QUIC again while TCP carries the session, rarely.  Beside them, news of
the machine is acted on:

- another network: QUIC moves (`migrate`); a TCP carrier cannot, so a new one is
  dialled and the old ones retire; a dial that is under way begins anew;
- the machine woke: carriers that do not answer within `WAKE_PATIENCE` are dead.

What is said to people: which transport carries the session now, and why, each
time that changes.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable
from typing import Final, final

import trio

from trunnel.agent.attachment import Attached, Attachment
from trunnel.agent.backoff import Backoff
from trunnel.agent.pooling import Step, View, next_step
from trunnel.agent.reach import Reach, is_tcp
from trunnel.errors import ConfigError, ConnectError, ErrorCode, Rejected, RelayIdentityError, SessionClosed
from trunnel.settings import limits
from trunnel.transports.pool import is_suspect
from trunnel.transports.selection import TransportKind
from trunnel.wire import control

logger = logging.getLogger(__name__)

_NOT_ADDED: Final = (ConnectError, ConfigError, SessionClosed, Rejected)
"""Why a carrier may not come to join."""

Announce = Callable[[str, str], None]
"""Takes the transport that carries the session now, and why."""


@final
class CarrierKeeper:
    """See the module's head; one for each attachment."""

    def __init__(self, attachment: Attachment, reach: Reach, *, pool_size: int, announce: Announce) -> None:
        self._attachment = attachment
        self._reach = reach
        self._pool_size = pool_size
        self._announce = announce
        self._announced = attachment.link.transport
        self._backoff = Backoff(secrets.SystemRandom())
        self._next_dial = 0.0
        self._dialling = trio.CancelScope()
        self._next_quic = 0.0
        self._quic_answering_since: float | None = None
        self._had_quic = False
        self._retired: dict[Attached, float] = {}
        self._replaced: set[Attached] = set()
        self._peaks: list[tuple[float, int]] = []
        self._news = trio.Event()
        self._woke = trio.Event()
        self._moved = False

    # --- news -----------------------------------------------------------------------------------------

    def network_changed(self) -> None:
        """Take note that carriers would now start from another address."""
        self._moved = True
        self._next_quic = 0.0  # the last trial was on another network
        self._hurry()

    def woke(self) -> None:
        """Take note that the machine has slept: the peer may have given us up."""
        self._woke.set()
        self._hurry()

    def _hurry(self) -> None:
        self._next_dial = 0.0
        self._dialling.cancel()
        self._news.set()

    # --- the tasks ------------------------------------------------------------------------------------

    async def run(self) -> None:
        """Keep the session's carriers until it has ended.

        Cancellation: the way to stop; a dial that is under way is given up.
        """
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._ask_after_sleep)
            if self._reach.automatic:
                nursery.start_soon(self._return_to_quic)
            nursery.start_soon(self._follow_changes)
            while self._attachment.link.closed is None:
                self._news = trio.Event()  # what comes during the look calls for another one
                await self._look()
                with trio.move_on_after(limits.CARRIER_LOOK):
                    await self._news.wait()
            nursery.cancel_scope.cancel()

    async def _follow_changes(self) -> None:
        while True:
            await self._attachment.link.wait_carriers_changed()
            self._news.set()

    async def _ask_after_sleep(self) -> None:
        """Ping every carrier when the machine woke, and end those that do not answer."""
        while True:
            await self._woke.wait()
            self._woke = trio.Event()
            asked = trio.current_time()
            for attached in self._attachment.carriers:
                attached.channel.post(control.Ping(0))
            await trio.sleep(limits.WAKE_PATIENCE)
            for attached in tuple(self._attachment.carriers):
                if attached.link.last_heard < asked:
                    attached.link.abort("it did not answer after the machine woke", code=ErrorCode.DEADLINE)

    async def _look(self) -> None:
        now = trio.current_time()
        await self._watch_quic(now)
        if self._moved:
            await self._move()
        self._end_retired(now)
        self._say(now)
        if self._reach.tcp is None:
            self._keep_one_quic(now)
        view = self._view(now)
        if any(view.tcp) or view.quic_settled or (any(view.quic) and not view.tcp_allowed):
            for attached in tuple(self._replaced):
                self._retire(attached, now)
        match next_step(view):
            case Step.ADD_TCP if now >= self._next_dial:
                await self._grow(self._reach.tcp or TransportKind.H2)
            case Step.ADD_QUIC if now >= self._next_dial:
                await self._grow(TransportKind.QUIC)
            case Step.RETIRE_TCP:
                self._retire_one(now)
            case _:
                pass

    def _current(self) -> list[Attached]:
        """Return the carriers that are to stay, oldest first."""
        leaving = self._retired.keys() | self._replaced
        return [attached for attached in self._attachment.carriers if attached not in leaving]

    def _view(self, now: float) -> View:
        current = self._current()
        tcp = [not is_suspect(each.link, now) for each in current if is_tcp(each.link.transport)]
        quic = [not is_suspect(each.link, now) for each in current if not is_tcp(each.link.transport)]
        settled = self._quic_answering_since
        return View(
            tcp=tcp,
            quic=quic,
            quic_settled=settled is not None and now - settled >= limits.QUIC_SETTLED,
            peak=self._peak(now),
            pool_size=self._pool_size,
            tcp_allowed=self._reach.tcp is not None,
        )

    def _peak(self, now: float) -> int:
        """Return the most visitors at a time in the last `POOL_IDLE` seconds."""
        visits = self._attachment.visits
        seen, visits.peak = visits.peak, len(visits.open)
        while self._peaks and (self._peaks[0][0] < now - limits.POOL_IDLE):
            self._peaks.pop(0)
        while self._peaks and self._peaks[-1][1] <= seen:
            self._peaks.pop()
        self._peaks.append((now, seen))
        return self._peaks[0][1]

    async def _move(self) -> None:
        """Let carriers follow to the new network; those that cannot are to be replaced."""
        self._moved = False
        self._quic_answering_since = None
        for attached in tuple(self._attachment.carriers):
            if not await attached.link.migrate():
                self._replaced.add(attached)

    # --- steps ----------------------------------------------------------------------------------------

    async def _grow(self, kind: TransportKind) -> None:
        """Dial one more carrier and let it join; after a failure, not again for a while."""
        try:
            with trio.CancelScope() as self._dialling:
                await self._add(kind)
                self._backoff = Backoff(secrets.SystemRandom())
                self._next_dial = trio.current_time() + limits.CARRIER_LOOK  # if it is lost at once, too
        except _NOT_ADDED as exc:
            delay = self._backoff.next_delay(exc.retry_after if isinstance(exc, Rejected) else None)
            self._next_dial = trio.current_time() + max(delay, limits.CARRIER_LOOK)

    async def _add(self, kind: TransportKind) -> None:
        """Dial a carrier of *kind* and let it join; raises one of `_NOT_ADDED`."""
        try:
            carrier = await self._reach.dialler.dial(kind)
            try:
                await self._attachment.add(carrier)
            except BaseException:
                carrier.abort()  # no effect on one that was opened
                raise
        except _NOT_ADDED as exc:
            level = logging.WARNING if isinstance(exc, RelayIdentityError) else logging.INFO
            logger.log(level, "carrier_not_added", extra={"transport": kind.value, "reason": str(exc)})
            raise

    def _retire_one(self, now: float) -> None:
        """Retire the TCP carrier with the fewest streams."""
        idlest = min(
            (each for each in self._attachment.carriers if is_tcp(each.link.transport) and each not in self._retired),
            key=lambda each: each.link.statistics().streams_open,
            default=None,
        )
        if idlest is not None:
            self._retire(idlest, now)

    def _retire(self, attached: Attached, now: float) -> None:
        self._replaced.discard(attached)
        if attached in self._attachment.carriers:
            self._retired[attached] = now
            self._attachment.link.retire(attached.link)

    def _end_retired(self, now: float) -> None:
        """End retired carriers that have no visitor left, or that have fallen silent."""
        alive = set(self._attachment.carriers)
        self._retired = {each: since for each, since in self._retired.items() if each in alive}
        self._replaced &= alive
        for attached, since in self._retired.items():
            idle = attached.link.statistics().streams_open <= 1  # the control stream
            if now - since >= limits.CARRIER_LEAVE and (idle or is_suspect(attached.link, now)):
                attached.link.abort("it is no longer needed", code=ErrorCode.NO_ERROR)

    # --- QUIC -----------------------------------------------------------------------------------------

    def _keep_one_quic(self, now: float) -> None:
        """Where only QUIC may be used: of several carriers keep the first that answers."""
        current = self._current()
        answering = [attached for attached in current if not is_suspect(attached.link, now)]
        self._replaced |= set(current) - set(answering[:1]) if answering else set()

    async def _watch_quic(self, now: float) -> None:
        carriers = [each.link for each in self._attachment.carriers if not is_tcp(each.link.transport)]
        had, self._had_quic = self._had_quic, bool(carriers)
        if had and not carriers and self._attachment.carriers:
            await self._reach.note({TransportKind.QUIC: False})  # it fell silent while TCP did not
        if not any(not is_suspect(link, now) for link in carriers):
            self._quic_answering_since = None
        elif self._quic_answering_since is None:
            self._quic_answering_since = now

    async def _return_to_quic(self) -> None:
        """Try QUIC again while TCP carries the session, rarely."""
        while True:
            await trio.sleep(limits.QUIC_SETTLED)
            has_quic = any(not is_tcp(each.link.transport) for each in self._attachment.carriers)
            if has_quic or trio.current_time() < self._next_quic:
                continue
            due = await self._reach.quic_due()
            if due <= 0:
                await self._try_quic()
                due = limits.QUIC_RETRY_MIN
            self._next_quic = trio.current_time() + min(due, limits.QUIC_RETRY_MIN)

    async def _try_quic(self) -> None:
        """Let a QUIC carrier join, and remember whether that worked."""
        try:
            await self._add(TransportKind.QUIC)
        except (Rejected, ConfigError):
            return  # not the network's fault
        except (ConnectError, SessionClosed):
            if self._attachment.link.closed is None:
                await self._reach.note({TransportKind.QUIC: False})
            return
        await self._reach.note({TransportKind.QUIC: True})

    def _say(self, now: float) -> None:
        """Tell which transport carries the session, when that has changed."""
        usable = self._attachment.link.usable(now)
        kinds = {link.transport for link in usable}
        if not kinds or self._announced in kinds:
            return
        previous, self._announced = self._announced, usable[0].transport
        title = TransportKind(self._announced).full_name
        silent = "UDP no longer answers" if previous == TransportKind.QUIC else "UDP answers again"
        self._announce(self._announced, f"{title}: {silent}")
