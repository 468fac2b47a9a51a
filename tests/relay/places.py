"""Sockets of a relay, and the two ends of a takeover, for the tests of either."""

from __future__ import annotations

import os
import socket
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import trio

from trunnel.names import KeyId
from trunnel.relay.bound import BoundRelay
from trunnel.relay.doorstep import Doorstep, knock
from trunnel.relay.entrances import open_entrances, open_udp
from trunnel.relay.handover import Ask, Channel, Message, Offer
from trunnel.settings.relay import RelaySettings

PATIENCE = 5
RELAY = KeyId("a" * 52)


def settings_for(folder: Path, **options: object) -> RelaySettings:
    """Return settings on loopback, on free ports unless *options* name some."""
    given: dict[str, object] = {"bind_addrs": ("127.0.0.1",), "state_dir": folder, **options}
    if "port" not in options:
        given = {"api_port": 0, "pub_port": 0, **given}
    return RelaySettings(**given)  # type: ignore[arg-type]


def is_open(descriptor: int) -> bool:
    """Whether this process has *descriptor*."""
    try:
        os.fstat(descriptor)
    except OSError:
        return False
    return True


@contextmanager
def bound_relay(settings: RelaySettings) -> Iterator[BoundRelay]:
    """Have the sockets of a relay."""
    bound = BoundRelay(open_entrances(settings), RELAY)
    try:
        if settings.quic:
            bound.udp = open_udp(bound.entrances)
        yield bound
    finally:
        bound.close()
        for udp in bound.udp:
            udp.close()


def laid(folder: Path) -> Doorstep:
    """Lay a doorstep."""
    doorstep = Doorstep.lay(folder)
    assert doorstep is not None
    return doorstep


@dataclass
class Offered:
    """What an old relay has offered; closed by `close`."""

    channel: Channel
    offer: Offer
    sockets: list[socket.socket] = field(default_factory=list)

    async def hear(self) -> Message | None:
        """Return what the old relay says next."""
        with trio.fail_after(PATIENCE * 100):
            message, _ = await self.channel.receive()
        return message

    def close(self) -> None:
        """Be gone."""
        self.channel.close()
        for sock in self.sockets:
            sock.close()


async def ask(folder: Path) -> Offered:
    """Ask the relay of *folder* as a new one does; returns with what it offers."""
    channel = knock(folder)
    assert channel is not None
    channel.send(Ask(version=1))
    with trio.fail_after(PATIENCE * 100):
        message, received = await channel.receive()
    assert isinstance(message, Offer), message
    return Offered(channel, message, [socket.socket(fileno=descriptor) for descriptor in received])
