"""Notice that files have changed, by looking.

A file is looked at each *poll* seconds (inotify knows one kernel and not every
file system).  When its identity (inode, size, times of change) differs, we wait
until it stays the same for `AUTHORIZED_SETTLE`: who truncates and writes must
not be read in between, and a change within one tick of the file system's clock
is not missed.  A symbolic link is followed, so exchanging it is a change.

The disk is touched in a thread, so that a slow one does not stop the program.
"""

from __future__ import annotations

from pathlib import Path
from typing import final

import trio

from trunnel.settings.limits import AUTHORIZED_SETTLE, AUTHORIZED_SETTLE_LOOKS

Identity = tuple[int, int, int, int] | None
"""Inode, size, mtime and ctime in nanoseconds (a `chmod` may be what was asked for); None if it cannot be seen."""


def look(path: Path) -> Identity:
    """Return the identity of the file at *path*.  Blocks for as long as the disk takes."""
    try:
        status = path.stat()
    except OSError:
        return None
    return status.st_ino, status.st_size, status.st_mtime_ns, status.st_ctime_ns


@final
class FileWatch:
    """Watches one or more files that belong together.

    Args:
        paths: The files; they may be missing.
        poll: Seconds between looks.
    """

    def __init__(self, *paths: Path, poll: float) -> None:
        self._paths = paths
        self._poll = poll
        self._seen: tuple[Identity, ...] = ()

    async def begin(self) -> None:
        """Take the files as they are now for known: read them after this, and no change is missed."""
        self._seen = await self._look()

    async def wait_changed(self) -> None:
        """Wait until a file is another than at the last return or `begin`, and has settled.

        Cancellation: the change is noticed by the next call.
        """
        identity = self._seen
        while identity == self._seen:
            await trio.sleep(self._poll)
            identity = await self._look()
        self._seen = await self._settled(identity)

    async def _settled(self, identity: tuple[Identity, ...]) -> tuple[Identity, ...]:
        """Return the identity once it has stayed the same for a moment, or after `AUTHORIZED_SETTLE_LOOKS`."""
        for _ in range(AUTHORIZED_SETTLE_LOOKS):
            await trio.sleep(AUTHORIZED_SETTLE)
            before, identity = identity, await self._look()
            if identity == before:
                break
        return identity

    async def _look(self) -> tuple[Identity, ...]:
        return await trio.to_thread.run_sync(lambda: tuple(look(path) for path in self._paths))
