"""Names of an agent's own, through a running relay and agent, with a DNS server of the tests' own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest
import trio
from cryptography import x509

from tests.acme.pebble import pebble
from tests.relay import dnsserver
from tests.relay.dnsserver import DnsServer, dns_server
from tests.relay.house import offering
from tests.relay.papers import Authority, put_pair
from tests.tunnels import PATIENCE, House, Log, greet, house, knock, until
from trunnel.agent.exposure import Exposure
from trunnel.events import Certificate, NameRefused, Ready, VisitorRefused
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.wire.alert import AlertDescription, plaintext_alert

NAME = Hostname("www.shop.example")
REFUSED = plaintext_alert(AlertDescription.UNRECOGNIZED_NAME)


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "CLAIM_RETRY_BASE", 0.05)
    monkeypatch.setattr(limits, "CLAIM_RETRY_CAP", 0.05)
    monkeypatch.setattr(limits, "DNS_TRY_TIMEOUT", 0.2)
    monkeypatch.setattr(limits, "CLAIM_PERIOD", 0.01)
    monkeypatch.setattr(limits, "CHALLENGE_PROOF_REUSED", 0.0)
    monkeypatch.setattr(limits, "CHALLENGE_DOUBT_REUSED", 0.0)


@asynccontextmanager
async def street(folder: Path, **options: object) -> AsyncIterator[tuple[House, DnsServer]]:
    """A relay under `t.example` that asks our DNS server."""
    async with (
        dns_server() as dns,
        house(folder, domain_suffixes=(Hostname("t.example"),), dns_servers=(dns.address,), **options) as home,
    ):
        yield home, dns


async def known_as(log: Log, name: Hostname = NAME) -> Ready:
    """Wait until an agent says that visitors can come for *name*."""
    with trio.fail_after(PATIENCE):
        while True:
            for event in log.of(Ready):
                if event.hostname == name.value:
                    return event
            await log.wait(Ready, len(log.of(Ready)) + 1)


class Host:
    """An origin that notes who came, and answers each byte."""

    def __init__(self) -> None:
        self.visitors = 0

    async def serve(self, stream: trio.abc.HalfCloseableStream, visitor: object) -> None:
        self.visitors += 1
        while chunk := await stream.receive_some():
            await stream.send_all(chunk)


async def challenge(home: House, name: Hostname = NAME) -> bytes:
    """Knock as an authority does, and return what is said first."""
    stream = await trio.open_tcp_stream("127.0.0.1", home.relay.visitors_port)
    async with stream:
        with trio.fail_after(2 * PATIENCE):
            await stream.send_all(offering(b"acme-tls/1", name=name.value.encode()))
            return bytes(await stream.receive_some())


async def owner(home: House, host: Host, key: str = "owner") -> tuple[Exposure, Log]:
    return await home.expose(host.serve, key, tls_passthrough=True, hostnames=(NAME,))


async def test_visitors_of_a_proven_name_are_served_and_it_is_an_address_like_others(tmp_path: Path) -> None:
    async with street(tmp_path) as (home, dns):
        agent, log = await home.expose(greet, hostnames=(NAME,))
        dns.lead(NAME.value, f"{agent.key.key_id}.t.example")
        ready = await known_as(log)
        assert ready.url == f"https://{NAME}:{home.relay.visitors_port}"
        assert await home.ask(NAME.value) == NAME.value.encode()
        visitor = await home.visit(NAME.value)
        async with visitor:
            san = visitor.peer_certificates[0].extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        assert NAME.value in san.get_values_for_type(x509.DNSName)


async def test_a_person_is_told_once_which_record_to_set(tmp_path: Path) -> None:
    async with street(tmp_path) as (home, dns):
        agent, log = await home.expose(greet, hostnames=(NAME, Hostname("app.t.example")))
        for count in (1, 2):
            await log.wait(NameRefused, count)
        told = {event.hostname: event.reason for event in log.of(NameRefused)}
        assert (
            f'set {NAME} CNAME {agent.key.key_id}.t.example or _trunnel.{NAME} TXT "{agent.key.key_id}"'
            in told[NAME.value]
        )
        assert "given by its operator" in told["app.t.example"]
        await until(lambda: len(dns.asked) >= 12)
        supervisor = agent.supervisors[0]
        assert supervisor.attachment is not None
        supervisor.attachment.link.abort("cut")
        dns.note(NAME.value, agent.key.key_id.value)
        await known_as(log)
        assert len(log.of(NameRefused)) == 2, "the same refusals by the next session are no news"


async def test_a_challenge_needs_dns_at_that_moment_and_visitors_do_not(tmp_path: Path) -> None:
    host = Host()
    async with street(tmp_path) as (home, dns):
        agent, log = await owner(home, host)
        dns.note(NAME.value, agent.key.key_id.value)
        await known_as(log)
        assert await challenge(home) == offering(b"acme-tls/1", name=NAME.value.encode())
        assert host.visitors == 1
        dns.behaviour = dnsserver.silent
        assert await challenge(home) == REFUSED
        assert await knock_once(home) == b"visitor"
        dns.behaviour = None
        dns.forget(NAME.value)
        assert await challenge(home) == REFUSED
        assert [event.verdict for event in home.log.of(VisitorRefused)] == ["name-not-proven"] * 2
        assert host.visitors == 2
        assert await knock(home.relay.visitors_port, offering(b"http/1.1", name=NAME.value.encode())) == REFUSED


async def knock_once(home: House) -> bytes:
    """Visit, and say whether what is said comes back."""
    opening = offering(b"http/1.1", name=NAME.value.encode())
    stream = await trio.open_tcp_stream("127.0.0.1", home.relay.visitors_port)
    async with stream:
        await stream.send_all(opening)
        return b"visitor" if await stream.receive_some() == opening else b""


async def test_the_name_goes_over_when_dns_does(tmp_path: Path) -> None:
    first, second = Host(), Host()
    async with street(tmp_path) as (home, dns):
        one, log = await owner(home, first, "one")
        dns.note(NAME.value, one.key.key_id.value)
        await known_as(log)
        two, other_log = await owner(home, second, "two")
        await other_log.wait(NameRefused)
        await challenge(home)
        dns.note(NAME.value, two.key.key_id.value)
        await known_as(other_log)
        await challenge(home)
        assert (first.visitors, second.visitors) == (1, 1)
        assert "names the agent" in (await log.wait(NameRefused)).reason


async def test_a_name_that_the_relays_certificate_takes_is_the_agents_no_more(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "CERTIFICATE_POLL", 0.05)
    authority, host = Authority(), Host()
    async with street(tmp_path, **put_pair(tmp_path, authority.issue("bought.example"))) as (home, dns):
        agent, log = await owner(home, host)
        dns.note(NAME.value, agent.key.key_id.value)
        await known_as(log)
        refusals = len(log.of(NameRefused))
        put_pair(tmp_path, authority.issue("bought.example", NAME.value))
        assert "the relay's own name" in (await log.wait(NameRefused, refusals + 1)).reason
        assert host.visitors == 0


async def test_a_relay_can_refuse_them_all(tmp_path: Path) -> None:
    async with street(tmp_path, own_names=False) as (home, dns):
        _, log = await home.expose(greet, hostnames=(NAME,))
        assert "takes no names" in (await log.wait(NameRefused)).reason
        assert dns.asked == []


async def test_a_relay_without_dns_has_no_own_names_and_everything_else(tmp_path: Path) -> None:
    async with street(tmp_path) as (home, dns):
        dns.behaviour = dnsserver.silent
        agent, log = await home.expose(greet, hostnames=(NAME,))
        assert await home.ask(f"{agent.key.key_id}.t.example")
        assert "no answer" in (await log.wait(NameRefused)).reason


@pytest.mark.timeout(60)
async def test_an_authority_issues_for_a_name_of_the_agents_own(tmp_path: Path) -> None:
    async with (
        street(tmp_path) as (home, dns),
        pebble(challenge_port=home.relay.visitors_port, sleep=False) as authority,
    ):
        agent, log = await home.expose(
            greet, hostnames=(NAME,), acme_directory=authority.directory, acme_ca=authority.ca
        )
        dns.lead(NAME.value, f"{agent.key.key_id}.t.example")
        with trio.fail_after(40):
            while not any(e.state == "issued" and NAME.value in e.hostnames for e in log.of(Certificate)):
                await log.wait(Certificate, len(log.of(Certificate)) + 1)
        visitor = await home.visit(NAME.value)
        async with visitor:
            assert "Pebble" in visitor.peer_certificates[0].issuer.rfc4514_string()
