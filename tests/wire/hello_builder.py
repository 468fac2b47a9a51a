"""Build ClientHellos, good ones and ones that are wrong in exactly one place.

`Hello` holds every field as bytes, so that a test can lie in any of them;
`vector` and `record` write the lengths, and lie about them when asked.  A
hello is turned into a stream by `Hello.stream()` (one record) or `fragment`
(any cuts).
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, replace
from itertools import pairwise
from typing import Final, Self

NAME: Final = b"a.example"
"""The name that most cases carry."""

SERVER_NAME: Final = 0
MAX_FRAGMENT_LENGTH: Final = 1
STATUS_REQUEST: Final = 5
SUPPORTED_GROUPS: Final = 10
EC_POINT_FORMATS: Final = 11
SRP: Final = 12
SIGNATURE_ALGORITHMS: Final = 13
ALPN: Final = 16
PADDING: Final = 21
EXTENDED_MASTER_SECRET: Final = 23
RECORD_SIZE_LIMIT: Final = 28
SESSION_TICKET: Final = 35
PRE_SHARED_KEY: Final = 41
EARLY_DATA: Final = 42
SUPPORTED_VERSIONS: Final = 43
PSK_KEY_EXCHANGE_MODES: Final = 45
CERTIFICATE_AUTHORITIES: Final = 47
POST_HANDSHAKE_AUTH: Final = 49
SIGNATURE_ALGORITHMS_CERT: Final = 50
KEY_SHARE: Final = 51
ENCRYPTED_CLIENT_HELLO: Final = 0xFE0D
DRAFT_ESNI: Final = 0xFFCE
RENEGOTIATION_INFO: Final = 0xFF01

X25519: Final = 0x001D
GREASE: Final = 0x3A3A

Extension = tuple[int, bytes]


def vector(size: int, content: bytes, *, lie: int = 0) -> bytes:
    """Return *content* behind its length in *size* bytes; *lie* is added to the length."""
    return (len(content) + lie).to_bytes(size, "big") + content


def numbers(values: Iterable[int]) -> bytes:
    """Return 16-bit numbers in a row."""
    return b"".join(value.to_bytes(2, "big") for value in values)


def sni(*names: bytes, kinds: Sequence[int] = (), lie: int = 0, tail: bytes = b"") -> Extension:
    """Return a server_name extension.

    Args:
        names: Host names, normally one.
        kinds: The NameType of each; 0 (host_name) where it is shorter.
        lie: Added to the length of the list.
        tail: Bytes after the list.
    """
    padded = (*kinds, *(0 for _ in names[len(kinds) :]))
    entries = b"".join(bytes([kind]) + vector(2, name) for kind, name in zip(padded, names, strict=True))
    return SERVER_NAME, vector(2, entries, lie=lie) + tail


def alpn(*protocols: bytes) -> Extension:
    """Return an ALPN extension."""
    return ALPN, vector(2, b"".join(vector(1, protocol) for protocol in protocols))


def versions(*offered: int) -> Extension:
    """Return a supported_versions extension."""
    return SUPPORTED_VERSIONS, vector(1, numbers(offered))


def key_shares(*shares: tuple[int, bytes]) -> Extension:
    """Return a key_share extension of (group, key) pairs."""
    return KEY_SHARE, vector(2, b"".join(numbers([group]) + vector(2, key) for group, key in shares))


def pre_shared_keys(*identities: bytes) -> Extension:
    """Return a pre_shared_key extension with a zero binder for each identity."""
    listed = b"".join(vector(2, identity) + bytes(4) for identity in identities)
    return PRE_SHARED_KEY, vector(2, listed) + vector(2, b"".join(vector(1, bytes(32)) for _ in identities))


BASE: Final[tuple[Extension, ...]] = (
    (SUPPORTED_GROUPS, vector(2, numbers([X25519, 0x0017]))),
    (SIGNATURE_ALGORITHMS, vector(2, numbers([0x0403, 0x0804, 0x0401]))),
    versions(0x0304, 0x0303),
    key_shares((X25519, bytes(range(1, 33)))),
    alpn(b"h2", b"http/1.1"),
)
"""The extensions of an ordinary TLS 1.3 client, without a server name."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Hello:
    """One ClientHello; the defaults are what an ordinary client sends."""

    legacy_version: int = 0x0303
    random: bytes = bytes(range(32))
    session_id: bytes = bytes(range(32))
    ciphers: bytes = numbers([0x1301, 0x1302, 0xC02B, 0xC02F])
    compression: bytes = b"\x00"
    extensions: tuple[Extension, ...] | None = (sni(NAME), *BASE)
    """None: the message ends before the extensions, as in TLS 1.0."""
    block_lie: int = 0
    """Added to the length of the extension block."""
    tail: bytes = b""
    """Bytes of the message after the extension block."""
    message_type: int = 1
    message_lie: int = 0
    """Added to the length of the message."""

    def with_name(self, name: bytes | None) -> Self:
        """Return the hello with *name* as its only server name, or without any."""
        rest = tuple(one for one in self.extensions or () if one[0] != SERVER_NAME)
        return replace(self, extensions=rest if name is None else (sni(name), *rest))

    def adding(self, *extra: Extension, last: bool = True) -> Self:
        """Return the hello with extensions added at the end, or at the beginning."""
        present = self.extensions or ()
        return replace(self, extensions=(*present, *extra) if last else (*extra, *present))

    def replacing(self, kind: int, body: bytes) -> Self:
        """Return the hello with the body of one extension exchanged (or added)."""
        present = self.extensions or ()
        if kind not in (each for each, _ in present):
            return self.adding((kind, body))
        return replace(self, extensions=tuple((each, body if each == kind else old) for each, old in present))

    def padded(self, size: int, *, first: bool = False) -> Self:
        """Return the hello with a padding extension that makes the message *size* bytes long."""
        spare = size - len(self.adding((PADDING, b"")).message())
        return self.adding((PADDING, bytes(spare)), last=not first)

    def message(self) -> bytes:
        """Return the handshake message with its 4-byte header."""
        body = numbers([self.legacy_version]) + self.random + vector(1, self.session_id)
        body += vector(2, self.ciphers) + vector(1, self.compression)
        if self.extensions is not None:
            block = b"".join(numbers([kind]) + vector(2, content) for kind, content in self.extensions)
            body += vector(2, block, lie=self.block_lie)
        return bytes([self.message_type]) + vector(3, body + self.tail, lie=self.message_lie)

    def stream(self) -> bytes:
        """Return the hello in one record."""
        return record(self.message())


def record(fragment: bytes, *, kind: int = 22, version: int = 0x0301, lie: int = 0) -> bytes:
    """Return one TLS record; *lie* is added to its length."""
    return bytes([kind]) + numbers([version]) + vector(2, fragment, lie=lie)


EMPTY_RECORD: Final = record(b"")


def fragment(message: bytes, cuts: Iterable[int], *, version: int = 0x0301) -> bytes:
    """Return *message* in records cut at the offsets *cuts*; equal cuts make empty records."""
    edges = [0, *sorted(cuts), len(message)]
    return b"".join(record(message[start:end], version=version) for start, end in pairwise(edges))


def in_records_of(message: bytes, size: int) -> bytes:
    """Return *message* in records of *size* bytes."""
    return fragment(message, range(size, len(message), size))


def split_records(stream: bytes) -> tuple[bytes, bytes]:
    """Return the joined bodies of the whole records of *stream*, and what follows them."""
    bodies = bytearray()
    at = 0
    header = 5
    while at + header <= len(stream):
        length = int.from_bytes(stream[at + 3 : at + header], "big")
        if at + header + length > len(stream):
            break
        bodies += stream[at + header : at + header + length]
        at += header + length
    return bytes(bodies), stream[at:]
