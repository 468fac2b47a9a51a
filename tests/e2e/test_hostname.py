"""Names of the agents' own (`--hostname`): served where DNS leads to the agent, and else lost with a reason."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio
from dns.rcode import SERVFAIL

from tests.acme.pebble import pebble
from tests.e2e.origins import greet, serve_web
from tests.e2e.programs import Agent, Programs, Record, Relay, Site
from tests.e2e.visitors import curl, s_client
from tests.relay.dnsserver import DnsServer, dns_server, saying

NAME = "shop.example.org"
SUFFIX = "t.example"
REFUSED = b"unrecognized name"
"""What OpenSSL makes of the relay's alert."""


async def serve(programs: Programs, dns: DnsServer, *flags: str) -> Relay:
    return await programs.serve("--open", "--domain-suffix", SUFFIX, "--dns-server", str(dns.address), *flags)


async def agent_id(programs: Programs, state: str = "agent") -> str:
    return (await programs.run("id", "--state-dir", str(programs.folder / state))).strip()


async def expose(programs: Programs, port: int, relay: Relay, *flags: str, state: str = "agent") -> Agent:
    """Start an agent that asks for NAME; it has its address under the suffix at once."""
    return await programs.expose(port, relay, "--hostname", NAME, "--verify-every", "0", *flags, state=state)


async def site_of(agent: Agent) -> Site:
    """Wait until visitors can come for NAME."""
    return Site.of(await agent.program.event("ready", hostname=NAME))


async def refused(agent: Agent) -> Record:
    """Return what an agent says once it is refused NAME."""
    return await agent.program.event("name_refused", hostname=NAME)


async def knock(site: Site) -> bytes:
    """Come as an authority does; returns what openssl says of it."""
    untrusting = Site(site.hostname, site.port, site.url, certificate="")
    return (await s_client(untrusting, "-alpn", "acme-tls/1")).stderr


@pytest.mark.parametrize("kind", ["CNAME", "TXT"])
async def test_a_name_that_dns_leads_to_the_agent_is_served(
    programs: Programs, nursery: trio.Nursery, kind: str
) -> None:
    async with dns_server() as dns:
        relay = await serve(programs, dns)
        if kind == "CNAME":
            dns.lead(NAME, f"{await agent_id(programs)}.{SUFFIX}")
        else:
            dns.note(NAME, await agent_id(programs))
        agent = await expose(programs, await serve_web(nursery, greet), relay)
        site = await site_of(agent)
        assert site.url == f"https://{NAME}:{relay.port}"
        assert await curl(site) == "GET / on 1\n"
        assert agent.site.hostname == f"{agent.agent_id}.{SUFFIX}"
        assert await curl(agent.site) == "GET / on 2\n"


async def test_a_person_is_told_the_record_and_it_helps(programs: Programs, nursery: trio.Nursery) -> None:
    async with dns_server() as dns:
        relay = await serve(programs, dns)
        agent = await expose(programs, await serve_web(nursery, greet), relay)
        reason = (await refused(agent))["reason"]
        assert "it has no CNAME record and no TXT record" in reason
        assert f'set {NAME} CNAME {agent.agent_id}.{SUFFIX} or _trunnel.{NAME} TXT "{agent.agent_id}"' in reason
        dns.lead(NAME, f"{agent.agent_id}.{SUFFIX}")
        assert await curl(await site_of(agent)) == "GET / on 1\n"


async def test_a_name_that_is_led_elsewhere_is_lost_with_a_reason(programs: Programs, nursery: trio.Nursery) -> None:
    """The next challenge finds out; the agent's address under the suffix stays."""
    async with dns_server() as dns:
        relay = await serve(programs, dns)
        dns.lead(NAME, f"{await agent_id(programs)}.{SUFFIX}")
        agent = await expose(programs, await serve_web(nursery, greet), relay)
        site = await site_of(agent)
        assert await curl(site) == "GET / on 1\n"

        dns.lead(NAME, "elsewhere.example")
        assert REFUSED in await knock(site)
        assert (await relay.program.event("visitor_refused"))["verdict"] == "name-not-proven"
        reason = (await refused(agent))["reason"]
        assert reason.startswith("its CNAME record leads to elsewhere.example and no TXT record")
        assert REFUSED in (await s_client(site)).stderr
        assert await curl(agent.site) == "GET / on 2\n"


async def test_a_name_goes_to_the_agent_that_dns_names_now(programs: Programs, nursery: trio.Nursery) -> None:
    async with dns_server() as dns:
        relay = await serve(programs, dns)
        port = await serve_web(nursery, greet)
        dns.lead(NAME, f"{await agent_id(programs)}.{SUFFIX}")
        first = await expose(programs, port, relay)
        await site_of(first)

        dns.lead(NAME, f"{await agent_id(programs, 'other')}.{SUFFIX}")
        second = await expose(programs, port, relay, state="other")
        site = await site_of(second)
        assert await curl(site) == "GET / on 1\n", "with the other agent's certificate"
        assert second.agent_id in (await refused(first))["reason"]


async def test_while_dns_is_silent_visitors_are_served_and_challenges_are_not(
    programs: Programs, nursery: trio.Nursery
) -> None:
    async with dns_server() as dns:
        relay = await serve(programs, dns)
        dns.lead(NAME, f"{await agent_id(programs)}.{SUFFIX}")
        agent = await expose(programs, await serve_web(nursery, greet), relay)
        site = await site_of(agent)
        dns.behaviour = saying(SERVFAIL)
        assert REFUSED in await knock(site)
        assert (await relay.program.event("visitor_refused"))["verdict"] == "name-not-proven"
        assert await curl(site) == "GET / on 1\n"
        assert not [event for event in agent.program.events if event["event"] == "name_refused"]


@pytest.mark.skipif("sys.platform != 'linux'", reason="sockets are handed over on Linux")
async def test_a_relay_that_takes_over_asks_dns_again_and_visitors_wait(
    programs: Programs, nursery: trio.Nursery
) -> None:
    """It knows of no claim; that DNS is silent for a moment then costs nobody a visitor."""
    async with dns_server() as dns:
        relay = await serve(programs, dns)
        dns.lead(NAME, f"{await agent_id(programs)}.{SUFFIX}")
        agent = await expose(programs, await serve_web(nursery, greet), relay)
        site = await site_of(agent)
        dns.behaviour = saying(SERVFAIL)
        ports = ("--api-port", relay.server.rpartition(":")[2], "--pub-port", str(relay.port))
        taking = await serve(programs, dns, *ports, "--takeover")
        assert (await taking.program.event("taken_over"))["pid"] == relay.program.pid
        assert "SERVFAIL" in (await refused(agent))["reason"]
        async with trio.open_nursery() as visiting:
            visiting.start_soon(curl, site)
            dns.behaviour = None
        assert await relay.program.ended() == 0


async def test_an_authority_issues_for_the_name_and_curl_trusts_it(
    programs: Programs, nursery: trio.Nursery, tmp_path: Path
) -> None:
    async with dns_server() as dns:
        relay = await serve(programs, dns)
        async with pebble(challenge_port=relay.port, sleep=False) as authority:
            dns.lead(NAME, f"{await agent_id(programs)}.{SUFFIX}")
            agent = await expose(
                programs,
                await serve_web(nursery, greet),
                relay,
                *("--acme-directory", authority.directory, "--acme-ca", str(authority.ca)),
            )
            site = await site_of(agent)
            while NAME not in (await agent.program.event("certificate", state="issued"))["hostnames"]:
                pass
            root = tmp_path / "root.pem"
            root.write_bytes(await authority.root())
            assert await curl(Site(site.hostname, site.port, site.url, str(root))) == "GET / on 1\n"
