"""TLVs of PROXY v2: the checksum, SSL, and which vectors may be sent."""

from __future__ import annotations

import pytest

from tests.wire.proxy_cases import INET_BLOCK, V4, decode, drive_header, tlv, v2
from tests.wire.three_way import check_refused
from trunnel.errors import RemoteProtocolError
from trunnel.settings.limits import PROXY_HEADER_MAX
from trunnel.wire.proxyprotocol import (
    ProxyHeader,
    SslTlv,
    Tlv,
    TlvType,
    encode_v2,
)
from trunnel.wire.proxytlv import crc32c


def test_a_checksum_is_made_and_verified() -> None:
    header = ProxyHeader(*V4, (Tlv(TlvType.AUTHORITY, b"example.com"),))
    wire = encode_v2(header)
    assert decode(wire) == header
    type_of_checksum = 28  # with another type there it is no checksum
    for at in sorted({*range(16, len(wire))} - {type_of_checksum}):
        damaged = bytearray(wire)
        damaged[at] ^= 0x10
        with pytest.raises(RemoteProtocolError):
            decode(bytes(damaged))


def test_a_second_checksum_is_refused_even_if_the_first_is_right() -> None:
    second = tlv(TlvType.CRC32C, b"abcd")
    blank = v2(INET_BLOCK + tlv(TlvType.CRC32C, bytes(4)) + second)
    first = tlv(TlvType.CRC32C, crc32c(blank).to_bytes(4, "big"))
    check_refused(drive_header, v2(INET_BLOCK + first + second), reason="twice")


@pytest.mark.parametrize(
    ("octets_", "expected"),
    [
        (b"", 0),
        (b"123456789", 0xE3069283),
        (bytes(32), 0x8A9136AA),
        (b"\xff" * 32, 0x62A8AB43),
        (bytes(range(32)), 0x46DD794E),
    ],
)
def test_crc32c_matches_the_published_vectors(octets_: bytes, expected: int) -> None:
    """RFC 3720 §B.4, and the check value of the catalogue of CRCs."""
    assert crc32c(octets_) == expected


@pytest.mark.parametrize(
    "vector", [Tlv(3, bytes(4)), Tlv(4, b""), Tlv(0xE5, bytes(PROXY_HEADER_MAX)), Tlv(2, bytes(70_000))]
)
def test_vectors_that_are_not_for_callers_are_not_written(vector: Tlv) -> None:
    with pytest.raises(ValueError, match=r"not for callers|is over"):
        encode_v2(ProxyHeader(*V4, (vector,)))


def test_ssl_with_nested_vectors() -> None:
    ssl = SslTlv(client=3, verify=0, fields=(Tlv(TlvType.SSL_VERSION, b"TLSv1.3"), Tlv(TlvType.SSL_CN, b"me")))
    decoded = decode(encode_v2(ProxyHeader(*V4, (ssl.to_tlv(),)))).ssl
    assert decoded == ssl
    assert ssl.verified
    assert not SslTlv(client=3, verify=1).verified
    assert not SslTlv(client=1, verify=0).verified
