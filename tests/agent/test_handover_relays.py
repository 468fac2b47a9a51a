"""A relay that is restarted, and those beside it: its other agents with the same key, the agent's other relays."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import msgspec
import pytest
import trio

import trunnel
from tests.tunnels import PATIENCE, Gate, House, Log, greet, house, read_to_end, until, visit
from trunnel.errors import RejectCode
from trunnel.events import Connected, Disconnected, Draining, Ready, RejectedByRelay, SessionOpened
from trunnel.identity.keys import IdentityKey
from trunnel.settings.agent import TransportChoice


async def restart(home: House, *, log: Log) -> trunnel.BoundRelay:
    """Let the relay stop in order, and start another one in its place once it has closed its listeners."""
    home.relay.drain("hot restart")
    await home.log.wait(Draining)
    settings = msgspec.structs.replace(home.settings, api_port=home.relay.agents_port)
    fresh: trunnel.BoundRelay = await home.nursery.start(partial(trunnel.serve_relay, settings, on_event=log))
    return fresh


async def ask(port: int, hostname: str) -> bytes:
    """Say `hi` to a name at a relay; returns the answer."""
    with trio.fail_after(PATIENCE):
        visitor = await visit(port, hostname)
        await visitor.send_all(b"hi")
        await visitor.send_eof()
        return await read_to_end(visitor)


async def test_agents_that_share_a_key_are_handed_over_side_by_side(tmp_path: Path) -> None:
    """Neither replaces the other, nor the session that still has its visitors."""
    key, fresh_log = tmp_path / "shared.key", Log()
    hostname = f"{IdentityKey.load_or_create(key).key_id}.localhost"
    (tmp_path / "copy.key").write_bytes(key.read_bytes())
    (tmp_path / "copy.key").chmod(0o600)
    gate = Gate()
    async with house(tmp_path, quic=False) as home:
        logs: list[Log] = []
        for number, path in enumerate((key, tmp_path / "copy.key")):
            _, log = await home.expose(
                gate.serve, f"agent{number}", key_file=path, share=True, transport=TransportChoice.H2
            )
            logs.append(log)
        staying = [await home.visit(hostname) for _ in range(2)]
        for visitor in staying:
            assert await visitor.receive_some() == b"in"
        fresh = await restart(home, log=fresh_log)
        for log in logs:
            await log.wait(Ready, 2)
        assert len(fresh_log.of(SessionOpened)) == 2
        gate.opened.set()
        for visitor in staying:
            assert await read_to_end(visitor) == b"out"
        assert await ask(fresh.visitors_port, hostname) == b"inout"
        for log in logs:
            assert [event.code for event in log.of(RejectedByRelay)] == []
            assert log.of(Disconnected) == []
            assert len(log.of(Connected)) == 2


async def test_the_agents_other_relay_hears_nothing_of_it(tmp_path: Path) -> None:
    """Names, session and visitors there stay as they are."""
    gate = Gate()
    async with house(tmp_path / "a", quic=False) as home, house(tmp_path / "b", quic=False) as other:
        servers = tuple(trunnel.ServerAddress("localhost", each.relay.agents_port) for each in (home, other))
        agent, log = await home.expose(gate.serve, servers=servers, transport=TransportChoice.H2)
        await log.wait(Ready, 2)
        hostname = f"{agent.key.key_id}.localhost"
        here, there = await home.visit(hostname), await other.visit(hostname)
        for visitor in (here, there):
            assert await visitor.receive_some() == b"in"
        fresh = await restart(home, log=Log())
        again = await log.wait(Ready, 3)
        assert again.relay == str(servers[0])
        assert len(other.log.of(SessionOpened)) == 1
        gate.opened.set()
        for visitor in (here, there):
            assert await read_to_end(visitor) == b"out"
        assert await ask(fresh.visitors_port, hostname) == await ask(other.relay.visitors_port, hostname) == b"inout"
        assert log.of(Disconnected) == []


@pytest.mark.parametrize("refused", ["first", "second"])
async def test_both_endpoints_are_handed_over_or_each_for_itself(tmp_path: Path, refused: str) -> None:
    """A relay that comes back with a list on which one of them is no more: the other goes on."""
    keys = {name: IdentityKey.load_or_create(tmp_path / f"{name}.key") for name in ("first", "second")}
    (welcome,) = keys.keys() - {refused}
    listed, log = tmp_path / "agents", Log()
    listed.write_text("".join(f"{key.key_id}\n" for key in keys.values()))
    async with house(tmp_path, quic=False, authorized_agents=listed) as home:
        settings = home.agent_settings(
            key_file=tmp_path / "first.key", secondary_key=tmp_path / "second.key", transport=TransportChoice.H2
        )
        async with trunnel.open_tunnel(greet, settings=settings, on_event=log) as tunnel:
            assert tunnel.secondary is not None
            with trio.fail_after(PATIENCE):
                await tunnel.secondary.wait_ready()
            home.relay.drain("hot restart")
            await home.log.wait(Draining)
            listed.write_text(f"{keys[welcome].key_id}\n")
            fresh_settings = msgspec.structs.replace(home.settings, api_port=home.relay.agents_port)
            fresh: trunnel.BoundRelay = await home.nursery.start(partial(trunnel.serve_relay, fresh_settings))
            await log.wait(Ready, 3)
            rejected = await log.wait(RejectedByRelay)
            assert rejected.agent_id == keys[refused].key_id.value
            assert rejected.code == RejectCode.UNAUTHORIZED
            hostname = f"{keys[welcome].key_id}.localhost"
            await until(lambda: len([event for event in log.of(Connected) if event.agent_id == hostname[:52]]) == 2)
            assert await ask(fresh.visitors_port, hostname) == hostname.encode()
