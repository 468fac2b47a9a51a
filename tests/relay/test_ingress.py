"""The front door, over real sockets: who is led where, and what everybody else sees."""

from __future__ import annotations

import socket
import struct

import pytest
import trio

from tests.relay.house import AGENT, CHALLENGE, NAMED, VISITOR, house, offering, until
from tests.wire.hello_builder import Hello
from trunnel import capabilities
from trunnel.relay.farewell import HTTP_ON_TLS
from trunnel.relay.ingress import Role
from trunnel.settings.limits import NOTSENT_LOWAT
from trunnel.wire.alert import AlertDescription, plaintext_alert


@pytest.fixture(params=["peeking", "reading"])
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With and without MSG_PEEK and what goes with it."""
    if request.param == "reading":
        monkeypatch.setattr(capabilities, "HAS_MSG_PEEK", False)
    return str(request.param)


# --- two doors --------------------------------------------------------------------------------


async def test_an_agent_is_led_with_its_hello_unread(road: str) -> None:
    """TLS runs on the descriptor, so the hello must still be there; or it is the prefix."""
    async with house() as built:
        assert await built.ask(AGENT) == b"agent"
        ((arrival, waiting),) = built.doors.agents
        assert (waiting, arrival.role) == (AGENT, Role.AGENTS)
        assert arrival.consumed == (b"" if road == "peeking" else AGENT)


@pytest.mark.parametrize("name", [b"relay.example", b"127.0.0.1", None])
async def test_alpn_tells_agents_whatever_name_they_dialled(name: bytes | None) -> None:
    async with house() as built:
        assert await built.ask(offering(b"trunnel-h2/1", name=name)) == b"agent"
        assert await built.ask(offering(b"trunnel-new/7", b"h2", name=name)) == b"agent"


@pytest.mark.usefixtures("road")
async def test_a_visitor_is_led_with_every_byte_it_sent() -> None:
    """CH-55: what was read is handed on unchanged."""
    async with house() as built, await built.dial(VISITOR + b"early data") as stream:
        assert await stream.receive_some() == b"visitor"
        ((arrival, hello, raw),) = built.doors.visitors
        assert (str(hello.server_name), raw) == ("a.example", VISITOR + b"early data")
        assert arrival.peer == stream.socket.getsockname()
        assert arrival.local == built.listener.address
        assert arrival.role is Role.VISITORS


@pytest.mark.parametrize(
    ("protocols", "role"),
    [((b"acme-tls/1",), Role.CHALLENGES), ((b"acme-tls/1", b"h2"), Role.VISITORS), ((b"h2",), Role.VISITORS)],
)
async def test_a_challenge_offers_nothing_else(protocols: tuple[bytes, ...], role: Role) -> None:
    """CH-60: `acme-tls/1` alone is a challenge; it uses the visitors' door."""
    async with house() as built:
        assert await built.ask(offering(*protocols)) == b"visitor"
        assert built.doors.visitors[0][0].role is role


async def test_sockets_are_tuned() -> None:
    async with house() as built:
        built.doors.stay = trio.Event()
        async with await built.dial(VISITOR):
            await until(lambda: built.doors.visitors)
            sock = built.doors.visitors[0][0].stream.socket
            assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert sock.getsockopt(socket.SOL_SOCKET, socket.SO_KEEPALIVE)
            if capabilities.HAS_NOTSENT_LOWAT:
                assert sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == NOTSENT_LOWAT
            built.doors.stay.set()


# --- everybody else ---------------------------------------------------------------------------

ALERTS = {
    "no-sni": (Hello().with_name(None).stream(), AlertDescription.UNRECOGNIZED_NAME),
    "bad-name": (Hello().with_name(b"127.0.0.1").stream(), AlertDescription.UNRECOGNIZED_NAME),
    "reject-malformed": (Hello(tail=b"x").stream(), AlertDescription.DECODE_ERROR),
    "reject-too-large": (NAMED.padded(16_500).message(), AlertDescription.RECORD_OVERFLOW),
}


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("verdict", list(ALERTS))
async def test_what_does_not_route_gets_an_alert(verdict: str) -> None:
    """Finding 6: there is no default; the alert arrives although more bytes were on their way."""
    opening, description = ALERTS[verdict]
    if verdict == "reject-too-large":
        opening = b"\x16\3\1\x40\0" + opening[:0x4000]
    async with house() as built:
        for behind in (b"", bytes(20_000)):
            assert await built.ask(opening + behind) == plaintext_alert(description)
        assert built.doors.verdicts == [verdict] * 2
        assert not built.doors.visitors


@pytest.mark.usefixtures("road")
async def test_http_on_the_tls_port_gets_a_plain_400() -> None:
    """CH-58."""
    request = b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n"
    async with house() as built:
        assert await built.ask(request) == HTTP_ON_TLS
        assert await built.ask(request[:1]) == HTTP_ON_TLS
        head, _, body = HTTP_ON_TLS.partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 400 ")
        assert b"Content-Length: %d\r\n" % len(body) in head


@pytest.mark.parametrize(
    "opening", [b"SSH-2.0-OpenSSH\r\n", bytes(16), b"PROXY TCP4 1.2.3.4 1.2.3.4 1 1\r\n", b"\x80\x2e\1\3\1"]
)
async def test_other_protocols_are_closed_without_a_word(opening: bytes) -> None:
    """CH-53, CH-54, CH-58."""
    async with house() as built:
        assert await built.ask(opening) in (b"", None)
        assert built.doors.verdicts == ["not-tls"]


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("cut", [0, 1, 40])
async def test_fin_before_the_hello_is_complete_closes_at_once(cut: int) -> None:
    """CH-59."""
    async with house() as built:
        with trio.fail_after(1):
            assert await built.ask(VISITOR[:cut], eof=True) in (b"", None)
        assert built.doors.verdicts == ["need-more"]


@pytest.mark.usefixtures("road")
async def test_the_deadline_counts_from_accept() -> None:
    """LOAD-01: bytes that keep coming do not extend it; then RST."""
    async with house(hello_timeout=0.3) as built:
        begun = trio.current_time()
        async with await built.dial() as stream:
            with pytest.raises(trio.BrokenResourceError):
                for at in range(len(VISITOR)):
                    await stream.send_all(VISITOR[at : at + 1])
                    with trio.move_on_after(0.05):
                        await stream.receive_some()
        assert 0.3 <= trio.current_time() - begun < 0.8
        await until(lambda: built.doors.verdicts == ["timeout"])


async def test_a_reset_before_the_hello_is_noted() -> None:
    async with house() as built:
        stream = await built.dial(VISITOR[:20])
        await until(lambda: built.admission.half_open.total == 1)
        stream.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        await stream.aclose()
        await until(lambda: built.doors.verdicts == ["reset"])


@pytest.mark.parametrize(
    ("roles", "opening", "description"),
    [
        ({Role.VISITORS}, AGENT, AlertDescription.NO_APPLICATION_PROTOCOL),
        ({Role.VISITORS}, CHALLENGE, AlertDescription.NO_APPLICATION_PROTOCOL),
        ({Role.AGENTS}, VISITOR, AlertDescription.UNRECOGNIZED_NAME),
        ({Role.AGENTS}, CHALLENGE, AlertDescription.NO_APPLICATION_PROTOCOL),
    ],
)
async def test_a_port_serves_its_roles_only(roles: set[Role], opening: bytes, description: AlertDescription) -> None:
    async with house(roles=frozenset(roles)) as built:
        assert await built.ask(opening) == plaintext_alert(description)
        assert built.doors.verdicts == ["wrong-port"]


async def test_a_door_that_raises_ends_its_own_connection_only(caplog: pytest.LogCaptureFixture) -> None:
    async with house() as built:
        built.doors.error = ZeroDivisionError("a bug")
        for opening in (AGENT, VISITOR):
            assert await built.ask(opening) is None
        built.doors.error = None
        assert await built.ask(VISITOR) == b"visitor"
    assert [record.message for record in caplog.records] == ["connection_failed"] * 2
    assert caplog.records[0].exc_info is not None
