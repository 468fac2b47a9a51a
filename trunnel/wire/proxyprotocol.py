"""The PROXY protocol, versions 1 and 2: who is at the far end of a connection.

Source: haproxy.org, `proxy-protocol.txt`; our use of it, PROTOCOL.md.  One
codec, three uses: the preface of every stream that the relay opens, the header
of a load balancer in front of the relay, and the header that an origin asks
for.  Here are the parser, which finds where a header ends, and the preface;
the header itself is in `wire/proxyheader.py`, its TLVs in `wire/proxytlv.py`.

What holds in this file:

* A header has at most `PROXY_HEADER_MAX` bytes (a v1 line `PROXY_V1_MAX`): that
  is judged from its first 16 bytes, and no more than that is ever kept.
* No byte behind the header is consumed; it comes back as `leftover`.
* What cannot become a header is refused at the first byte that shows it.
* Whether a header is expected is configuration, never detection (§5): visitors
  must not be able to say who they are.
"""

from __future__ import annotations

import re
from collections.abc import Collection
from dataclasses import dataclass
from typing import Final, final

from trunnel.errors import LocalProtocolError, RemoteProtocolError
from trunnel.names import Hostname, parse_hostname_untrusted
from trunnel.settings.limits import PROXY_HEADER_MAX, PROXY_V1_MAX, STREAM_NAME_MAX
from trunnel.wire.proxyheader import (
    V2_FIXED,
    V2_MAGIC,
    Address,
    ProxyHeader,
    encode_v1,
    encode_v2,
    measure_v2_untrusted,
    parse_v1_untrusted,
    parse_v2_untrusted,
)
from trunnel.wire.proxytlv import SslTlv, StreamKind, Tlv, TlvType, bad_header

__all__ = [
    "Address",
    "Preface",
    "ProxyHeader",
    "ProxyParser",
    "SslTlv",
    "StreamKind",
    "Tlv",
    "TlvType",
    "encode_v1",
    "encode_v2",
    "read_preface_untrusted",
    "visitor_preface",
]

VERSION_1: Final = 1
VERSION_2: Final = 2
V1_MAGIC: Final = b"PROXY "
"""What every v1 line begins with."""
V1_SHORTEST: Final = len(b"PROXY UNKNOWN\r\n")
CRLF: Final = b"\r\n"
ALPN_MAX: Final = 255
"""Bytes of one protocol name (RFC 7301 §3.1)."""

_STREAM_NAME: Final = re.compile(rb"[A-Za-z0-9_-]{1,%d}" % STREAM_NAME_MAX, re.ASCII)


@final
class ProxyParser:
    """Takes the bytes at the head of a connection until the header is whole.

    Args:
        versions: Which of 1 and 2 are accepted; the other is refused like
            anything else that is no header.
    """

    __slots__ = ("_buffer", "_versions", "header", "leftover")

    def __init__(self, *, versions: Collection[int] = (VERSION_1, VERSION_2)) -> None:
        self._buffer = bytearray()
        self._versions = versions
        self.header: ProxyHeader | None = None
        """The header, once it is whole."""
        self.leftover = b""
        """What came behind the header."""

    def feed_untrusted(self, chunk: bytes | bytearray | memoryview) -> ProxyHeader | None:
        """Take the next bytes; return the header once it is whole, None before.

        Raises:
            RemoteProtocolError: The bytes are no acceptable header (code
                BAD_PREFACE); raised again by every later call.
            LocalProtocolError: The header was whole already.
        """
        if self.header is not None:
            raise LocalProtocolError("the PROXY header is whole; read on from `leftover`")
        view = memoryview(chunk)
        room = PROXY_HEADER_MAX - len(self._buffer)
        self._buffer += view[:room]
        size = self._measure_untrusted()
        if size is None or size > len(self._buffer):
            return None
        wire = bytes(self._buffer[:size])
        is_v2 = wire.startswith(V2_MAGIC)
        header = parse_v2_untrusted(wire) if is_v2 else parse_v1_untrusted(wire.removesuffix(CRLF))
        self.leftover = b"".join((self._buffer[size:], view[room:]))
        self.header = header
        return header

    @property
    def needed(self) -> int:
        """Bytes that are missing at least, 0 once whole; reading so many never reads past the header."""
        if self.header is not None:
            return 0
        held = len(self._buffer)
        may_be_v1 = VERSION_1 in self._versions and V1_MAGIC.startswith(self._buffer[: len(V1_MAGIC)])
        if may_be_v1:
            return max(V1_SHORTEST - held, 1 if self._buffer.endswith(CRLF[:1]) else len(CRLF))
        if held < V2_FIXED.size:
            return V2_FIXED.size - held
        return max(1, V2_FIXED.size + int(V2_FIXED.unpack_from(self._buffer)[-1]) - held)

    def _measure_untrusted(self) -> int | None:
        """Return the length of the header, None while it cannot be known."""
        head = self._buffer
        if VERSION_2 in self._versions and V2_MAGIC.startswith(head[: len(V2_MAGIC)]):
            return measure_v2_untrusted(head) if len(head) >= V2_FIXED.size else None
        if VERSION_1 in self._versions and V1_MAGIC.startswith(head[: len(V1_MAGIC)]):
            return _measure_v1_untrusted(head)
        raise bad_header("the connection does not begin with one")


def _measure_v1_untrusted(head: bytearray) -> int | None:
    """Return the length of a v1 line with its CR LF, None while that has not come."""
    end = head.find(b"\n", 0, PROXY_V1_MAX)
    if end >= 0:
        if not head.startswith(CRLF, end - 1):
            raise bad_header("a lone LF")
        return end + 1
    if len(head) >= PROXY_V1_MAX:
        raise bad_header(f"no CR LF within {PROXY_V1_MAX} bytes")
    return None


# --- the preface of a stream ------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Preface:
    """What the relay says of a stream, ahead of the visitor's bytes."""

    stream: str
    """Id of the stream in both programs' events and logs."""
    visitor: Address | None
    """Where the visitor comes from; None for a stream of the relay's own."""
    local: Address | None
    """The relay's end of the visitor's connection."""
    authority: Hostname | None
    """The name that the visitor asked for."""
    endpoint: Hostname | None
    """The endpoint that the relay matched: the agent looks this one up."""
    alpn: bytes | None
    """The first protocol that the visitor offers, 1 to 255 bytes."""
    kind: StreamKind
    """What the stream carries."""


def visitor_preface(  # noqa: PLR0913 - the fields of one header, each by its name
    *,
    visitor: Address | None,
    local: Address | None,
    authority: Hostname | None,
    alpn: bytes | None,
    stream: str,
    kind: StreamKind = StreamKind.VISITOR,
    endpoint: Hostname | None = None,
) -> bytes:
    """Return the bytes that the relay sends at the head of a stream.

    There is no checksum: a stream runs inside TLS, whose own protects every
    byte of it, and a CRC in pure Python would double the cost of this
    function, which stands on the path of every visitor.

    Args:
        visitor: The visitor's address; None (with `local`) for the relay's own probe.
        local: The relay's address on the visitor's connection.
        authority: The name in the visitor's ClientHello.
        alpn: The first protocol offered there, 1 to 255 bytes.
        stream: The stream's id, 1 to 64 of `A-Z a-z 0-9 _ -`.
        kind: What the stream carries.
        endpoint: The endpoint that was matched.

    Raises:
        ValueError: A value is not of that form.

    Source: PROTOCOL.md, "The preface of a stream".
    """
    if _STREAM_NAME.fullmatch(name := stream.encode()) is None:
        raise ValueError(f"{stream!r} is not a stream id")
    tlvs = [Tlv(TlvType.STREAM_KIND, bytes([kind])), Tlv(TlvType.UNIQUE_ID, name)]
    if authority is not None:
        tlvs.append(Tlv(TlvType.AUTHORITY, authority.value.encode()))
    if endpoint is not None:
        tlvs.append(Tlv(TlvType.ENDPOINT, endpoint.value.encode()))
    if alpn is not None:
        if not 0 < len(alpn) <= ALPN_MAX:
            raise ValueError(f"an ALPN name has 1 to {ALPN_MAX} bytes")
        tlvs.append(Tlv(TlvType.ALPN, alpn))
    return encode_v2(ProxyHeader(visitor, local, tuple(tlvs)), checksum=False)


def read_preface_untrusted(header: ProxyHeader) -> Preface:
    """Interpret the header at the head of a stream.

    Raises:
        RemoteProtocolError: A value breaks its form, a TLV that we read comes
            twice, or the stream's id or kind is missing (code BAD_PREFACE).

    Source: PROTOCOL.md, "The preface of a stream".
    """
    found: dict[int, bytes] = {}
    for tlv in header.tlvs:
        if tlv.kind in found and tlv.kind in _INTERPRETED:
            raise bad_header(f"TLV {tlv.kind:#04x} comes twice")
        found[tlv.kind] = tlv.value
    name = found.get(TlvType.UNIQUE_ID, b"")
    if _STREAM_NAME.fullmatch(name) is None:
        raise bad_header("no stream id, or a malformed one")
    kind = header.stream_kind
    if kind is None:
        raise bad_header("no stream kind, or an unknown one")
    alpn = found.get(TlvType.ALPN)
    if alpn is not None and not 0 < len(alpn) <= ALPN_MAX:
        raise bad_header(f"an ALPN name has 1 to {ALPN_MAX} bytes")
    authority, endpoint = found.get(TlvType.AUTHORITY), found.get(TlvType.ENDPOINT)
    asked = _hostname_untrusted(authority)
    return Preface(
        stream=name.decode("ascii"),
        visitor=header.source,
        local=header.destination,
        authority=asked,
        endpoint=asked if endpoint == authority else _hostname_untrusted(endpoint),
        alpn=alpn,
        kind=kind,
    )


_INTERPRETED: Final = frozenset({TlvType.UNIQUE_ID, TlvType.AUTHORITY, TlvType.ALPN})
"""Types that are refused twice here, beyond ours, which every header is refused for."""


def _hostname_untrusted(raw: bytes | None) -> Hostname | None:
    """Parse a name in a TLV; absent is None."""
    if raw is None:
        return None
    try:
        return parse_hostname_untrusted(raw)
    except RemoteProtocolError as exc:
        raise bad_header("a name is not a host name") from exc
