"""SOCKS 5, the client: every message to the octet, every refusal in words, nothing read beyond the answer."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.three_way import TRAILING, Parsed, check_refused, check_split_invariance, check_three_ways
from trunnel.errors import RemoteProtocolError
from trunnel.names import ServerAddress
from trunnel.settings.via import Credentials
from trunnel.wire.hop import Refusal
from trunnel.wire.socks5 import Socks5Client

SERVER = ServerAddress("relay.example", 443)
WHO = Credentials("ann", "s3cret")
BOUND_V4 = b"\x00\x01\x0a\x00\x00\x01\x04\x38"
BOUND_V6 = b"\x00\x04" + bytes(16) + b"\x04\x38"
BOUND_NAME = b"\x00\x03\x05proxy\x04\x38"
BOUND_NO_NAME = b"\x00\x03\x00\x04\x38"
REQUEST = b"\x05\x01\x00\x03\x0drelay.example\x01\xbb"


def drive(chunks: Iterable[bytes], credentials: Credentials | None = WHO) -> Parsed:
    """Feed a client; its value is all that it sent and how it ended."""
    client = Socks5Client(SERVER, credentials=credentials)
    sent = client.start()
    rest = b""
    for chunk in chunks:
        if client.needed:
            sent += client.feed_untrusted(chunk)
            rest = client.leftover
        else:
            rest += chunk
    return Parsed(None if client.needed else (sent, client.refusal), rest)


@pytest.mark.parametrize("bound", [BOUND_V4, BOUND_V6, BOUND_NAME, BOUND_NO_NAME])
def test_without_proof_the_request_follows_the_greeting(bound: bytes) -> None:
    """RFC 1928 §3 to §6; whatever address the proxy bound is passed over."""
    expected = b"\x05\x02\x00\x02" + REQUEST, None
    check_three_ways(drive, b"\x05\x00" + b"\x05\x00" + bound, expected)


@pytest.mark.parametrize("octet", [1, 5])
def test_with_a_password_it_is_sent_between(octet: int) -> None:
    """RFC 1929 §2; where it says 1, proxies also send 5."""
    expected = b"\x05\x02\x00\x02" + b"\x01\x03ann\x06s3cret" + REQUEST, None
    check_three_ways(drive, b"\x05\x02" + bytes([octet, 0]) + b"\x05\x00" + BOUND_V4, expected)


def test_without_credentials_no_method_that_needs_them_is_offered() -> None:
    assert Socks5Client(SERVER).start() == b"\x05\x01\x00"


@pytest.mark.parametrize(
    ("host", "where"),
    [
        ("192.0.2.1", b"\x01\xc0\x00\x02\x01"),
        ("2001:db8::1", b"\x04\x20\x01\x0d\xb8" + bytes(11) + b"\x01"),
        ("fe80::1%eth0", b"\x04\xfe\x80" + bytes(13) + b"\x01"),
        ("a.example", b"\x03\x09a.example"),
    ],
)
def test_addresses_go_as_addresses_and_names_as_names(host: str, where: bytes) -> None:
    client = Socks5Client(ServerAddress(host, 258))
    assert client.feed_untrusted(b"\x05\x00") == b"\x05\x01\x00" + where + b"\x01\x02"


@pytest.mark.parametrize(
    ("wire", "reason", "beyond"),
    [
        (b"\x05\xff", "it wants other proof than user and password", False),
        (b"\x05\x02\x01\x01", "user or password are wrong", False),
        (b"\x05\x00\x05\x01", "general failure", False),
        (b"\x05\x00\x05\x02", "its rules do not allow this connection", False),
        (b"\x05\x00\x05\x03", "network is unreachable", True),
        (b"\x05\x00\x05\x04", "host is unreachable, or its name is not known there", True),
        (b"\x05\x00\x05\x05", "connection refused", True),
        (b"\x05\x00\x05\x06", "no answer (TTL expired)", True),
        (b"\x05\x00\x05\x07", "it does not support CONNECT", False),
        (b"\x05\x00\x05\x08", "it does not support this type of address", True),
        (b"\x05\x00\x05\x63", "unknown failure (code 99)", False),
    ],
)
def test_refusals_are_told_in_words_as_soon_as_the_code_is_there(wire: bytes, reason: str, *, beyond: bool) -> None:
    value = drive([wire]).value
    assert isinstance(value, tuple)
    assert value[1] == Refusal(reason=reason, beyond=beyond)
    check_three_ways(drive, wire, value)


def test_a_proxy_that_wants_a_password_of_someone_without_one_says_so() -> None:
    client = Socks5Client(SERVER)
    assert client.feed_untrusted(b"\x05\xff") == b""
    assert client.refusal is not None
    assert client.refusal.reason == "it wants proof of who we are, such as user and password"


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"HTTP/1.1 400", "answers like an HTTP server"),
        (b"\x04\x5a", "does not speak SOCKS 5"),
        (b"\x05\x01", "method 1 of authentication, which was not offered"),
        (b"\x05\x00\x04\x00", "of version 4"),
        (b"\x05\x00\x05\x00\x00\x02\x00", "unknown type 2"),
    ],
)
def test_what_is_no_socks_is_a_protocol_error(wire: bytes, reason: str) -> None:
    check_refused(drive, wire, reason=reason)


def test_a_password_that_was_not_offered_cannot_be_asked_for() -> None:
    with pytest.raises(RemoteProtocolError, match="method 2"):
        drive([b"\x05\x02"], credentials=None)


def test_reading_what_is_needed_reads_nothing_of_the_tunnel() -> None:
    """The bytes behind the answer stay where they are, whatever the answer looks like."""
    for bound in (BOUND_V4, BOUND_V6, BOUND_NAME, BOUND_NO_NAME):
        client = Socks5Client(SERVER, credentials=WHO)
        wire = b"\x05\x02\x01\x00\x05\x00" + bound + TRAILING
        while count := client.needed:
            chunk, wire = wire[:count], wire[count:]
            client.feed_untrusted(chunk)
        assert wire == TRAILING
        assert client.leftover == b""
        assert client.refusal is None


@given(st.binary(max_size=40), st.lists(st.integers(0, 40)))
def test_cuts_do_not_matter(wire: bytes, cuts: list[int]) -> None:
    check_split_invariance(drive, wire, cuts)
    check_split_invariance(drive, b"\x05\x00\x05\x00" + wire, cuts)
