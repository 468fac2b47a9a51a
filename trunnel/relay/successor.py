"""Giving one's place to a new relay: a hot restart, seen from the old process.

Whoever knocks at the doorstep (`doorstep`), is of our user and asks, is offered
every listening socket, the UDP sockets, the doorstep itself, and for each UDP
socket the outlet of a passage back to us.  We go on as ever until it says that
it accepts.  Then, in one step: our copies of the listeners are closed, UDP is
read from the passage, and the relay drains.

Whatever else happens (it dies, is too slow, has other settings, we are stopped)
nothing has changed here but a line in the log.  One conversation at a time: a
second new process waits, and then finds the first one at the doorstep.
"""

from __future__ import annotations

import logging
import socket
from collections.abc import Awaitable, Callable
from typing import final

import trio

from trunnel.errors import ConfigError
from trunnel.relay.bound import BoundRelay
from trunnel.relay.doorstep import Doorstep
from trunnel.relay.handover import VERSION, Accepting, Ask, Channel, Offer, Socket, Withdrawn, Yielded
from trunnel.settings import limits
from trunnel.streams.passage import passage

logger = logging.getLogger(__name__)


async def await_successor(
    bound: BoundRelay, doorstep: Doorstep, wait_settled: Callable[[], Awaitable[None]] = trio.lowlevel.checkpoint
) -> None:
    """Serve the doorstep until a new relay has taken our place, or the relay drains.

    Args:
        bound: The relay.
        doorstep: Its doorstep, which is closed here.
        wait_settled: Returns once we may be taken over; who knocks before waits.

    Cancellation: whoever was offered the sockets is told that nothing comes of it.
    """
    try:
        doorstep.open()
        async with trio.open_nursery() as nursery:
            nursery.start_soon(_serve, bound, doorstep, wait_settled)
            await bound.wait_drain()
            nursery.cancel_scope.cancel()
    finally:
        doorstep.remove()


async def _serve(bound: BoundRelay, doorstep: Doorstep, wait_settled: Callable[[], Awaitable[None]]) -> None:
    await wait_settled()
    while bound.successor is None:
        channel = await doorstep.accept()
        try:
            await _converse(bound, doorstep, channel)
        except (ConfigError, OSError) as exc:
            _fail(channel, str(exc))
        finally:
            channel.close()


def _fail(channel: Channel, reason: str) -> None:
    """Go on, and say so: a new relay that heard nothing would take us for dead."""
    channel.withdraw(reason)
    logger.warning("takeover_failed", extra={"pid": channel.pid, "reason": reason})


async def _converse(bound: BoundRelay, doorstep: Doorstep, channel: Channel) -> None:
    """Hear what somebody at the door wants, and perhaps give our place away; raises OSError, ConfigError."""
    asked: object = None
    with trio.move_on_after(limits.TAKEOVER_ASK):
        asked, _ = await channel.receive()
    if not isinstance(asked, Ask):
        return  # it only looked whether we are here
    if not channel.is_own:
        _fail(channel, "another user asks for the sockets")
        return
    if asked.version != VERSION:
        _fail(channel, f"the new relay speaks version {asked.version} of the takeover, this one {VERSION}")
        return
    with _Offered(bound, doorstep) as offered:
        try:
            await _offer(bound, doorstep, channel, offered)
        except trio.Cancelled:
            doorstep.leave()  # we stop: the new relay has all sockets, finds us gone, and is the relay
            raise


async def _offer(bound: BoundRelay, doorstep: Doorstep, channel: Channel, offered: _Offered) -> None:
    channel.send(offered.message, offered.descriptors)
    offered.close_outlets()
    logger.info("takeover_offered", extra={"pid": channel.pid})
    answer: object = None
    with trio.move_on_after(limits.TAKEOVER_READY) as patience:
        answer, _ = await channel.receive()
    if isinstance(answer, Accepting):
        channel.send(Yielded())
        doorstep.leave()
        if answer.quic:
            offered.divert()
        bound.yield_to(channel.pid)
        return
    if patience.cancelled_caught:
        _fail(channel, f"the new relay did not accept within {limits.TAKEOVER_READY:.0f} s")
    elif isinstance(answer, Withdrawn):
        _fail(channel, answer.reason)
    else:
        _fail(channel, "the new relay ended before it accepted")


@final
class _Offered:
    """What is offered in one conversation; a context manager, which closes what was not used."""

    def __init__(self, bound: BoundRelay, doorstep: Doorstep) -> None:
        self._bound = bound
        self._inlets: list[socket.socket] = []  # noqa: TID251 - waited for with trio
        self._outlets: list[socket.socket] = []  # noqa: TID251 - as above
        count = len(bound.entrances)
        places: list[int] = []
        outlets: list[int] = []
        for index, udp in enumerate(bound.udp, count):
            inlet, outlet = passage()
            self._inlets.append(inlet)
            self._outlets.append(outlet)
            kept = udp.outlets[: limits.PREDECESSORS_MAX - 1]
            outlets += [outlet.fileno(), *(older.fileno() for older in kept)]
            places += [index] * (1 + len(kept))
        self.message = Offer(
            sockets=[
                *(Socket(name=entrance.name, supervised=entrance.supervised) for entrance in bound.entrances),
                *(Socket(name="") for _ in bound.udp),
            ],
            outlets=places,
        )
        """Says what it is."""
        self.descriptors = [
            *(entrance.listener.fileno() for entrance in bound.entrances),
            *(udp.fileno() for udp in bound.udp),
            doorstep.fileno(),
            *outlets,
        ]
        """The sockets themselves."""

    def __enter__(self) -> _Offered:
        return self

    def __exit__(self, *_: object) -> None:
        for sock in self._inlets:
            sock.close()
        self.close_outlets()

    def close_outlets(self) -> None:
        """Close our copies of the outlets: the new relay's are the only ones, so that its end is noticed."""
        for sock in self._outlets:
            sock.close()

    def divert(self) -> None:
        """Read the passages from now on."""
        for udp, inlet in zip(self._bound.udp, self._inlets, strict=True):
            udp.divert(inlet)
        self._inlets.clear()
