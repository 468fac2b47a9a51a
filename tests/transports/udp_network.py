"""A bad network on loopback: forwards datagrams between agents and a relay, and loses, repeats, delays and reorders.

Seeded: the same seed treats the n-th datagram of a direction the same way.
To the relay each agent appears at a port of its own, which `rebind` changes,
as a NAT does that has forgotten its binding.
"""

from __future__ import annotations

import math
import random
import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass
from heapq import heappop, heappush
from itertools import count

import trio

from trunnel.streams.listen import HostPort
from trunnel.streams.udp import Datagram, UdpSocket


@dataclass(frozen=True, kw_only=True)
class Weather:
    """How bad it is."""

    loss: float = 0.0
    """Share of datagrams lost."""
    repeat: float = 0.0
    """Share of datagrams that come twice."""
    late: float = 0.0
    """Share of datagrams that are overtaken."""
    delay: float = 0.0
    """Seconds one way."""


class UdpNetwork:
    """See the module's head."""

    def __init__(self, relay: HostPort, nursery: trio.Nursery, weather: Weather, seed: int) -> None:
        self._relay = relay
        self._nursery = nursery
        self._random = random.Random(seed)
        self._backs: dict[HostPort, UdpSocket] = {}
        self._flying: list[tuple[float, int, UdpSocket, Datagram]] = []
        self._numbers = count()
        self._launched = trio.Event()
        self.weather = weather
        self.down = False
        """Whether everything is lost."""
        self.left = math.inf
        """Datagrams that still come through, both ways together."""
        self.front = UdpSocket.bind(socket.AF_INET, ("127.0.0.1", 0))
        """Where agents dial."""

    def rebind(self) -> None:
        """Give every agent a new port towards the relay; what comes to the old one is lost."""
        former, self._backs = self._backs, {}
        for back in former.values():
            back.close()

    async def run(self) -> None:
        """Carry datagrams from agents to the relay, until the front is closed."""
        self._nursery.start_soon(self._land)
        with suppress(trio.ClosedResourceError):
            while True:
                await self.front.wait_readable()
                for octets, agent in self.front.receive_batch():
                    if agent not in self._backs:
                        self._backs[agent] = UdpSocket.bind(socket.AF_INET, ("127.0.0.1", 0))
                        self._nursery.start_soon(self._return, self._backs[agent], agent)
                    self._launch(self._backs[agent], (octets, self._relay))

    async def _return(self, back: UdpSocket, agent: HostPort) -> None:
        with suppress(trio.ClosedResourceError):
            while True:
                await back.wait_readable()
                for octets, _ in back.receive_batch():
                    self._launch(self.front, (octets, agent))

    def _launch(self, by: UdpSocket, datagram: Datagram) -> None:
        weather = self.weather
        if self.down or self.left <= 0 or self._random.random() < weather.loss:
            return
        self.left -= 1
        for _ in range(2 if self._random.random() < weather.repeat else 1):
            late = 0.02 * self._random.random() if self._random.random() < weather.late else 0.0
            due = trio.current_time() + weather.delay + late
            heappush(self._flying, (due, next(self._numbers), by, datagram))
        self._launched.set()

    async def _land(self) -> None:
        while True:
            now = trio.current_time()
            while self._flying and self._flying[0][0] <= now:
                _, _, by, datagram = heappop(self._flying)
                by.send([datagram])
            self._launched = trio.Event()
            with trio.move_on_at(self._flying[0][0] if self._flying else math.inf):
                await self._launched.wait()

    def close(self) -> None:
        """Stop carrying."""
        self.rebind()
        self.front.close()


@asynccontextmanager
async def udp_network(relay: HostPort, weather: Weather | None = None, *, seed: int = 0) -> AsyncIterator[UdpNetwork]:
    """Run a network in front of *relay*."""
    async with trio.open_nursery() as nursery:
        network = UdpNetwork(relay, nursery, weather or Weather(), seed)
        nursery.start_soon(network.run)
        try:
            yield network
        finally:
            network.close()
            nursery.cancel_scope.cancel()
