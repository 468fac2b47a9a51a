"""One port for agents and visitors (`--port`), and what whoever knocks wrongly is told."""

from __future__ import annotations

import trio

from tests.e2e.origins import greet, serve_web
from tests.e2e.programs import Programs, Site, run_command
from tests.e2e.visitors import LOOPBACK, curl, s_client
from tests.peers import require_program


async def test_agents_and_visitors_share_one_port(programs: Programs, nursery: trio.Nursery) -> None:
    relay = await programs.serve("--port", "0")
    assert relay.server == f"{LOOPBACK}:{relay.port}"
    agent = await programs.expose(await serve_web(nursery, greet), relay)
    assert agent.site.port == relay.port
    assert await curl(agent.site) == "GET / on 1\n"


async def test_what_does_not_route_is_told_why_in_its_own_language(programs: Programs) -> None:
    """HTTP without TLS: a 400.  A name that nobody has, or none: the TLS alert unrecognized_name."""
    relay = await programs.serve("--port", "0")
    plain = await run_command(
        require_program("curl"), "--silent", "--include", "--noproxy", "*", f"http://{LOOPBACK}:{relay.port}/"
    )
    assert plain.stdout.startswith(b"HTTP/1.1 400 ")
    assert (await relay.program.event("visitor_refused"))["verdict"] == "not-tls"

    unknown = await s_client(Site("nobody.localhost", relay.port, "", ""))
    assert unknown.returncode != 0
    assert b"unrecognized name" in unknown.stderr
    assert (await relay.program.event("visitor_refused"))["verdict"] == "unknown-name"

    nameless = await run_command(
        require_program("openssl"), "s_client", "-connect", relay.server, "-noservername", check=False
    )
    assert b"unrecognized name" in nameless.stderr
    assert (await relay.program.event("visitor_refused"))["verdict"] == "no-sni"
