"""Whole relays that replace one another with one state folder: who serves, whom agents and visitors find."""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import partial
from pathlib import Path
from typing import Any

import msgspec
import pytest
import trio
import trio.testing

import trunnel
from tests.relay.test_reception import invite
from tests.tunnels import PATIENCE, Gate, House, Log, greet, house, read_to_end, until, visit
from trunnel import capabilities
from trunnel.agent.runner import run_agent
from trunnel.errors import RejectCode
from trunnel.events import AgentRefused, Connected, Draining, SessionEnded, SessionOpened, TakenOver, VisitorRefused
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname, KeyId
from trunnel.pump import Workers, open_workers
from trunnel.relay import binding, server
from trunnel.relay.doorstep import NAME
from trunnel.relay.issuance import Issuances
from trunnel.settings import limits
from trunnel.wire import control

pytestmark = pytest.mark.skipif(not capabilities.HAS_SOCKET_PASSING, reason="sockets are handed over on Linux")


async def take_over(home: House, **options: object) -> tuple[trunnel.BoundRelay, Log]:
    """Start a relay that takes the place of the house's; returns once it serves."""
    settings = msgspec.structs.replace(home.settings, takeover=True, **options)
    log = Log()
    run = partial(trunnel.serve_relay, settings, on_event=log)
    with trio.fail_after(PATIENCE * 2):
        relay: trunnel.BoundRelay = await home.nursery.start(run)
    return relay, log


@pytest.mark.parametrize("options", [{}, {"quic": False}, {"open": True}], ids=str)
async def test_the_next_relay_has_the_same_id_and_the_same_places(tmp_path: Path, options: dict[str, object]) -> None:
    async with house(tmp_path, **options) as home:
        relay, log = await take_over(home)
        assert relay.relay_id == home.relay.relay_id
        assert (relay.agents, relay.visitors) == (home.relay.agents, home.relay.visitors)
        assert len(log.of(TakenOver)) == 1
        await home.log.wait(Draining)
        assert home.relay.is_draining
        assert not relay.is_draining


async def test_one_port_for_everything_is_handed_over_as_one(tmp_path: Path) -> None:
    settings = trunnel.RelaySettings(state_dir=tmp_path / "relay", bind_addrs=("127.0.0.1",), port=0)
    async with trio.open_nursery() as nursery:
        old: trunnel.BoundRelay = await nursery.start(partial(trunnel.serve_relay, settings))
        home = House(old, Log(), tmp_path, nursery, settings)
        relay, _ = await take_over(home)
        agent, _ = await home.expose(greet)
        assert relay.agents == relay.visitors == old.agents
        assert await home.ask(f"{agent.key.key_id}.localhost")
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("transport", ["auto", "quic", "h2"])
async def test_agents_come_and_visitors_who_were_sooner_have_waited(tmp_path: Path, transport: str) -> None:
    """None of them hears a refusal, and the old relay ends when its agents have gone."""
    async with house(tmp_path) as home:
        agent, agent_log = await home.expose(greet, transport=transport)
        hostname = f"{agent.key.key_id}.localhost"
        relay, log = await take_over(home)
        assert await home.ask(hostname) == hostname.encode()
        await agent_log.wait(Connected, 2)
        assert len(log.of(SessionOpened)) == 1
        assert (await home.log.wait(SessionEnded)).reason == "the relay stopped"
        assert not [*log.of(VisitorRefused), *home.log.of(VisitorRefused)]
        assert relay.visitors_port == home.relay.visitors_port


@pytest.mark.parametrize(
    "road", [{}, {"transport": "quic", "data": "session"}, {"transport": "h2", "data": "session"}], ids=str
)
async def test_a_visitor_of_the_old_relay_finishes_there(tmp_path: Path, road: dict[str, Any]) -> None:
    """Also where his bytes come as datagrams, which the new relay reads and passes on."""
    gate = Gate()
    async with house(tmp_path) as home:
        agent, agent_log = await home.expose(gate.serve, **road)
        hostname = f"{agent.key.key_id}.localhost"
        visitor = await home.visit(hostname)
        await gate.entered.wait()
        await take_over(home)
        await agent_log.wait(Connected, 2)
        assert not home.log.of(SessionEnded)
        gate.opened.set()
        assert await read_to_end(visitor) == b"inout"
        await home.log.wait(SessionEnded)


async def test_relays_can_follow_one_another_faster_than_agents_do(tmp_path: Path) -> None:
    """Whoever is held at the second is not lost to the third: the second gives its place away when nobody waits."""
    async with house(tmp_path) as home:
        agent, _ = await home.expose(greet)
        hostname = f"{agent.key.key_id}.localhost"
        answers: list[bytes] = []

        async def come() -> None:
            answers.append(await home.ask(hostname))

        async with trio.open_nursery() as visitors:
            for _ in range(3):
                for _ in range(5):
                    visitors.start_soon(come)
                await take_over(home)
            for _ in range(5):
                visitors.start_soon(come)
        assert answers == [hostname.encode()] * 20


async def test_a_name_that_nobody_has_is_refused_once_the_hold_is_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "TAKEOVER_HOLD", 0.2)
    async with house(tmp_path) as home:
        relay, log = await take_over(home)
        with pytest.raises(trunnel.ConnectError):
            await visit(relay.visitors_port, "nobody.localhost")
        assert (await log.wait(VisitorRefused)).verdict == "unknown-name"


# --- the new one does not come to serve ------------------------------------------------------------


async def goes_on(home: House, hostname: str) -> bool:
    """Whether the house's relay serves, and can be taken over."""
    assert await home.ask(hostname) == hostname.encode()
    relay, log = await take_over(home)
    return not relay.is_draining and bool(log.of(TakenOver))


async def test_one_with_other_ports_does_not_start_and_the_old_one_goes_on(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        agent, _ = await home.expose(greet)
        settings = msgspec.structs.replace(home.settings, takeover=True, alpn_port=0)
        with pytest.raises(trunnel.ConfigError, match="without --takeover"):
            await trunnel.serve_relay(settings)
        assert await goes_on(home, f"{agent.key.key_id}.localhost")


async def test_one_that_fails_while_it_starts_leaves_everything_to_the_old_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(*_: object) -> None:
        raise trunnel.ConfigError("relay", "no workers today")

    async with house(tmp_path) as home:
        agent, _ = await home.expose(greet)
        with monkeypatch.context() as broke:
            broke.setattr(server, "open_workers", broken)
            with pytest.raises(trunnel.ConfigError, match="no workers today"):
                await trunnel.serve_relay(msgspec.structs.replace(home.settings, takeover=True))
        assert await goes_on(home, f"{agent.key.key_id}.localhost")
    assert "the new relay did not start: relay: no workers today" in [
        record.__dict__.get("reason") for record in caplog.records
    ]


async def test_one_that_is_stopped_when_it_has_been_offered_everything_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with house(tmp_path) as home:
        agent, _ = await home.expose(greet)
        reached = trio.Event()

        async def hang(*_: object) -> None:
            reached.set()
            await trio.sleep_forever()

        with monkeypatch.context() as slow:
            slow.setattr(binding.Binding, "begin", hang)
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trunnel.serve_relay, msgspec.structs.replace(home.settings, takeover=True))
                await reached.wait()
                nursery.cancel_scope.cancel()
        assert await goes_on(home, f"{agent.key.key_id}.localhost")


async def test_without_a_relay_to_take_over_it_starts_as_ever(tmp_path: Path) -> None:
    async with house(tmp_path, takeover=True) as home:
        agent, _ = await home.expose(greet)
        assert await home.ask(f"{agent.key.key_id}.localhost")
        assert not home.log.of(TakenOver)
    assert not (tmp_path / "relay" / NAME).exists()


# --- what both have in common: the state folder ----------------------------------------------------


async def test_whoever_was_let_in_while_the_new_relay_loads_is_let_in_by_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By an invitation at the old one, or by hand: the list is read once more before the place is taken."""
    listed = tmp_path / "agents"
    listed.touch(mode=0o600)
    key = IdentityKey.load_or_create(tmp_path / "default" / "default.key").key_id

    def authorize_meanwhile(count: int | None) -> AbstractAsyncContextManager[Workers]:
        listed.write_text(f"{key} app\n")
        return open_workers(count)

    async with house(tmp_path, authorized_agents=listed) as home:
        with monkeypatch.context() as meanwhile:
            meanwhile.setattr(server, "open_workers", authorize_meanwhile)
            relay, log = await take_over(home)
        agent, _ = await home.expose(greet, name="app")
        assert await home.ask("app.localhost") == b"app.localhost"
        assert agent.key.key_id == key
        assert not log.of(AgentRefused)
        assert relay.relay_id == home.relay.relay_id


async def test_an_invitation_is_used_once_by_both_relays_together(tmp_path: Path) -> None:
    """The old one has used it; the new one lets the same agent in, and nobody else."""
    folder = tmp_path / "relay"
    folder.mkdir(mode=0o700)
    (folder / "agents").touch()
    async with house(tmp_path, authorized_agents=folder / "agents") as home:
        join = invite(home)
        options: dict[str, Any] = {"join": join.to_text(), "relay_pin": join.relay, "servers": (join.server,)}
        agent, agent_log = await home.expose(greet, **options)
        _, log = await take_over(home)
        await agent_log.wait(Connected, 2)
        assert await home.ask(f"{agent.key.key_id}.localhost")
        with pytest.raises(trunnel.Rejected) as caught:
            await run_agent(greet, home.agent_settings("thief", **options))
        assert caught.value.code is RejectCode.INVITATION
        assert len(log.of(AgentRefused)) == 1


async def test_what_the_old_relay_has_permitted_counts_at_the_new_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Even what it permits while the new one loads: both write into one file, and nothing twice."""
    kept: list[Issuances] = []

    def note(path: Path, per_week: int) -> Issuances:
        kept.append(Issuances(path, per_week))
        return kept[-1]

    monkeypatch.setattr(server, "Issuances", note)
    name = Hostname("a.example.com")
    async with house(tmp_path, issuances_per_week=1) as home:

        def permit_meanwhile(count: int | None) -> AbstractAsyncContextManager[Workers]:
            asked = control.MayIssue(id=1, names=[name.value])
            assert kept[0].may_issue(KeyId("a" * 52), asked, allowed=[name]).wait == 0
            return open_workers(count)

        monkeypatch.setattr(server, "open_workers", permit_meanwhile)
        await take_over(home)
        old, new = kept
        path = home.settings.state_dir / "issuances.json"
        await until(lambda: new._ledger.entries)
        for relay in (old, new):
            asked = control.MayIssue(id=2, names=[name.value])
            assert relay.may_issue(KeyId("b" * 52), asked, allowed=[name]).wait > 0
        assert len(msgspec.json.decode(path.read_bytes())) == 1
