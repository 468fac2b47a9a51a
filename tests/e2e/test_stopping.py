"""How the programs stop: the first signal lets visitors finish, the second ends them, a kill is survived."""

from __future__ import annotations

import signal

import pytest
import trio

from tests.e2e.origins import Exchange, greet, serve_web
from tests.e2e.programs import PATIENCE, Agent, Program, Programs, Relay
from tests.e2e.visitors import LOOPBACK, curl, get, open_visit, read_to_end

BODY = b"first half, " + b"second half"


class SlowOrigin:
    """Sends half of an answer, and the other half when it is told to."""

    def __init__(self) -> None:
        self.go_on = trio.Event()

    async def serve(self, exchange: Exchange) -> None:
        """Answer one request, slowly."""
        await exchange.begin(length=len(BODY))
        await exchange.send(BODY[:12])
        await self.go_on.wait()
        await exchange.send(BODY[12:])


@pytest.fixture
def origin() -> SlowOrigin:
    """An origin that waits amid its answer."""
    return SlowOrigin()


async def start(programs: Programs, nursery: trio.Nursery, origin: SlowOrigin) -> tuple[Relay, Agent]:
    """Start a relay and an agent before *origin*."""
    relay = await programs.serve()
    return relay, await programs.expose(await serve_web(nursery, origin.serve), relay)


async def open_download(agent: Agent) -> trio.SSLStream[trio.SocketStream]:
    """Begin a download and return once its first half is there."""
    visit = await open_visit(agent.site)
    await visit.send_all(get(agent.site))
    received = b""
    while not received.endswith(BODY[:12]):
        chunk = await visit.receive_some()
        assert chunk, "the answer ended early"
        received += chunk
    return visit


def chosen(who: str, relay: Relay, agent: Agent) -> tuple[Program, str]:
    """Return the program and the event by which it says that it drains."""
    return (relay.program, "draining") if who == "relay" else (agent.program, "stopping")


@pytest.mark.parametrize("who", ["relay", "agent"])
async def test_the_first_signal_lets_a_slow_download_finish(
    programs: Programs, nursery: trio.Nursery, origin: SlowOrigin, who: str
) -> None:
    """It does not end while the download runs, takes nobody new, and exits with 0 once it is complete."""
    relay, agent = await start(programs, nursery, origin)
    program, draining = chosen(who, relay, agent)
    with trio.fail_after(PATIENCE):
        visit = await open_download(agent)
        program.process.send_signal(signal.SIGTERM)
        await program.event(draining)
        if who == "relay":
            with pytest.raises(OSError, match="all attempts"):
                await trio.open_tcp_stream(LOOPBACK, relay.port)
        assert program.status is None
        assert not [record for record in program.events if record["event"] == "stream_closed"]
        origin.go_on.set()
        assert await read_to_end(visit) == BODY[12:]
        await visit.aclose()
    assert await program.ended() == 0
    closed = await program.event("stream_closed")
    assert closed["visitor_end"] == closed["origin_end"] == "fin"
    assert program.events[-1]["event"] == "stopped"
    assert program.events[-1]["exit_code"] == 0


@pytest.mark.parametrize(("who", "number", "status"), [("relay", signal.SIGTERM, 143), ("agent", signal.SIGINT, 130)])
async def test_the_second_signal_ends_the_program_at_once(
    programs: Programs, nursery: trio.Nursery, origin: SlowOrigin, who: str, number: signal.Signals, status: int
) -> None:
    """The download never ends; the visitor sees it cut, not complete."""
    relay, agent = await start(programs, nursery, origin)
    program, draining = chosen(who, relay, agent)
    with trio.fail_after(PATIENCE):
        visit = await open_download(agent)
        program.process.send_signal(number)
        await program.event(draining)
        program.process.send_signal(number)
        assert await program.ended() == status
        assert program.events[-1]["exit_code"] == status
        with pytest.raises(trio.BrokenResourceError):
            await read_to_end(visit)
        await trio.aclose_forcefully(visit)


async def test_an_agent_returns_to_a_relay_that_was_killed_and_started_again(
    programs: Programs, nursery: trio.Nursery
) -> None:
    """`kill -9`, then the same port and key: the same address works again, nothing else restarted."""
    relay = await programs.serve()
    agent = await programs.expose(await serve_web(nursery, greet), relay)
    assert await curl(agent.site) == "GET / on 1\n"

    relay.program.process.kill()
    assert await relay.program.ended() == -signal.SIGKILL
    lost = await agent.program.event("disconnected")
    assert lost["retry_in"] is not None

    ports = ["--api-port", relay.server.rpartition(":")[2], "--pub-port", str(relay.port)]
    await programs.serve(*ports)
    again = await agent.program.event("ready")
    assert again["url"] == agent.site.url
    assert await curl(agent.site) == "GET / on 2\n"


async def test_a_relay_forgets_an_agent_that_was_killed_and_welcomes_its_next_life(
    programs: Programs, nursery: trio.Nursery
) -> None:
    """The lock of a killed agent's key does not outlive it, nor does its session the next one's beginning."""
    relay = await programs.serve()
    port = await serve_web(nursery, greet)
    agent = await programs.expose(port, relay, "--transport", "h2")  # the kernel says goodbye for TCP alone
    agent.program.process.kill()
    assert await agent.program.ended() == -signal.SIGKILL
    await relay.program.event("carrier_lost", agent_id=agent.agent_id, carriers=0)

    again = await programs.expose(port, relay)
    ended = await relay.program.event("session_closed", agent_id=agent.agent_id)
    assert ended["reason"].startswith("replaced: ")
    assert again.site == agent.site
    assert await curl(again.site) == "GET / on 1\n"
