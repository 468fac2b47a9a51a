"""Sessions of both multiplexers over memory carriers, for what the driver owes whatever runs on it."""

from __future__ import annotations

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager

import pytest
import trio
import trio.testing

from tests.transports.conformance import AGENT, RELAY
from tests.transports.h2_pairs import h2_pair
from trunnel.transports.base import Peer
from trunnel.transports.h2 import open_h2_session
from trunnel.transports.mux import MuxSession
from trunnel.transports.yamux import open_yamux_session
from trunnel.wire.muxevents import Role
from trunnel.wire.yamux import YamuxConnection

Pair = Callable[[], AbstractAsyncContextManager[tuple[MuxSession, MuxSession]]]
Opener = Callable[[trio.abc.HalfCloseableStream, Role, Peer], AbstractAsyncContextManager[MuxSession]]
"""`open_h2_session` or `open_yamux_session`."""


@asynccontextmanager
async def yamux_pair() -> AsyncIterator[tuple[MuxSession, MuxSession]]:
    """Relay and agent over a carrier that never blocks."""
    left, right = trio.testing.memory_stream_pair()
    async with (
        open_yamux_session(left, Role.CLIENT, AGENT) as relay,
        open_yamux_session(right, Role.SERVER, RELAY) as agent,
    ):
        yield relay, agent


def yamux_of(session: MuxSession) -> YamuxConnection:
    """The yamux connection that *session* drives."""
    assert isinstance(session.connection, YamuxConnection)
    return session.connection


PAIRS = pytest.mark.parametrize("pair", [h2_pair, yamux_pair], ids=["h2", "yamux"])
OPENERS = pytest.mark.parametrize("opener", [open_h2_session, open_yamux_session], ids=["h2", "yamux"])
