"""Visitors on data connections, with a real relay: they live through carriers, and end with their session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing

from tests.tunnels import PATIENCE, Gate, House, Log, greet, house, read_to_end, until
from trunnel.agent.agent import Agent
from trunnel.agent.exposure import Exposure
from trunnel.events import Connected, DataPath, Disconnected, Ready, SessionEnded, StreamClosed
from trunnel.identity.keys import IdentityKey
from trunnel.settings import limits
from trunnel.settings.agent import DataChoice, ProxyProtocolVersion
from trunnel.streams.tls import TlsStream

MANY = 200
"""Visitors that stay."""


async def echo(stream: trio.abc.HalfCloseableStream, visitor: object) -> None:
    while chunk := await stream.receive_some():
        await stream.send_all(chunk)


def name_of(agent: Exposure) -> str:
    """Return the agent's public name."""
    return f"{agent.key.key_id}.localhost"


async def settled(agent: Agent | Exposure, path: str = "direct") -> None:
    """Wait until visitors' bytes take *path*."""
    await until(lambda: agent.supervisors[0].road.path == path)


async def say(visitor: TlsStream, word: bytes) -> bytes:
    """Say *word* to an echo and return what comes back."""
    with trio.fail_after(PATIENCE):
        await visitor.send_all(word)
        heard = b""
        while len(heard) < len(word):
            heard += await visitor.receive_some()
        return heard


def lose_carriers(agent: Exposure) -> None:
    """Break every carrier of the agent."""
    attachment = agent.supervisors[0].attachment
    assert attachment is not None
    attachment.link.abort("cut")


@asynccontextmanager
async def staying(home: House, agent: Exposure, count: int) -> AsyncIterator[list[TlsStream]]:
    """Have *count* visitors who stay, all on data connections; *agent* exposes `echo`."""
    found: list[TlsStream] = []
    try:
        await _come(home, agent, found, count)
        yield found
    finally:
        for visitor in found:
            visitor.abort()


async def _come(home: House, agent: Exposure, found: list[TlsStream], count: int) -> None:

    async def come() -> None:
        visitor = await home.visit(name_of(agent))
        assert await say(visitor, b"hi") == b"hi"
        found.append(visitor)

    pool = agent.supervisors[0].road.pool
    assert pool is not None
    while len(found) < count:
        await until(lambda: pool.parked >= limits.PARKED_FLOOR)
        async with trio.open_nursery() as nursery:
            for _ in range(min(4, count - len(found))):
                nursery.start_soon(come)
    assert len(pool.visits.open) == count, "some went inside the session"


async def test_visitors_are_served_on_data_connections(tmp_path: Path) -> None:
    """Both programs say so, and it is known when the address is shown."""
    async with house(tmp_path) as home:
        agent, log = await home.expose(greet)
        await settled(agent)
        assert await home.ask(name_of(agent)) == name_of(agent).encode()
        assert (await log.wait(StreamClosed)).data_path == "direct"
        assert (await home.log.wait(StreamClosed)).data_path == "direct"
        assert agent.ready_events[0].data_path == "direct"
        assert log.of(DataPath)[-1].path == "direct"


@pytest.mark.slow
async def test_many_visitors_live_through_the_loss_and_the_return_of_every_carrier(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        agent, log = await home.expose(echo, data=DataChoice.DIRECT)
        async with staying(home, agent, MANY) as here:
            for number in range(2):
                lose_carriers(agent)
                await log.wait(Disconnected, number + 1)
                for visitor in here[::20]:
                    assert await say(visitor, b"meanwhile") == b"meanwhile"
                await log.wait(Connected, number + 2)
            assert len({event.session for event in log.of(Connected)}) == 1
            for visitor in here:
                assert await say(visitor, b"still here") == b"still here"
            assert log.of(StreamClosed) == []
            for visitor in here:
                await visitor.send_eof()
                assert await read_to_end(visitor) == b""
            await until(lambda: len(log.of(StreamClosed)) == MANY)
        assert {(event.visitor_end, event.data_path) for event in log.of(StreamClosed)} == {("fin", "direct")}


async def test_a_session_that_the_relay_forgot_ends_with_its_visitors(tmp_path: Path) -> None:
    """The relay gives another session; what belonged to the old one is over on both sides."""
    async with house(tmp_path) as home:
        agent, log = await home.expose(echo)
        await settled(agent)
        supervisor = agent.supervisors[0]
        old = supervisor.road.pool
        assert old is not None
        async with staying(home, agent, 1) as (visitor,):
            forgetful = msgspec.structs.replace(supervisor._hello, session=None)  # as if the relay had restarted
            supervisor._hello = forgetful
            lose_carriers(agent)
            await log.wait(Connected, 2)
            with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
                await read_to_end(visitor)
        assert old.ended
        await home.log.wait(SessionEnded)
        await settled(agent)
        async with staying(home, agent, 1) as (visitor,):
            assert await say(visitor, b"again") == b"again"


async def test_draining_waits_for_visitors_on_data_connections(tmp_path: Path) -> None:
    gate = Gate()
    async with house(tmp_path) as home:
        agent, log = await home.expose(gate.serve)
        await settled(agent)
        visitor = await home.visit(name_of(agent))
        assert await visitor.receive_some() == b"in"
        agent.drain("enough")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert log.of(StreamClosed) == []
        gate.opened.set()
        assert await read_to_end(visitor) == b"out"
        record = await log.wait(StreamClosed)
        assert (record.data_path, record.origin_end) == ("direct", "fin")


async def test_draining_without_a_carrier_waits_for_them_too(tmp_path: Path) -> None:
    gate = Gate()
    async with house(tmp_path) as home:
        agent, log = await home.expose(gate.serve)
        await settled(agent)
        visitor = await home.visit(name_of(agent))
        assert await visitor.receive_some() == b"in"
        agent.supervisors[0]._backoff.next_delay()  # so that it does not come back at once
        lose_carriers(agent)
        await until(lambda: agent.supervisors[0].attachment is None)
        agent.drain("enough")
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert log.of(StreamClosed) == []
        gate.opened.set()
        assert await read_to_end(visitor) == b"out"


async def test_news_of_the_network_replaces_what_is_parked(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        agent, log = await home.expose(echo)
        await settled(agent)
        pool = agent.supervisors[0].road.pool
        assert pool is not None
        async with staying(home, agent, 1) as (visitor,):
            await until(lambda: pool.parked >= limits.PARKED_FLOOR)
            before = set(pool._parked)
            agent.supervisors[0].woke()
            assert pool.parked == 0
            await until(lambda: pool.parked >= limits.PARKED_FLOOR)
            assert not before & set(pool._parked)
            assert await say(visitor, b"still here") == b"still here"
        assert len(log.of(Connected)) == 1


@pytest.mark.parametrize(
    ("options", "why"),
    [({"data": DataChoice.SESSION}, "as asked"), ({"proxy_protocol": ProxyProtocolVersion.V2}, "--proxy-protocol")],
    ids=["asked", "proxy protocol"],
)
async def test_visitors_go_inside_the_session_where_that_is_wanted(
    tmp_path: Path, options: dict[str, object], why: str
) -> None:
    async with house(tmp_path) as home:
        agent, log = await home.expose(greet, "default", **options)
        await home.ask(name_of(agent))
        assert (await log.wait(StreamClosed)).data_path == "session"
        (said,) = log.of(DataPath)
        assert said.path == log.of(Ready)[0].data_path == "session"
        assert why in said.why


async def test_data_connections_alone_serve(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        agent, log = await home.expose(greet, data=DataChoice.DIRECT)
        await home.ask(name_of(agent))
        assert (await log.wait(StreamClosed)).data_path == "direct"
        assert log.of(Ready)[0].data_path == "direct"


async def test_a_relay_that_takes_none_serves_inside_the_session(tmp_path: Path) -> None:
    async with house(tmp_path, direct=False) as home:
        agent, log = await home.expose(greet)
        await home.ask(name_of(agent))
        assert (await log.wait(StreamClosed)).data_path == "session"
        assert log.of(DataPath)[0].why == "the relay takes no data connections"


async def test_data_connections_alone_at_a_relay_that_takes_none_is_never_ready(tmp_path: Path) -> None:
    async with house(tmp_path, direct=False) as home:
        log = Log()
        agent = Agent(greet, home.agent_settings(data=DataChoice.DIRECT), IdentityKey.generate(), on_event=log)
        home.nursery.start_soon(agent.run)
        reason = (await log.wait(Disconnected)).reason
        assert reason == "visitors would not be served: the relay takes no data connections"
        assert log.of(Ready) == []
