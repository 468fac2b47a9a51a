"""Visitors who come to a new relay before the agent of their name has come.

After a takeover every agent is still at the relay before, and comes within a
second or two.  Until then its visitors wait here instead of being refused: for
`TAKEOVER_HOLD` seconds after the start, `TAKEOVER_HELD_MAX` at a time.  A name
that nobody has is refused a little later than usual.

A visitor that waits is one task with its hello; it is woken by the claim of its
very name (`RouteTable`), or by the end of the hold.  They are then more at once
than an agent may have, so they are let go on as it has room.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from typing import final

import trio

from trunnel.names import Hostname
from trunnel.settings import limits


@final
class Hold:
    """See the module's head."""

    def __init__(self, until: float) -> None:
        """Hold visitors until *until*, on trio's clock."""
        self._until = until
        self._waiting: dict[Hostname, trio.Event] = {}
        self._held = 0

    @classmethod
    def begin(cls) -> Hold:
        """Begin one now."""
        return cls(trio.current_time() + limits.TAKEOVER_HOLD)

    @property
    def over(self) -> bool:
        """Whether nobody waits any more."""
        return trio.current_time() >= self._until

    def claimed(self, names: Iterable[Hostname]) -> None:
        """Wake those who wait for *names*."""
        for name in names:
            event = self._waiting.pop(name, None)
            if event is not None:
                event.set()

    async def wait_owner(self, name: Hostname, *, is_owned: Callable[[], bool], has_room: Callable[[], bool]) -> None:
        """Wait until *name* has an owner that has room, or for as long as there is a point in waiting.

        Cancellation: no effect.
        """
        if self._held >= limits.TAKEOVER_HELD_MAX:
            return
        self._held += 1
        try:
            with trio.move_on_at(self._until):
                while not is_owned():
                    await self._waiting.setdefault(name, trio.Event()).wait()
                while not has_room():  # noqa: ASYNC110 - visitors leave at any moment, and tell their session only
                    await trio.sleep(limits.TAKEOVER_PACE)
        finally:
            self._held -= 1
            if self.over:
                self._waiting.clear()  # everybody else's time is over, too
