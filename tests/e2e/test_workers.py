"""Visitors in the hands of worker processes: served, ended with them, outlived by them, never left behind."""

from __future__ import annotations

import os
import signal
from typing import Literal

import pytest
import trio
import trustme

from tests.e2e.downloads import PausingOrigin, begin_download
from tests.e2e.origins import greet, serve_stream, serve_web
from tests.e2e.programs import PATIENCE, Agent, Program, Programs, Relay
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


async def start(
    programs: Programs, nursery: trio.Nursery, origin: PausingOrigin, *flags: str
) -> tuple[Relay, Agent]:
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


async def test_tls_that_is_passed_through_is_moved_by_workers_too(programs: Programs, nursery: trio.Nursery) -> None:
    """The visitor meets the origin's own certificate; the agent's worker has two plain sockets."""
    origin = PausingOrigin()
