"""A whole relay with agents of its own: welcome, refusals, the list, certificates, and the end."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio
import trustme

import trunnel
from tests.tunnels import PATIENCE, Gate, Log, greet, house, read_to_end, visit
from trunnel.agent.runner import run_agent
from trunnel.events import (
    AgentRefused,
    Connected,
    Disconnected,
    Draining,
    Ready,
    RejectedByRelay,
    SessionEnded,
    SessionOpened,
    VisitorRefused,
)
from trunnel.identity.keys import IdentityKey

TWO = (trunnel.Hostname("one.localhost"), trunnel.Hostname("two.localhost"))


def key_of(folder: Path, name: str = "default") -> trunnel.KeyId:
    return IdentityKey.load_or_create(folder / name / "default.key").key_id


async def test_the_welcome_gives_id_and_names_under_every_suffix(tmp_path: Path) -> None:
    """And the agent's certificate covers them all: each answers."""
    key = key_of(tmp_path)
    listed = tmp_path / "agents"
    listed.write_text(f"{key} app # laptop\n")
    async with house(tmp_path, authorized_agents=listed, domain_suffixes=TWO, public_port=443) as home:
        agent, log = await home.expose(greet, name="app")
        names = {f"{label}.{suffix}" for label in (key, "app") for suffix in TWO}
        assert agent.ready_events[0].hostname == "app.one.localhost"
        assert {event.hostname for event in log.of(Ready)} == names
        assert {event.url for event in log.of(Ready)} == {f"https://{name}" for name in names}
        assert {event.port for event in log.of(Ready)} == {443}
        for name in sorted(names):
            assert await home.ask(name) == name.encode()
        assert home.log.of(SessionOpened)[0].label == "laptop"
        assert log.of(Connected)[0].relay_id == home.relay.relay_id.value


async def test_refused_agents_are_reported_with_the_line_that_lets_them_in(tmp_path: Path) -> None:
    (tmp_path / "agents").write_text("")
    async with house(tmp_path, authorized_agents=tmp_path / "agents") as home:
        log = Log()
        with pytest.raises(trunnel.Rejected):
            await run_agent(greet, home.agent_settings(), on_event=log)
        refused = home.log.of(AgentRefused)[0]
    assert refused.code == log.of(RejectedByRelay)[0].code == "unauthorized"
    assert log.of(RejectedByRelay)[0].retry_in is None
    assert refused.authorize == f"trunnel authorize {key_of(tmp_path)}"
    assert refused.authorize in log.of(RejectedByRelay)[0].reason


async def test_a_full_relay_asks_agents_to_come_back(tmp_path: Path) -> None:
    async with house(tmp_path, agents_max=1) as home:
        await home.expose(greet, "first")
        log = Log()
        home.nursery.start_soon(partial(run_agent, greet, home.agent_settings("second"), on_event=log))
        rejected = await log.wait(RejectedByRelay)
        assert rejected.code == "overloaded"
        assert rejected.retry_in is not None
        assert rejected.retry_in > 0


async def test_a_name_that_is_added_is_served_without_a_new_session(tmp_path: Path) -> None:
    """One more Ready for each name, and a certificate for both."""
    key = key_of(tmp_path)
    listed = tmp_path / "agents"
    listed.write_text(f"{key}\n")
    async with house(tmp_path, authorized_agents=listed) as home:
        _, log = await home.expose(greet)
        before = log.of(Ready)[0]
        listed.write_text(f"{key} app\n")
        await log.wait(Ready, 3)
        assert {event.hostname for event in log.of(Ready)[1:]} == {f"{key}.localhost", "app.localhost"}
        assert log.of(Ready)[1].fingerprint != before.fingerprint
        assert len(log.of(Connected)) == 1
        for name in (f"{key}.localhost", "app.localhost"):
            visitor = await home.visit(name)
            covered = visitor.peer_certificates[0].extensions
            visitor.abort()
            assert name in str(covered)


async def test_revoked_agents_end_with_their_visitors_and_the_others_go_on(tmp_path: Path) -> None:
    bad, good = key_of(tmp_path, "bad"), key_of(tmp_path, "good")
    listed = tmp_path / "agents"
    listed.write_text(f"{bad}\n{good}\n")
    gate = Gate()
    async with house(tmp_path, authorized_agents=listed) as home:
        log = Log()

        async def doomed() -> None:
            with pytest.raises(trunnel.Rejected):
                await run_agent(greet, home.agent_settings("bad"), on_event=log)

        home.nursery.start_soon(doomed)
        await log.wait(Ready)
        await home.expose(gate.serve, "good")
        visitor = await home.visit(f"{good}.localhost")
        await gate.entered.wait()
        listed.write_text(f"{good}\n")
        rejected = await log.wait(RejectedByRelay)
        assert (rejected.code, rejected.retry_in) == ("revoked", None)
        assert (await home.log.wait(SessionEnded)).reason == "revoked"
        with pytest.raises(trunnel.ConnectError):
            await home.visit(f"{bad}.localhost")
        assert home.log.of(VisitorRefused)[-1].verdict == "unknown-name"
        gate.opened.set()
        assert await read_to_end(visitor) == b"inout"


async def test_the_second_agent_with_one_key_replaces_the_first(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        key = tmp_path / "shared.key"
        _, first = await home.expose(greet, "first", key_file=_copy(key, tmp_path / "1.key"))
        await home.expose(greet, "second", key_file=_copy(key, tmp_path / "2.key"))
        rejected = await first.wait(RejectedByRelay)
        assert rejected.code == "replaced"
        assert rejected.retry_in is not None
        assert rejected.retry_in >= 60
        assert "--key-name" in rejected.reason


async def test_agents_that_share_a_key_serve_together(tmp_path: Path) -> None:
    """The busy one is left alone."""
    gate = Gate()
    async with house(tmp_path) as home:
        key = tmp_path / "shared.key"
        first, _ = await home.expose(gate.serve, "first", key_file=_copy(key, tmp_path / "1.key"), share=True)
        hostname = f"{first.key.key_id}.localhost"
        visitor = await home.visit(hostname)
        await gate.entered.wait()
        await home.expose(greet, "second", key_file=_copy(key, tmp_path / "2.key"), share=True)
        for _ in range(2):
            assert await home.ask(hostname) == hostname.encode()
        gate.opened.set()
        assert await read_to_end(visitor) == b"inout"


def _copy(key: Path, to: Path) -> Path:
    IdentityKey.load_or_create(key)
    to.write_bytes(key.read_bytes())
    to.chmod(0o600)
    return to


async def test_a_drained_relay_says_so_lets_visitors_finish_and_returns(tmp_path: Path) -> None:
    gate = Gate()
    async with house(tmp_path) as home:
        agent, log = await home.expose(gate.serve)
        visitor = await home.visit(f"{agent.key.key_id}.localhost")
        await gate.entered.wait()
        home.relay.drain("maintenance")
        home.relay.drain("again")
        await home.log.wait(Draining)
        with pytest.raises(OSError, match="all attempts"):
            await trio.open_tcp_stream("127.0.0.1", home.relay.visitors_port)
        gate.opened.set()
        with trio.fail_after(PATIENCE):
            assert await read_to_end(visitor) == b"inout"
        assert (await home.log.wait(SessionEnded)).reason == "the relay stopped"
        await log.wait(Disconnected)
    assert home.relay.drain_reason == "maintenance"


async def test_an_idle_agent_is_told_that_the_relay_stops(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """The last message leaves although nothing else keeps the session."""
    caplog.set_level("INFO", "trunnel")
    async with house(tmp_path) as home:
        _, log = await home.expose(greet)
        home.relay.drain("maintenance")
        await log.wait(Disconnected)
    assert "relay_drains" in [record.message for record in caplog.records]


async def test_agents_judge_a_relay_by_the_ca_that_they_are_given(tmp_path: Path) -> None:
    ca = trustme.CA()
    leaf = ca.issue_cert("localhost")
    ca.cert_pem.write_to_path(tmp_path / "ca.pem")
    chain, key = tmp_path / "chain.pem", tmp_path / "key.pem"
    chain.write_bytes(b"".join(pem.bytes() for pem in leaf.cert_chain_pems))
    key.write_bytes(leaf.private_key_pem.bytes())
    key.chmod(0o600)
    trustme.CA().cert_pem.write_to_path(tmp_path / "other.pem")
    async with house(tmp_path, tls_cert=chain, tls_key=key) as home:
        agent, _ = await home.expose(greet, relay_ca=tmp_path / "ca.pem")
        hostname = f"{agent.key.key_id}.localhost"
        assert await home.ask(hostname) == hostname.encode()
        with pytest.raises(trunnel.RelayIdentityError):
            await run_agent(greet, home.agent_settings("other", relay_ca=tmp_path / "other.pem"))


@pytest.mark.parametrize(
    ("chain", "key", "said"),
    [("a", b"", "no private key"), (None, None, "there is no file"), ("a", "b", "is not that of the certificate")],
)
async def test_certificates_that_cannot_be_used_are_a_config_error(
    tmp_path: Path, chain: bytes | str | None, key: bytes | str | None, said: str
) -> None:
    ca = trustme.CA()
    ours = {"a": ca.issue_cert("localhost").cert_chain_pems[0].bytes(), "b": ca.private_key_pem.bytes()}
    for name, content in (("chain.pem", chain), ("key.pem", key)):
        if content is not None:
            (tmp_path / name).write_bytes(ours[content] if isinstance(content, str) else content)
            (tmp_path / name).chmod(0o600)
    settings = trunnel.RelaySettings(
        state_dir=tmp_path / "relay", port=0, tls_cert=tmp_path / "chain.pem", tls_key=tmp_path / "key.pem"
    )
    with pytest.raises(trunnel.ConfigError, match=said):
        await trunnel.serve_relay(settings)


async def test_a_port_in_use_is_a_config_error_and_nothing_stays_bound(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        settings = trunnel.RelaySettings(
            state_dir=tmp_path / "other", bind_addrs=("127.0.0.1",), api_port=0, pub_port=home.relay.visitors_port
        )
        with pytest.raises(trunnel.ConfigError, match="pub_port"):
            await trunnel.serve_relay(settings)


async def test_everything_works_over_ipv6(tmp_path: Path) -> None:
    async with house(tmp_path, bind_addrs=("::1",)) as home:
        assert home.relay.agents == (f"[::1]:{home.relay.agents_port}",)
        agent, _ = await home.expose(greet, servers=(trunnel.ServerAddress("::1", home.relay.agents_port),))
        visitor = await visit(home.relay.visitors_port, f"{agent.key.key_id}.localhost", host="::1")
        await visitor.send_eof()
        assert (await read_to_end(visitor)).startswith(agent.key.key_id.value.encode())
