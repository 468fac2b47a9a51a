"""How a relay comes by its sockets, from the start until it is the one that serves.

    plain start          bound, or given by a supervisor
    `--takeover`         given by the relay that runs, if one does; it yields in `Binding.begin`

Where sockets were given, visitors may have come before any agent can: they are
held (`holding`).  Every relay has a doorstep for the next one.
"""

from __future__ import annotations

from collections.abc import AsyncIterator, Awaitable, Callable, Sequence
from contextlib import asynccontextmanager
from typing import final

import trio

from trunnel.events import EventSink, TakenOver
from trunnel.names import KeyId
from trunnel.relay.bound import BoundRelay
from trunnel.relay.doorstep import Doorstep
from trunnel.relay.entrances import Given, open_entrances, open_udp
from trunnel.relay.holding import Hold
from trunnel.relay.sessions import Sessions
from trunnel.relay.successor import await_successor
from trunnel.relay.takeover import Predecessor, discard, find_predecessor
from trunnel.relay.visitors import VisitorDoor
from trunnel.settings.relay import RelaySettings


@final
class Binding:
    """A relay's sockets.  Obtained from `open_binding`."""

    def __init__(self, bound: BoundRelay, predecessor: Predecessor | None, doorstep: Doorstep | None) -> None:
        self.bound = bound
        """The relay."""
        self.predecessor = predecessor
        """Whose place it takes, if anybody's."""
        self.begun = False
        """Whether it is the one that serves."""
        self._doorstep = doorstep
        self._wait_settled: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint

    def hold(self, door: VisitorDoor, sessions: Sessions) -> None:
        """Have visitors who come before their agents wait, if there may be any."""
        if self.predecessor is not None or any(entrance.supervised for entrance in self.bound.entrances):
            hold = Hold.begin()
            door.hold, sessions.routes.on_claim = hold, hold.claimed
            self._wait_settled = hold.wait_settled

    async def begin(self, on_event: EventSink) -> None:
        """Be the one that serves; called when every listener is accepted from.

        Raises:
            ConfigError: The relay before goes on after all.

        Cancellation: it goes on, unless it has yielded already.
        """
        if self.predecessor is not None:
            quic = self.predecessor.lead_back(self.bound.udp)
            await self.predecessor.accepting(quic=quic)
            self.predecessor.close()
            on_event(TakenOver(pid=self.predecessor.pid))
        self.begun = True

    async def await_successor(self) -> None:
        """Serve whoever wants to take our place, until the relay drains."""
        if self._doorstep is not None:
            await await_successor(self.bound, self._doorstep, self._wait_settled)

    def fail(self, error: BaseException) -> None:
        """Leave everything to the relay before, if there is one and we have not begun."""
        if self.predecessor is not None and not self.begun:
            self.predecessor.withdraw(f"the new relay did not start: {str(error) or type(error).__name__}")
            discard(self.predecessor)

    def close(self) -> None:
        """Close what is ours."""
        self.bound.close()
        for udp in self.bound.udp:
            udp.close()
        if self._doorstep is not None:
            self._doorstep.remove()


@asynccontextmanager
async def open_binding(settings: RelaySettings, given: Sequence[Given], relay_id: KeyId) -> AsyncIterator[Binding]:
    """Have the relay's sockets as long as the body runs.

    Args:
        settings: What it asks for.
        given: What a supervisor has made; ours, whatever happens.
        relay_id: Its id.

    Raises:
        ConfigError: A socket cannot be had.

    Cancellation: everything is closed; a relay before us goes on unless it has yielded.
    """
    try:
        predecessor = await find_predecessor(settings) if settings.takeover else None
        doorstep = Doorstep.lay(settings.state_dir) if predecessor is None else predecessor.doorstep
    except BaseException:
        _close(given)
        raise
    if predecessor is not None:
        _close(given)  # the running relay has them as well
        given = predecessor.given
    try:
        bound = _bind(settings, given, relay_id)
    except BaseException as exc:
        if predecessor is not None:
            predecessor.withdraw(str(exc))
            discard(predecessor)
        elif doorstep is not None:
            doorstep.remove()
        _close(given)
        raise
    binding = Binding(bound, predecessor, doorstep)
    try:
        yield binding
    except BaseException as exc:
        binding.fail(exc)
        raise
    finally:
        binding.close()


def _close(given: Sequence[Given]) -> None:
    for one in given:
        one.sock.close()


def _bind(settings: RelaySettings, given: Sequence[Given], relay_id: KeyId) -> BoundRelay:
    bound = BoundRelay(open_entrances(settings, given), relay_id)
    try:
        if settings.quic:
            bound.udp = open_udp(bound.entrances, given)
        else:
            _close([one for one in given if one.is_udp])
    except BaseException:
        bound.close()
        raise
    return bound
