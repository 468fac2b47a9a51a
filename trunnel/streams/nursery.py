"""A nursery whose body's own exception leaves it bare.

trio wraps whatever leaves a nursery in an exception group.  Context managers
that run background tasks for a body (`open_h2_session`, `open_tunnel`) should
not: their background tasks end by themselves, and the body's exception means
the same with or without them.  Groups that hold anything else still leave as
groups; those are bugs.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio


@asynccontextmanager
async def bare_nursery() -> AsyncIterator[trio.Nursery]:
    """Open a nursery; an exception of the body alone is raised as itself."""
    body_error: BaseException | None = None
    try:
        async with trio.open_nursery() as nursery:
            try:
                yield nursery
            except BaseException as exc:  # undone by re-raising: only remembered
                body_error = exc
                raise
    except BaseExceptionGroup as group:
        _, errors = group.split(trio.Cancelled)  # a task that was cancelled meanwhile has nothing to add
        if body_error is not None and errors is not None and errors.exceptions == (body_error,):
            raise body_error from body_error.__cause__
        raise
