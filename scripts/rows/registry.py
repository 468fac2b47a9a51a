"""The rows and how one is run and printed: `ROW pass|FAIL FIGURE LIMIT`."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass


@dataclass(frozen=True)
class Outcome:
    """What a row measured, and whether that is within its limit."""

    passed: bool
    figure: str


Body = Callable[[], Awaitable[Outcome]]


@dataclass(frozen=True)
class Row:
    """One row of the catalogue."""

    name: str
    limit: str
    body: Body


ROWS: dict[str, Row] = {}


def row(name: str, *, limit: str) -> Callable[[Body], Body]:
    """Register the decorated coroutine function as the row *name*."""

    def register(body: Body) -> Body:
        if name in ROWS:
            raise ValueError(f"row {name} is defined twice")
        ROWS[name] = Row(name, limit, body)
        return body

    return register
