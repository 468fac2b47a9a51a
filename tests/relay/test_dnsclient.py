"""Asking a DNS server that is honest, mistaken or hostile: its answer, or none, within bounds."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import dns.message
import dns.rcode
import pytest
import trio
from hypothesis import given
from hypothesis import strategies as st

from tests.relay import dnsserver
from tests.relay.dnsserver import DnsServer, dns_server
from trunnel.errors import ConnectError
from trunnel.names import Hostname, KeyId, ServerAddress
from trunnel.relay.dnsclient import DnsClient, _system_servers, answer_untrusted
from trunnel.relay.dnsproof import Denied, Proof, Proven, prove
from trunnel.settings import limits

A = KeyId.of_spki(b"a")
SUFFIX = Hostname("t.example")
NAME = Hostname("www.shop.example")
PATIENCE = 10


@pytest.fixture(autouse=True)
def quick(monkeypatch: pytest.MonkeyPatch) -> None:
    """Silence is told from an answer in a tenth of the time."""
    monkeypatch.setattr(limits, "DNS_TRY_TIMEOUT", 0.15)


def client(*servers: DnsServer) -> DnsClient:
    return DnsClient([server.address for server in servers])


async def proof(server: DnsServer) -> Proof:
    with trio.fail_after(PATIENCE):
        return await prove(NAME, A, suffixes=[SUFFIX], dns=client(server))


async def test_records_are_read_as_they_stand() -> None:
    async with dns_server() as server:
        server.lead(NAME.value, "Target.Example")
        server.note(NAME.value, "one", "two", "x" * 400)
        asked = client(server)
        assert await asked.cname(NAME) == Hostname("target.example")
        assert sorted(await asked.texts(NAME.under("_trunnel"))) == [b"one", b"two", b"x" * 400]
        assert server.asked == [f"{NAME} CNAME", f"_trunnel.{NAME} TXT"]


async def test_that_there_is_no_record_is_an_answer() -> None:
    """NXDOMAIN, and a name that has other records (RFC 2308 §2)."""
    async with dns_server() as server:
        assert await client(server).cname(NAME) is None
        assert await client(server).texts(NAME) == ()
        server.texts[NAME.value] = ["something"]
        assert await client(server).cname(NAME) is None


async def test_a_text_is_found_behind_a_cname() -> None:
    """Whoever owns the name may keep its texts elsewhere; the resolver follows."""
    async with dns_server() as server:
        server.lead(f"_trunnel.{NAME}", "texts.example")
        server.texts["texts.example"] = [A.value]
        assert await proof(server) == Proven("txt")


@pytest.mark.parametrize("target", ["*.example", "a\\032b.example", "a\\000.example"])
async def test_a_cname_to_what_is_no_host_name_leads_nowhere(target: str) -> None:
    async with dns_server() as server:
        server.lead(NAME.value, target)
        assert await client(server).cname(NAME) is None


@pytest.mark.parametrize(
    "behaviour",
    [
        dnsserver.silent,
        dnsserver.with_other_ids,
        dnsserver.to_another_question,
        dnsserver.garbage,
        dnsserver.flooding,
        dnsserver.always_cut_short,
        dnsserver.trickling,
        dnsserver.huge,
        dnsserver.saying(dns.rcode.SERVFAIL),
        dnsserver.saying(dns.rcode.REFUSED),
        dnsserver.saying(dns.rcode.FORMERR),
        dnsserver.saying(dns.rcode.NOTIMP),
    ],
)
async def test_what_is_no_answer_neither_proves_nor_denies(behaviour: dnsserver.Behaviour) -> None:
    """Although the records are there, and in most of what is sent."""
    async with dns_server() as server:
        server.lead(NAME.value, f"{A}.{SUFFIX}")
        server.note(NAME.value, A.value)
        server.behaviour = behaviour
        verdict = await proof(server)
        assert isinstance(verdict, Denied)
        assert verdict.transient
        server.behaviour = None
        assert isinstance(await proof(server), Proven)


async def test_an_answer_that_contradicts_itself_is_none() -> None:
    async with dns_server() as server:
        server.note(NAME.value, A.value)
        server.behaviour = dnsserver.of_two_minds
        with pytest.raises(ConnectError, match="contradicts itself"):
            await client(server).texts(NAME.under("_trunnel"))


async def test_only_the_record_that_was_asked_for_counts() -> None:
    """Not what is sent along, in whatever section."""
    async with dns_server() as server:
        server.lead(NAME.value, f"{A}.{SUFFIX}")
        server.behaviour = dnsserver.beside_the_point
        verdict = await proof(server)
        assert isinstance(verdict, Denied)
        assert not verdict.transient


async def test_an_answer_too_long_for_udp_comes_over_tcp() -> None:
    async with dns_server() as server:
        server.lead(NAME.value, f"{A}.{SUFFIX}")
        server.behaviour = dnsserver.cut_short
        assert await client(server).cname(NAME) == Hostname(f"{A}.{SUFFIX}")
        assert server.asked == [f"{NAME} CNAME", f"{NAME} CNAME tcp"]


async def test_a_loop_of_texts_ends() -> None:
    async with dns_server() as server:
        server.lead(f"_trunnel.{NAME}", "b.example")
        server.lead("b.example", f"_trunnel.{NAME}")
        with pytest.raises(ConnectError, match="contradicts itself"):
            await client(server).texts(NAME.under("_trunnel"))


async def test_of_many_texts_some_are_looked_at() -> None:
    async with dns_server() as server:
        server.note(NAME.value, *(f"{number}" for number in range(100)))
        assert len(await client(server).texts(NAME.under("_trunnel"))) == limits.DNS_TEXTS_MAX


async def test_where_one_server_fails_the_next_is_asked() -> None:
    async with dns_server() as first, dns_server() as second:
        first.behaviour = dnsserver.saying(dns.rcode.SERVFAIL)
        second.lead(NAME.value, "target.example")
        assert await client(first, second).cname(NAME) == Hostname("target.example")
        first.behaviour = dnsserver.silent
        assert await client(first, second).cname(NAME) == Hostname("target.example")
        assert len(first.asked) == 2


async def test_a_server_that_is_not_there_is_no_answer() -> None:
    async with dns_server() as server:
        address = server.address
    with pytest.raises(ConnectError, match=r"127\.0\.0\.1"):
        await DnsClient([address]).cname(NAME)


async def test_servers_are_asked_so_often_and_no_more() -> None:
    async with dns_server() as server:
        server.behaviour = dnsserver.saying(dns.rcode.SERVFAIL)
        with pytest.raises(ConnectError, match="SERVFAIL"):
            await client(server, server, server, server, server).cname(NAME)
        assert len(server.asked) == limits.DNS_SERVERS_MAX * limits.DNS_TRIES


def test_the_systems_servers_are_known_by_address() -> None:
    """Perhaps none: then DNS cannot be asked, which is not an error at start."""
    for server in _system_servers():
        assert ServerAddress.parse(str(server)) == server


@pytest.mark.skipif("sys.platform == 'win32'", reason="the registry says it there")
@pytest.mark.parametrize(
    ("text", "hosts"),
    [
        ("nameserver 192.0.2.1\nnameserver fe80::1%eth0\n", ["192.0.2.1", "fe80::1%eth0"]),
        ("nameserver dns.example\n", []),
        ("options ndots:x\n", []),
        ("\xff\x00", []),
    ],
)
def test_whatever_the_systems_configuration_says_is_no_error(tmp_path: Path, text: str, hosts: list[str]) -> None:
    file = tmp_path / "resolv.conf"
    file.write_text(text, "utf-8")
    assert [server.host for server in _system_servers(str(file))] == hosts
    assert _system_servers(str(tmp_path / "absent")) == ()


def test_a_relay_without_own_names_imports_no_dns() -> None:
    """It is loaded with the first question."""
    program = (
        "import sys, trunnel.relay.server; sys.exit(any(name == 'dns' or name[:4] == 'dns.' for name in sys.modules))"
    )
    assert subprocess.run([sys.executable, "-c", program], check=False).returncode == 0


QUESTION = dns.message.make_query(f"{NAME}.", "CNAME", use_edns=0)
HONEST = dns.message.make_response(QUESTION).to_wire()


@given(st.one_of(st.binary(max_size=200), st.binary(max_size=120).map(lambda tail: HONEST[:12] + tail)))
def test_whatever_comes_is_an_answer_or_nothing(wire: bytes) -> None:
    answer = answer_untrusted(wire, QUESTION)
    assert answer is None or answer.question == QUESTION.question or not answer.question


@given(st.integers(0, len(HONEST) - 1), st.integers(0, 255), st.binary(max_size=40))
def test_a_changed_answer_is_an_answer_or_nothing(place: int, value: int, tail: bytes) -> None:
    wire = bytearray(HONEST + tail)
    wire[place] = value
    answer = answer_untrusted(bytes(wire), QUESTION)
    assert answer is None or answer.id == QUESTION.id
