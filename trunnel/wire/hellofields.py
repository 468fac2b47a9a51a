"""The fields of one ClientHello message that a router wants: name, protocols, versions.

The *terminator's rule*: refuse what the TLS stacks behind a relay refuse
before they look at the name, so that they never disagree about it.  Every
length must fit, every container must be used up exactly, no extension comes
twice, and the bodies of the other extensions that a terminator reads are held
to their grammar (`wire/helloextensions.py`).

What is *not* judged: whether versions, ciphers, groups and keys would lead to a
session.  That is between the client and the terminator.

Costs time linear in the bytes; only `RemoteProtocolError` leaves this file.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

from trunnel.wire.helloextensions import ExtensionType, check_extensions_untrusted
from trunnel.wire.tlsvectors import (
    UINT8,
    UINT16,
    VectorReader,
    malformed,
    numbers16,
    only_vector,
    split_pairs,
    split_vectors,
)

HOST_NAME: Final = 0
"""NameType host_name, the only one (RFC 6066 §3)."""
SERVER_NAME_MAX: Final = 255
"""Bytes of a server name that TLS stacks take (TLSEXT_MAXLEN_host_name)."""
SESSION_ID_MAX: Final = 32
"""Bytes of legacy_session_id (RFC 8446 §4.1.2)."""
RANDOM_BYTES: Final = 32
"""Bytes of the client's random."""
NULL_COMPRESSION: Final = 0
"""The method that every hello must offer (RFC 5246 §7.4.1.2)."""
GREASE: Final = frozenset(range(0x0A0A, 0x10000, 0x1010))
"""Values that mean nothing, sent so that peers learn to ignore the unknown (RFC 8701 §2)."""
TLS_1_0: Final = 0x0301
TLS_1_2: Final = 0x0303
TLS_1_3: Final = 0x0304


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class HelloFields:
    """What a well-formed ClientHello says."""

    server_name: bytes | None
    """1 to 255 bytes without NUL, as sent."""
    alpn: tuple[bytes, ...]
    """Protocols in the client's order, none empty."""
    versions: tuple[int, ...]
    """Versions in the client's order, without GREASE."""


def parse_fields_untrusted(message: bytes) -> HelloFields:
    """Parse the body of a ClientHello message (without its 4-byte header).

    Raises:
        RemoteProtocolError: It breaks the terminator's rule.

    Source: RFC 8446 §4.1.2; RFC 5246 §7.4.1.2.
    """
    reader = VectorReader(message, "the message")
    legacy_version = reader.number(UINT16)
    if legacy_version < TLS_1_0:
        malformed(f"legacy_version {legacy_version:#06x} is older than TLS 1.0")
    reader.take(RANDOM_BYTES)
    if len(reader.vector(UINT8)) > SESSION_ID_MAX:
        malformed(f"legacy_session_id is longer than {SESSION_ID_MAX} bytes")
    numbers16(reader.vector(UINT16), "cipher_suites")
    if NULL_COMPRESSION not in reader.vector(UINT8):
        malformed("legacy_compression_methods lacks null")
    extensions = _split_extensions(reader.vector(UINT16) if reader else b"")
    reader.end()
    versions = _versions(extensions.get(ExtensionType.SUPPORTED_VERSIONS), legacy_version)
    check_extensions_untrusted(extensions, tls13=TLS_1_3 in versions)
    return HelloFields(
        server_name=_server_name(extensions.get(ExtensionType.SERVER_NAME)),
        alpn=_alpn(extensions.get(ExtensionType.ALPN)),
        versions=versions,
    )


def _split_extensions(block: bytes) -> Mapping[int, bytes]:
    """Return each extension's body by its type, in order; refuse a second one of a type."""
    pairs = split_pairs(block, "the list of extensions")
    found = dict(pairs)
    if len(found) != len(pairs):
        malformed("an extension comes twice")
    return found


def _server_name(body: bytes | None) -> bytes | None:
    """Return the one host name of a server_name extension (RFC 6066 §3)."""
    if body is None:
        return None
    names = VectorReader(only_vector(body, UINT16, "server_name"), "server_name")
    if names.number(UINT8) != HOST_NAME:
        malformed("server_name holds something else than a host name")
    name = names.vector(UINT16)
    names.end()
    if not 0 < len(name) <= SERVER_NAME_MAX:
        malformed(f"server_name of {len(name)} bytes; 1 to {SERVER_NAME_MAX} are allowed")
    if 0 in name:
        malformed("server_name contains NUL")
    return name


def _alpn(body: bytes | None) -> tuple[bytes, ...]:
    """Return the protocols of an ALPN extension, none empty (RFC 7301 §3.1)."""
    if body is None:
        return ()
    protocols = split_vectors(only_vector(body, UINT16, "alpn"), UINT8, "alpn")
    if not all(protocols):
        malformed("alpn holds an empty protocol")
    return tuple(protocols)


def _versions(body: bytes | None, legacy_version: int) -> tuple[int, ...]:
    """Return the offered versions; without the extension TLS 1.2 is the highest (RFC 8446 §4.2.1)."""
    if body is None:
        return (min(legacy_version, TLS_1_2),)
    offered = numbers16(only_vector(body, UINT8, "supported_versions"), "supported_versions")
    return tuple(version for version in offered if version not in GREASE)
