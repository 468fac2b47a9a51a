"""Notices that the network changed under us: another address, another way to the relay (NET-05, NET-07).

Linux tells of links, addresses, routes and rules on a netlink socket
(rtnetlink(7)).  What its messages say is not read: each is only a reason to
look, and a message that was lost because the buffer ran over (ENOBUFS) is one
too.  Nothing is parsed, so nothing can be parsed wrongly, and a kernel that
chats (Wi-Fi statistics, neighbours' prefixes) costs one look a burst.

Elsewhere, and where netlink is forbidden (some containers, Android), the look
is taken every `NETWORK_POLL`.

A look (`network.look`) compares the network as seen *towards the relay*: the
fingerprint, and the local address to the same relay address as before.
Docker's bridges and other people's prefixes change neither, and are not
reported.  Changes come in bursts, the old address going before the new one
comes; a look is taken `NETWORK_SETTLE` after the first of a burst, and what
comes later gets the next look.
"""

from __future__ import annotations

import errno
import logging
import socket
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from typing import Final, final

import trio

from trunnel import capabilities
from trunnel.agent.network import NO_NETWORK, NetworkView, look
from trunnel.settings import limits

logger = logging.getLogger(__name__)

_LINK: Final = 1 << 0
_IPV4_ADDRESS: Final = 1 << 4
_IPV4_ROUTE: Final = 1 << 6
_IPV4_RULE: Final = 1 << 7
_IPV6_ADDRESS: Final = 1 << 8
_IPV6_ROUTE: Final = 1 << 10
_IPV6_RULE: Final = 1 << 18
_GROUPS: Final = _LINK | _IPV4_ADDRESS | _IPV4_ROUTE | _IPV4_RULE | _IPV6_ADDRESS | _IPV6_ROUTE | _IPV6_RULE
"""The multicast groups of rtnetlink(7): bit N-1 for RTNLGRP N."""

NextEvent = Callable[[], Awaitable[None]]
"""Waits until there is a reason to look."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkChange:
    """What two looks saw differently."""

    before: NetworkView
    """As it was."""
    after: NetworkView
    """As it is."""

    @property
    def moved(self) -> bool:
        """Whether carriers to the same relay address would now start from another local address."""
        return self.before.towards == self.after.towards and self.before.source != self.after.source

    @property
    def online(self) -> bool:
        """Whether there is a way out now."""
        return self.after.source is not None or self.after.fingerprint != NO_NETWORK


def difference(before: NetworkView, after: NetworkView) -> NetworkChange | None:
    """Return what changed between two looks; None if nothing that concerns us did."""
    change = NetworkChange(before=before, after=after)
    return change if change.moved or before.fingerprint != after.fingerprint else None


async def watch_addresses(
    relay_address: Callable[[], str | None],
    on_change: Callable[[NetworkChange], None],
    *,
    look: Callable[[str | None], NetworkView] = look,
) -> None:
    """Look at the network whenever it may have changed, for ever, and report what did.

    Args:
        relay_address: The IP address of the relay as last dialled; None if there is none yet.
        on_change: Told of each change; must not block.
        look: How to look.

    Cancellation: the way to end it.
    """
    async with _network_events() as next_event:
        seen = look(relay_address())
        while True:
            await next_event()
            before, seen = seen, look(relay_address())
            change = difference(before, seen)
            if change is not None:
                logger.info("network_changed", extra={"moved": change.moved, "online": change.online})
                on_change(change)


@asynccontextmanager
async def _network_events() -> AsyncIterator[NextEvent]:
    """Yield the best way here to wait for a reason to look; the socket lives as long as the body."""
    sock = await _open_netlink()
    if sock is None:
        yield _next_poll
        return
    with sock:
        yield _Netlink(sock).next_event


async def _next_poll() -> None:
    await trio.sleep(limits.NETWORK_POLL)


async def _open_netlink() -> trio.socket.SocketType | None:
    """Subscribe to the kernel's messages; None where it has none for us."""
    if not capabilities.HAS_NETLINK or sys.platform != "linux":
        return None
    try:
        sock = trio.socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, socket.NETLINK_ROUTE)
    except OSError:
        return None
    try:
        await sock.bind((0, _GROUPS))
    except OSError as exc:
        sock.close()
        logger.debug("netlink_refused", extra={"reason": str(exc)})
        return None
    except BaseException:
        sock.close()
        raise
    return sock


@final
class _Netlink:
    """Bursts of messages on a datagram socket."""

    def __init__(self, sock: trio.socket.SocketType) -> None:
        self._sock = sock

    async def next_event(self) -> None:
        """Wait for a message, then let the burst that it belongs to pass by."""
        await self._message()
        with trio.move_on_after(limits.NETWORK_SETTLE):
            while True:
                await self._message()

    async def _message(self) -> None:
        try:
            await self._sock.recv(1)  # the rest of the datagram is dropped: what it says is not read
        except OSError as exc:
            if exc.errno != errno.ENOBUFS:  # which says that messages were lost: a reason to look like any other
                await _next_poll()
