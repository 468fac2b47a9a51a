"""PROXY headers as values: both written forms, strictly read, canonically written."""

from __future__ import annotations

import pytest

from tests.wire.proxy_cases import INET_BLOCK, NO_ADDRESS, V4, V6, decode, drive_header, tlv, v2
from tests.wire.three_way import (
    check_refused,
    check_three_ways,
)
from trunnel.errors import ErrorCode
from trunnel.settings.limits import PROXY_UNIQUE_ID_MAX, PROXY_V1_MAX
from trunnel.wire.proxyprotocol import (
    Address,
    ProxyHeader,
    StreamKind,
    Tlv,
    encode_v1,
    encode_v2,
)

# --- version 1 --------------------------------------------------------------------------------

V1_ACCEPTED = [
    (b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n", ProxyHeader(*V4)),
    (b"PROXY TCP6 2001:db8::1 2001:DB8:0:0:0:0:0:2 56324 443\r\n", ProxyHeader(*V6)),
    (
        b"PROXY TCP4 255.255.255.255 0.0.0.0 65535 0\r\n",
        ProxyHeader(Address("255.255.255.255", 65535), Address("0.0.0.0", 0)),
    ),
    (b"PROXY TCP6 ::ffff:192.0.2.1 ::ffff:c633:6402 56324 443\r\n", ProxyHeader(*V4)),
    (b"PROXY UNKNOWN\r\n", NO_ADDRESS),
    (b"PROXY UNKNOWN whatever it is\r\n", NO_ADDRESS),
    (b"PROXY UNKNOWN " + b"f" * (PROXY_V1_MAX - 16) + b"\r\n", NO_ADDRESS),
]


@pytest.mark.parametrize(("wire", "expected"), V1_ACCEPTED)
def test_v1_lines_are_read_to_their_end_and_no_further(wire: bytes, expected: ProxyHeader) -> None:
    check_three_ways(drive_header, wire, expected)


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (b"PROXY  TCP4 192.0.2.1 192.0.2.2 1 2\r\n", "two addresses"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2 \r\n", "two addresses"),
        (b"PROXY TCP4\t192.0.2.1 192.0.2.2 1 2\r\n", "two addresses"),
        (b"PROXY TCP5 192.0.2.1 192.0.2.2 1 2\r\n", "TCP4 or TCP6"),
        (b"PROXY tcp4 192.0.2.1 192.0.2.2 1 2\r\n", "TCP4 or TCP6"),
        (b"PROXY UNKNOWNX\r\n", "TCP4 or TCP6"),
        (b"PROXY TCP4 192.0.2.01 192.0.2.2 1 2\r\n", "does not parse"),
        (b"PROXY TCP4 192.0.2.256 192.0.2.2 1 2\r\n", "does not parse"),
        (b"PROXY TCP4 192.0.2 192.0.2.2 1 2\r\n", "does not parse"),
        (b"PROXY TCP4 0xc0.0.2.1 192.0.2.2 1 2\r\n", "does not parse"),
        (b"PROXY TCP4 \xd9\xa1.0.2.1 192.0.2.2 1 2\r\n", "family"),
        (b"PROXY TCP4 ::1 ::2 1 2\r\n", "family"),
        (b"PROXY TCP6 192.0.2.1 192.0.2.2 1 2\r\n", "family"),
        (b"PROXY TCP6 fe80::1%eth0 ::2 1 2\r\n", "family"),
        (b"PROXY TCP6 ::1::2 ::2 1 2\r\n", "does not parse"),
        (b"PROXY TCP6 ::00001 ::2 1 2\r\n", "does not parse"),
        (b"PROXY TCP6 [::1] ::2 1 2\r\n", "does not parse"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 01 2\r\n", "port"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 +1 2\r\n", "port"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 65536\r\n", "port"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 \r\n", "port"),
        (b"PROXY TCP4 192.0.2.1 192.0.2.2 1 2\n", "lone LF"),
        (b"PROXY UNKNOWN\nGET / HTTP/1.1\r\n", "lone LF"),
        (b"PROXY UNKNOWN \rX\r\n", "lone CR"),
        (b"PROXY UNKNOWN " + b"f" * (PROXY_V1_MAX - 15) + b"\r\n", "no CR LF"),
        (b"PROXY " + b"f" * PROXY_V1_MAX, "no CR LF"),
    ],
)
def test_v1_lines_that_break_the_grammar_are_refused(wire: bytes, reason: str) -> None:
    check_refused(drive_header, wire, reason=reason)


@pytest.mark.parametrize(
    ("header", "line"),
    [
        (ProxyHeader(*V4), b"PROXY TCP4 192.0.2.1 198.51.100.2 56324 443\r\n"),
        (ProxyHeader(*V6), b"PROXY TCP6 2001:db8::1 2001:db8::2 56324 443\r\n"),
        (ProxyHeader(V4[0], V6[1]), b"PROXY TCP6 ::ffff:c000:201 2001:db8::2 56324 443\r\n"),
        (NO_ADDRESS, b"PROXY UNKNOWN\r\n"),
    ],
)
def test_v1_lines_are_written_as_published(header: ProxyHeader, line: bytes) -> None:
    assert encode_v1(header) == line


# --- version 2 --------------------------------------------------------------------------------

V2_ACCEPTED = [
    (v2(INET_BLOCK), ProxyHeader(*V4)),
    (v2(INET_BLOCK, family=0x12), ProxyHeader(*V4)),
    (v2(INET_BLOCK, family=0x10), NO_ADDRESS),
    (v2(bytes(216), family=0x31), NO_ADDRESS),
    (v2(bytes(216) + tlv(5, b"id"), family=0x32), ProxyHeader(None, None, (Tlv(5, b"id"),))),
    (v2(tlv(5, b"id"), family=0x00), ProxyHeader(None, None, (Tlv(5, b"id"),))),
    (v2(b"", command=0x20, family=0x00), NO_ADDRESS),
    (v2(b"\xff" * 7, command=0x20, family=0xFF), NO_ADDRESS),
    (v2(INET_BLOCK + tlv(4, b"padding") + tlv(4, b"")), ProxyHeader(*V4)),
    (v2(INET_BLOCK + tlv(0x30, b"ns") + tlv(0xF7, b"?")), ProxyHeader(*V4, (Tlv(0x30, b"ns"), Tlv(0xF7, b"?")))),
    (v2(INET_BLOCK + tlv(2, b"a") + tlv(2, b"b")), ProxyHeader(*V4, (Tlv(2, b"a"), Tlv(2, b"b")))),
    (encode_v2(ProxyHeader(*V6, (Tlv(1, b"h2"),))), ProxyHeader(*V6, (Tlv(1, b"h2"),))),
]


@pytest.mark.parametrize(("wire", "expected"), V2_ACCEPTED)
def test_v2_headers_are_read_to_their_end_and_no_further(wire: bytes, expected: ProxyHeader) -> None:
    check_three_ways(drive_header, wire, expected)


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (v2(INET_BLOCK, command=0x11), "version and command"),
        (v2(INET_BLOCK, command=0x22), "version and command"),
        (v2(INET_BLOCK, family=0x41), "family and transport"),
        (v2(INET_BLOCK, family=0x13), "family and transport"),
        (v2(INET_BLOCK[:-1]), "shorter than its addresses"),
        (v2(INET_BLOCK, family=0x21), "shorter than its addresses"),
        (v2(INET_BLOCK + b"\x04\x00"), "behind the last TLV"),
        (v2(INET_BLOCK + b"\x04\x00\x02x"), "longer than the header"),
        (v2(INET_BLOCK + b"\x04\xff\xff"), "longer than the header"),
        (v2(INET_BLOCK + tlv(0xE0, b"\0") * 2), "twice"),
        (v2(INET_BLOCK + tlv(0xEF, b"") * 2), "twice"),
        (v2(INET_BLOCK + tlv(3, bytes(4))), "checksum is wrong"),
        (v2(INET_BLOCK + tlv(3, bytes(3))), "four bytes"),
        (v2(INET_BLOCK + tlv(2, b"\xff")), "UTF-8"),
        (v2(INET_BLOCK + tlv(5, bytes(PROXY_UNIQUE_ID_MAX + 1))), "unique id"),
        (v2(INET_BLOCK + tlv(0x20, bytes(4))), "SSL"),
        (v2(INET_BLOCK + tlv(0x20, bytes(5) + b"\x21\x00\x09TLSv1.3")), "longer"),
    ],
)
def test_v2_headers_that_break_the_format_are_refused(wire: bytes, reason: str) -> None:
    assert check_refused(drive_header, wire, reason=reason).code is ErrorCode.BAD_PREFACE


def test_both_ends_are_sent_in_one_family() -> None:
    """A visitor over IPv4 at a listener that knows its own address as IPv6, and back as it was."""
    wire = encode_v2(ProxyHeader(V4[0], V6[1]), checksum=False)
    assert wire[13] == 0x21
    assert decode(wire) == ProxyHeader(V4[0], V6[1])


@pytest.mark.parametrize(
    "header",
    [
        ProxyHeader(V4[0], None),
        ProxyHeader(None, V4[1]),
        ProxyHeader(Address("example.com", 1), V4[1]),
        ProxyHeader(Address("192.0.2.1", 65536), V4[1]),
        ProxyHeader(Address("192.0.2.1", -1), V4[1]),
    ],
)
def test_what_is_no_pair_of_addresses_is_not_written(header: ProxyHeader) -> None:
    for write in (encode_v1, encode_v2):
        with pytest.raises(ValueError, match=r"both ends|Expected 4 octets|ports"):
            write(header)


def test_properties_give_the_first_vector_of_a_type() -> None:
    header = decode(v2(INET_BLOCK + tlv(1, b"h2") + tlv(2, "ü.example".encode()) + tlv(2, b"b") + tlv(5, b"\xff\x00")))
    assert (header.alpn, header.authority, header.unique_id) == (b"h2", "ü.example", b"\xff\x00")
    assert (header.ssl, header.stream_kind, header.endpoint) == (None, None, None)
    ours = decode(v2(INET_BLOCK + tlv(0xE0, b"\x01") + tlv(0xE1, b"a.example")))
    assert (ours.stream_kind, ours.endpoint) == (StreamKind.CHALLENGE, b"a.example")
    assert decode(v2(INET_BLOCK + tlv(0xE0, b"\x63"))).stream_kind is None
    assert NO_ADDRESS.authority is None


def test_addresses_of_sockets_become_canonical() -> None:
    assert Address.from_sockname(("::ffff:192.0.2.1", 5, 0, 0)) == Address("192.0.2.1", 5)
    assert Address.from_sockname(("fe80::1%eth0", 5, 0, 2)) == Address("fe80::1", 5)
    assert Address.from_sockname(("192.0.2.1", 5)) == Address("192.0.2.1", 5)
    assert [str(end) for end in (V4[0], V6[0])] == ["192.0.2.1:56324", "[2001:db8::1]:56324"]
    with pytest.raises(ValueError, match="octets"):
        Address.from_sockname(("localhost", 5))
