"""A relay that is restarted, with real ones: visitors of the old process finish, on whichever road they came."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

import trunnel
from tests.tunnels import Gate, House, Log, house, read_to_end, until, visit
from trunnel.events import Connected, DataPath, Disconnected, Draining, Ready, StreamClosed
from trunnel.settings.agent import DataChoice, TransportChoice


async def restart(home: House) -> trunnel.BoundRelay:
    """Let the relay stop in order, and start another one in its place once it has closed its listeners."""
    home.relay.drain("hot restart")
    await home.log.wait(Draining)
    settings = msgspec.structs.replace(home.settings, api_port=home.relay.agents_port)
    fresh: trunnel.BoundRelay = await home.nursery.start(partial(trunnel.serve_relay, settings, on_event=Log()))
    return fresh


@pytest.mark.parametrize("road", [DataChoice.DIRECT, DataChoice.SESSION])
async def test_a_visitor_outlives_the_handover(tmp_path: Path, road: DataChoice) -> None:
    gate = Gate()
    async with house(tmp_path, quic=False) as home:
        agent, log = await home.expose(gate.serve, data=road, transport=TransportChoice.H2)
        hostname = f"{agent.key.key_id}.localhost"
        staying = await home.visit(hostname)
        assert await staying.receive_some() == b"in"
        fresh = await restart(home)
        await log.wait(Ready, 2)
        assert not log.of(StreamClosed)
        await until(lambda: agent.supervisors[0].road.path == road.value)
        assert log.of(DataPath)[-1].path == road.value
        coming = await visit(fresh.visitors_port, hostname)
        assert await coming.receive_some() == b"in"
        gate.opened.set()
        for visitor in (staying, coming):
            assert await read_to_end(visitor) == b"out"
        await log.wait(StreamClosed, 2)
        assert {event.data_path for event in log.of(StreamClosed)} == {road.value}
        assert {event.origin_end for event in log.of(StreamClosed)} == {"fin"}
        assert len(log.of(Connected)) == 2
        assert log.of(Disconnected) == []


async def test_an_agent_that_nobody_visits_is_handed_over_without_a_word(tmp_path: Path) -> None:
    async with house(tmp_path, quic=False) as home:
        agent, log = await home.expose(Gate().serve, transport=TransportChoice.H2)
        old = agent.supervisors[0].road.pool
        assert old is not None
        await restart(home)
        await log.wait(Ready, 2)
        assert log.of(Disconnected) == []
        await until(lambda: old.parked == 0)
        await until(lambda: agent.supervisors[0].road.path == "direct")


async def test_a_relay_that_stops_is_told_as_a_loss(tmp_path: Path) -> None:
    """Nobody comes after it."""
    async with house(tmp_path, quic=False) as home:
        _, log = await home.expose(Gate().serve, transport=TransportChoice.H2)
        home.relay.drain("enough")
        told = await log.wait(Disconnected)
        assert told.retry_in is not None
        await trio.testing.wait_all_tasks_blocked()
        assert len(log.of(Connected)) == 1
