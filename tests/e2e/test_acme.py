"""Certificates as a person gets them: whole programs, pebble with its bad nonces and random waits, curl and openssl."""

from __future__ import annotations

import socket
import ssl
from collections.abc import AsyncIterator
from dataclasses import dataclass, replace
from pathlib import Path

import pytest
import trio

from tests.acme.ari_server import ari_server
from tests.acme.pebble import Pebble, pebble
from tests.e2e.origins import greet, serve_web
from tests.e2e.programs import Agent, Programs, Relay, Site
from tests.e2e.visitors import curl, get, s_client

OWN = "relay.example"
"""The relay's own name."""
SUFFIX = "t.example"
GREETING = "GET / on"
HALF = 50
"""Percentage of nonces that pebble refuses."""


@dataclass
class Stage:
    """An authority that validates at one port, and what runs there."""

    programs: Programs
    authority: Pebble
    port: int
    """The relay's single one."""
    root: Path
    """What the authority issues under."""

    @property
    def asking(self) -> tuple[str, ...]:
        """The options that name the authority."""
        return ("--acme-directory", self.authority.directory, "--acme-ca", str(self.authority.ca))

    async def serve(self) -> Relay:
        """Start the relay, which asks for a certificate of its own."""
        flags = ("--port", str(self.port), "--domain-suffix", SUFFIX, "--acme-domain", OWN)
        return await self.programs.serve(*flags, *self.asking)

    async def expose(self, target: object, relay: Relay) -> Agent:
        """Start an agent that asks, too; returns once visitors can come."""
        return await self.programs.expose(target, relay, *self.asking)

    def site(self, hostname: str) -> Site:
        """Return an address at which only the authority's root is trusted."""
        return Site(hostname, self.port, f"https://{hostname}:{self.port}", str(self.root))


def free_port() -> int:
    """Return a port that is free at this moment: the authority is told of it before the relay listens."""
    with socket.socket() as held:
        held.bind(("127.0.0.1", 0))
        return int(held.getsockname()[1])


@pytest.fixture
async def stage(programs: Programs, tmp_path: Path) -> AsyncIterator[Stage]:
    """An authority as it is met in the worst case: half of all nonces refused, and random waits."""
    port = free_port()
    async with pebble(challenge_port=port, nonce_reject=HALF) as authority:
        root = tmp_path / "root.pem"
        root.write_bytes(await authority.root())
        yield Stage(programs, authority, port, root)
        await programs.stop_all()


async def shown(site: Site) -> str:
    """Return the PEM of the certificate that visitors of *site* are shown, whoever signed it."""
    return await trio.to_thread.run_sync(lambda: _shown(site))


def _shown(site: Site) -> str:
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    with (
        socket.create_connection(("127.0.0.1", site.port)) as raw,
        context.wrap_socket(raw, server_hostname=site.hostname) as tls,
    ):
        return ssl.DER_cert_to_PEM_cert(tls.getpeercert(binary_form=True) or b"")


async def test_relay_and_agent_are_trusted_by_whoever_trusts_the_authority(stage: Stage, nursery: trio.Nursery) -> None:
    """First issuance at both ends through one port; after a restart of both the same certificates, at once."""
    own = stage.site(OWN)
    relay = await stage.serve()
    await relay.program.event("certificate", state="issued")
    assert await curl(own, path="/healthz") == "ok\n"
    target = await serve_web(nursery, greet)
    agent = await stage.expose(target, relay)
    site = stage.site(agent.site.hostname)
    await agent.program.event("certificate", state="issued", hostnames=[site.hostname])
    assert (await curl(site)).startswith(GREETING)
    verified = await s_client(site, request=get(site))
    assert b"Verify return code: 0 (ok)" in verified.stdout
    before = [await shown(own), await shown(site)]

    assert await agent.program.stop() == 0
    assert await relay.program.stop() == 0
    relay = await stage.serve()
    assert await shown(own) == before[0], "the stored one is there before the first visitor"
    agent = await stage.expose(target, relay)
    assert [await shown(own), await shown(site)] == before
    assert (await curl(site)).startswith(GREETING)
    for program in (relay.program, agent.program):
        assert not [each for each in program.events if each["event"] == "certificate" and each["state"] == "issued"]


async def test_an_authority_that_is_away_takes_nothing_down(programs: Programs, nursery: trio.Nursery) -> None:
    """Visitors are served with the self-signed certificate; the failure is told with when it is tried again."""
    relay = await programs.serve()
    nowhere = f"https://127.0.0.1:{free_port()}/directory"
    agent = await programs.expose(await serve_web(nursery, greet), relay, "--acme-directory", nowhere)
    failed = await agent.program.event("certificate", state="failed")
    assert "cannot be reached" in failed["reason"]
    assert failed["retry_in"] > 0
    assert await curl(agent.site)


async def test_records_name_the_account_that_orders(programs: Programs, tmp_path: Path) -> None:
    """`trunnel caa`: RFC 8657's accounturi is the account's own URL, and the account stays the same."""
    async with ari_server() as authority:
        authority_flags = ("--acme-directory", authority.directory, "--acme-ca", str(authority.ca))
        words = ("caa", "www.a.example", *authority_flags, "--state-dir", str(tmp_path / "agent"))
        first, again = await programs.run(*words), await programs.run(*words)
    url = authority.directory.replace("/directory", "/account/1")
    assert first.splitlines()[0] == (
        f'www.a.example. IN CAA 128 issue "tests.example; accounturi={url}; validationmethods=tls-alpn-01"'
    )
    assert again == first


async def test_the_agents_own_certificate_is_not_the_authoritys(stage: Stage, nursery: trio.Nursery) -> None:
    """So what trusts the authority alone proves something in these tests."""
    agent = await stage.programs.expose(await serve_web(nursery, greet), await stage.serve())
    site = stage.site(agent.site.hostname)
    assert b"Verify return code: 0 (ok)" not in (await s_client(site, request=get(site))).stdout
    assert await curl(replace(site, certificate=agent.site.certificate))
