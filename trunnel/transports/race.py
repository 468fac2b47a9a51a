"""Two dials, one winner: happy eyeballs between transports (RFC 8305 is the model).

The first dial has a head start; the second begins when it is over, or at once
when the first has failed.  The first that succeeds wins, the other is
cancelled.

Rules:

- Whatever was opened is either returned or discarded, also if both succeed in
  the same turn of the loop, and also if the race itself is cancelled.
- A failure that no retry mends (a relay with a wrong identity above all) ends
  the race at once and is raised, even beside a success: with one path clean
  and one not, somebody is in between, and that is never passed over in
  silence.  What a dial that lost would have found, nobody knows.
- Errors of the program leave as they came, in trio's group.

Which transports race, in what order, is decided in `selection`.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import Enum
from typing import Generic, TypeVar, final

import trio

from trunnel.errors import ConnectError, RelayIdentityError, TrunnelError
from trunnel.transports.selection import Plan, TransportKind, explain

T = TypeVar("T")
Dial = Callable[[], Awaitable[T]]
"""Opens a connection; raises ConnectError if there is none."""


@final
class Place(Enum):
    """Which of the two dials."""

    FIRST = 0
    SECOND = 1


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Raced(Generic[T]):
    """How a race ended."""

    winner: Place
    """Who won."""
    value: T
    """What it opened; the caller owns it."""
    failures: Mapping[Place, ConnectError]
    """Why the other one failed; empty if it had no time to."""
    seconds: float
    """How long the race took."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Chosen(Generic[T]):
    """The connection that a plan led to."""

    transport: TransportKind
    """What carries it."""
    value: T
    """The connection; the caller owns it."""
    why: str
    """Why this transport, in one line for people."""
    passed_over: TransportKind | None
    """The transport that was dialled first and did not make it: worth remembering."""


async def follow(chosen: Plan, dials: Mapping[TransportKind, Dial[T]], *, discard: Callable[[T], None]) -> Chosen[T]:
    """Dial what the plan says.

    Args:
        chosen: The plan.
        dials: How to dial each of its transports.
        discard: Closes a connection that is not needed, at once.

    Raises:
        ConnectError: No transport made it; the text names each reason.
        RelayIdentityError: On one of them somebody answers who must not be trusted.
        TrunnelError: Whatever else a dial raises.

    Cancellation: nothing stays open.
    """
    if chosen.second is None:
        value = await dials[chosen.first]()
        return Chosen(transport=chosen.first, value=value, why=chosen.why, passed_over=None)
    raced = await race(
        dials[chosen.first],
        dials[chosen.second],
        head_start=chosen.head_start,
        discard=discard,
        names=(chosen.first.full_name, chosen.second.full_name),
    )
    if raced.winner is Place.FIRST:
        return Chosen(transport=chosen.first, value=raced.value, why=chosen.why, passed_over=None)
    failure = raced.failures.get(Place.FIRST)
    why = explain(chosen, chosen.second, failure=None if failure is None else str(failure), waited=raced.seconds)
    return Chosen(transport=chosen.second, value=raced.value, why=why, passed_over=chosen.first)


async def race(
    first: Dial[T],
    second: Dial[T],
    *,
    head_start: float,
    discard: Callable[[T], None],
    names: tuple[str, str] = ("first", "second"),
) -> Raced[T]:
    """Dial two ways and keep the one that answers first.

    Args:
        first: Dialled at once.
        second: Dialled after the head start, or when `first` has failed.
        head_start: Seconds, >= 0.
        discard: Closes what a dial opened and nobody needs; synchronous.
        names: What the two are called in the error.

    Raises:
        ConnectError: Both failed; the text names both reasons.
        TrunnelError: One failed for good (`retryable` is False, or no ConnectError at all).

    Cancellation: nothing stays open.
    """
    started = trio.current_time()
    heat = _Heat[T]()
    try:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(heat.run, Place.FIRST, first, nursery.cancel_scope)
            with trio.move_on_after(head_start):
                await heat.first_failed.wait()
            nursery.start_soon(heat.run, Place.SECOND, second, nursery.cancel_scope)
    except BaseException:
        heat.discard_from(0, discard)
        raise
    if heat.fatal:
        heat.discard_from(0, discard)
        raise heat.worst()
    if not heat.opened:
        raise ConnectError(
            "; ".join(f"{name}: {heat.failures[place]}" for place, name in zip(Place, names, strict=True))
        )
    heat.discard_from(1, discard)
    winner, value = heat.opened[0]
    return Raced(winner=winner, value=value, failures=heat.failures, seconds=trio.current_time() - started)


@final
class _Heat(Generic[T]):
    """What the two dials of one race have come to, in the order of events."""

    def __init__(self) -> None:
        self.first_failed = trio.Event()
        self.opened: list[tuple[Place, T]] = []
        self.failures: dict[Place, ConnectError] = {}
        self.fatal: list[TrunnelError] = []

    async def run(self, place: Place, dial: Dial[T], scope: trio.CancelScope) -> None:
        try:
            value = await dial()
        except ConnectError as exc:
            if exc.retryable:
                self.failures[place] = exc
                if place is Place.FIRST:
                    self.first_failed.set()
            else:
                self.fatal.append(exc)
                scope.cancel()
        except TrunnelError as exc:
            self.fatal.append(exc)
            scope.cancel()
        else:
            self.opened.append((place, value))
            scope.cancel()

    def worst(self) -> TrunnelError:
        return next((exc for exc in self.fatal if isinstance(exc, RelayIdentityError)), self.fatal[0])

    def discard_from(self, start: int, discard: Callable[[T], None]) -> None:
        for _, value in self.opened[start:]:
            discard(value)
