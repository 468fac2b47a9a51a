"""PROXY headers for the tests: built by hand, so that no encoder of ours checks itself."""

from __future__ import annotations

import struct
from collections.abc import Iterable

from tests.wire.three_way import Parsed, drive_until_done
from trunnel.wire.proxyprotocol import Address, ProxyHeader, ProxyParser

MAGIC = b"\r\n\r\n\x00\r\nQUIT\n"
V4 = Address("192.0.2.1", 56324), Address("198.51.100.2", 443)
V6 = Address("2001:db8::1", 56324), Address("2001:db8::2", 443)
NO_ADDRESS = ProxyHeader(None, None)


def drive_header(chunks: Iterable[bytes]) -> Parsed:
    """Run a parser of both versions."""
    parser = ProxyParser()
    return drive_until_done(parser.feed_untrusted, lambda: parser.leftover, chunks)


def v2(block: bytes, *, command: int = 0x21, family: int = 0x11, length: int | None = None) -> bytes:
    """Build a v2 header by hand."""
    return MAGIC + struct.pack("!BBH", command, family, len(block) if length is None else length) + block


def tlv(kind: int, value: bytes) -> bytes:
    """Build a vector by hand."""
    return struct.pack("!BH", kind, len(value)) + value


def decode(wire: bytes) -> ProxyHeader:
    """Parse one whole header."""
    header = ProxyParser().feed_untrusted(wire)
    assert header is not None
    return header


INET_BLOCK = bytes([192, 0, 2, 1, 198, 51, 100, 2]) + struct.pack("!HH", 56324, 443)
