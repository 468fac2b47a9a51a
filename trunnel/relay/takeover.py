"""Taking the place of the relay that runs: a hot restart, seen from the new process.

    ask → offer → sockets adopted, everything loaded → accepting → yielded: the old one drains
                  something is wrong → withdrawn: the old one goes on as if nothing had been

The listening sockets are the same in both processes, and at least one of them
accepts at every moment: nobody in the kernel's queue is refused or reset.  Only
datagrams cannot be shared; the new process reads them from `yielded` on, and
passes on those of QUIC connections of the old one (`streams.passage`).

Should the old process be gone before it has yielded, the new one is the relay:
it has the sockets.  The other side is `relay.successor`.
"""

from __future__ import annotations

import logging
import socket
from pathlib import Path
from typing import Final, final

import trio

from trunnel import capabilities
from trunnel.errors import ConfigError
from trunnel.relay.doorstep import Doorstep, knock
from trunnel.relay.entrances import Given, require_same
from trunnel.relay.handover import VERSION, Accepting, Ask, Channel, Offer, Withdrawn, Yielded
from trunnel.settings import limits
from trunnel.settings.relay import RelaySettings
from trunnel.streams.passage import Outlet
from trunnel.streams.udp import UdpSocket

logger = logging.getLogger(__name__)

_KEY: Final = "relay.takeover"
_TIME: Final = limits.TAKEOVER_READY + 2 * limits.TAKEOVER_ASK
"""Seconds to wait for the old relay: it may just be busy with another that asked before us."""


@final
class Predecessor:
    """The relay before, which has offered its sockets.  `close` ends the conversation."""

    def __init__(self, channel: Channel, offer: Offer, received: list[socket.socket], folder: Path) -> None:  # noqa: TID251 - adopted
        """Take the *received* sockets, in the offer's order."""
        self.pid = channel.pid
        """Its process."""
        count = len(offer.sockets)
        self.given = [
            Given(sock, described.name, described.supervised)
            for sock, described in zip(received, offer.sockets, strict=False)
        ]
        """The sockets for `entrances`."""
        self.doorstep = Doorstep(folder, received[count])
        """Where the next relay finds us."""
        self._outlets = list(zip(offer.outlets, map(Outlet, received[count + 1 :]), strict=True))
        self._channel = channel

    def withdraw(self, reason: str) -> None:
        """Tell it to go on: this process cannot take its place."""
        self._channel.withdraw(reason)

    def lead_back(self, sockets: list[UdpSocket]) -> bool:
        """Have *sockets* pass on what is the old relay's; return whether they are those that were given."""
        by_descriptor = {sock.fileno(): sock for sock in sockets}
        found = False
        for index, outlet in reversed(self._outlets):  # the latest is told last, and is then the first
            mine = by_descriptor.get(self.given[index].sock.fileno())
            if mine is None:
                outlet.close()
            else:
                mine.pass_on_to(outlet)
                found = True
        self._outlets = []
        return found

    async def accepting(self, *, quic: bool) -> None:
        """Tell it that we accept, and return once it does not accept any more.

        Args:
            quic: Whether we read the UDP sockets from then on.

        Raises:
            ConfigError: It has withdrawn its offer, and goes on itself.

        Cancellation: it goes on, unless it has yielded already.
        """
        said, answer = True, None
        try:
            self._channel.send(Accepting(quic=quic))
        except OSError:
            said = False  # perhaps it has withdrawn before it went
        with trio.move_on_after(limits.TAKEOVER_READY) as patience:
            answer, _ = await self._channel.receive()
        if isinstance(answer, Withdrawn):
            raise ConfigError(_KEY, f"the running relay (process {self.pid}) goes on: {answer.reason}")
        if patience.cancelled_caught:
            raise ConfigError(_KEY, f"the running relay (process {self.pid}) did not yield")
        if not isinstance(answer, Yielded):
            logger.warning("predecessor_gone", extra={"pid": self.pid, "told": said})

    def close(self) -> None:
        """End the conversation, and let go of what was not adopted.  Idempotent."""
        self._channel.close()
        for _, outlet in self._outlets:
            outlet.close()
        self._outlets = []


async def find_predecessor(settings: RelaySettings) -> Predecessor | None:
    """Ask the relay that runs with the same state folder for its sockets; None if there is none.

    Raises:
        ConfigError: It cannot be taken over, or not with these settings.  It goes on.

    Cancellation: it goes on.
    """
    if not capabilities.HAS_SOCKET_PASSING:
        raise ConfigError(_KEY, "sockets cannot be handed over on this system; stop the relay and start it again")
    channel = knock(settings.state_dir)
    if channel is None:
        logger.info("nobody_to_take_over", extra={"folder": str(settings.state_dir)})
        return None
    try:
        predecessor = await _ask(channel, settings.state_dir)
        if predecessor is not None:
            _check(predecessor, settings)
    except BaseException:
        channel.close()
        raise
    if predecessor is None:
        channel.close()
    return predecessor


async def _ask(channel: Channel, folder: Path) -> Predecessor | None:
    if not channel.is_own:
        raise ConfigError(_KEY, f"process {channel.pid}, the running relay, is another user's")
    try:
        channel.send(Ask(version=VERSION))
    except OSError:
        return None  # it has just stopped
    answer, received = None, list[int]()
    with trio.move_on_after(_TIME) as patience:
        answer, received = await channel.receive()
    sockets = [socket.socket(fileno=descriptor) for descriptor in received]  # noqa: TID251 - adopted
    match answer:
        case Offer() if len(sockets) == len(answer.sockets) + 1 + len(answer.outlets):
            return Predecessor(channel, answer, sockets, folder)
        case Withdrawn(reason=reason):
            why = f"the running relay (process {channel.pid}) goes on: {reason}"
        case None if not patience.cancelled_caught:
            return None  # it stopped before it came to us
        case _:
            why = f"the running relay (process {channel.pid}) did not offer its sockets"
    for sock in sockets:
        sock.close()
    raise ConfigError(_KEY, why)


def _check(predecessor: Predecessor, settings: RelaySettings) -> None:
    try:
        require_same(settings, predecessor.given)
    except ConfigError as exc:
        predecessor.withdraw(exc.reason)
        discard(predecessor)
        raise


def discard(predecessor: Predecessor) -> None:
    """Let go of everything that *predecessor* has offered: it goes on."""
    predecessor.close()
    predecessor.doorstep.leave()
    for one in predecessor.given:
        one.sock.close()
