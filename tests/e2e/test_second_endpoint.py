"""Two endpoints of one process: two keys, ids and certificates, one origin or two; neither depends on the other."""

from __future__ import annotations

from pathlib import Path

import trio
from cryptography import x509

from tests.e2e.origins import Exchange, greet, serve_web
from tests.e2e.programs import Program, Programs, Site
from tests.e2e.visitors import curl
from trunnel.identity.keys import IdentityKey

PRIMARY, SECONDARY = "0badcafe", "00ff10"


async def greet_otherwise(exchange: Exchange) -> None:
    """Answer what only the second origin answers."""
    await exchange.read_body(len)
    await exchange.answer(f"{exchange.method} {exchange.path} at the other origin\n".encode())


async def both(program: Program) -> dict[str, Site]:
    """Wait until visitors can come to both endpoints; returns their addresses by the agent's id."""
    found = [await program.event("ready") for _ in range(2)]
    return {ready["agent_id"]: Site.of(ready) for ready in found}


def make_keys(folder: Path) -> dict[str, str]:
    """Make the files of both keys; returns the flags that name them, by id, the first one's first."""
    flags = ("--primary-key", "--secondary-key")
    paths = [folder / f"{flag.strip('-')}.pem" for flag in flags]
    return {
        IdentityKey.load_or_create(path).key_id.value: f"{flag}={path}" for flag, path in zip(flags, paths, strict=True)
    }


def names_in(path: str) -> list[str]:
    """Return the names in a certificate that nobody but its own key has signed."""
    certificate = x509.load_pem_x509_certificate(Path(path).read_bytes())
    certificate.verify_directly_issued_by(certificate)
    names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    return names.get_values_for_type(x509.DNSName)


async def test_each_endpoint_has_its_own_id_certificate_extension_and_origin(
    programs: Programs, nursery: trio.Nursery
) -> None:
    relay = await programs.serve()
    port, other_port = await serve_web(nursery, greet), await serve_web(nursery, greet_otherwise)
    keys = make_keys(programs.folder)
    first, second = keys
    agent = await programs.start_agent(
        port,
        relay,
        *keys.values(),
        f"--secondary-local={other_port}",
        f"--primary-cert-extension-hex={PRIMARY}",
        f"--secondary-cert-extension-hex={SECONDARY}",
    )
    sites = await both(agent)
    assert set(sites) == {first, second}
    assert await curl(sites[first]) == "GET / on 1\n"
    assert await curl(sites[second], path="/a") == "GET /a at the other origin\n"
    assert await curl(sites[first]) == "GET / on 2\n"

    for agent_id, target, extension in ((first, port, PRIMARY), (second, other_port, SECONDARY)):
        starting = await agent.event("starting", agent_id=agent_id)
        assert str(target) in starting["target"]
        connected = await agent.event("connected", agent_id=agent_id)
        opened = await relay.program.event("session_opened", agent_id=agent_id)
        assert opened["extension"] == extension
        assert opened["session"] == connected["session"]
        assert agent_id in await agent.logged(f"ID: {agent_id}")
        assert names_in(sites[agent_id].certificate) == [sites[agent_id].hostname]
    assert sites[first].certificate != sites[second].certificate

    assert await agent.stop() == 0
    for agent_id in keys:
        await relay.program.event("session_closed", agent_id=agent_id, reason="the agent stopped")
    assert [record["event"] for record in agent.events if record["event"] in ("stopping", "stopped")] == [
        "stopping",
        "stopped",
    ]


async def test_without_an_origin_of_its_own_the_second_endpoint_has_the_firsts(
    programs: Programs, nursery: trio.Nursery
) -> None:
    """Its key is made where the flag says."""
    relay = await programs.serve()
    port, path = await serve_web(nursery, greet), programs.folder / "keys" / "second.key"
    agent = await programs.start_agent(port, relay, "--secondary-key", str(path))
    sites = await both(agent)
    assert IdentityKey.load(path).key_id.value in sites
    assert {await curl(site) for site in sites.values()} == {"GET / on 1\n", "GET / on 2\n"}


async def test_an_endpoint_that_is_refused_for_good_leaves_the_other_alone(
    programs: Programs, nursery: trio.Nursery
) -> None:
    """The first one here: the second one serves, is told of, and stops in order."""
    keys = make_keys(programs.folder)
    first, second = keys
    listed = programs.folder / "agents"
    listed.write_text(f"{second} shop\n")
    relay = await programs.serve("--authorized-agents", str(listed))
    port = await serve_web(nursery, greet)
    agent = await programs.start_agent(port, relay, *keys.values(), f"--primary-cert-extension-hex={PRIMARY}")
    rejected = await agent.event("rejected", agent_id=first)
    assert (rejected["code"], rejected["retry_in"]) == ("unauthorized", None)
    refused = await relay.program.event("agent_refused", agent_id=first)
    assert refused["extension"] == PRIMARY
    told = await agent.event("notice", code="endpoint-ended")
    assert f"the first endpoint ({first[:8]}) has ended" in told["text"]
    ready = await agent.event("ready", agent_id=second)
    assert await curl(Site.of(ready)) == "GET / on 1\n"
    assert agent.status is None


async def test_one_key_for_both_is_an_error_that_says_so(programs: Programs, nursery: trio.Nursery) -> None:
    """At once: no relay is dialled."""
    path = programs.folder / "one.key"
    agent = await programs.start_agent(3000, "127.0.0.1:9", "--primary-key", str(path), "--secondary-key", str(path))
    assert await agent.ended() == 2
    (line,) = [line for line in agent.log if "is the key of the first endpoint" in line]
    assert "--secondary-key" in line
    assert not [record for record in agent.events if record["event"] == "connecting"]
