"""Bodies of other extensions: what a terminator refuses before it looks at the name, we refuse too."""

from __future__ import annotations

from dataclasses import replace

import pytest

from fuzz.clienthello_targets import feed
from tests.wire import hello_builder as build
from tests.wire.hello_builder import BASE, NAME, Hello, numbers, sni, vector
from trunnel.wire.clienthello import Verdict

PLAIN = Hello()
TLS_1_2 = replace(PLAIN, extensions=(sni(NAME), *BASE[:2]))
"""A client that does not offer TLS 1.3."""
RESPONDER_BY_KEY = b"\xa2\x16\x04\x14" + bytes(20)
DN = bytes.fromhex("3010 310e 300c 0603550403 0c056162636465")
"""SEQUENCE { SET { SEQUENCE { commonName, UTF8String "abcde" } } }"""
BY_NAME = b"\xa1" + vector(1, DN)
NONCE = bytes.fromhex("3013 3011 0609 2b0601050507300102 0404 00112233")


def verdict(hello: Hello) -> Verdict:
    """Return what is made of a hello."""
    return feed(iter([hello.stream()])).verdict


def status_request(responders: bytes = b"", extensions: bytes = b"", *, kind: int = 1, tail: bytes = b"") -> bytes:
    """Return the body of a status_request."""
    return bytes([kind]) + vector(2, responders) + vector(2, extensions) + tail


ACCEPTED = [
    (build.MAX_FRAGMENT_LENGTH, b"\x01"),
    (build.MAX_FRAGMENT_LENGTH, b"\x04"),
    (build.STATUS_REQUEST, status_request()),
    (build.STATUS_REQUEST, b"\x02anything"),
    (build.STATUS_REQUEST, status_request(vector(2, RESPONDER_BY_KEY))),
    (build.STATUS_REQUEST, status_request(vector(2, BY_NAME) + vector(2, RESPONDER_BY_KEY))),
    (build.STATUS_REQUEST, status_request(extensions=NONCE)),
    (build.EC_POINT_FORMATS, b"\x03\x00\x01\x02"),
    (build.SRP, b"\x04user"),
    (build.SIGNATURE_ALGORITHMS, vector(2, numbers([0x0403]))),
    (build.SIGNATURE_ALGORITHMS_CERT, vector(2, numbers([0x0403, 0x0804]))),
    (build.EXTENDED_MASTER_SECRET, b""),
    (build.SESSION_TICKET, b"any bytes at all"),
    (build.PADDING, bytes(100)),
    (build.EARLY_DATA, b""),
    (build.PSK_KEY_EXCHANGE_MODES, b"\x02\x00\x01"),
    (build.CERTIFICATE_AUTHORITIES, vector(2, vector(2, DN))),
    (build.POST_HANDSHAKE_AUTH, b""),
    (build.ENCRYPTED_CLIENT_HELLO, b"\x01"),
    (build.RENEGOTIATION_INFO, b"\x00"),
    (build.GREASE, b"\x00"),
    (0x1234, b"never heard of"),
    build.pre_shared_keys(b"one", b"two"),
    build.key_shares(),
    build.key_shares((build.X25519, bytes(32)), (0x0017, b"\x04" + bytes(64))),
]

REFUSED = [
    (build.MAX_FRAGMENT_LENGTH, b""),
    (build.MAX_FRAGMENT_LENGTH, b"\x00"),
    (build.MAX_FRAGMENT_LENGTH, b"\x05"),
    (build.MAX_FRAGMENT_LENGTH, b"\x01\x01"),
    (build.STATUS_REQUEST, b""),
    (build.STATUS_REQUEST, b"\x01"),
    (build.STATUS_REQUEST, b"\x01\x00\x00"),
    (build.STATUS_REQUEST, status_request(tail=b"\x00")),
    (build.STATUS_REQUEST, status_request(vector(2, b""))),
    (build.STATUS_REQUEST, status_request(vector(2, RESPONDER_BY_KEY + b"\x00"))),
    (build.STATUS_REQUEST, status_request(vector(2, b"not DER"))),
    (build.STATUS_REQUEST, status_request(extensions=b"not DER")),
    (build.SUPPORTED_GROUPS, b""),
    (build.SUPPORTED_GROUPS, vector(2, b"")),
    (build.SUPPORTED_GROUPS, vector(2, numbers([build.X25519]) + b"\x00")),
    (build.SUPPORTED_GROUPS, vector(2, numbers([build.X25519])) + b"\x00"),
    (build.EC_POINT_FORMATS, b""),
    (build.EC_POINT_FORMATS, b"\x00"),
    (build.EC_POINT_FORMATS, b"\x01\x00\x00"),
    (build.SRP, b"\x04us\x00r"),
    (build.SRP, b"\x04use"),
    (build.SIGNATURE_ALGORITHMS, vector(2, b"")),
    (build.SIGNATURE_ALGORITHMS, vector(2, b"\x04")),
    (build.SIGNATURE_ALGORITHMS_CERT, vector(2, b"\x04\x03\x08")),
    (14, vector(2, numbers([1])) + b"\x00"),
    (build.ALPN, b""),
    (build.ALPN, vector(2, b"")),
    (build.ALPN, vector(2, b"\x00")),
    (build.ALPN, vector(2, b"\x02h2\x00")),
    (build.ALPN, vector(2, b"\x03h2")),
    (build.ALPN, vector(2, b"\x02h2") + b"\x00"),
    (build.EXTENDED_MASTER_SECRET, b"\x00"),
    (build.EARLY_DATA, b"\x00"),
    (build.SUPPORTED_VERSIONS, b""),
    (build.SUPPORTED_VERSIONS, b"\x00"),
    (build.SUPPORTED_VERSIONS, b"\x03\x03\x04\x03"),
    (build.SUPPORTED_VERSIONS, b"\x02\x03\x04\x00"),
    (build.PSK_KEY_EXCHANGE_MODES, b""),
    (build.PSK_KEY_EXCHANGE_MODES, b"\x00"),
    (build.CERTIFICATE_AUTHORITIES, b""),
    (build.CERTIFICATE_AUTHORITIES, vector(2, vector(2, DN[:-1]))),
    (build.CERTIFICATE_AUTHORITIES, vector(2, vector(2, DN, lie=1))),
    (build.POST_HANDSHAKE_AUTH, b"\x00"),
    (build.ENCRYPTED_CLIENT_HELLO, b""),
    (build.RENEGOTIATION_INFO, b""),
    (build.RENEGOTIATION_INFO, b"\x01\x00"),
    (build.RENEGOTIATION_INFO, b"\x00\x00"),
    (build.PRE_SHARED_KEY, b""),
    (build.PRE_SHARED_KEY, vector(2, vector(2, b"") + bytes(4)) + vector(2, b"")),
    (build.PRE_SHARED_KEY, vector(2, vector(2, b"x") + bytes(3)) + vector(2, b"")),
    (build.PRE_SHARED_KEY, build.pre_shared_keys(b"x")[1] + b"\x00"),
    (build.KEY_SHARE, b""),
    (build.KEY_SHARE, vector(2, b"\x00")),
    (build.KEY_SHARE, vector(2, b"") + b"\x00"),
    build.key_shares((0x0018, bytes(97))),
    build.key_shares((build.X25519, b"")),
    build.key_shares((build.X25519, bytes(31))),
    build.key_shares((build.X25519, bytes(33))),
    build.key_shares((0x0017, b"\x02" + bytes(32))),
    build.key_shares((0x0017, b"\x81" + bytes(64))),
    (build.KEY_SHARE, build.key_shares((build.X25519, bytes(32)))[1][:-1]),
]
ONLY_TLS_1_3 = {
    build.PRE_SHARED_KEY,
    build.EARLY_DATA,
    build.PSK_KEY_EXCHANGE_MODES,
    build.CERTIFICATE_AUTHORITIES,
    build.POST_HANDSHAKE_AUTH,
    build.KEY_SHARE,
}


def name_of(case: object) -> str:
    """Return a test id for one part of a case."""
    return case.hex() or "empty" if isinstance(case, bytes) else str(case)


@pytest.mark.parametrize(("kind", "body"), ACCEPTED, ids=name_of)
def test_a_body_by_the_rules_routes(kind: int, body: bytes) -> None:
    assert verdict(PLAIN.replacing(kind, body)) is Verdict.ROUTE


@pytest.mark.parametrize(("kind", "body"), REFUSED, ids=name_of)
def test_a_body_against_the_rules_is_malformed(kind: int, body: bytes) -> None:
    assert verdict(PLAIN.replacing(kind, body)) is Verdict.MALFORMED


@pytest.mark.parametrize(("kind", "body"), [case for case in REFUSED if case[0] in ONLY_TLS_1_3], ids=name_of)
def test_extensions_of_tls_1_3_are_opaque_to_older_clients(kind: int, body: bytes) -> None:
    """A terminator does not read them unless TLS 1.3 is offered, so they do not stop a route."""
    assert verdict(TLS_1_2.adding((kind, body))) is Verdict.ROUTE


def test_key_share_needs_supported_groups() -> None:
    without = tuple(one for one in PLAIN.extensions or () if one[0] != build.SUPPORTED_GROUPS)
    assert verdict(replace(PLAIN, extensions=without)) is Verdict.MALFORMED


def test_pre_shared_key_must_be_last_for_every_client() -> None:
    """RFC 8446 §4.2.11; terminators check it before they know the version."""
    psk = build.pre_shared_keys(b"x")
    assert verdict(TLS_1_2.adding(psk, last=False)) is Verdict.MALFORMED


@pytest.mark.parametrize("kind", [build.GREASE, 0xFFFF, build.PADDING])
def test_no_extension_comes_twice_known_or_not(kind: int) -> None:
    assert verdict(PLAIN.adding((kind, b""), (kind, b""))) is Verdict.MALFORMED


@pytest.mark.parametrize(
    ("legacy", "expected"), [(0x0301, 0x0301), (0x0302, 0x0302), (0x0303, 0x0303), (0x0304, 0x0303), (0xFFFF, 0x0303)]
)
def test_without_supported_versions_tls_1_2_is_the_highest(legacy: int, expected: int) -> None:
    parser = feed(iter([replace(TLS_1_2, legacy_version=legacy).stream()]))
    assert parser.hello is not None
    assert parser.hello.versions == (expected,)


def test_versions_are_in_the_clients_order_without_grease() -> None:
    parser = feed(iter([PLAIN.replacing(*build.versions(build.GREASE, 0x0303, 0x7F1C, 0x0304)).stream()]))
    assert parser.hello is not None
    assert parser.hello.versions == (0x0303, 0x7F1C, 0x0304)
