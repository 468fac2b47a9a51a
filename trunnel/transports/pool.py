"""Several carriers as one session: carriers come and go, the session stays.

A session owns the streams; each *carrier* in it is one authenticated
connection with a transport of its own (`h2`, `yamux`, `quic`), itself a
`Session`.  This file joins them behind the same interface:

- a new stream goes to the carrier with the fewest, of equals to the one heard
  last, but never to one that is going away, and to one that has been silent on
  a question (`SUSPECT_AFTER`) only if there is no other;
- a carrier that is lost breaks its own streams and no others;
- without a carrier that takes streams, `open_stream` waits `CARRIER_WAIT` for
  the next one.

The relay's pool outlives its carriers (`lasting`): the session waits there to
be adopted.  The agent's ends with its last carrier; the supervisor then dials
again and names the session it comes back to.

Each carrier's owner runs it inside `carry`, in a task of its own.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from typing import final

import trio

from trunnel.errors import ErrorCode, SessionClosed
from trunnel.settings import limits
from trunnel.transports.base import Peer, Session, SessionStatistics, Stream
from trunnel.transports.lifetime import Lifetime


def is_suspect(carrier: Session, now: float) -> bool:
    """Return whether *carrier* has been silent on a question for so long that others are to be preferred."""
    since = carrier.unanswered_since
    return since is not None and now - since > limits.SUSPECT_AFTER


@final
class PooledSession(Session):
    """See the module's head; the relay opens streams on it, the agent accepts them."""

    __slots__ = (
        "_changed",
        "_draining",
        "_heard",
        "_lasting",
        "_life",
        "_opening",
        "_peer",
        "_room",
        "carriers",
    )

    def __init__(self, peer: Peer, *, lasting: bool) -> None:
        self.carriers: list[Session] = []
        """The carriers that live, oldest first."""
        self._peer = peer
        self._lasting = lasting
        self._life = Lifetime[Stream]()
        self._room = trio.Event()
        self._changed = trio.Event()
        self._draining: set[Session] = set()  # carriers that take no new streams
        self._opening: Counter[Session] = Counter()  # streams placed that their carrier does not count yet
        self._heard = trio.current_time()

    # --- carriers -----------------------------------------------------------------------------------

    async def carry(self, carrier: Session) -> SessionClosed:
        """Have *carrier* in the session until it has ended; return why it did.

        The session's end ends the carrier.

        Raises:
            SessionClosed: The session had ended before.

        Cancellation: the carrier leaves the session; its owner closes it.
        """
        if (refusal := self._life.refusal()) is not None:
            raise refusal
        self.carriers.append(carrier)
        self._signal_changed()
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._accept, carrier)
                closed = await carrier.wait_closed()
                nursery.cancel_scope.cancel()
        finally:
            self._leave(carrier)
        return closed

    def _leave(self, carrier: Session) -> None:
        self._heard = max(self._heard, carrier.last_heard)
        self.carriers.remove(carrier)
        self._draining.discard(carrier)
        if not self.carriers and not self._lasting:
            closed = carrier.closed or SessionClosed("the last carrier was taken out")
            self._close(SessionClosed(closed.reason, retryable=closed.retryable, code=closed.code))
        self._signal_changed()

    def retire(self, carrier: Session) -> None:
        """Give *carrier* no new streams; its owner ends it once it is idle.  The peer is told."""
        self._pass_over(carrier)
        carrier.go_away()

    def _pass_over(self, carrier: Session) -> None:
        if carrier in self.carriers:  # one that has left would never leave the set
            self._draining.add(carrier)

    def usable(self, now: float) -> list[Session]:
        """Return the carriers that new streams may go to, without the suspect ones; the best first."""
        fit = [carrier for carrier in self.carriers if carrier not in self._draining and carrier.closed is None]
        return sorted(
            (carrier for carrier in fit if not is_suspect(carrier, now)),
            key=lambda carrier: (carrier.load + self._opening[carrier], -carrier.last_heard),
        )

    async def wait_carriers_changed(self) -> None:
        """Wait until a carrier has come or gone."""
        await self._changed.wait()

    def _signal_changed(self) -> None:
        self._changed.set()
        self._changed = trio.Event()

    # --- the interface ------------------------------------------------------------------------------

    @property
    def transport(self) -> str:
        """The transport of the newest carrier; empty without one."""
        return self.carriers[-1].transport if self.carriers else ""

    @property
    def peer(self) -> Peer:
        """The other end; the address is that of the newest carrier."""
        return self.carriers[-1].peer if self.carriers else self._peer

    @property
    def closed(self) -> SessionClosed | None:
        """Why the session ended, or None."""
        return self._life.closed

    @property
    def last_heard(self) -> float:
        """When the last bytes of the peer came, on any carrier."""
        return max((carrier.last_heard for carrier in self.carriers), default=self._heard)

    @property
    def unanswered_since(self) -> float | None:
        """Since when every carrier has been silent on a question; None if one answers, or there is none."""
        silences = [carrier.unanswered_since for carrier in self.carriers]
        answered = [since for since in silences if since is not None]
        return max(answered) if answered and len(answered) == len(silences) else None

    async def open_stream(self) -> Stream:
        """Open a stream on the best carrier; waits for one, at most `CARRIER_WAIT`.  See `base.Session`."""
        while True:
            await trio.lowlevel.checkpoint()
            chosen = await self._choose()
            self._opening[chosen] += 1
            try:
                return await chosen.open_stream()
            except SessionClosed:
                self._pass_over(chosen)  # it has ended, or the peer said that it will
            finally:
                self._opening -= Counter((chosen,))  # and no zeros stay

    async def _choose(self) -> Session:
        with trio.move_on_after(limits.CARRIER_WAIT):
            while True:
                if (refusal := self._life.refusal()) is not None:
                    raise refusal
                chosen = next(iter(self.usable(trio.current_time())), None) or self._last_resort()
                if chosen is not None:
                    return chosen
                await self._changed.wait()
        raise SessionClosed("no carrier takes streams now")

    def _last_resort(self) -> Session | None:
        """Return a carrier that is suspect rather than none."""
        fit = (carrier for carrier in self.carriers if carrier not in self._draining and carrier.closed is None)
        return max(fit, key=lambda carrier: carrier.last_heard, default=None)

    async def accept_stream(self) -> Stream:
        """Return the next stream of the peer, whatever carrier it is on.  See `base.Session`."""
        stream = await self._life.accept()
        self._signal_room()
        return stream

    async def _accept(self, carrier: Session) -> None:
        """Queue the streams that the peer opens on *carrier*; what does not fit waits in the carrier."""
        try:
            while True:
                while self._life.waiting >= limits.ACCEPT_QUEUE:
                    await self._room.wait()
                self._life.arrive(await carrier.accept_stream())
        except SessionClosed:
            return

    def _signal_room(self) -> None:
        self._room.set()
        self._room = trio.Event()

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Tell the peer on every carrier to open no more streams."""
        if self.closed is None and self._life.leaving is None:
            self._life.leave(SessionClosed("the session is going away", code=code))
            for carrier in self.carriers:
                carrier.go_away(code)
            self._signal_changed()

    def abort(self, reason: str, *, code: ErrorCode = ErrorCode.CANCEL, retryable: bool = True) -> None:
        """End the session and every carrier now."""
        self._close(SessionClosed(reason, retryable=retryable, code=code))

    def _close(self, reason: SessionClosed) -> None:
        if not self._life.close(reason):
            return
        for carrier in tuple(self.carriers):
            carrier.abort(reason.reason, code=reason.code, retryable=reason.retryable)
        for stream in self._life.take_left():  # nobody has them; their carriers have just ended
            stream.reset(ErrorCode.REFUSED_STREAM)
        self._signal_changed()

    async def wait_closed(self) -> SessionClosed:
        """Wait for the end and return why."""
        return await self._life.wait_closed()

    def statistics(self) -> SessionStatistics:
        """Return the sum over the carriers that live."""
        parts = [carrier.statistics() for carrier in self.carriers]

        def total(field: Callable[[SessionStatistics], int]) -> int:
            return sum(field(part) for part in parts)

        return SessionStatistics(
            streams_open=total(lambda part: part.streams_open),
            unread=total(lambda part: part.unread),
            unsent=total(lambda part: part.unsent),
            bytes_received=total(lambda part: part.bytes_received),
            bytes_sent=total(lambda part: part.bytes_sent),
        )


@asynccontextmanager
async def open_pool(peer: Peer, *, lasting: bool) -> AsyncIterator[PooledSession]:
    """Have a session without carriers for as long as the body runs; leaving it ends what is in it.

    Args:
        peer: Who is at the other end.
        lasting: Whether the session lives on without a carrier.
    """
    session = PooledSession(peer, lasting=lasting)
    try:
        yield session
    finally:
        session.abort("closed by us", code=ErrorCode.NO_ERROR)
