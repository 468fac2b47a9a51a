"""The relay's own names: served by the relay, never led to an agent, never an agent's."""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path

import pytest
import trio
import trio.testing
from OpenSSL import SSL
from trio.testing import MockClock

import trunnel
from tests.relay.house import offering
from tests.relay.ownhouse import own_house, visit_own
from tests.relay.papers import Authority, put_pair, settings
from tests.tunnels import PATIENCE, House, greet, house, knock, read_to_end
from trunnel.acme.challenge import ACME_TLS_ALPN, challenge_certificate, context_for_challenge
from trunnel.clock import utc_now
from trunnel.errors import ConnectError, LocalProtocolError
from trunnel.events import VisitorRefused
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname
from trunnel.relay.certificate import load_certificate
from trunnel.relay.own import Own
from trunnel.relay.ownnames import OwnNames
from trunnel.settings import limits
from trunnel.wire.alert import AlertDescription, plaintext_alert

NAME = Hostname("relay.example")
OTHER = Hostname("www.relay.example")
NOWHERE = "https://127.0.0.1:1/dir"
ASKED = {"acme_domains": (NAME, OTHER), "acme_directory": NOWHERE}
"""Options of a relay that would have certificates for two names, from an authority that does not answer."""
NO_CHALLENGE = plaintext_alert(AlertDescription.NO_APPLICATION_PROTOCOL)


async def fetch(port: int, name: str, request: bytes = b"GET / HTTP/1.1\r\nHost: x\r\n\r\n") -> bytes:
    """Return all that is answered to *request*."""
    with trio.fail_after(PATIENCE):
        visitor = await visit_own(port, name, alpn=b"http/1.1")
        await visitor.send_all(request)
        return await read_to_end(visitor)


# --- which names ------------------------------------------------------------------------------


def test_own_are_the_certified_names_and_the_first_suffix(tmp_path: Path) -> None:
    wanted = settings(tmp_path, domain_suffixes=(Hostname("a.example"), Hostname("b.example")), acme_domains=(NAME,))
    own = OwnNames(wanted)
    assert NAME in own
    assert Hostname("a.example") in own
    assert Hostname("b.example") not in own
    assert Hostname("x.a.example") not in own


def test_own_are_the_names_in_a_persons_certificate_but_not_its_patterns(tmp_path: Path) -> None:
    pair = Authority().issue("bought.example", "*.bought.example")
    wanted = settings(tmp_path, **put_pair(tmp_path, pair))
    own = OwnNames(wanted)
    assert own.follow(load_certificate(wanted).current)
    assert Hostname("bought.example") in own
    assert Hostname("app.bought.example") not in own
    assert not own.follow(load_certificate(wanted).current), "the same names"
    assert own.follow(load_certificate(settings(tmp_path)).current)
    assert Hostname("bought.example") not in own


async def test_an_agent_gets_no_name_that_is_the_relays_own(tmp_path: Path) -> None:
    """Not even one that the operator has given it: whoever holds it could have a certificate issued for the relay."""
    key = IdentityKey.load_or_create(tmp_path / "default" / "default.key").key_id
    (tmp_path / "agents").write_text(f"{key} www app\n")
    mine = {"acme_domains": (Hostname("www.localhost"),), "acme_directory": NOWHERE}
    async with house(tmp_path, authorized_agents=tmp_path / "agents", **mine) as home:
        agent, _ = await home.expose(greet)
        assert {event.hostname for event in agent.ready_events} == {f"{key}.localhost", "app.localhost"}
        assert b"trunnel relay" in await fetch(home.relay.visitors_port, "www.localhost")
        with pytest.raises(ConnectError, match="application protocol"):
            await visit_own(home.relay.visitors_port, "www.localhost", alpn=ACME_TLS_ALPN)


# --- the page ---------------------------------------------------------------------------------


async def test_visitors_get_a_small_page_and_a_word_on_health(tmp_path: Path) -> None:
    async with house(tmp_path, **ASKED) as home:
        port = home.relay.visitors_port
        for name in (NAME.value, OTHER.value, "localhost"):
            assert (await fetch(port, name)).endswith(b"\r\n\r\ntrunnel relay\n")
        assert (await fetch(port, NAME.value, b"GET /healthz HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\nok\n")
        assert (await fetch(port, NAME.value, b"HEAD / HTTP/1.1\r\n\r\n")).endswith(b"\r\n\r\n")
        assert (await fetch(port, NAME.value, b"GET /x HTTP/1.1\r\n\r\n")).startswith(b"HTTP/1.1 404 ")
        assert home.log.of(VisitorRefused) == []


async def test_the_answer_arrives_although_a_body_was_not_read(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        body = b"POST / HTTP/1.1\r\nContent-Length: 40000\r\n\r\n" + bytes(40_000)
        assert (await fetch(home.relay.visitors_port, "localhost", body)).startswith(b"HTTP/1.1 405 ")


async def test_tls_is_ended_with_a_certificate_that_browsers_accept(tmp_path: Path) -> None:
    authority = Authority()
    files = put_pair(tmp_path, authority.issue("bought.example"))
    async with house(tmp_path, **files) as home:
        visitor = await visit_own(home.relay.visitors_port, "bought.example", root=authority.root)
        await visitor.send_all(b"GET / HTTP/1.1\r\n\r\n")
        assert (await read_to_end(visitor)).startswith(b"HTTP/1.1 200 ")


async def test_a_visitor_without_a_protocol_in_common_is_told_so(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        with pytest.raises(ConnectError, match="application protocol"):
            await visit_own(home.relay.visitors_port, "localhost", alpn=b"h2")


@pytest.mark.parametrize("said", [b"", b"GET / HTTP/1.1\r\n", b"SSH-2.0-x\r\n"])
async def test_who_ends_without_a_request_is_let_go_without_a_word(
    tmp_path: Path, said: bytes, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with house(tmp_path) as home:
        visitor = await visit_own(home.relay.visitors_port, "localhost")
        await visitor.send_all(said)
        await visitor.send_eof()
        with trio.fail_after(PATIENCE):
            assert await read_to_end(visitor) == b""
    assert [record.message for record in caplog.records if "failed" in record.message] == []


async def test_a_visitor_that_stalls_is_let_go_in_time(tmp_path: Path, mock_clock: MockClock) -> None:
    """In its handshake, or before it has asked for anything."""
    async with house(tmp_path) as home:
        half = await trio.open_tcp_stream("127.0.0.1", home.relay.visitors_port)
        await half.send_all(offering(b"http/1.1", name=b"localhost"))
        silent = await visit_own(home.relay.visitors_port, "localhost")
        await trio.testing.wait_all_tasks_blocked(0.01)
        mock_clock.jump(limits.OWN_VISIT_TIMEOUT)
        with pytest.raises(trio.BrokenResourceError):
            while await half.receive_some():
                pass
        with pytest.raises(trio.BrokenResourceError):
            await silent.receive_some()
        silent.abort()
        await half.aclose()


async def test_one_address_has_only_so_many_visits_at_a_time(tmp_path: Path) -> None:
    """What it does not fill is there for others; its visits of agents are not in that count."""
    async with house(tmp_path) as home:
        agent, _ = await home.expose(greet)
        port = home.relay.visitors_port
        silent = [await visit_own(port, "localhost") for _ in range(limits.OWN_VISITORS_PER_ADDRESS)]
        with pytest.raises(ConnectError):
            await visit_own(port, "localhost")
        assert [event.verdict for event in home.log.of(VisitorRefused)] == ["own-visitors-per-address"]
        hostname = agent.ready_events[0].hostname
        assert await home.ask(hostname) == hostname.encode()
        silent.pop().abort()
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert b"trunnel relay" in await fetch(port, "localhost")
        for visitor in silent:
            visitor.abort()


# --- challenges -------------------------------------------------------------------------------


def proof(name: Hostname = NAME) -> SSL.Context:
    return context_for_challenge(name, "token.thumbprint", utc_now())


@asynccontextmanager
async def proving(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, **options: object
) -> AsyncIterator[tuple[House, Own]]:
    """Run a relay that proves `NAME` just now."""
    async with own_house(tmp_path, monkeypatch, **ASKED, **options) as (home, own):
        with own.challenges.answering(NAME, proof()):
            yield home, own


async def test_a_challenge_is_answered_by_the_relay(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    async with proving(tmp_path, monkeypatch) as (home, _):
        authority = await visit_own(home.relay.visitors_port, NAME.value, alpn=ACME_TLS_ALPN)
        assert authority.alpn == ACME_TLS_ALPN
        key, wanted = challenge_certificate(NAME, "token.thumbprint", utc_now())
        shown = authority.peer_certificates[0]
        assert key.public_key() != shown.public_key()
        assert [e.value.value for e in shown.extensions if e.critical and e.oid.dotted_string.endswith(".1.31")] == [
            e.value.value for e in wanted.extensions if e.critical and e.oid.dotted_string.endswith(".1.31")
        ]
        await authority.aclose()
        assert b"trunnel relay" in await fetch(home.relay.visitors_port, NAME.value), "visitors see the page meanwhile"


async def test_a_challenge_on_the_port_for_challenges_is_answered(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with proving(tmp_path, monkeypatch, alpn_port=0) as (home, _):
        ports = {entrance.listener.address[1] for entrance in home.relay.entrances}
        assert len(ports) == 3
        for port in ports - {home.relay.agents_port}:
            await (await visit_own(port, NAME.value, alpn=ACME_TLS_ALPN)).aclose()
        with pytest.raises(ConnectError, match="application protocol"):
            await visit_own(home.relay.agents_port, NAME.value, alpn=ACME_TLS_ALPN)


@pytest.mark.parametrize("name", [OTHER.value, "localhost"])
async def test_a_challenge_that_nobody_waits_for_gets_an_alert(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    async with proving(tmp_path, monkeypatch) as (home, _):
        assert await knock(home.relay.visitors_port, offering(b"acme-tls/1", name=name.encode())) == NO_CHALLENGE
        assert [event.verdict for event in home.log.of(VisitorRefused)] == ["no-challenge"]


async def test_a_challenge_for_an_agents_name_is_never_answered_here(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It goes to the agent; when that is gone, to nobody."""
    heard: list[trunnel.VisitorInfo] = []

    async def origin(stream: trio.abc.HalfCloseableStream, visitor: trunnel.VisitorInfo) -> None:
        heard.append(visitor)
        await stream.send_all(b"agent")

    async with proving(tmp_path, monkeypatch) as (home, own):
        agent, _ = await home.expose(origin, tls_passthrough=True)
        hostname = agent.ready_events[0].hostname
        hello = offering(b"acme-tls/1", name=hostname.encode())
        with pytest.raises(LocalProtocolError), own.challenges.answering(Hostname(hostname), proof()):
            pass
        assert await knock(home.relay.visitors_port, hello) == b"agent"
        assert [visitor.hostname.value for visitor in heard] == [hostname]
        assert await knock(home.relay.visitors_port, offering(b"acme-tls/1", name=b"gone.localhost")) == (
            plaintext_alert(AlertDescription.UNRECOGNIZED_NAME)
        )


async def test_challenges_that_stall_are_bounded_in_number_and_time(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, mock_clock: MockClock
) -> None:
    """LOAD-04: they hold up neither the page nor another name's."""
    async with proving(tmp_path, monkeypatch) as (home, own), AsyncExitStack() as stack:
        stack.enter_context(own.challenges.answering(OTHER, proof(OTHER)))
        port, hello = home.relay.visitors_port, offering(b"acme-tls/1", name=NAME.value.encode())
        stalled: list[trio.SocketStream] = []
        for _ in range(limits.CHALLENGES_PER_ADDRESS):
            stream = await trio.open_tcp_stream("127.0.0.1", port)
            await stream.send_all(hello)
            assert await stream.receive_some(), "the relay's part of the handshake"
            stalled.append(stream)
        with pytest.raises(trio.BrokenResourceError):
            await knock(port, hello)
        assert [event.verdict for event in home.log.of(VisitorRefused)] == ["challenges-per-address"]
        await (await visit_own(port, OTHER.value, alpn=ACME_TLS_ALPN)).aclose()
        assert b"trunnel relay" in await fetch(port, NAME.value)
        mock_clock.jump(limits.CHALLENGE_TIMEOUT)
        for stream in stalled:
            with pytest.raises(trio.BrokenResourceError):
                while await stream.receive_some():
                    pass
            await stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
        await (await visit_own(port, NAME.value, alpn=ACME_TLS_ALPN)).aclose()
