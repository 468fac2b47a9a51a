"""A visitor and a parked data connection brought together.

    take the newest that lives → sealed header and the visitor's first bytes → the agent's sealed answer

The answer shows that the connection works and that the agent serves the
visitor; until it is there the first bytes are kept, so the next connection, or
a stream in the session, can still have them.  An agent that has seen them on a
connection which was given up serves nobody with them: the connection is reset.

The time that a visitor can lose here is bounded: `DIRECT_TRIES` answers that do
not come, each `max(3 round trips, 0.3 s)`.  Then the lot rests, and nobody
loses any.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import trio

from trunnel.pump import Workers
from trunnel.relay.lots import Lot, Lots
from trunnel.settings import limits
from trunnel.transports.direct import DirectLink, offer
from trunnel.wire.direct import Answer


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DataPlane:
    """What a relay moves visitors' bytes with."""

    lots: Lots
    """Where data connections are parked."""
    workers: Workers | None = None
    """Processes that copy for it; None: it copies itself."""


@final
@dataclass(frozen=True, slots=True)
class Taken:
    """A data connection whose agent has answered; whoever got it owns it."""

    link: DirectLink
    answer: Answer
    """Anything but ACCEPTED refuses the visitor, for good."""


async def take(lot: Lot, header: bytes, first: bytes, *, patience: float) -> Taken | None:
    """Find a data connection for a visitor.

    Args:
        lot: The session's.
        header: The PROXY header.
        first: The visitor's first bytes, which follow it.
        patience: Seconds that the visitor has; an agent that has data
            connections only is given `DIRECT_WAIT` of them to park one.

    Returns:
        1. The connection that answered first.
        2. None: none did, or none is there, or the lot rests.

    Cancellation: what was offered is reset.
    """
    if lot.only:
        return await wait_taken(lot, header, first, patience=min(patience, limits.DIRECT_WAIT))
    if lot.resting:
        return None
    if not lot and lot.is_fed:  # a burst: the agent is dialling
        with trio.move_on_after(limits.DIRECT_QUEUE):
            await lot.wait_parked()
    return await _take_parked(lot, header, first)


async def wait_taken(lot: Lot, header: bytes, first: bytes, *, patience: float) -> Taken | None:
    """Offer a visitor to *lot*, and to what is parked there within *patience* seconds; else as `take`.

    For those who may go no other way: a lot that rests is asked, too.
    """
    with trio.move_on_after(patience):
        while not lot.closed:
            await lot.wait_parked()
            taken = await _take_parked(lot, header, first)
            if taken is not None:
                return taken
    return None


async def _take_parked(lot: Lot, header: bytes, first: bytes) -> Taken | None:
    """Offer a visitor to the parked connections, one after the other; have the lot rest if that was waiting in vain."""
    late = False
    for _ in range(limits.DIRECT_TRIES):
        link = lot.take()
        if link is None:
            break
        with trio.move_on_after(max(limits.DIRECT_ANSWER_RTTS * link.rtt, limits.DIRECT_ANSWER_MIN)) as scope:
            try:
                return Taken(link, await offer(link, header, first))
            except trio.BrokenResourceError:
                continue
        late = late or scope.cancelled_caught
    if late:
        lot.rest()
    return None
