"""Which carrier to try first, which second, and why: the policy of `auto`, pure.

Rules:

- QUIC first, with a head start; HTTP/2 over TCP second.  The head start is
  three round trips if one is known (a handshake takes two, with a Retry
  three), within 250 ms and 1 s: what a person waits at most for a blocked UDP.
- Where QUIC lost the last time (this relay, from this network), TCP goes first
  at once.  QUIC is second even then, but late: it is for the network that lets
  only UDP through, not a way around the next rule.
- While TCP carries a session, QUIC is tried again in the background after
  10 minutes, then 20, 40, and 60 for ever (`quic_wait`): a network that
  blocks UDP rarely changes its mind, and each try looks odd to those who
  watch it.
- Who names a transport gets that one, and no race.
- A choice is always told with its reason, in words for people (`Plan.why`
  before the race, `explain` after it).

What is remembered is never trusted with more than time: a wrong memory costs a
head start or a late return to QUIC, nothing else.  Dates come from a wall
clock that may be set, so ages are clamped.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, final

from trunnel.settings import limits

_MINUTE: Final = 60
_HOUR: Final = 3600


@final
class TransportKind(StrEnum):
    """A kind of carrier; the value is `Session.transport` and what a person writes."""

    QUIC = "quic"
    H2 = "h2"
    YAMUX = "yamux"

    @property
    def full_name(self) -> str:
        """What it is, for people."""
        return _TITLES[self]


_TITLES: Final = {
    TransportKind.QUIC: "QUIC over UDP",
    TransportKind.H2: "HTTP/2 over TLS on TCP",
    TransportKind.YAMUX: "yamux over TLS on TCP",
}


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Trial:
    """How the last trial of one transport towards one relay from one network ended."""

    worked: bool
    """Whether a session came of it."""
    at: datetime
    """When."""
    failures: int = 0
    """Trials in a row that failed; 0 if the last one worked."""


Remembered = Mapping[TransportKind, Trial]
"""What is known of each transport, for one relay and one network."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """What to dial, in which order."""

    first: TransportKind
    """Dialled at once."""
    second: TransportKind | None
    """Dialled after the head start, or as soon as the first fails; None: there is no race."""
    head_start: float
    """Seconds; 0 without a race."""
    why: str
    """Why `first` is first: the sentence to show if it wins."""


def plan(
    choice: TransportKind | None, remembered: Remembered, now: datetime, *, round_trip: float | None = None
) -> Plan:
    """Decide what to dial.

    Args:
        choice: The transport that a person named; None for `auto`.
        remembered: What is known for this relay and network; may be empty.
        now: The time of day.
        round_trip: Seconds, the last one measured to this relay; None if there was none.
    """
    if choice is not None:
        return Plan(first=choice, second=None, head_start=0.0, why=f"{choice.full_name}, as asked")
    quic = remembered.get(TransportKind.QUIC)
    if quic is None or quic.worked:
        return Plan(
            first=TransportKind.QUIC,
            second=TransportKind.H2,
            head_start=head_start(round_trip),
            why=TransportKind.QUIC.full_name,
        )
    return Plan(
        first=TransportKind.H2,
        second=TransportKind.QUIC,
        head_start=limits.QUIC_LAST_RESORT,
        why=f"{TransportKind.H2.full_name}: UDP was blocked on this network {ago(quic.at, now)}",
    )


def head_start(round_trip: float | None) -> float:
    """Return the seconds that QUIC has for itself, given the last *round_trip* in seconds."""
    wanted = 0.0 if round_trip is None else limits.HEAD_START_ROUND_TRIPS * round_trip
    return min(limits.HEAD_START_MAX, max(limits.HEAD_START_MIN, wanted))


def quic_wait(remembered: Remembered, now: datetime) -> float:
    """Return the seconds until QUIC may be tried in the background, while TCP carries the session.

    Returns:
        0 if nothing speaks against QUIC; else what is left of the interval, never more than the
        whole of it (the clock may have been set).
    """
    quic = remembered.get(TransportKind.QUIC)
    if quic is None or quic.worked:
        return 0.0
    doublings = min(max(quic.failures - 1, 0), limits.QUIC_RETRY_DOUBLINGS)
    interval = min(limits.QUIC_RETRY_MAX, limits.QUIC_RETRY_MIN * 2.0**doublings)
    return interval - min(interval, max(0.0, (now - quic.at).total_seconds()))


def explain(chosen: Plan, winner: TransportKind, *, failure: str | None, waited: float) -> str:
    """Say in one line which transport carries the session, and why that one.

    Args:
        chosen: The plan that was followed.
        winner: What won.
        failure: Why the other one failed; None if it did not (or was never dialled).
        waited: Seconds from the first dial to the end of the race.
    """
    if winner is chosen.first:
        return chosen.why
    loser = "UDP" if chosen.first is TransportKind.QUIC else "TCP"
    reason = f"did not answer within {waited:.1f} s" if failure is None else f"failed ({_one_line(failure)})"
    return f"{winner.full_name}: {loser} {reason}"


def _one_line(text: str) -> str:
    return text.partition("\n")[0]


def ago(at: datetime, now: datetime) -> str:
    """Say how long ago *at* was, for people."""
    seconds = (now - at).total_seconds()
    if seconds < _MINUTE:
        return "just now"
    count, unit = (seconds // _MINUTE, "minute") if seconds < _HOUR else (seconds // _HOUR, "hour")
    return f"{count:.0f} {unit}{'' if count == 1 else 's'} ago"
