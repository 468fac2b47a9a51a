"""The rows of the lab, how one is run, and how it is printed: `ROW TRANSPORT pass|FAIL|skip FIGURE LIMIT`."""

from __future__ import annotations

import traceback
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import trio

from scripts.lab.roads import TRANSPORTS, Road


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
    busy: bool
    """Whether it needs the machine for itself; others may run side by side."""
    timeout: float
    """Seconds: a row that takes longer has failed."""
    quick: Sequence[Road]
    """The roads of the quick lab."""


ROWS: dict[str, Row] = {}


def row(
    name: str,
    *,
    limit: str,
    roads: Sequence[Road] = TRANSPORTS,
    quick: Sequence[Road] | None = None,
    busy: bool = False,
    timeout: float = 180.0,
) -> Callable[[Body], Body]:
    """Register the decorated coroutine function as the row *name*."""

    def register(body: Body) -> Body:
        if name in ROWS:
            raise ValueError(f"row {name} is defined twice")
        ROWS[name] = Row(name, limit, body, roads, busy, timeout, roads if quick is None else quick)
        return body

    return register


async def run_row(row: Row, case: Case) -> str:
    """Run one row and print its line; returns its verdict. An exception is a failure, and is shown."""
    if (reason := case.road.absent()) is not None:
        print(f"{row.name}\t{case.road.label}\tskip\t{reason}\t{row.limit}", flush=True)
        return "skip"
    begun = trio.current_time()
    try:
        with trio.fail_after(row.timeout):
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
