"""Invitations: one string from the relay's machine lets one agent in, named and pinned, once."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import trio

from tests.e2e.origins import greet, serve_web
from tests.e2e.programs import Agent, Program, Programs, Site
from tests.e2e.visitors import curl, s_client
from trunnel.settings.invitation import JoinString

Made = dict[str, Any]
"""What `trunnel invite --json` printed."""


@pytest.fixture
def relay_dir(programs: Programs) -> Path:
    """The relay's state folder, with a list of agents that is empty."""
    folder = programs.folder / "relay"
    folder.mkdir(mode=0o700)
    (folder / "authorized").touch()
    return folder


async def invite(programs: Programs, *flags: str) -> Made:
    made: Made = json.loads(
        await programs.run("invite", *flags, "--json", "--state-dir", str(programs.folder / "relay"))
    )
    return made


async def join(programs: Programs, port: int, string: str, *flags: str, state: str = "agent") -> Program:
    return await programs.start(
        "expose", str(port), "--join", string, "--state-dir", str(programs.folder / state), *flags
    )


async def joined(program: Program) -> Agent:
    ready = await program.event("ready")
    return Agent(program, Site.of(ready), ready["agent_id"])


async def refused_for(program: Program) -> str:
    """Return why the relay refused the invitation for good."""
    assert await program.ended() == 4
    rejected = await program.event("rejected")
    assert rejected["code"] == "invitation"
    assert rejected["retry_in"] is None
    return str(rejected["reason"])


async def test_an_agent_joins_once_and_is_at_home_ever_after(
    programs: Programs, nursery: trio.Nursery, relay_dir: Path
) -> None:
    relay = await programs.serve()
    port = await serve_web(nursery, greet)
    made = await invite(programs, "--name", "shop", "--label", "Ada's laptop")
    secret = JoinString.parse(made["join"]).secret
    assert made["relay_id"] == relay.relay_id
    assert made["server"] == relay.server

    agent = await joined(await join(programs, port, made["join"]))
    assert agent.site.hostname == "shop.localhost"
    assert await curl(agent.site) == "GET / on 1\n"
    authorized = await relay.program.event("agent_authorized", agent_id=agent.agent_id)
    assert (authorized["names"], authorized["label"]) == (["shop"], "Ada's laptop")
    assert authorized["invitation"] == made["invitation"]
    assert f"{agent.agent_id} shop  # Ada's laptop" in (relay_dir / "authorized").read_text()
    await agent.program.event("notice", code="joined")
    assert await agent.program.stop() == 0

    again = await joined(await programs.start("expose", str(port), "--state-dir", str(programs.folder / "agent")))
    assert await curl(again.site) == "GET / on 2\n"
    assert again.site.hostname == "shop.localhost"
    assert again.agent_id == agent.agent_id
    assert await again.program.stop() == 0

    with_the_string = await joined(await join(programs, port, made["join"]))
    assert await curl(with_the_string.site) == "GET / on 3\n"
    for program in programs.started:
        said = "\n".join([*map(json.dumps, program.events), *program.log])
        assert secret not in said
        assert made["join"] not in said


async def test_another_key_does_not_get_in_with_a_used_invitation(
    programs: Programs, nursery: trio.Nursery, relay_dir: Path
) -> None:
    relay = await programs.serve()
    port = await serve_web(nursery, greet)
    made = await invite(programs)
    agent = await joined(await join(programs, port, made["join"]))
    reason = await refused_for(await join(programs, port, made["join"], state="thief"))
    assert f"used by another agent, {agent.agent_id[:8]}" in reason
    refused = await relay.program.event("agent_refused")
    assert refused["code"] == "invitation"
    assert await curl(agent.site) == "GET / on 1\n"

    listed = await programs.run("revoke", agent.agent_id, "--state-dir", str(relay_dir))
    assert "may no longer connect" in listed
    assert await agent.program.ended() == 4
    reason = await refused_for(await join(programs, port, made["join"]))
    assert "taken off the relay's list" in reason


async def test_an_invitation_that_ended_or_was_taken_back_lets_nobody_in(
    programs: Programs, nursery: trio.Nursery, relay_dir: Path
) -> None:
    state = ["--state-dir", str(relay_dir)]
    await programs.serve()
    port = await serve_web(nursery, greet)
    ended = await invite(programs, "--expires", "10ms")
    assert "ended on" in await refused_for(await join(programs, port, ended["join"]))

    revoked = await invite(programs, "--name", "shop")
    pending = [json.loads(line) for line in (await programs.run("agents", "--json", *state)).splitlines()]
    shown = {name: revoked[name] for name in ("invitation", "names", "label", "expires")}
    assert pending == [shown]
    await programs.run("revoke", revoked["invitation"], *state)
    assert await programs.run("agents", "--json", *state) == ""
    assert "does not know" in await refused_for(await join(programs, port, revoked["join"]))


async def test_the_secret_goes_to_the_relay_with_the_right_key_alone(
    programs: Programs, nursery: trio.Nursery, relay_dir: Path
) -> None:
    """Exit 3, and the other relay has not heard a word."""
    other = await programs.serve("--state-dir", str(programs.folder / "other"))
    port = await serve_web(nursery, greet)
    made = await invite(programs, "--address", other.server)
    agent = await join(programs, port, made["join"])
    assert await agent.ended() == 3
    assert not (relay_dir / "authorized").read_text()
    await other.program.stop()
    kinds = {record["event"] for record in other.program.events}
    assert not kinds & {"agent_refused", "session_opened", "agent_authorized"}
    assert not (programs.folder / "agent" / "joined").exists()


async def test_a_name_that_somebody_has_meanwhile_is_refused_and_the_invitation_stays(
    programs: Programs, nursery: trio.Nursery, relay_dir: Path
) -> None:
    state = ["--state-dir", str(relay_dir)]
    relay = await programs.serve()
    port = await serve_web(nursery, greet)
    made = await invite(programs, "--name", "shop")
    agent_id = (await programs.run("id", "--state-dir", str(programs.folder / "first"))).strip()
    await programs.run("authorize", agent_id, "--name", "shop", *state)
    await programs.expose(port, relay, "--name", "shop", state="first")
    assert "the name shop" in await refused_for(await join(programs, port, made["join"]))
    assert made["invitation"] in await programs.run("agents", *state)


async def test_at_a_relay_that_lets_everybody_in_an_invitation_gives_names_at_once(
    programs: Programs, nursery: trio.Nursery
) -> None:
    relay = await programs.serve("--open")
    port = await serve_web(nursery, greet)
    made = await invite(programs, "--name", "shop")
    agent = await joined(await join(programs, port, made["join"]))
    assert agent.site.hostname == "shop.localhost"
    assert await curl(agent.site) == "GET / on 1\n"
    other = await programs.expose(port, relay, state="other")
    assert other.site.hostname == f"{other.agent_id}.localhost"

    own = f"{agent.agent_id}.localhost"
    await agent.program.event("ready", hostname=own)
    await programs.run("revoke", agent.agent_id, "--state-dir", str(programs.folder / "relay"))
    await agent.program.event("ready", hostname=own)  # said again, now that it is all there is
    assert b"unrecognized name" in (await s_client(agent.site)).stderr
