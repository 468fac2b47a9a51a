"""The type-length-value vectors of PROXY protocol v2, and its checksum.

Source: haproxy.org, `proxy-protocol.txt` §2.2.  What holds in this file:

* Vectors fill their block exactly; a length is compared with what is there
  before anything is cut out.
* Unknown types are kept and mean nothing.  Vectors of ours (0xE0 to 0xEF, the
  range left to applications) and the checksum come at most once: of two, each
  reader would choose another.
* A value that a property of `ProxyHeader` hands out is checked here, so that
  no property can fail.
"""

from __future__ import annotations

import struct
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, final

from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.settings.limits import PROXY_HEADER_MAX, PROXY_UNIQUE_ID_MAX

TLV_HEAD: Final = struct.Struct("!BH")
"""Type and length of a vector."""
SSL_HEAD: Final = struct.Struct("!BI")
"""Client bits and verify result at the head of an SSL vector."""
CHECKSUM: Final = struct.Struct("!I")
"""The value of a CRC32C vector."""
OURS: Final = range(0xE0, 0xF0)
"""Types that the protocol leaves to applications (§2.2.8)."""
CLIENT_CERTIFICATE: Final = 0x02 | 0x04
"""SSL client bits: a certificate on this connection, or earlier in its TLS session."""


@final
class TlvType(IntEnum):
    """Registered types (§2.2), and the two that are ours."""

    ALPN = 0x01
    AUTHORITY = 0x02
    CRC32C = 0x03
    NOOP = 0x04
    UNIQUE_ID = 0x05
    SSL = 0x20
    SSL_VERSION = 0x21
    SSL_CN = 0x22
    SSL_CIPHER = 0x23
    SSL_SIG_ALG = 0x24
    SSL_KEY_ALG = 0x25
    NETNS = 0x30
    STREAM_KIND = 0xE0
    ENDPOINT = 0xE1

    __hash__ = int.__hash__  # Enum's hashes the name, in Python


ONCE: Final = frozenset({*OURS, TlvType.CRC32C})
"""Types of which a second one is refused."""


@final
class StreamKind(IntEnum):
    """What a stream of a session carries; the one byte of a STREAM_KIND vector."""

    VISITOR = 0
    """A visitor's TLS, from the first byte of its ClientHello on."""
    CHALLENGE = 1
    """A certificate authority's `acme-tls/1` connection."""
    CANARY = 2
    """The relay's own probe of the data path."""


@final
@dataclass(frozen=True, slots=True)
class Tlv:
    """One vector, not interpreted."""

    kind: int
    value: bytes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SslTlv:
    """The TLS that the sender of a header ended (§2.2.6)."""

    client: int
    """Bits: 1 over TLS, 2 certificate on this connection, 4 certificate in this session."""
    verify: int
    """0 if the client presented a certificate that is valid."""
    fields: tuple[Tlv, ...] = ()
    """The nested vectors, `TlvType.SSL_VERSION` and so on."""

    @property
    def verified(self) -> bool:
        """Whether the client proved a certificate, on this connection or earlier in its session."""
        return self.verify == 0 and self.client & CLIENT_CERTIFICATE != 0

    def to_tlv(self) -> Tlv:
        """Return the vector that carries this value; raises ValueError as `encode_tlvs` does."""
        return Tlv(TlvType.SSL, SSL_HEAD.pack(self.client, self.verify) + encode_tlvs(self.fields))


def bad_header(reason: str) -> RemoteProtocolError:
    """Return the error for a header that breaks a rule; *reason* is of our own words."""
    return RemoteProtocolError(f"PROXY header: {reason}", code=ErrorCode.BAD_PREFACE)


def encode_tlvs(tlvs: Iterable[Tlv]) -> bytes:
    """Return the vectors one behind the other.

    Raises:
        ValueError: A checksum or padding is among them (`encode_v2` makes
            the former, nobody needs the latter), or one is too long.
    """
    parts: list[bytes] = []
    for tlv in tlvs:
        if tlv.kind in (TlvType.CRC32C, TlvType.NOOP) or len(tlv.value) > PROXY_HEADER_MAX:
            raise ValueError(f"a TLV of type {tlv.kind:#04x} and {len(tlv.value)} bytes is not for callers to send")
        parts += (TLV_HEAD.pack(tlv.kind, len(tlv.value)), tlv.value)
    return b"".join(parts)


def walk_tlvs_untrusted(block: bytes, at: int) -> Iterator[tuple[int, bytes, int]]:
    """Yield type, value and the value's place of each vector from *at* to the end of *block*.

    Raises:
        RemoteProtocolError: They do not fill it exactly.
    """
    end = len(block)
    while at < end:
        if end - at < TLV_HEAD.size:
            raise bad_header("bytes behind the last TLV")
        kind, length = TLV_HEAD.unpack_from(block, at)
        at += TLV_HEAD.size
        if length > end - at:
            raise bad_header(f"TLV {kind:#04x} is longer than the header")
        yield kind, block[at : at + length], at
        at += length


def parse_tlvs_untrusted(wire: bytes, start: int) -> tuple[Tlv, ...]:
    """Return the vectors of a whole v2 header; its checksum is verified, padding dropped.

    Args:
        wire: The header from its signature on: the checksum covers all of it.
        start: Where the vectors begin.

    Raises:
        RemoteProtocolError: A rule of this file is broken, or the checksum is wrong.
    """
    tlvs: list[Tlv] = []
    seen: set[int] = set()
    for kind, value, at in walk_tlvs_untrusted(wire, start):
        if kind in ONCE:
            if kind in seen:
                raise bad_header(f"TLV {kind:#04x} comes twice")
            seen.add(kind)
        if kind == TlvType.CRC32C:
            _verify_checksum_untrusted(wire, value, at)
        elif kind != TlvType.NOOP:
            _check_value_untrusted(kind, value)
            tlvs.append(Tlv(kind, value))
    return tuple(tlvs)


def _verify_checksum_untrusted(wire: bytes, value: bytes, at: int) -> None:
    """Compare *value* with the checksum of the header with zeros in its place (§2.2.3)."""
    if len(value) != CHECKSUM.size:
        raise bad_header("a checksum has four bytes")
    blank = b"".join((wire[:at], bytes(CHECKSUM.size), wire[at + CHECKSUM.size :]))
    if CHECKSUM.pack(crc32c(blank)) != value:
        raise bad_header("the checksum is wrong")


def _check_value_untrusted(kind: int, value: bytes) -> None:
    """Refuse a value that a property of `ProxyHeader` could not hand out."""
    if kind == TlvType.AUTHORITY:
        try:
            value.decode()
        except UnicodeDecodeError as exc:
            raise bad_header("the authority is not UTF-8") from exc
    elif kind == TlvType.UNIQUE_ID and len(value) > PROXY_UNIQUE_ID_MAX:
        raise bad_header(f"a unique id has at most {PROXY_UNIQUE_ID_MAX} bytes")
    elif kind == TlvType.SSL:
        parse_ssl_untrusted(value)


def parse_ssl_untrusted(value: bytes) -> SslTlv:
    """Parse the value of an SSL vector; raises RemoteProtocolError.  Source: §2.2.6."""
    if len(value) < SSL_HEAD.size:
        raise bad_header("an SSL TLV has at least five bytes")
    client, verify = SSL_HEAD.unpack_from(value)
    fields = tuple(Tlv(kind, part) for kind, part, _ in walk_tlvs_untrusted(value, SSL_HEAD.size))
    return SslTlv(client=client, verify=verify, fields=fields)


# --- CRC-32C ----------------------------------------------------------------------------------

BYTE: Final = 0xFF
WORD: Final = 0xFFFF_FFFF
CASTAGNOLI: Final = 0x82F6_3B78
"""The polynomial 0x1EDC6F41 with its bits reversed (RFC 9260, appendix A)."""


def _remainder(octet: int) -> int:
    for _ in range(8):
        octet = octet >> 1 ^ (CASTAGNOLI if octet & 1 else 0)
    return octet


_REMAINDERS: Final = tuple(_remainder(octet) for octet in range(BYTE + 1))


def crc32c(octets: bytes) -> int:
    """Return the CRC-32C of *octets*, a table look-up a byte.  Source: RFC 9260, appendix A."""
    register = WORD
    for octet in octets:
        register = _REMAINDERS[(register ^ octet) & BYTE] ^ register >> 8
    return register ^ WORD
