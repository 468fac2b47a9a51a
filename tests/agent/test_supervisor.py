"""The agent's loop: it comes back after a loss, and serves again."""

from __future__ import annotations

from pathlib import Path

from tests.tunnels import greet, house, until
from trunnel.events import Connected, Disconnected, Ready, Stopping


async def test_a_lost_carrier_is_replaced_and_visitors_come_again(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        agent, log = await home.expose(greet)
        assert agent.attachment is not None
        agent.attachment.link.abort("cut")
        await log.wait(Ready, 2)
        assert "cut" in log.of(Disconnected)[0].reason
        assert log.of(Connected)[0].session != log.of(Connected)[1].session
        hostname = f"{agent.key.key_id}.localhost"
        assert await home.ask(hostname) == hostname.encode()


async def test_draining_is_reported_once_and_nothing_reconnects(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        agent, log = await home.expose(greet)
        agent.drain("first")
        agent.drain("second")
        await until(lambda: agent.attachment is None)
        assert [event.reason for event in log.of(Stopping)] == ["first"]
        assert len(log.of(Connected)) == 1
        assert log.of(Disconnected) == []
