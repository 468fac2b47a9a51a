"""HTTP CONNECT, the client: the request to the byte, every refusal in words, nothing read beyond the head."""

from __future__ import annotations

import base64
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.three_way import TRAILING, Parsed, check_refused, check_split_invariance, check_three_ways
from trunnel.names import ServerAddress
from trunnel.settings import limits
from trunnel.settings.via import Credentials
from trunnel.wire.hop import Refusal
from trunnel.wire.httpconnect import ConnectClient

SERVER = ServerAddress("relay.example", 443)
WHO = Credentials("ann", "s3cret")
OK = b"HTTP/1.1 200 Connection established\r\n\r\n"


def drive(chunks: Iterable[bytes], credentials: Credentials | None = None) -> Parsed:
    """Feed a client; its value is how it ended."""
    client = ConnectClient(SERVER, credentials=credentials)
    client.start()
    rest = b""
    for chunk in chunks:
        if client.needed:
            assert client.feed_untrusted(chunk) == b""
            rest = client.leftover
        else:
            rest += chunk
    return Parsed(None if client.needed else (client.refusal or "connected"), rest)


def refusal(wire: bytes, credentials: Credentials | None = None) -> Refusal:
    """Return what a client makes of the refusal *wire*."""
    found = drive([wire], credentials).value
    assert isinstance(found, Refusal)
    return found


def test_the_request_names_the_server_twice() -> None:
    """RFC 9112 §3.2.3: the target of CONNECT is host and port; §3.2: Host is the same."""
    assert ConnectClient(SERVER).start() == (
        b"CONNECT relay.example:443 HTTP/1.1\r\nHost: relay.example:443\r\nUser-Agent: trunnel\r\n\r\n"
    )


@pytest.mark.parametrize("host", ["2001:db8::1", "2001:db8::1%eth0"])
def test_an_ipv6_address_is_in_brackets_and_has_no_scope(host: str) -> None:
    assert ConnectClient(ServerAddress(host, 443)).start().startswith(b"CONNECT [2001:db8::1]:443 HTTP/1.1\r\n")


def test_credentials_are_sent_unasked_and_as_utf_8() -> None:
    """RFC 7617 §2, §2.1."""
    request = ConnectClient(SERVER, credentials=Credentials("änn", "a:b")).start()
    assert b"Proxy-Authorization: Basic " + base64.b64encode("änn:a:b".encode()) + b"\r\n\r\n" in request


@pytest.mark.parametrize(
    "head",
    [
        OK,
        b"HTTP/1.0 200 OK\r\n\r\n",
        b"HTTP/1.1 200\r\n\r\n",
        b"HTTP/1.1 200 \r\n\r\n",
        b"HTTP/1.1 204 No Content\r\nVia: 1.1 x\r\n\r\n",
        b"HTTP/1.1 200 OK\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n",
        b"HTTP/1.1 200 OK\nVia: lines end in LF\n\n",
        b"HTTP/1.1 200 OK\nVia: mixed\r\n\n",
        b"HTTP/1.1 100 Continue\r\n\r\nHTTP/1.1 103 Early Hints\r\nLink: x\r\n\r\n" + OK,
        b"HTTP/1.1 103 Early Hints\r\nLink: longer than the answer\r\n\r\nHTTP/1.1 200\r\n\r\n",
    ],
)
def test_any_2xx_connects_and_the_tunnel_begins_behind_its_head(head: bytes) -> None:
    """RFC 9110 §9.3.6, §15.2; RFC 9112 §2.2 and §6.3."""
    check_three_ways(drive, head, "connected")


@pytest.mark.parametrize(
    ("wire", "reason", "beyond"),
    [
        (b"HTTP/1.1 403 Forbidden\r\n\r\n", "403 Forbidden", False),
        (b"HTTP/1.1 302 Found\r\nLocation: /login\r\n\r\n", "302 Found", False),
        (b"HTTP/1.1 404\r\n\r\n", "404", False),
        (b"HTTP/1.0 500 Unable to connect\r\n\r\n", "500 Unable to connect", True),
        (b"HTTP/1.1 503 Service Unavailable\r\n\r\n", "503 Service Unavailable", True),
        (b"HTTP/1.1 403 \x1b[31mno\xff\r\n\r\n", "403 ?[31mno?", False),
        (b"HTTP/1.1 403 " + 200 * b"x" + b"\r\n\r\n", "403 " + limits.VIA_REASON_MAX * "x", False),
    ],
)
def test_refusals_are_told_in_printable_words(wire: bytes, reason: str, *, beyond: bool) -> None:
    check_three_ways(drive, wire, Refusal(reason=reason, beyond=beyond))


def test_a_407_says_what_to_do() -> None:
    wire = b"HTTP/1.1 407 Proxy Authentication Required\r\n%s\r\n"
    basic, others = (
        b'proxy-authenticate: Basic realm="a"\r\n',
        b"Proxy-Authenticate:Negotiate\r\nProxy-Authenticate: NTLM\r\n",
    )
    asked = "407 Proxy Authentication Required"
    for field in (basic, b"", others + basic):
        wants = f"{asked} (it wants a user and a password: http://USER:PASSWORD@HOST:PORT)"
        assert refusal(wire % field).reason == wants
        assert refusal(wire % field, WHO).reason == f"{asked} (user or password are wrong)"
    for who in (None, WHO):
        assert (
            refusal(wire % others, who).reason == f"{asked} (it takes Negotiate, NTLM, but only Basic is spoken here)"
        )
    assert not refusal(wire % basic).beyond


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"\x05\x00", "does not speak HTTP/1"),
        (b"SSH-2.0-x\r\n", "does not speak HTTP/1"),
        (b"HTTP/2 200\r\n\r\n", "does not speak HTTP/1"),
        (b"\r\nHTTP/1.1 200\r\n\r\n", "does not speak HTTP/1"),
        (b"HTTP/1.1 20\r\n\r\n", "status line"),
        (b"HTTP/1.1 600 x\r\n\r\n", "status line"),
        (b"HTTP/1.1  200 x\r\n\r\n", "status line"),
        (b"HTTP/1.1 101 Switching Protocols\r\n\r\n", "switched"),
        (b"HTTP/1.1 200 OK\r\nX: " + limits.VIA_HEAD_MAX * b"x", "longer than"),
        (2_000 * b"HTTP/1.1 100\r\n\r\n", "longer than"),
    ],
)
def test_what_is_no_answer_to_connect_is_a_protocol_error(wire: bytes, reason: str) -> None:
    check_refused(drive, wire, reason=reason)


def test_the_largest_answer_is_accepted_and_one_byte_more_is_not() -> None:
    filler = limits.VIA_HEAD_MAX - len(OK) - len(b"X: \r\n")
    head = OK[:-2] + b"X: " + filler * b"x" + b"\r\n\r\n"
    assert len(head) == limits.VIA_HEAD_MAX
    assert drive([head + TRAILING]) == Parsed("connected", TRAILING)
    check_refused(drive, head.replace(b"X: ", b"X:  "), reason="longer than")


@pytest.mark.parametrize("head", [OK, OK.replace(b"\r\n", b"\n"), b"HTTP/1.1 100 Continue\r\n\r\n" + OK])
def test_reading_what_is_needed_reads_nothing_of_the_tunnel(head: bytes) -> None:
    """Even where the tunnel begins with line ends."""
    client, wire = ConnectClient(SERVER), head + b"\n\r\n" + TRAILING
    while count := client.needed:
        chunk, wire = wire[:count], wire[count:]
        client.feed_untrusted(chunk)
    assert wire == b"\n\r\n" + TRAILING
    assert client.refusal is None


@given(
    st.lists(st.sampled_from([b"\r", b"\n", b"X: y", OK, b"HTTP/1.1 1", b"00 ", b"407 ", b"\x00"])),
    st.lists(st.integers(0, 60)),
)
def test_cuts_do_not_matter(parts: list[bytes], cuts: list[int]) -> None:
    check_split_invariance(drive, b"".join(parts), cuts)
    check_split_invariance(drive, b"HTTP/1.1 200" + b"".join(parts), cuts)
