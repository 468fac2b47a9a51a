"""A welcomed session at the agent: heartbeat, new addresses, the relay's goodbye; in memory."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import trio
from trio.testing import MockClock

from trunnel.agent.attachment import Attachment
from trunnel.errors import RejectCode, Rejected, SessionClosed
from trunnel.names import KeyId
from trunnel.settings import limits
from trunnel.transports.base import Peer
from trunnel.transports.control_stream import ControlStream
from trunnel.transports.memory import memory_session_pair
from trunnel.wire import control

WELCOME = control.Welcome(
    version=1,
    session="s",
    relay=KeyId.of_spki(b"relay").value,
    suffixes=["localhost"],
    public_port=443,
    endpoints=[],
    limits=control.SessionLimits(
        streams=1, heartbeat=10.0, dead_after=20.0, first_byte_timeout=30.0, idle_timeout=3600.0
    ),
)


@asynccontextmanager
async def attachment() -> AsyncIterator[tuple[Attachment, ControlStream]]:
    """Yield the agent's attachment, its tasks running, and the relay's end of the conversation."""
    peer = Peer(key_id=KeyId.of_spki(b"key"), address="test")
    async with memory_session_pair(peer, peer) as (relay, agent), trio.open_nursery() as nursery:
        far = ControlStream(relay, await relay.open_stream(), control.Phase.RELAY_OPEN)
        near = ControlStream(agent, await agent.accept_stream(), control.Phase.AGENT_OPEN)
        made = Attachment(agent, near, WELCOME)
        for task in (near.run_writer, made.listen, made.heartbeat):
            nursery.start_soon(task)
        yield made, far
        nursery.cancel_scope.cancel()


async def test_a_relay_that_answers_no_ping_is_given_up(autojump_clock: MockClock) -> None:
    started = trio.current_time()
    async with attachment() as (made, _):
        ended = await made.wait_changed()
    assert isinstance(ended, SessionClosed)
    assert "answered no ping" in ended.reason
    assert limits.DEAD_AFTER <= trio.current_time() - started <= limits.DEAD_AFTER + 2 * limits.HEARTBEAT


async def test_new_addresses_are_noticed(autojump_clock: MockClock) -> None:
    endpoint = control.Endpoint("app.localhost", "https://app.localhost")
    async with attachment() as (made, relay):
        await relay.send(control.Endpoints([endpoint]))
        assert await made.wait_changed() is None
        assert made.endpoints == (endpoint,)


async def test_a_rejection_ends_the_session_and_is_the_reason(autojump_clock: MockClock) -> None:
    async with attachment() as (made, relay):
        await relay.send(control.Rejected(RejectCode.REPLACED, "by another", limits.REPLACED_WAIT))
        ended = await made.wait_changed()
    assert isinstance(ended, Rejected)
    assert (ended.code, ended.retry_after) == (RejectCode.REPLACED, limits.REPLACED_WAIT)


async def test_a_drain_waits_for_the_relay_at_most_its_grace(autojump_clock: MockClock) -> None:
    async with attachment() as (made, relay):
        started = trio.current_time()
        await made.drain(5.0, "stopping")
        assert trio.current_time() - started == 5.0
        while not isinstance(told := await relay.receive(), control.Drain):
            pass
        assert told == control.Drain(5.0, "stopping")
