"""Follow the authorised file while the relay runs (`filewatch` notices changes).

A file that is broken or gone changes nothing: the last good list holds, and
an error is logged once for each change.  Locking every agent out because of a
typo would be worse than a late revocation.  At start there is no last good
list; `load_authorized` raises there.

A relay that lets everybody in (`--open`, or a laptop's) may have no file at
all; it still follows the place where one would be, because an invitation makes
one: who is on it has names.

The relay itself changes the file when an agent comes with an invitation, and
has it read at once (`refresh`).  One reading at a time: an older list must not
come into force after a newer one, or it would revoke the agent just let in.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import final

import trio

from trunnel.errors import ConfigError
from trunnel.identity.filewatch import FileWatch
from trunnel.relay.authorized import AuthorizedAgents, load_authorized
from trunnel.settings.limits import AUTHORIZED_POLL

logger = logging.getLogger(__name__)


@final
class AuthorizedWatch:
    """The list in force, and the file that it came from.

    Args:
        path: The file.
        initial: The list that is in force; a change since it was read is noticed at once.
        on_change: Takes a list that differs from the last one; must not raise.
        needed: Whether the absence of a file is an error to log.
    """

    def __init__(
        self,
        path: Path,
        initial: AuthorizedAgents,
        on_change: Callable[[AuthorizedAgents], None],
        *,
        needed: bool = True,
    ) -> None:
        self.path = path
        self._current = initial
        self._on_change = on_change
        self._needed = needed
        self._reading = trio.Lock()

    async def run(self, *, poll: float = AUTHORIZED_POLL) -> None:
        """Report each new list, for ever, looking every *poll* seconds.

        Cancellation: ends it.
        """
        watch = FileWatch(self.path, poll=poll)
        await watch.begin()
        while True:
            await self.refresh()
            await watch.wait_changed()

    async def refresh(self) -> None:
        """Put in force what the file says now.

        Cancellation: nothing changes; `run` notices later.
        """
        async with self._reading:
            fresh = await self._load()
            if fresh.agents != self._current.agents:
                logger.info("authorized_agents_changed", extra={"agents": len(fresh)})
                self._current = fresh
                self._on_change(fresh)

    async def _load(self) -> AuthorizedAgents:
        """Return what the file says, or the last good list with a logged error."""
        try:
            return await trio.to_thread.run_sync(load_authorized, self.path)
        except ConfigError as exc:
            if self._needed or await trio.to_thread.run_sync(self.path.exists):
                logger.error(  # noqa: TRY400 - the sentence says it; a traceback would not help whoever edits the file
                    "authorized_agents_kept", extra={"reason": str(exc), "agents": len(self._current)}
                )
            return self._current
