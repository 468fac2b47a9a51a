"""The rows of the lab, how one is run, and how it is printed: `ROW TRANSPORT pass|FAIL|skip FIGURE LIMIT`."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass
from enum import Enum

import trio

from scripts.lab.roads import TRANSPORTS, Road


class Load(Enum):
    """What a row does to the machine, and so what may run beside it."""

    WAITING = "waiting"
    """Hardly anything: it may run beside every other row."""
    LIGHT = "light"
    """A little, and its limit allows for that: some such rows side by side."""
    BUSY = "busy"
    """It measures the machine, or needs most of it: one at a time."""


@dataclass(frozen=True)
class Case:
    """What a row is run with."""

    road: Road
    quick: bool

    def either(self, whole: float, quick: float) -> float:
        """Return a time or a size for the whole lab, or for the quick one."""
        return quick if self.quick else whole


@dataclass(frozen=True)
class Outcome:
    """What a row measured, and whether that is within its limit."""

    passed: bool
    figure: str


Body = Callable[[Case], Awaitable[Outcome]]


@dataclass(frozen=True)
class Row:
    """One row."""

    name: str
    limit: str
    body: Body
    roads: Sequence[Road]
    quick: Sequence[Road]
    """The roads of the quick lab."""
    load: Load
    takes: tuple[float, float]
    """Seconds that it usually takes with one road, and in the quick lab."""

    def timeout(self, case: Case) -> float:
        """Return the seconds after which it has failed: three times what is usual, and a minute."""
        return 3 * case.either(*self.takes) + 60


ROWS: dict[str, Row] = {}


def row(
    name: str,
    *,
    limit: str,
    roads: Sequence[Road] = TRANSPORTS,
    quick: Sequence[Road] | None = None,
    load: Load = Load.LIGHT,
    takes: tuple[float, float],
) -> Callable[[Body], Body]:
    """Register the decorated coroutine function as the row *name*."""

    def register(body: Body) -> Body:
        if name in ROWS:
            raise ValueError(f"row {name} is defined twice")
        ROWS[name] = Row(name, limit, body, roads, roads if quick is None else quick, load, takes)
        return body

    return register


async def run_row(row: Row, case: Case) -> str:
    """Run one row and print its line; returns its verdict. An exception is a failure, and is shown."""
    if (reason := case.road.absent()) is not None:
        print(f"{row.name}\t{case.road.label}\tskip\t{reason}\t{row.limit}", flush=True)
        return "skip"
    begun = trio.current_time()
    try:
        with trio.fail_after(row.timeout(case)):
            outcome = await row.body(case)
    except Exception as exc:  # noqa: BLE001 - a row that breaks must not hide the others
        traceback.print_exc()
        cause: BaseException = exc
        while isinstance(cause, BaseExceptionGroup):
            cause = cause.exceptions[0]
        outcome = Outcome(passed=False, figure=f"{type(cause).__name__}: {cause}".splitlines()[0])
    verdict = "pass" if outcome.passed else "FAIL"
    took = f"[{trio.current_time() - begun:.0f} s]"
    print(f"{row.name}\t{case.road.label}\t{verdict}\t{outcome.figure}\t{row.limit}\t{took}", flush=True)
    return verdict
