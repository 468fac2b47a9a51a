"""A bad network on loopback: forwards datagrams between agents and a relay, and loses, repeats, delays and reorders.

Seeded: the same seed treats the n-th datagram of a direction the same way.
To the relay each agent appears at a port of its own, which `rebind` changes,
as a NAT does that has forgotten its binding.
"""

from __future__ import annotations

import random
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from trunnel.streams.listen import HostPort
from trunnel.streams.udp import Datagram, UdpSocket, open_udp_sockets


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
        self.weather = weather
        self._random = random.Random(seed)
        (self._front,) = open_udp_sockets(["127.0.0.1"], 0)
        self._backs: dict[HostPort, UdpSocket] = {}
        self.down = False
        """Whether everything is lost."""
        self.carried = 0
        """Datagrams that came through, both ways."""

    @property
    def address(self) -> HostPort:
        """Where agents dial."""
        return self._front.address

    def rebind(self) -> None:
        """Give every agent a new port towards the relay; what comes to the old one is lost."""
        former, self._backs = self._backs, {}
        for back in former.values():
            back.close()

    async def forward(self) -> None:
        """Carry datagrams from agents to the relay."""
        async for agent, octets in self._arrivals(self._front):
            if agent not in self._backs:
                back = self._backs[agent] = UdpSocket.bind(self._front.family, ("127.0.0.1", 0))
                self._nursery.start_soon(self._return, back, agent)
            self._carry(self._backs[agent], (octets, self._relay))
