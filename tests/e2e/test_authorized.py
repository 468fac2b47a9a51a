"""Who may connect: the relay's list, the commands that edit it, and a running relay that notices."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.e2e.origins import greet, serve_web
from tests.e2e.programs import Programs, Relay, Site
from tests.e2e.visitors import curl, s_client


@pytest.fixture
def listed(tmp_path: Path) -> Path:
    """An empty list of agents."""
    path = tmp_path / "authorized"
    path.touch()
    return path


async def serve(programs: Programs, listed: Path) -> Relay:
    """Start a relay with that list."""
    return await programs.serve("--authorized-agents", str(listed))


async def test_a_refused_agent_and_the_relay_print_the_line_that_lets_it_in(
    programs: Programs, nursery: trio.Nursery, listed: Path
) -> None:
    relay = await serve(programs, listed)
    port = await serve_web(nursery, greet)
    refused = await programs.start_agent(port, relay)
    assert await refused.ended() == 4
    assert (await refused.event("rejected"))["code"] == "unauthorized"
    line = (await relay.program.event("agent_refused"))["authorize"]
    assert line.startswith("trunnel authorize ")
    assert line in "\n".join(refused.log), "the agent's words"
    await relay.program.logged(line)

    await programs.run(*line.split()[1:], "--authorized-agents", str(listed))
    agent = await programs.expose(port, relay)
    assert await curl(agent.site) == "GET / on 1\n"


async def test_a_name_that_is_added_is_announced_and_reached_and_a_revoked_agent_ends(
    programs: Programs, nursery: trio.Nursery, listed: Path
) -> None:
    """All while both programs run: `authorize --name` gives a second address, `revoke` ends the session."""
    state = ["--state-dir", str(programs.folder / "agent")]
    agent_id = (await programs.run("id", *state)).strip()
    where = ["--authorized-agents", str(listed)]
    await programs.run("authorize", agent_id, *where)
    relay = await serve(programs, listed)
    agent = await programs.expose(await serve_web(nursery, greet), relay)
    assert await curl(agent.site) == "GET / on 1\n"
    early = Site("shop.localhost", relay.port, "", "")
    assert b"unrecognized name" in (await s_client(early)).stderr

    await programs.run("authorize", agent_id, "--name", "shop", *where)
    shop = Site.of(await agent.program.event("ready", hostname="shop.localhost"))
    assert await curl(shop) == "GET / on 2\n"
    assert await curl(agent.site) == "GET / on 3\n"

    await programs.run("revoke", agent_id, *where)
    assert await agent.program.ended() == 4
    assert (await agent.program.event("rejected"))["code"] == "revoked"
    await relay.program.event("session_closed", agent_id=agent_id)
    assert b"unrecognized name" in (await s_client(shop)).stderr


async def test_a_relay_beyond_loopback_is_told_who_may_connect_or_does_not_start(
    programs: Programs, listed: Path
) -> None:
    """An empty list is an answer, no list is none."""
    beyond = ["--bind-addr", "0.0.0.0", "--api-port", "0", "--pub-port", "0"]
    refused = await programs.start("serve", *beyond, "--state-dir", str(programs.folder / "refused"))
    assert await refused.ended() == 2
    said = "\n".join(refused.log)
    assert "refusing to listen beyond this machine (0.0.0.0)" in said
    for way in ("trunnel authorize ID", "--authorized-agents FILE", "--open"):
        assert way in said
    assert not [record for record in refused.events if record["event"] == "listening"]

    relay = await programs.serve(*beyond, "--authorized-agents", str(listed))
    assert relay.port
