"""Agents that come with an invitation to a running relay."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import pytest
import trio

import trunnel
from tests.tunnels import House, Log, greet, house, until
from trunnel.agent.runner import run_agent
from trunnel.clock import utc_now
from trunnel.errors import RejectCode, Rejected
from trunnel.events import AgentAuthorized, AgentRefused, Notice, Ready, RejectedByRelay
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname, KeyId, ServerAddress
from trunnel.relay.authorized import authorize, load_authorized
from trunnel.relay.invitations import Invitations
from trunnel.settings.invitation import JoinString
from trunnel.settings.limits import AUTHORIZED_NAMES_MAX

WRONG = "x" * 43


@pytest.fixture
async def closed(tmp_path: Path) -> AsyncIterator[House]:
    """A relay with an empty list."""
    folder = tmp_path / "relay"
    folder.mkdir(mode=0o700)
    (folder / "agents").touch()
    async with house(tmp_path, authorized_agents=folder / "agents") as built:
        yield built


def invite(house: House, *names: str, secret: str | None = None) -> JoinString:
    """Make an invitation; with *secret*, one that the relay does not know."""
    ends = utc_now().replace(microsecond=0) + timedelta(hours=1)
    wanted = tuple(map(Hostname, names))
    if secret is None:
        invitations = Invitations(house.settings.invitations_path)
        secret = invitations.create(names=wanted, label="", expires=ends, now=utc_now())[1]
    server = ServerAddress("localhost", house.relay.agents_port)
    return JoinString(server=server, relay=house.relay.relay_id, secret=secret, expires=ends, names=wanted)


def joining(house: House, join: JoinString, key: str = "default") -> trunnel.AgentSettings:
    return house.agent_settings(key, join=join.to_text(), relay_pin=join.relay, servers=(join.server,))


@asynccontextmanager
async def attempt(settings: trunnel.AgentSettings) -> AsyncIterator[Log]:
    """Run an agent while the body runs, whatever becomes of it."""
    log = Log()

    async def run() -> None:
        with suppress(Rejected):
            await run_agent(greet, settings, on_event=log)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(run)
        yield log
        nursery.cancel_scope.cancel()


async def come(house: House, join: JoinString, key: str = "default") -> str:
    """Run an agent that is refused; returns its id."""
    settings = joining(house, join, key)
    with pytest.raises(Rejected) as refused, trio.fail_after(10):
        await run_agent(greet, settings)
    assert refused.value.code is RejectCode.INVITATION
    return IdentityKey.load(settings.key_path).key_id.value


def list_of(house: House) -> set[KeyId]:
    return set(load_authorized(house.settings.authorized_path).agents)


async def test_an_agent_is_admitted_in_the_same_conversation(closed: House) -> None:
    join = invite(closed, "shop")
    agent, log = await closed.expose(
        greet, join=join.to_text(), relay_pin=join.relay, servers=(join.server,), name="shop"
    )
    assert await closed.ask("shop.localhost") == b"shop.localhost"
    assert list_of(closed) == {agent.key.key_id}
    (authorized,) = closed.log.of(AgentAuthorized)
    assert (authorized.agent_id, authorized.names) == (agent.key.key_id.value, ("shop",))
    assert not closed.log.of(AgentRefused)
    notice = await log.wait(Notice)
    assert "no --join" in notice.text
    for event in (*closed.log.events, *log.events):
        assert join.secret not in repr(event)


async def test_a_wrong_secret_is_refused_for_good_whoever_the_relay_lets_in(closed: House, tmp_path: Path) -> None:
    """Who comes with an invitation wants what it promises: at an open relay a stranger's address is not that."""
    agent_id = await come(closed, invite(closed, secret=WRONG))
    assert closed.log.of(AgentRefused)[-1].agent_id == agent_id
    async with house(tmp_path / "second", open=True) as open_house:
        await come(open_house, invite(open_house, secret=WRONG), "other")


async def test_a_key_on_the_list_needs_no_invitation_and_none_keeps_it_out(tmp_path: Path) -> None:
    listed = tmp_path / "agents"
    key = IdentityKey.load_or_create(tmp_path / "default" / "default.key")
    authorize(listed, key.key_id)
    async with house(tmp_path, authorized_agents=listed) as built:
        async with attempt(joining(built, invite(built, secret=WRONG))) as log:
            await log.wait(Ready)
        assert not built.log.of(AgentAuthorized)
        assert not log.of(RejectedByRelay)


async def test_of_agents_that_come_together_one_is_let_in(closed: House) -> None:
    join = invite(closed, "shop")
    async with AsyncExitStack() as stack:
        logs = [await stack.enter_async_context(attempt(joining(closed, join, f"agent{n}"))) for n in range(4)]
        await closed.log.wait(AgentRefused, 3)
        await until(lambda: any(log.of(Ready) for log in logs))
        assert await closed.ask("shop.localhost") == b"shop.localhost"
    assert len(list_of(closed)) == 1
    assert len(closed.log.of(AgentAuthorized)) == 1


async def test_while_the_file_cannot_be_used_the_agent_tries_again(closed: House) -> None:
    """It is the relay's trouble, not the invitation's."""
    join = invite(closed)
    path = closed.settings.invitations_path
    content = path.read_bytes()
    path.write_bytes(b"{")
    async with attempt(joining(closed, join)) as log:
        rejected = await log.wait(RejectedByRelay)
        assert rejected.code == "overloaded"
        assert rejected.retry_in is not None
        assert str(path) not in rejected.reason
    path.write_bytes(content)
    await closed.expose(greet, join=join.to_text(), relay_pin=join.relay, servers=(join.server,))


async def test_an_agent_that_was_revoked_does_not_come_back_with_its_invitation(closed: House) -> None:
    join = invite(closed)
    settings = joining(closed, join)
    async with attempt(settings) as log:
        await log.wait(Ready)
        closed.settings.authorized_path.write_text("")
        assert (await log.wait(RejectedByRelay)).code == "revoked"
    await come(closed, join)
    assert not list_of(closed)


async def test_an_agent_with_more_names_than_fit_is_told_so(closed: House) -> None:
    """And its invitation waits for the operator to make room."""
    settings = joining(closed, invite(closed, "one-more"))
    key = IdentityKey.load_or_create(settings.key_path)
    full = [Hostname(f"name{number}") for number in range(AUTHORIZED_NAMES_MAX)]
    authorize(closed.settings.authorized_path, key.key_id, names=full)
    async with attempt(settings) as log:
        await log.wait(Ready)
    assert load_authorized(closed.settings.authorized_path).agents[key.key_id].names == tuple(full)
