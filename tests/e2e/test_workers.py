"""Visitors in the hands of worker processes: served, ended with them, outlived by them, never left behind."""

from __future__ import annotations

import os
import signal
import ssl
from pathlib import Path
from typing import Literal

import pytest
import trio
import trustme

from tests.e2e.downloads import HALF, PausingOrigin, begin_download
from tests.e2e.origins import greet, serve_stream, serve_web
from tests.e2e.programs import Agent, Program, Programs, Relay
from tests.e2e.visitors import curl
from tests.e2e.workers import gone, hired, sockets_of, workers_of
from tests.tunnels import until
from trunnel import capabilities

pytestmark = [
    pytest.mark.skipif(not capabilities.HAS_PUMP, reason="no splice on this system"),
    pytest.mark.may_skip("Linux only"),
]

Who = Literal["relay", "agent"]
of_either = pytest.mark.parametrize("who", ["relay", "agent"])
needs_two_workers = pytest.mark.skipif(
    capabilities.HAS_PUMP and len(os.sched_getaffinity(0)) < 2, reason="a worker a core, and there is one core"
)


@pytest.fixture
def origin() -> PausingOrigin:
    """An origin that waits amid its answers."""
    return PausingOrigin()


async def start(programs: Programs, nursery: trio.Nursery, origin: PausingOrigin, *flags: str) -> tuple[Relay, Agent]:
    """Start a relay and an agent before *origin*; all their workers work."""
    relay = await programs.serve()
    agent = await programs.expose(await serve_web(nursery, origin.serve), relay, *flags)
    for program in (relay.program, agent.program):
        await hired(program)
    return relay, agent


def chosen(who: Who, relay: Relay, agent: Agent) -> Program:
    """Return one of the two programs."""
    return relay.program if who == "relay" else agent.program


async def busy_workers(program: Program) -> list[int]:
    """Return the workers of *program* that have a visitor."""
    await until(lambda: any(map(sockets_of, workers_of(program))))
    return [pid for pid in workers_of(program) if sockets_of(pid)]


# --- the road by default ------------------------------------------------------------------------------


async def test_by_default_a_visitor_comes_on_a_data_connection_and_workers_move_it(
    programs: Programs, nursery: trio.Nursery, origin: PausingOrigin
) -> None:
    """In both programs one worker has both sockets; in the agent it ends the TLS, too."""
    relay, agent = await start(programs, nursery, origin)
    assert (await agent.program.event("data_path"))["path"] == "direct"
    download = await begin_download(agent, nursery)
    for program in (relay.program, agent.program):
        (worker,) = await busy_workers(program)
        assert sockets_of(worker) == 2
    origin.go_on.set()
    await download.succeeds()
    stream = (await agent.program.event("stream_closed", data_path="direct"))["stream"]
    closed = await relay.program.event("stream_closed", stream=stream, data_path="direct")
    assert (closed["visitor_end"], closed["origin_end"]) == ("fin", "fin")


async def test_tls_that_is_passed_through_is_moved_by_workers_too(
    programs: Programs, nursery: trio.Nursery, tmp_path: Path
) -> None:
    """The visitor meets the origin's own certificate, and the agent's worker has two plain sockets."""
    authority, go_on = trustme.CA(), trio.Event()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)

    async def serve_tls(stream: trio.abc.HalfCloseableStream) -> None:
        tls = trio.SSLStream(stream, context, server_side=True)
        await tls.receive_some()
        await tls.send_all(
            b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\nConnection: close\r\n\r\n%s" % (2 * len(HALF), HALF)
        )
        await go_on.wait()
        await tls.send_all(HALF)
        await tls.aclose()

    relay = await programs.serve()
    agent = await programs.expose(await serve_stream(nursery, serve_tls), relay, "--tls-passthrough")
    await hired(agent.program)
    authority.issue_cert(agent.site.hostname, common_name="the origin").configure_cert(context)
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    download = await begin_download(agent, nursery, "--cacert", tmp_path / "ca.pem")
    (worker,) = await busy_workers(agent.program)
    assert sockets_of(worker) == 2
    go_on.set()
    await download.succeeds()
    for program in (relay.program, agent.program):
        await program.event("stream_closed", data_path="direct")  # how is between curl and the origin


async def test_inside_the_session_the_agent_has_no_workers(programs: Programs, nursery: trio.Nursery) -> None:
    relay = await programs.serve()
    agent = await programs.expose(await serve_web(nursery, greet), relay, "--data", "session")
    assert await curl(agent.site) == "GET / on 1\n"
    assert workers_of(agent.program) == []
    await agent.program.event("stream_closed", data_path="session")


# --- a worker that dies -------------------------------------------------------------------------------


@needs_two_workers
@of_either
async def test_a_worker_that_is_killed_takes_its_own_visitors_along_and_no_others(
    programs: Programs, nursery: trio.Nursery, origin: PausingOrigin, who: Who
) -> None:
    """They are cut off, not ended; it is replaced, and nobody else notices."""
    relay, agent = await start(programs, nursery, origin)
    program = chosen(who, relay, agent)
    first = await begin_download(agent, nursery)
    (victim,) = await busy_workers(program)
    second = await begin_download(agent, nursery)
    await until(lambda: len([pid for pid in workers_of(program) if sockets_of(pid)]) == 2)

    os.kill(victim, signal.SIGKILL)
    await first.is_cut_off()
    for each in (relay.program, agent.program):
        await each.event("stream_closed", data_path="direct")
    assert victim not in await hired(program, without=[victim])
    third = await begin_download(agent, nursery)
    origin.go_on.set()
    await second.succeeds()
    await third.succeeds()
    assert "pump_worker_died" in "".join(program.log)


@of_either
async def test_with_all_workers_killed_visitors_are_served_at_once(
    programs: Programs, nursery: trio.Nursery, who: Who
) -> None:
    """By the program itself, until there are new ones."""
    relay = await programs.serve()
    agent = await programs.expose(await serve_web(nursery, greet), relay)
    program = chosen(who, relay, agent)
    before = await hired(program)
    for pid in before:
        os.kill(pid, signal.SIGKILL)
    await gone(before)
    assert await curl(agent.site) == "GET / on 1\n"
    await hired(program, without=before)
    assert await curl(agent.site) == "GET / on 2\n"


# --- the end --------------------------------------------------------------------------------------------


@of_either
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM], ids=["Ctrl-C", "SIGTERM"])
async def test_a_signal_to_the_whole_process_group_lets_visitors_finish(
    programs: Programs, nursery: trio.Nursery, origin: PausingOrigin, who: Who, number: signal.Signals
) -> None:
    """A terminal signals all processes, and so does a service manager: workers leave it to their supervisor."""
    relay, agent = await start(programs, nursery, origin)
    program = chosen(who, relay, agent)
    workers = workers_of(program)
    download = await begin_download(agent, nursery)
    said_before = len(program.log)
    os.killpg(program.pid, number)
    await program.event("draining" if who == "relay" else "stopping")
    assert workers_of(program) == workers
    origin.go_on.set()
    await download.succeeds()
    assert await program.ended() == 0
    await gone(workers)
    said = program.log[said_before:]
    assert [line for line in said if "draining" not in line and "session_closed" not in line] == []


@of_either
async def test_the_workers_of_a_program_that_is_killed_end_and_reset_their_visitors(
    programs: Programs, nursery: trio.Nursery, origin: PausingOrigin, who: Who
) -> None:
    """`kill -9` of the program itself: nobody is left to tell them, but their channel ends."""
    relay, agent = await start(programs, nursery, origin, "--transport", "h2")  # a dead relay is noticed at once
    program = chosen(who, relay, agent)
    workers = workers_of(program)
    download = await begin_download(agent, nursery)
    program.process.kill()
    await download.is_cut_off()
    await gone(workers)
    assert await program.ended() == -signal.SIGKILL
