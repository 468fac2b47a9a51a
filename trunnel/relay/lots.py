"""Parked data connections: which session each belongs to, and which is taken next.

A *lot* holds the data connections that one agent has dialled ahead of need and
proved.  Everything here is synchronous, but for waiting.  The rules:

- The newest is taken first: its path has been seen to work last.  An agent that
  lets some go closes its oldest.
- There is no task for a parked connection.  It is looked at when it is taken,
  and by a sweep (`parking`); the kernel's keepalive finds peers that vanished.
- A full lot lets its oldest go for a newcomer that has proven itself: after a
  change of network an agent's old connections are dead, and only the kernel
  will find out.  What is capped for all lots together is refused.
- A lot that made a visitor wait in vain rests: the others must not wait, too.
- A closed lot (its session is over, or ending) holds nothing and takes nothing.
"""

from __future__ import annotations

import math
import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final, final

import trio

from trunnel.names import KeyId
from trunnel.settings import limits
from trunnel.transports.direct import DirectLink, DirectTerms

_SECRET_BYTES: Final = 32


@final
class Lot:
    """The parked data connections of one session.  Obtained from `Lots.open`."""

    __slots__ = ("_fed_at", "_lots", "_parked", "_rests_until", "_waiting", "closed", "only", "terms")

    def __init__(self, lots: Lots, terms: DirectTerms, *, only: bool) -> None:
        self.terms = terms
        """What a connection has to prove to belong here."""
        self.only = only
        """Whether the agent wants its visitors on data connections and nowhere else."""
        self.closed = False
        self._lots = lots
        self._parked: list[DirectLink] = []  # the newest last
        self._rests_until = -math.inf
        self._fed_at = -math.inf  # when a connection was parked, or taken, last
        self._waiting = trio.lowlevel.ParkingLot()  # trio's: tasks, first come first served

    def __len__(self) -> int:
        return len(self._parked)

    def park(self, link: DirectLink) -> bool:
        """Take *link*, which has proven itself; return False, and abort it, if there is no place for it."""
        if len(self._parked) >= limits.PARKED_MAX:
            self.sweep()
            if len(self._parked) >= limits.PARKED_MAX:
                self._drop(self._parked.pop(0))
        if self.closed or self._lots.is_full:
            link.abort()
            return False
        self._parked.append(link)
        self._lots.parked += 1
        self._fed_at = trio.current_time()
        self._waiting.unpark()
        return True

    def take(self) -> DirectLink | None:
        """Hand out the newest connection that lives, or None; its taker owns it."""
        while self._parked:
            link = self._parked.pop()
            if link.is_alive():
                self._lots.parked -= 1
                self._fed_at = trio.current_time()  # its agent dials the next one now
                return link
            self._drop(link)
        return None

    async def wait_parked(self) -> None:
        """Wait, in order of coming, until a connection is parked, or the lot is closed.  Cancellation: no effect."""
        while not self._parked and not self.closed:
            await self._waiting.park()

    def sweep(self) -> None:
        """Let go of connections that have died, or on which the agent has spoken."""
        living: list[DirectLink] = []
        for link in self._parked:
            if link.is_alive():
                living.append(link)
            else:
                self._drop(link)
        self._parked = living

    def rest(self) -> None:
        """Have visitors go another way for a while."""
        self._rests_until = trio.current_time() + limits.DIRECT_REST

    @property
    def resting(self) -> bool:
        """Whether visitors are to go another way."""
        return trio.current_time() < self._rests_until

    @property
    def is_fed(self) -> bool:
        """Whether the agent parks connections, or is about to, so that one is worth waiting for."""
        return trio.current_time() - self._fed_at < limits.DIRECT_FED

    def close(self) -> None:
        """Abort what is parked, and take no more; visitors that are under way go on.  Idempotent."""
        self.closed = True
        while self._parked:
            self._drop(self._parked.pop())
        self._waiting.unpark_all()

    def _drop(self, link: DirectLink) -> None:
        self._lots.parked -= 1
        link.abort()


@final
class Lots:
    """Every lot of a relay, found by what data connections call the session.

    Args:
        relay_id: What data connections have to call the relay.
        room: Parked connections of all lots together.
    """

    def __init__(self, relay_id: KeyId, *, room: int = limits.PARKED_TOTAL) -> None:
        self.relay_id = relay_id
        self.parked = 0
        """Parked connections of all lots; kept by the lots."""
        self._room = room
        self._lots: dict[bytes, Lot] = {}

    def __iter__(self) -> Iterator[Lot]:
        return iter(tuple(self._lots.values()))

    @property
    def is_full(self) -> bool:
        """Whether no lot may take one more."""
        return self.parked >= self._room

    def find(self, tag: bytes) -> Lot | None:
        """Return the lot that takes connections of the session that *tag* names."""
        lot = self._lots.get(tag)
        return None if lot is None or lot.closed else lot

    @contextmanager
    def open(self, session_id: str, *, only: bool) -> Iterator[Lot]:
        """Have a lot for a session, with a secret of its own, as long as the body runs; then it is closed.

        Args:
            session_id: The session's.
            only: Whether its visitors are to go on data connections and nowhere else.
        """
        terms = DirectTerms(secrets.token_bytes(_SECRET_BYTES), self.relay_id, session_id)
        lot = self._lots[terms.session_tag] = Lot(self, terms, only=only)
        try:
            yield lot
        finally:
            lot.close()
            del self._lots[terms.session_tag]
