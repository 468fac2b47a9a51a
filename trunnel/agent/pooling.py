"""How many carriers a session needs, and of which kind: policy, pure.

- A QUIC connection is one carrier; it has no head-of-line blocking, and a
  second one would only share the same path.
- TCP: one carrier while nobody visits, then one more for each
  `STREAMS_PER_CARRIER` visitors (the most of the last `POOL_IDLE` seconds), up
  to `--pool-size`.  With a visitor there are two: the second is there before
  the first is lost.
- A TCP carrier that has gone silent does not count, so another is dialled beside
  it: at most twice `--pool-size` in all, for on a full line all may be silent.
- QUIC that has gone silent (`auto`): TCP beside it, at once.  Once QUIC has
  answered again for `QUIC_SETTLED` seconds the TCP carriers retire.  Where only
  QUIC may be used (`--transport quic`), another connection beside it: the relay
  may have been restarted, or the path be a new one.  The first that answers
  stays, the other retires.
- What is not needed any more retires: no new streams, and it ends when its last
  one has.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Final, final

from trunnel.settings import limits

_SILENT_FACTOR: Final = 2
"""Carriers at most, the silent ones included, for each one that is allowed: `--pool-size` of TCP, one of QUIC."""


@final
class Step(Enum):
    """What to do next."""

    NOTHING = "nothing"
    ADD_TCP = "add-tcp"
    """Dial one more TCP carrier."""
    ADD_QUIC = "add-quic"
    """Dial another QUIC carrier, in place of one that is silent."""
    RETIRE_TCP = "retire-tcp"
    """Retire the idlest TCP carrier."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class View:
    """A session's carriers, as the agent sees them; those that retire are not counted."""

    tcp: Sequence[bool]
    """One for each TCP carrier: whether it answers."""
    quic: Sequence[bool]
    """One for each QUIC carrier: whether it answers."""
    quic_settled: bool
    """Whether QUIC has answered all the time for `QUIC_SETTLED` seconds."""
    peak: int
    """The most visitors at a time in the last `POOL_IDLE` seconds."""
    pool_size: int
    """TCP carriers at most."""
    tcp_allowed: bool
    """Whether TCP may carry this session."""


def carriers_wanted(peak: int, pool_size: int) -> int:
    """Return the TCP carriers that a session wants whose visitors were *peak* at a time."""
    return min(pool_size, 1 + math.ceil(peak / limits.STREAMS_PER_CARRIER))


def next_step(view: View) -> Step:
    """Return what brings the session's carriers nearer to what it needs."""
    if not view.tcp_allowed:
        wanting = not any(view.quic) and len(view.quic) < _SILENT_FACTOR
        return Step.ADD_QUIC if wanting else Step.NOTHING
    answering = sum(view.tcp)
    if any(view.quic):
        return Step.RETIRE_TCP if view.tcp and view.quic_settled else Step.NOTHING
    wanted = carriers_wanted(view.peak, view.pool_size)
    if answering < wanted:
        return Step.ADD_TCP if len(view.tcp) < _SILENT_FACTOR * view.pool_size else Step.NOTHING
    return Step.RETIRE_TCP if answering > wanted else Step.NOTHING
