"""A network by script: sockets that connect, fail or hang after so many seconds of virtual time (`autojump_clock`)."""

from __future__ import annotations

import errno
import os
import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import trio

Place = tuple[str, int]

OURSELVES = ("192.0.2.99", 1)
"""The near end of every connection."""


def nothing() -> None:
    """Do nothing."""


def failed(number: int) -> OSError:
    """Return the error of errno *number*."""
    return OSError(number, os.strerror(number))


@dataclass
class Fate:
    """What becomes of connecting to one address."""

    after: float
    """Seconds."""
    failure: OSError | None = None
    """None: it succeeds."""
    until: trio.Event | None = None
    """It then waits for this."""
    then: Callable[[], None] = nothing
    """Called when it has succeeded."""
    vanishes: bool = False
    """The peer hangs up at once."""


@dataclass
class ScriptedNetwork(trio.abc.SocketFactory):
    """Sockets whose `connect` does what the script says."""

    fates: dict[Place, Fate]
    started: dict[Place, float] = field(default_factory=dict)
    """When each attempt began, in seconds from the start."""
    sockets: list[ScriptedSocket] = field(default_factory=list)
    epoch: float = field(default_factory=trio.current_time)

    def socket(self, family: int = 0, type: int = 0, proto: int = 0) -> ScriptedSocket:  # noqa: A002 - trio's name
        self.sockets.append(ScriptedSocket(self, family))
        return self.sockets[-1]

    def open_places(self) -> list[Place | None]:
        """Return where the sockets lead that are not closed."""
        return [sock.place for sock in self.sockets if not sock.is_closed]


class ScriptedSocket(trio.socket.SocketType):
    """As much of a socket as connecting needs."""

    def __init__(self, network: ScriptedNetwork, family: int) -> None:
        self._network = network
        self._family = family
        self._vanishes = False
        self.place: Place | None = None
        self.is_closed = False

    @property
    def type(self) -> socket.SocketKind:
        return socket.SOCK_STREAM

    @property
    def family(self) -> socket.AddressFamily:
        return socket.AddressFamily(self._family)

    async def connect(self, address: Any) -> None:  # noqa: ANN401 - trio's signature
        assert self._family == (socket.AF_INET6 if ":" in address[0] else socket.AF_INET)
        network = self._network
        network.started[address] = trio.current_time() - network.epoch
        fate = network.fates[address]
        await trio.sleep(fate.after)
        if fate.until is not None:
            await fate.until.wait()
        if fate.failure is not None:
            raise fate.failure
        self.place = address
        self._vanishes = fate.vanishes
        fate.then()

    def getpeername(self) -> Place | None:
        if self._vanishes:
            raise failed(errno.ENOTCONN)
        return self.place

    def getsockname(self) -> Place:
        return OURSELVES

    def fileno(self) -> int:
        return -1 if self.is_closed else 0

    def setsockopt(self, *args: object) -> None:
        """Take any option."""

    def close(self) -> None:
        self.is_closed = True


@contextmanager
def scripted_network(fates: dict[Place, Fate]) -> Iterator[ScriptedNetwork]:
    """Let every socket of trio's be one of the script's."""
    network = ScriptedNetwork(fates)
    trio.socket.set_custom_socket_factory(network)
    try:
        yield network
    finally:
        trio.socket.set_custom_socket_factory(None)
