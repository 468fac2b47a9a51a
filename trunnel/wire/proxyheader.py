r"""One PROXY protocol header as a value, and its two written forms.

Source: haproxy.org, `proxy-protocol.txt`.  Whole headers only: where one ends
is for `ProxyParser` in `wire/proxyprotocol.py` to find.  What holds here:

* Strict where two readers could differ.  v1 (§2.1): one space, no leading
  zero, no lone CR.  v2 (§2.2): the block holds its addresses and TLVs exactly.
* LOCAL, UNKNOWN, AF_UNSPEC and AF_UNIX give no address: the connection speaks
  for itself.  LOCAL's block is discarded unread (§2.2), so a header that has
  TLVs and no addresses is sent as PROXY with AF_UNSPEC.
* An IPv4 address mapped into IPv6 is given as IPv4: a limit for each address
  counts a visitor once, and IPv4 as a whole is not one IPv6 /64.
* What is decoded and encoded again comes out in one form (canonical).
"""

from __future__ import annotations

import ipaddress
import re
import struct
from dataclasses import dataclass
from functools import lru_cache
from typing import Final, final

from trunnel.names import PORT_MAX
from trunnel.settings.limits import PROXY_HEADER_MAX
from trunnel.wire.proxytlv import (
    CHECKSUM,
    TLV_HEAD,
    SslTlv,
    StreamKind,
    Tlv,
    TlvType,
    bad_header,
    crc32c,
    encode_tlvs,
    parse_ssl_untrusted,
    parse_tlvs_untrusted,
)

V2_MAGIC: Final = b"\r\n\r\n\x00\r\nQUIT\n"
"""The twelve bytes that every v2 header begins with."""
V2_FIXED: Final = struct.Struct("!12sBBH")
"""Signature, version and command, family and transport, length of what follows."""
LOCAL: Final = 0x20
"""Version 2, command LOCAL."""
PROXY: Final = 0x21
"""Version 2, command PROXY."""
UNSPEC, INET, INET6, UNIX = 0x00, 0x10, 0x20, 0x30
STREAM: Final = 0x01
ADDRESS_BYTES: Final = {UNSPEC: 0, INET: 12, INET6: 36, UNIX: 216}
"""Bytes of both addresses, by family: the high nibble of the fourteenth byte."""
TRANSPORT_MAX: Final = 0x02
"""The low nibble: UNSPEC, STREAM, DGRAM."""
NIBBLE: Final = 0x0F

_COMMAND_AT, _FAMILY_AT = 12, 13
_LAYOUTS: Final = {INET: struct.Struct("!4s4sHH"), INET6: struct.Struct("!16s16sHH")}
_REMEMBERED: Final = 1024
"""Addresses whose other form is remembered: visitors come back, and relays stay where they are."""
_MAPPED: Final = bytes(10) + b"\xff\xff"
_IPV4_BYTES: Final = 4
_V1_FIELDS: Final = 6
_V1_PORT: Final = re.compile(rb"0|[1-9][0-9]{0,4}", re.ASCII)


@final
@dataclass(frozen=True, slots=True, order=True)
class Address:
    """An IP address as canonical text (IPv4 never mapped, no scope), and a port."""

    host: str
    port: int

    @classmethod
    def from_sockname(cls, name: tuple[str, int] | tuple[str, int, int, int]) -> Address:
        """Return the canonical form of what a TCP socket's `getpeername` gives.

        Raises:
            ValueError: It is no IP address.
        """
        return cls(_text(_packed(name[0])), name[1])

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


@final
@dataclass(frozen=True, slots=True)
class ProxyHeader:
    """A decoded header; both addresses are None where it names none."""

    source: Address | None
    destination: Address | None
    tlvs: tuple[Tlv, ...] = ()

    def first(self, kind: int) -> bytes | None:
        """Return the value of the first TLV of that type, or None."""
        return next((tlv.value for tlv in self.tlvs if tlv.kind == kind), None)

    @property
    def authority(self) -> str | None:
        """The host name that the client asked for: its own text, not judged."""
        value = self.first(TlvType.AUTHORITY)
        return None if value is None else value.decode()

    @property
    def alpn(self) -> bytes | None:
        """The application protocol."""
        return self.first(TlvType.ALPN)

    @property
    def unique_id(self) -> bytes | None:
        """The sender's name for the connection; in our preface, the stream's id."""
        return self.first(TlvType.UNIQUE_ID)

    @property
    def ssl(self) -> SslTlv | None:
        """The TLS that the sender ended, if it says so."""
        value = self.first(TlvType.SSL)
        return None if value is None else parse_ssl_untrusted(value)

    @property
    def stream_kind(self) -> StreamKind | None:
        """What the stream carries; None if the TLV is absent or its value is unknown."""
        return _KINDS.get(self.first(TlvType.STREAM_KIND) or b"")

    @property
    def endpoint(self) -> bytes | None:
        """The endpoint that the relay matched, as sent."""
        return self.first(TlvType.ENDPOINT)


_KINDS: Final = {bytes([kind]): kind for kind in StreamKind}


# --- addresses --------------------------------------------------------------------------------


@lru_cache(_REMEMBERED)
def _packed(host: str) -> bytes:
    """Return the 4 or 16 bytes of an IP address; ValueError if it is none."""
    return ipaddress.IPv6Address(host).packed if ":" in host else ipaddress.IPv4Address(host).packed


@lru_cache(_REMEMBERED)
def _text(packed: bytes) -> str:
    """Return the canonical text of a packed address."""
    quad = packed.removeprefix(_MAPPED)
    return ".".join(map(str, quad)) if len(quad) == _IPV4_BYTES else str(ipaddress.IPv6Address(packed))


def _hexadecimal(packed: bytes) -> str:
    """Return IPv6 text without a dotted quad, which v1's grammar does not have."""
    if packed.startswith(_MAPPED):
        return "::ffff:{:x}:{:x}".format(*struct.unpack_from("!HH", packed, len(_MAPPED)))
    return _text(packed)


def _ends(header: ProxyHeader) -> tuple[bytes, bytes, int, int] | None:
    """Return both addresses packed, of one length, and the ports; or None if there are none."""
    if header.source is None and header.destination is None:
        return None
    if header.source is None or header.destination is None:
        raise ValueError("a PROXY header names both ends or none")
    source, destination = _packed(header.source.host), _packed(header.destination.host)
    if len(source) != len(destination):
        source, destination = (end if len(end) > _IPV4_BYTES else _MAPPED + end for end in (source, destination))
    return source, destination, header.source.port, header.destination.port


# --- encoding ---------------------------------------------------------------------------------


def encode_v1(header: ProxyHeader) -> bytes:
    """Return the v1 line of *header* with its CR LF; it has no place for TLVs.

    Raises:
        ValueError: An address is no IP address, a port no port, or only one end is there.

    Source: proxy-protocol.txt §2.1.
    """
    ends = _ends(header)
    if ends is None:
        return b"PROXY UNKNOWN\r\n"
    source, destination, source_port, destination_port = ends
    if not 0 <= min(source_port, destination_port) <= max(source_port, destination_port) <= PORT_MAX:
        raise ValueError(f"not two ports: {source_port}, {destination_port}")
    is_v4 = len(source) == _IPV4_BYTES
    text = _text if is_v4 else _hexadecimal
    family = "TCP4" if is_v4 else "TCP6"
    return f"PROXY {family} {text(source)} {text(destination)} {source_port} {destination_port}\r\n".encode("ascii")


def encode_v2(header: ProxyHeader, *, checksum: bool = True) -> bytes:
    """Return the v2 header.

    Args:
        header: Addresses of one family, or of two (sent as IPv6, the IPv4 one mapped), or none.
        checksum: Whether a CRC32C TLV comes first.  LOCAL has none: its block is empty.

    Raises:
        ValueError: An address is no IP address, a port no port, only one end is there,
            a TLV is not for callers to send, or the whole is over `PROXY_HEADER_MAX`.

    Source: proxy-protocol.txt §2.2.
    """
    ends = _ends(header)
    if ends is None and not header.tlvs:
        return V2_FIXED.pack(V2_MAGIC, LOCAL, UNSPEC, 0)
    family, addresses = UNSPEC, b""
    if ends is not None:
        family = INET if len(ends[0]) == _IPV4_BYTES else INET6
        addresses = _pack_addresses(family, ends)
        family |= STREAM
    tlvs = encode_tlvs(header.tlvs)
    if not checksum:
        return _assemble(family, addresses + tlvs)
    before = addresses + TLV_HEAD.pack(TlvType.CRC32C, CHECKSUM.size)
    blank = _assemble(family, before + bytes(CHECKSUM.size) + tlvs)
    return _assemble(family, before + CHECKSUM.pack(crc32c(blank)) + tlvs)


def _pack_addresses(family: int, ends: tuple[bytes, bytes, int, int]) -> bytes:
    try:
        return _LAYOUTS[family].pack(*ends)
    except struct.error as exc:
        raise ValueError(f"not two ports: {ends[2:]}") from exc


def _assemble(family: int, block: bytes) -> bytes:
    size = V2_FIXED.size + len(block)
    if size > PROXY_HEADER_MAX:
        raise ValueError(f"a PROXY header of {size} bytes is over {PROXY_HEADER_MAX}")
    return V2_FIXED.pack(V2_MAGIC, PROXY, family, len(block)) + block


# --- decoding ---------------------------------------------------------------------------------


def parse_v1_untrusted(line: bytes) -> ProxyHeader:
    """Parse a v1 line without its CR LF; raises RemoteProtocolError.

    Source: proxy-protocol.txt §2.1.
    """
    if b"\r" in line or b"\n" in line:
        raise bad_header("a lone CR or LF")
    if line == b"PROXY UNKNOWN" or line.startswith(b"PROXY UNKNOWN "):
        return ProxyHeader(None, None)
    fields = line.split(b" ")
    if len(fields) != _V1_FIELDS or fields[1] not in (b"TCP4", b"TCP6"):
        raise bad_header("not PROXY, TCP4 or TCP6, two addresses and two ports")
    source, destination = (_parse_host_untrusted(field, v6=fields[1] == b"TCP6") for field in fields[2:4])
    source_port, destination_port = (_parse_port_untrusted(field) for field in fields[4:])
    return ProxyHeader(Address(source, source_port), Address(destination, destination_port))


def _parse_host_untrusted(field: bytes, *, v6: bool) -> str:
    if not field.isascii() or (b":" in field) is not v6 or b"%" in field:
        raise bad_header("an address is not of the family named")
    try:
        return _text(_packed(field.decode("ascii")))
    except ValueError as exc:
        raise bad_header("an address does not parse") from exc


def _parse_port_untrusted(field: bytes) -> int:
    if _V1_PORT.fullmatch(field) is None or int(field) > PORT_MAX:
        raise bad_header(f"a port is not 0 to {PORT_MAX} in plain decimal")
    return int(field)


def measure_v2_untrusted(head: bytes | bytearray) -> int:
    """Judge the fixed part of a v2 header and return the length of the whole; raises RemoteProtocolError."""
    _, command, family, length = V2_FIXED.unpack_from(head)
    if command not in (LOCAL, PROXY):
        raise bad_header(f"version and command {command:#04x}")
    if command == PROXY and (family & ~NIBBLE not in ADDRESS_BYTES or family & NIBBLE > TRANSPORT_MAX):
        raise bad_header(f"family and transport {family:#04x}")
    size = V2_FIXED.size + int(length)
    if size > PROXY_HEADER_MAX:
        raise bad_header(f"{size} bytes, over {PROXY_HEADER_MAX}")
    return size


def parse_v2_untrusted(wire: bytes) -> ProxyHeader:
    """Parse a whole v2 header that `measure_v2_untrusted` accepted; raises RemoteProtocolError.

    Source: proxy-protocol.txt §2.2.
    """
    if wire[_COMMAND_AT] == LOCAL:
        return ProxyHeader(None, None)
    family, transport = wire[_FAMILY_AT] & ~NIBBLE, wire[_FAMILY_AT] & NIBBLE
    start = V2_FIXED.size + ADDRESS_BYTES[family]
    if start > len(wire):
        raise bad_header("shorter than its addresses")
    tlvs = parse_tlvs_untrusted(wire, start)
    layout = _LAYOUTS.get(family)
    if layout is None or not transport:
        return ProxyHeader(None, None, tlvs)
    source, destination, source_port, destination_port = layout.unpack_from(wire, V2_FIXED.size)
    return ProxyHeader(Address(_text(source), source_port), Address(_text(destination), destination_port), tlvs)
