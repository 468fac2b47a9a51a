"""An agent finds its relay, waits for it, or says what to do: events, exit codes and hints."""

from __future__ import annotations

import pytest
import trio

from tests.e2e.origins import bound_socket, greet, port_of, serve_web
from tests.e2e.programs import Programs, Site
from tests.e2e.visitors import curl
from trunnel.identity.keys import IdentityKey
from trunnel.settings.agent import LOOPBACK_RELAY


async def answers(port: int) -> bool:
    """Whether something listens on *port* of this machine."""
    try:
        stream = await trio.open_tcp_stream("localhost", port)
    except OSError:
        return False
    await stream.aclose()
    return True


async def test_an_agent_with_a_named_relay_retries_and_says_so_until_it_is_there(
    programs: Programs, nursery: trio.Nursery
) -> None:
    with bound_socket() as held:
        server = f"127.0.0.1:{port_of(held)}"
        agent = await programs.start_agent(await serve_web(nursery, greet), server)
        for attempt in (1, 2):
            connecting = await agent.event("connecting")
            assert (connecting["relay"], connecting["attempt"]) == (server, attempt)
            failed = await agent.event("disconnected")
            assert failed["retry_in"] >= 0
            assert server in failed["reason"]
    await programs.serve("--api-port", str(server.rpartition(":")[2]), "--pub-port", "0")
    ready = await agent.event("ready")
    assert await curl(Site.of(ready)) == "GET / on 1\n"


@pytest.mark.may_skip("where a relay runs on the default port")
async def test_an_agent_without_a_named_relay_gives_up_soon_and_says_what_to_do(programs: Programs) -> None:
    if await answers(LOOPBACK_RELAY.port):
        pytest.skip(f"something answers on port {LOOPBACK_RELAY.port} of this machine")
    agent = await programs.start("expose", "9", "--state-dir", str(programs.folder / "agent"))
    assert await agent.ended() == 1
    said = "\n".join(agent.log)
    assert "no relay answers on localhost:4433" in said
    for hint in ("trunnel serve", "--server HOST", "trunnel serve --help"):
        assert hint in said
    assert agent.events[-1]["exit_code"] == 1


async def test_a_relay_with_another_key_than_the_pin_is_refused(programs: Programs) -> None:
    relay = await programs.serve()
    agent = await programs.start_agent(9, relay, "--relay-pin", IdentityKey.generate().key_id.value)
    assert await agent.ended() == 3
    said = "\n".join(agent.log)
    assert relay.relay_id in said, "the key that the relay has"
    assert "--relay-pin" in said, "what to do"
    assert not [record for record in relay.program.events if record["event"] == "session_opened"]


async def test_a_relay_that_changed_its_key_is_refused(programs: Programs, nursery: trio.Nursery) -> None:
    """What was trusted on first use is remembered by key: a new key on the same address is exit 3."""
    relay = await programs.serve()
    port = await serve_web(nursery, greet)
    agent = await programs.expose(port, relay)
    assert await agent.program.stop() == 0
    assert await relay.program.stop() == 0
    await trio.Path(programs.folder / "relay" / "relay.key").unlink()
    ports = ["--api-port", relay.server.rpartition(":")[2], "--pub-port", "0"]
    changed = await programs.serve(*ports)
    assert changed.relay_id != relay.relay_id

    again = await programs.start_agent(port, changed)
    assert await again.ended() == 3
    assert changed.relay_id in "\n".join(again.log)


async def test_a_key_in_use_is_refused_with_its_holder_and_the_way_out(
    programs: Programs, nursery: trio.Nursery
) -> None:
    relay = await programs.serve()
    port = await serve_web(nursery, greet)
    first = await programs.expose(port, relay)
    second = await programs.start_agent(port, relay)
    assert await second.ended() == 4
    said = "\n".join(second.log)
    assert str(first.program.pid) in said
    assert str(port) in said, "what the holder exposes"
    assert "--key-name" in said

    beside = await programs.expose(port, relay, "--key-name", "second")
    assert beside.agent_id != first.agent_id
    assert await curl(first.site) == "GET / on 1\n"
    assert await curl(beside.site) == "GET / on 2\n"
