"""Follow the authorised file while the relay runs.

The file is looked at each `AUTHORIZED_POLL` (inotify knows one kernel and not
every file system).  When its identity (inode, size, time of change) differs,
we wait until it stays the same for `AUTHORIZED_SETTLE` and read it then: an
editor that truncates and writes must not revoke everybody in between, and a
change within one tick of the file system's clock is not missed.

A file that is broken or gone changes nothing: the last good list holds, and
an error is logged once for each change.  Locking every agent out because of a
typo would be worse than a late revocation.  At start there is no last good
list; `load_authorized` raises there.

The disk is touched in a thread, so that a slow one does not stop the relay.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path

import trio

from trunnel.errors import ConfigError
from trunnel.relay.authorized import AuthorizedAgents, load_authorized
from trunnel.settings.limits import AUTHORIZED_POLL, AUTHORIZED_SETTLE, AUTHORIZED_SETTLE_LOOKS

logger = logging.getLogger(__name__)

_Identity = tuple[int, int, int] | None
"""Inode, size and mtime in nanoseconds; None if the file cannot be looked at."""


async def watch_authorized(
    path: Path,
    initial: AuthorizedAgents,
    on_change: Callable[[AuthorizedAgents], None],
    *,
    poll: float = AUTHORIZED_POLL,
) -> None:
    """Call *on_change* with each new list, for ever.

    Args:
        path: The file.
        initial: The list that is in force; a change since it was read is noticed at the first look.
        on_change: Takes a list that differs from the last one; must not raise.
        poll: Seconds between looks.

    Cancellation: ends it.
    """
    current = initial
    seen: _Identity = None
    is_first = True
    while True:
        identity = await trio.to_thread.run_sync(_look, path)
        if is_first or identity != seen:
            seen = identity if is_first else await _settle(path, identity)
            fresh = await _load(path, current)
            if fresh.agents != current.agents:
                logger.info("authorized_agents_changed", extra={"agents": len(fresh)})
                current = fresh
                on_change(current)
            is_first = False
        await trio.sleep(poll)


async def _settle(path: Path, identity: _Identity) -> _Identity:
    """Return the file's identity once it has stayed the same for a moment, or after `AUTHORIZED_SETTLE_LOOKS`."""
    for _ in range(AUTHORIZED_SETTLE_LOOKS):
        await trio.sleep(AUTHORIZED_SETTLE)
        before, identity = identity, await trio.to_thread.run_sync(_look, path)
        if identity == before:
            break
    return identity


async def _load(path: Path, current: AuthorizedAgents) -> AuthorizedAgents:
    """Return what the file says, or *current* with a logged error."""
    try:
        return await trio.to_thread.run_sync(load_authorized, path)
    except ConfigError as exc:
        logger.error(  # noqa: TRY400 - the sentence says it; a traceback would not help whoever edits the file
            "authorized_agents_kept", extra={"reason": str(exc), "agents": len(current)}
        )
        return current


def _look(path: Path) -> _Identity:
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns
