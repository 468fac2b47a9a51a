"""Sessions over memory carriers, for tests with a virtual clock."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
import trio.testing

from tests.transports.conformance import AGENT, RELAY
from tests.transports.h2_model import read_frames, settings
from trunnel.transports import h2_frames as frames
from trunnel.transports.base import Session
from trunnel.transports.h2 import open_h2_session
from trunnel.transports.h2_connection import H2Connection, Role
from trunnel.transports.mux import MuxSession


@asynccontextmanager
async def h2_pair() -> AsyncIterator[tuple[MuxSession, MuxSession]]:
    """Relay and agent over a carrier that never blocks."""
    left, right = trio.testing.memory_stream_pair()
    async with open_h2_session(left, Role.CLIENT, AGENT) as relay, open_h2_session(right, Role.SERVER, RELAY) as agent:
        yield relay, agent


def h2_of(session: Session) -> H2Connection:
    """The HTTP/2 connection that *session* drives."""
    assert isinstance(session, MuxSession)
    assert isinstance(session.connection, H2Connection)
    return session.connection


class RawPeer:
    """The far end of a carrier, byte by byte in the test's hand."""

    def __init__(self, carrier: trio.abc.HalfCloseableStream, role: Role) -> None:
        self.carrier = carrier
        self._role = role

    async def greet(self) -> None:
        """Send what opens a connection."""
        await self.carrier.send_all((frames.PREFACE if self._role is Role.CLIENT else b"") + settings())

    async def until_closed(self) -> list[tuple[int, int, int, bytes]]:
        """Read to the end and return the frames; bytes of a frame that was cut are left out."""
        received = bytearray()
        while chunk := await self.carrier.receive_some(65_536):
            received += chunk
        return read_frames(bytes(received), preface=self._role is Role.SERVER)


@asynccontextmanager
async def raw_pair(role: Role, *, lockstep: bool = False) -> AsyncIterator[tuple[MuxSession, RawPeer]]:
    """A session in *role* and its peer; in lockstep the carrier takes nothing that is not read."""
    make = trio.testing.lockstep_stream_pair if lockstep else trio.testing.memory_stream_pair
    left, right = make()
    async with open_h2_session(left, role, AGENT if role is Role.CLIENT else RELAY) as session:
        yield session, RawPeer(right, Role.SERVER if role is Role.CLIENT else Role.CLIENT)
