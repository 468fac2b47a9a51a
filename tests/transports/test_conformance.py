"""Every transport sits the exam of `conformance.py`."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.transports.conformance import AGENT, EXAMS, RELAY, Exam, Maker
from tests.transports.pools import pooled
from tests.transports.quic_pairs import quic_pair
from trunnel.transports.base import Session
from trunnel.transports.h2 import open_h2_session
from trunnel.transports.memory import memory_session_pair
from trunnel.transports.yamux import open_yamux_session
from trunnel.wire.muxevents import Role


@asynccontextmanager
async def memory_pair() -> AsyncIterator[tuple[Session, Session]]:
    """Two ends in one process."""
    async with memory_session_pair(RELAY, AGENT) as pair:
        yield pair


@asynccontextmanager
async def h2_over_sockets() -> AsyncIterator[tuple[Session, Session]]:
    """HTTP/2 over loopback TCP."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        dialled = await trio.testing.open_stream_to_socket_listener(listener)
        accepted = await listener.accept()
    async with (
        open_h2_session(accepted, Role.CLIENT, AGENT) as relay,
        open_h2_session(dialled, Role.SERVER, RELAY) as agent,
    ):
        yield relay, agent


@asynccontextmanager
async def h2_over_lockstep() -> AsyncIterator[tuple[Session, Session]]:
    """HTTP/2 over a carrier without any buffer."""
    left, right = trio.testing.lockstep_stream_pair()
    async with open_h2_session(left, Role.CLIENT, AGENT) as relay, open_h2_session(right, Role.SERVER, RELAY) as agent:
        yield relay, agent


@asynccontextmanager
async def yamux_over_sockets() -> AsyncIterator[tuple[Session, Session]]:
    """Yamux over loopback TCP."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        dialled = await trio.testing.open_stream_to_socket_listener(listener)
        accepted = await listener.accept()
    async with (
        open_yamux_session(accepted, Role.CLIENT, AGENT) as relay,
        open_yamux_session(dialled, Role.SERVER, RELAY) as agent,
    ):
        yield relay, agent


@asynccontextmanager
async def yamux_over_lockstep() -> AsyncIterator[tuple[Session, Session]]:
    """Yamux over a carrier without any buffer."""
    left, right = trio.testing.lockstep_stream_pair()
    async with (
        open_yamux_session(left, Role.CLIENT, AGENT) as relay,
        open_yamux_session(right, Role.SERVER, RELAY) as agent,
    ):
        yield relay, agent


@asynccontextmanager
async def quic_over_sockets() -> AsyncIterator[tuple[Session, Session]]:
    """QUIC over loopback UDP, at the relay's endpoint."""
    async with quic_pair() as (relay, agent):
        yield relay, agent


@asynccontextmanager
async def pool_of_one() -> AsyncIterator[tuple[Session, Session]]:
    """A pool with a single carrier."""
    async with pooled(memory_pair) as pair:
        yield pair


@asynccontextmanager
async def pool_of_two() -> AsyncIterator[tuple[Session, Session]]:
    """A pool of HTTP/2 connections."""
    async with pooled(h2_over_sockets, h2_over_sockets) as pair:
        yield pair


MAKERS = [
    memory_pair,
    h2_over_sockets,
    h2_over_lockstep,
    yamux_over_sockets,
    yamux_over_lockstep,
    quic_over_sockets,
    pool_of_one,
    pool_of_two,
]


@pytest.mark.parametrize("maker", MAKERS, ids=lambda maker: maker.__name__)
@pytest.mark.parametrize("exam", EXAMS, ids=lambda exam: exam.__name__)
async def test_conformance(exam: Exam, maker: Maker) -> None:
    """The named rule holds on the named transport."""
    await exam(maker)
