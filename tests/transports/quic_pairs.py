"""QUIC sessions over loopback: a relay's endpoint, and agents that dial it."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import cache
from typing import Self, TypeVar

import trio
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import QuicConnection

from tests.transports.conformance import AGENT, RELAY
from trunnel.identity.keys import IdentityKey, link_certificate
from trunnel.settings import limits
from trunnel.streams.listen import HostPort
from trunnel.streams.udp import UdpSocket, open_udp_sockets
from trunnel.transports.quic import QuicSession, open_quic_session
from trunnel.transports.quic_configuration import QuicCredentials
from trunnel.transports.quic_endpoint import QuicEndpoint, serve_quic
from trunnel.transports.quic_handshake import QuicCarrier, dial_quic

E = TypeVar("E", bound=events.QuicEvent)


class Places:
    """Places for handshakes: as many as there are."""

    def __init__(self) -> None:
        self.taken = 0
        """Places taken and not given back."""
        self.most = 1 << 30
        """Places that there are for one address."""

    def admit(self, host: str) -> Place | None:
        """Give a place."""
        assert host.startswith("127.0.0.")
        return Place(self) if self.taken < self.most else None


class Place:
    """One place; given back once."""

    def __init__(self, places: Places) -> None:
        self._places: Places | None = places
        places.taken += 1

    def release(self) -> None:
        """Give it back."""
        if self._places is not None:
            self._places.taken -= 1
            self._places = None


@cache
def credentials_of(name: str) -> QuicCredentials:
    """Return the credentials of somebody; each name has a key of its own."""
    key = IdentityKey.generate()
    return QuicCredentials(private_key=key.private_key, chain=(link_certificate(key, now=datetime.now(UTC)),))


class Relay:
    """A relay's endpoint and the sessions that were opened at it, in order."""

    def __init__(self) -> None:
        self.endpoint: QuicEndpoint
        self.places = Places()
        self._send, self._receive = trio.open_memory_channel[QuicSession](1_000)

    @property
    def address(self) -> HostPort:
        """Where to dial."""
        return self.endpoint.addresses[0]

    async def session(self) -> QuicSession:
        """Return the next agent's session."""
        return await self._receive.receive()

    async def serve(self, carrier: QuicCarrier) -> None:
        """Open a session and hold it until it ends."""
        async with open_quic_session(carrier, AGENT) as session:
            await self._send.send(session)
            await session.wait_closed()


@asynccontextmanager
async def quic_relay(
    *, port: int = 0, name: str = "relay", datagram: int = limits.QUIC_DATAGRAM
) -> AsyncIterator[Relay]:
    """Run a relay's endpoint on loopback."""
    relay = Relay()
    credentials = replace(credentials_of(name), datagram=datagram)

    async def start(*, task_status: trio.TaskStatus[QuicEndpoint]) -> None:
        sockets = open_udp_sockets(["127.0.0.1"], port)
        await serve_quic(sockets, credentials, serve=relay.serve, admit=relay.places.admit, task_status=task_status)

    async with trio.open_nursery() as nursery:
        relay.endpoint = await nursery.start(start)
        try:
            yield relay
        finally:
            nursery.cancel_scope.cancel()


@asynccontextmanager
async def quic_agent(
    address: HostPort, *, name: str = "agent", datagram: int = limits.QUIC_DATAGRAM
) -> AsyncIterator[QuicSession]:
    """Dial *address* and open the agent's session."""
    carrier = await dial_quic(address, replace(credentials_of(name), datagram=datagram), server_name=None)
    async with open_quic_session(carrier, RELAY) as session:
        yield session


class RawAgent:
    """A QUIC client without any manners: aioquic's connection on a socket."""

    def __init__(self, relay: HostPort, configuration: QuicConfiguration, *, host: str = "127.0.0.1") -> None:
        self.relay = relay
        self.socket = UdpSocket.bind(socket.AF_INET, (host, 0))
        self.quic = QuicConnection(configuration=configuration)
        self.quic.connect(relay, trio.current_time())
        self.events: list[events.QuicEvent] = []
        self.heard: list[bytes] = []

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.socket.close()

    def send(self) -> list[bytes]:
        """Send what there is to send; return it."""
        datagrams = [octets for octets, _ in self.quic.datagrams_to_send(trio.current_time())]
        self.socket.send((octets, self.relay) for octets in datagrams)
        return datagrams

    async def receive(self) -> None:
        """Take what comes next; at most 20 ms."""
        with trio.move_on_after(0.02):
            await self.socket.wait_readable()
        now = trio.current_time()
        for octets, source in self.socket.receive_batch():
            self.heard.append(octets)
            self.quic.receive_datagram(octets, source, now)
        timer = self.quic.get_timer()
        if timer is not None and timer <= now:
            self.quic.handle_timer(now)
        while (event := self.quic.next_event()) is not None:
            self.events.append(event)

    async def until(self, kind: type[E]) -> E:
        """Talk until an event of *kind* happens."""
        with trio.fail_after(10):
            while True:
                self.send()
                for event in self.events:
                    if isinstance(event, kind):
                        return event
                await self.receive()


@asynccontextmanager
async def quic_pair() -> AsyncIterator[tuple[QuicSession, QuicSession]]:
    """A (relay, agent) pair of sessions over loopback."""
    async with quic_relay() as relay, quic_agent(relay.address) as agent:
        yield await relay.session(), agent
