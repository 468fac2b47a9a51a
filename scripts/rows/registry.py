"""The rows and how one is run and printed: `ROW pass|FAIL FIGURE LIMIT`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import TypeVar


@dataclass(frozen=True)
class Outcome:
    """What a row measured, and whether that is within its limit."""

    passed: bool
    figure: str


Body = Callable[[], Awaitable[Outcome]]
T = TypeVar("T")
ROW_TIMEOUT = 240.0
"""Seconds: a row that takes longer has failed, unless it says how long it takes."""


@dataclass
class Pace:
    """How thorough the rows are."""

    quick: bool = False

    def either(self, full: T, quick: T) -> T:
        """Return what the run's pace asks for."""
        return quick if self.quick else full


PACE = Pace()
"""Of this run; rows read it."""


@dataclass(frozen=True)
class Row:
    """One row of the catalogue."""

    name: str
    limit: str
    body: Body
    timeout: float = ROW_TIMEOUT


ROWS: dict[str, Row] = {}


def row(name: str, *, limit: str, timeout: float = ROW_TIMEOUT) -> Callable[[Body], Body]:
    """Register the decorated coroutine function as the row *name*."""

    def register(body: Body) -> Body:
        if name in ROWS:
            raise ValueError(f"row {name} is defined twice")
        ROWS[name] = Row(name, limit, body, timeout)
        return body

    return register
