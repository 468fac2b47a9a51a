"""Visitors who come to a new relay before the agent of their name has come.

After a takeover every agent is still at the relay before, and comes within a
second or two.  Until then its visitors wait here instead of being refused: for
`TAKEOVER_HOLD` seconds after the start, `TAKEOVER_HELD_MAX` at a time.  A name
that nobody has is refused a little later than usual.

A visitor that waits is one task with its hello; it is woken by the claim of its
very name (`RouteTable`), or by the end of the hold.  They are then more at once
than an agent may have, so they are let go on as it has room.

While somebody waits, the relay is not to be taken over (`wait_settled`): the
agent that he waits for would go to the next one.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import final

import trio

from trunnel.names import Hostname
from trunnel.settings import limits


@final
@dataclass(slots=True)
class _Crowd:
    """Those who wait for one name."""

    size: int = 0
    claimed: trio.Event = field(default_factory=trio.Event)
    """Replaced whenever it was set."""


@final
class Hold:
    """See the module's head."""

    def __init__(self, begun: float) -> None:
        """Hold visitors from *begun* on, on trio's clock."""
        self._settled_at = begun + limits.TAKEOVER_SETTLE
        self._until = begun + limits.TAKEOVER_HOLD
        self._crowds: dict[Hostname, _Crowd] = {}
        self._held = 0
        self._nobody = trio.Event()

    @classmethod
    def begin(cls) -> Hold:
        """Begin one now."""
        return cls(trio.current_time())

    @property
    def over(self) -> bool:
        """Whether nobody waits any more."""
        return trio.current_time() >= self._until

    def claimed(self, names: Iterable[Hostname]) -> None:
        """Wake those who wait for *names*."""
        for name in names:
            crowd = self._crowds.get(name)
            if crowd is not None:
                crowd.claimed.set()
                crowd.claimed = trio.Event()

    async def wait_owner(self, name: Hostname, *, is_owned: Callable[[], bool], has_room: Callable[[], bool]) -> None:
        """Wait until *name* has an owner that has room, or for as long as there is a point in waiting.

        Cancellation: no effect.
        """
        if self._held >= limits.TAKEOVER_HELD_MAX:
            return
        with self._held_for(name) as crowd, trio.move_on_at(self._until):
            while not has_room():
                if is_owned():
                    await trio.sleep(limits.TAKEOVER_PACE)  # visitors leave at any moment, and tell nobody here
                else:
                    await crowd.claimed.wait()

    @contextmanager
    def _held_for(self, name: Hostname) -> Iterator[_Crowd]:
        crowd = self._crowds.setdefault(name, _Crowd())
        crowd.size += 1
        self._held += 1
        try:
            yield crowd
        finally:
            crowd.size -= 1
            self._held -= 1
            if not crowd.size:
                del self._crowds[name]
            if not self._held:
                self._nobody.set()
                self._nobody = trio.Event()

    async def wait_settled(self) -> None:
        """Wait until nobody waits, and agents had some time to come, or until the hold is over.

        Cancellation: no effect.
        """
        await trio.sleep_until(self._settled_at)
        with trio.move_on_at(self._until):
            while self._held:
                await self._nobody.wait()
