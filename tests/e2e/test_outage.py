"""Visitors on data connections do not notice that the agent's session has lost its way to the relay."""

from __future__ import annotations

import pytest
import trio

from tests.e2e.downloads import HALF, PausingOrigin
from tests.e2e.forwarder import Forwarder
from tests.e2e.origins import serve_web
from tests.e2e.programs import Programs, Site
from tests.e2e.visitors import get, open_visit, read_to_end

VISITORS = 200


async def begin(site: Site) -> trio.SSLStream[trio.SocketStream]:
    """Begin a download and return once its first half is there."""
    visit = await open_visit(site)
    await visit.send_all(get(site))
    received = b""
    while not received.endswith(HALF):
        chunk = await visit.receive_some()
        assert chunk, "the answer ended early"
        received += chunk
    return visit


@pytest.mark.slow  # a carrier on which nothing is heard is lost after 20 s
async def test_two_hundred_visitors_live_through_the_loss_and_the_return_of_the_only_carrier(
    programs: Programs, nursery: trio.Nursery
) -> None:
    """QUIC vanishes and comes back; their data connections are TCP, and the session is the same one."""
    origin = PausingOrigin()
    relay = await programs.serve()
    way = Forwarder(int(relay.server.rpartition(":")[2]))
    port = await nursery.start(way.run)
    program = await programs.start_agent(
        await serve_web(nursery, origin.serve), f"127.0.0.1:{port}", "--transport", "quic"
    )
    ready = await program.event("ready", data_path="direct")
    session = (await program.event("connected"))["session"]
    visits = [await begin(Site.of(ready)) for _ in range(VISITORS)]

    way.passes_udp = False
    await relay.program.event("carrier_lost", session=session, carriers=0)
    await program.event("disconnected")
    way.passes_udp = True
    assert (await program.event("connected"))["session"] == session

    origin.go_on.set()
    for visit in visits:
        assert await read_to_end(visit) == HALF
        await visit.aclose()
    for each in (program, relay.program):
        for _ in range(VISITORS):
            closed = await each.event("stream_closed", data_path="direct")
            assert (closed["visitor_end"], closed["origin_end"]) == ("fin", "fin")
    assert await program.stop() == 0  # as long as the way is open
