"""`open_tunnel` and `run_agent`: what is raised before the body, in it, and after the end."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

import trunnel
from tests.tunnels import PATIENCE, Gate, House, greet, house, read_to_end
from trunnel.errors import RejectCode
from trunnel.identity.keys import IdentityKey
from trunnel.settings.agent import TransportChoice


@pytest.mark.parametrize("transport", [word for word in TransportChoice if word is not TransportChoice.AUTO])
async def test_a_visitor_is_served_by_a_handler_in_this_program(tmp_path: Path, transport: TransportChoice) -> None:
    async with (
        house(tmp_path) as home,
        trunnel.open_tunnel(greet, settings=home.agent_settings(transport=transport)) as tunnel,
    ):
        hostname = f"{tunnel.agent_id}.localhost"
        assert tunnel.url == f"https://{hostname}:{home.relay.visitors_port}"
        assert tunnel.transport == transport.value
        assert await home.ask(hostname) == hostname.encode()


async def test_rejected_is_raised_bare_before_the_body(tmp_path: Path) -> None:
    """And it carries the line that lets the agent in."""
    (tmp_path / "agents").write_text("")
    async with house(tmp_path, authorized_agents=tmp_path / "agents") as home:
        with pytest.raises(trunnel.Rejected) as raised:
            async with trunnel.open_tunnel(greet, settings=home.agent_settings()):
                pytest.fail("the body ran")
    key = IdentityKey.load_or_create(tmp_path / "default" / "default.key")
    assert raised.value.code is RejectCode.UNAUTHORIZED
    assert f"trunnel authorize {key.key_id}" in raised.value.reason


async def test_a_key_in_use_is_raised_bare_before_the_body(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        settings = home.agent_settings()
        async with trunnel.open_tunnel(greet, settings=settings):
            with pytest.raises(trunnel.AuthError, match="--key-name"):
                async with trunnel.open_tunnel(greet, settings=settings):
                    pytest.fail("the body ran")


async def test_a_relay_with_another_key_is_raised_bare_before_the_body(tmp_path: Path) -> None:
    other = IdentityKey.generate().key_id
    async with house(tmp_path) as home:
        with pytest.raises(trunnel.RelayIdentityError):
            async with trunnel.open_tunnel(greet, settings=home.agent_settings(relay_pin=other)):
                pytest.fail("the body ran")


async def test_nobody_on_loopback_is_raised_bare_before_the_body(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Without a named relay, after three seconds, with what to do."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    port = listener.socket.getsockname()[1]
    await listener.aclose()
    nobody = trunnel.ServerAddress("127.0.0.1", port)
    monkeypatch.setattr("trunnel.settings.agent.LOOPBACK_RELAY", nobody)
    monkeypatch.setattr("trunnel.settings.limits.DEFAULT_RELAY_TIMEOUT", 0.1)
    with pytest.raises(trunnel.ConnectError, match="start one here, in a second terminal: trunnel serve"):
        async with trunnel.open_tunnel(greet, settings=trunnel.AgentSettings(state_dir=tmp_path)):
            pytest.fail("the body ran")


async def test_a_file_that_cannot_be_used_is_raised_bare_before_the_body(tmp_path: Path) -> None:
    """The leaf's folder is a file: found out only after the relay's welcome."""
    async with house(tmp_path) as home:
        settings = home.agent_settings()
        settings.state_dir.mkdir(mode=0o700)
        (settings.state_dir / "leaf").write_text("in the way")
        with pytest.raises(trunnel.ConfigError):
            async with trunnel.open_tunnel(greet, settings=settings):
                pytest.fail("the body ran")


async def test_what_the_body_raises_leaves_bare(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        with pytest.raises(KeyError, match="mine"):
            async with trunnel.open_tunnel(greet, settings=home.agent_settings()):
                raise KeyError("mine")


async def test_wait_closed_raises_session_closed_with_the_cause(tmp_path: Path) -> None:
    """Revoked: the tunnel has ended for good."""
    key = IdentityKey.load_or_create(tmp_path / "default" / "default.key")
    listed = tmp_path / "agents"
    listed.write_text(f"{key.key_id}\n")
    async with (
        house(tmp_path, authorized_agents=listed) as home,
        trunnel.open_tunnel(greet, settings=home.agent_settings()) as tunnel,
    ):
        listed.write_text("# nobody any more\n")
        with trio.fail_after(PATIENCE), pytest.raises(trunnel.SessionClosed) as raised:
            await tunnel.wait_closed()
    cause = raised.value.__cause__
    assert isinstance(cause, trunnel.Rejected)
    assert cause.code is RejectCode.REVOKED
    assert not raised.value.retryable


async def test_a_drained_tunnel_lets_its_visitor_finish(tmp_path: Path) -> None:
    """New visitors get an alert meanwhile; the one that is there gets every byte and a clean end."""
    gate = Gate()
    async with (
        house(tmp_path) as home,
        trunnel.open_tunnel(gate.serve, settings=home.agent_settings()) as tunnel,
    ):
        hostname = f"{tunnel.agent_id}.localhost"
        visitor = await home.visit(hostname)
        await gate.entered.wait()
        tunnel.drain("enough")
        await _refused(home, hostname)
        gate.opened.set()
        with trio.fail_after(PATIENCE):
            assert await read_to_end(visitor) == b"inout"
            with pytest.raises(trunnel.SessionClosed, match="the tunnel was closed"):
                await tunnel.wait_closed()


async def _refused(home: House, hostname: str) -> None:
    """Visit until the relay knows of no such name any more."""
    with trio.fail_after(PATIENCE), pytest.raises(trunnel.ConnectError, match=r"alert|unrecognized"):
        while True:
            (await home.visit(hostname)).abort()
