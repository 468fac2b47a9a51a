"""A relay that listens, as whoever started it sees it."""

from __future__ import annotations

from typing import final

import trio

from trunnel.names import KeyId
from trunnel.relay.ingress import Entrance, Role
from trunnel.streams.listen import HostPort
from trunnel.streams.udp import UdpSocket
from trunnel.wire.proxyprotocol import Address


@final
class BoundRelay:
    """A relay that listens; see `serve_relay`."""

    def __init__(self, entrances: list[Entrance], relay_id: KeyId) -> None:
        self.relay_id = relay_id
        """Id of the key that agents pin."""
        self.entrances = entrances
        """The listeners and whom they are for."""
        self.udp: list[UdpSocket] = []
        """The sockets of agents on QUIC."""
        self.successor: int | None = None
        """The process that has taken our place, if one has."""
        self._drain = trio.Event()
        self._hurry = trio.Event()
        self.drain_reason = ""

    def addresses(self, role: Role) -> tuple[HostPort, ...]:
        """Return where connections of one role are accepted."""
        return tuple(entrance.listener.address for entrance in self.entrances if role in entrance.roles)

    @property
    def agents(self) -> tuple[str, ...]:
        """Addresses for agents, `HOST:PORT`."""
        return tuple(str(Address(*address)) for address in self.addresses(Role.AGENTS))

    @property
    def visitors(self) -> tuple[str, ...]:
        """Addresses for visitors, `HOST:PORT`."""
        return tuple(str(Address(*address)) for address in self.addresses(Role.VISITORS))

    @property
    def agents_port(self) -> int:
        """The bound port for agents."""
        return self.addresses(Role.AGENTS)[0][1]

    @property
    def visitors_port(self) -> int:
        """The bound port for visitors."""
        return self.addresses(Role.VISITORS)[0][1]

    def drain(self, reason: str) -> None:
        """Stop accepting, let visitors finish, then return from `serve_relay`.

        Idempotent; but a relay that drains because another has taken its place
        gives its visitors `TAKEOVER_GRACE`, and `drain_grace` once it is asked itself.
        """
        if self.successor is not None:
            self._hurry.set()
        if not self._drain.is_set():
            self.drain_reason = reason
            self._drain.set()

    def yield_to(self, pid: int) -> None:
        """Stop accepting in this very step, and drain: process *pid* is the relay from now on."""
        self.close()
        self.drain_reason = f"process {pid} took over"
        self._drain.set()
        self.successor = pid

    @property
    def is_draining(self) -> bool:
        """Whether it takes nobody new any more, or is about to."""
        return self._drain.is_set()

    async def wait_drain(self) -> None:
        """Wait until the relay is to drain."""
        await self._drain.wait()

    async def wait_hurry(self) -> None:
        """Wait until a relay that was taken over is asked to stop."""
        await self._hurry.wait()

    def close(self) -> None:
        """Close every listener."""
        for entrance in self.entrances:
            entrance.listener.close()
