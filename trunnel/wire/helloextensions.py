"""The grammar of the extensions whose content a relay does not use, but a terminator checks.

A TLS server parses all the extensions it knows before it reports the server
name, so a hello with a broken key_share never gets as far as its name.  A
router that skips those bodies would route hellos that no terminator takes.
Which bodies count, and how strict, was found by running OpenSSL 3.0 and 4.0
beside this parser on millions of mutated hellos, and is held true by the same
run (`fuzz/differential.py`).

Two tables say all of it: `_CHECKS` for every hello, `_TLS_1_3_CHECKS` for those
that offer TLS 1.3.  Extensions in neither are opaque (RFC 8446 §4.1.2), GREASE
among them (RFC 8701).  No key, signature or binder is verified here: that is
the terminator's.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from enum import IntEnum
from typing import Final, Never, final

from trunnel.wire.der import check_name_untrusted, check_request_extensions_untrusted, check_responder_id_untrusted
from trunnel.wire.tlsvectors import (
    UINT8,
    UINT16,
    UINT32,
    VectorReader,
    malformed,
    numbers16,
    only_vector,
    split_pairs,
    split_vectors,
)


@final
class ExtensionType(IntEnum):
    """The extensions that have a rule (IANA "TLS ExtensionType Values")."""

    SERVER_NAME = 0
    MAX_FRAGMENT_LENGTH = 1
    STATUS_REQUEST = 5
    SUPPORTED_GROUPS = 10
    EC_POINT_FORMATS = 11
    SRP = 12
    SIGNATURE_ALGORITHMS = 13
    USE_SRTP = 14
    ALPN = 16
    EXTENDED_MASTER_SECRET = 23
    PRE_SHARED_KEY = 41
    EARLY_DATA = 42
    SUPPORTED_VERSIONS = 43
    PSK_KEY_EXCHANGE_MODES = 45
    CERTIFICATE_AUTHORITIES = 47
    POST_HANDSHAKE_AUTH = 49
    SIGNATURE_ALGORITHMS_CERT = 50
    KEY_SHARE = 51
    ENCRYPTED_CLIENT_HELLO = 0xFE0D
    RENEGOTIATION_INFO = 0xFF01

    __hash__ = int.__hash__  # Enum's hashes the name, in Python: a quarter of the time for a hello


OCSP: Final = 1
"""CertificateStatusType ocsp, the only one with a known form (RFC 6066 §8)."""

KEY_BYTES: Final[Mapping[int, int]] = {
    0x0017: 65,
    0x0018: 97,
    0x0019: 133,
    0x001D: 32,
    0x001E: 56,
    0x0100: 256,
    0x0101: 384,
    0x0102: 512,
    0x0103: 768,
    0x0104: 1024,
    0x0200: 800,
    0x0201: 1184,
    0x0202: 1568,
    0x11EB: 1249,
    0x11EC: 1216,
    0x11ED: 1665,
}
"""Bytes of a client's key by group: P-256, P-384, P-521, X25519, X448, ffdhe2048 to 8192, ML-KEM, hybrids."""
BEGIN_WITH_POINT: Final = frozenset({0x0017, 0x0018, 0x0019, 0x11EB, 0x11ED})
"""The groups whose keys are, or begin with, a point of a NIST curve."""
UNCOMPRESSED: Final = 4
"""The one form of such a point that is left (RFC 8446 §4.2.8.2)."""


def check_extensions_untrusted(extensions: Mapping[int, bytes], *, tls13: bool) -> None:
    """Hold every extension that has a rule here to it.

    Args:
        extensions: Bodies by type, in the order they were sent.
        tls13: Whether the client offers TLS 1.3; else its extensions are opaque.

    Raises:
        RemoteProtocolError: One breaks its rule.

    Source: RFC 8446 §4.2.
    """
    if ExtensionType.PRE_SHARED_KEY in extensions and [*extensions][-1] != ExtensionType.PRE_SHARED_KEY:
        malformed("pre_shared_key is not the last extension")  # RFC 8446 §4.2.11
    _hold_to(_CHECKS, extensions)
    if tls13:
        _hold_to(_TLS_1_3_CHECKS, extensions)
        if (shares := extensions.get(ExtensionType.KEY_SHARE)) is not None:
            _check_key_share(shares, extensions.get(ExtensionType.SUPPORTED_GROUPS))


_NAMES: Final = {kind: kind.name.lower() for kind in ExtensionType}
_Checks = Mapping[ExtensionType, Callable[[bytes, str], None]]


def _hold_to(checks: _Checks, extensions: Mapping[int, bytes]) -> None:
    for kind, check in checks.items():
        if (body := extensions.get(kind)) is not None:
            check(body, _NAMES[kind])


# --- shapes that several have -----------------------------------------------------------------


def _check_empty(body: bytes, name: str) -> None:
    if body:
        malformed(f"{name} is not empty")


def _check_not_empty(body: bytes, name: str) -> None:
    if not body:
        malformed(f"{name} is empty")


def _check_octets(body: bytes, name: str) -> None:
    only_vector(body, UINT8, name)


def _check_numbers(body: bytes, name: str) -> None:
    numbers16(only_vector(body, UINT16, name), name)


# --- one each ---------------------------------------------------------------------------------


def _check_max_fragment_length(body: bytes, name: str) -> None:
    if body not in (b"\x01", b"\x02", b"\x03", b"\x04"):  # RFC 6066 §4
        malformed(f"{name} is none of the four codes")


def _check_renegotiation_info(body: bytes, name: str) -> None:
    if body != b"\x00":  # a first handshake binds to nothing (RFC 5746 §3.6)
        malformed(f"{name} is not empty")


def _check_srp(body: bytes, name: str) -> None:
    reader = VectorReader(body, name)
    if 0 in reader.vector(UINT8):  # RFC 5054 §2.8.1
        malformed(f"{name} contains NUL")
    reader.end()


def _check_use_srtp(body: bytes, name: str) -> Never:
    malformed(f"{name} of {len(body)} bytes, which belongs to DTLS")  # RFC 5764 §4.1.1


def _check_status_request(body: bytes, name: str) -> None:
    reader = VectorReader(body, name)
    if reader.number(UINT8) != OCSP:
        return
    for responder in split_vectors(reader.vector(UINT16), UINT16, name):
        check_responder_id_untrusted(responder)
    if request := reader.vector(UINT16):
        check_request_extensions_untrusted(request)
    reader.end()


def _check_certificate_authorities(body: bytes, name: str) -> None:
    for authority in split_vectors(only_vector(body, UINT16, name), UINT16, name):
        check_name_untrusted(authority)


def _check_pre_shared_key(body: bytes, name: str) -> None:
    """Hold identities and binders to RFC 8446 §4.2.11."""
    reader = VectorReader(body, name)
    identities = VectorReader(reader.vector(UINT16), name)
    while identities:
        if not identities.vector(UINT16):
            malformed(f"{name} holds an empty identity")
        identities.take(UINT32)
    split_vectors(reader.vector(UINT16), UINT8, name)
    reader.end()


def _check_key_share(body: bytes, groups: bytes | None) -> None:
    """Hold key_share to RFC 8446 §4.2.8: each share is of an offered group, and as long as its keys are."""
    if groups is None:
        malformed("key_share without supported_groups")
    offered = set(numbers16(only_vector(groups, UINT16, "supported_groups"), "supported_groups"))
    reader = VectorReader(body, "key_share")
    shares = split_pairs(reader.vector(UINT16), "key_share")
    reader.end()
    for group, key in shares:
        if group not in offered:
            malformed("key_share holds a group that supported_groups lacks")
        if not key or len(key) != KEY_BYTES.get(group, len(key)):
            malformed(f"key_share holds a key of {len(key)} bytes for group {group:#06x}")
        if group in BEGIN_WITH_POINT and key[0] != UNCOMPRESSED:
            malformed(f"key_share holds a point in form {key[0]} for group {group:#06x}")


_CHECKS: Final[_Checks] = {
    ExtensionType.MAX_FRAGMENT_LENGTH: _check_max_fragment_length,
    ExtensionType.STATUS_REQUEST: _check_status_request,
    ExtensionType.SUPPORTED_GROUPS: _check_numbers,
    ExtensionType.EC_POINT_FORMATS: _check_octets,
    ExtensionType.SRP: _check_srp,
    ExtensionType.SIGNATURE_ALGORITHMS: _check_numbers,
    ExtensionType.USE_SRTP: _check_use_srtp,
    ExtensionType.EXTENDED_MASTER_SECRET: _check_empty,
    ExtensionType.SIGNATURE_ALGORITHMS_CERT: _check_numbers,
    ExtensionType.ENCRYPTED_CLIENT_HELLO: _check_not_empty,
    ExtensionType.RENEGOTIATION_INFO: _check_renegotiation_info,
}

_TLS_1_3_CHECKS: Final[_Checks] = {
    ExtensionType.PRE_SHARED_KEY: _check_pre_shared_key,
    ExtensionType.EARLY_DATA: _check_empty,
    ExtensionType.PSK_KEY_EXCHANGE_MODES: _check_octets,
    ExtensionType.CERTIFICATE_AUTHORITIES: _check_certificate_authorities,
    ExtensionType.POST_HANDSHAKE_AUTH: _check_empty,
}
