"""`direct`: what is said on a data connection before visitors' bytes flow on it.

A data connection is one TCP connection for one visitor, dialled by the agent
ahead of need.  It proves its session, is parked without a byte either way, and
is taken when a visitor comes.  Normative text and a test vector: PROTOCOL.md.

    agent -> relay   preface     MAGIC, version, relay, session tag, nonce_a
    relay -> agent   challenge   status, nonce_r, MAC
    agent -> relay   proof       MAC                      (parked from here on)
    relay -> agent   length, sealed PROXY header, and the visitor's first bytes
    agent -> relay   sealed answer, and what the visitor is answered

What holds here:

* Every message has a fixed size, or one that its first two bytes tell: each
  side reads by exact lengths, because the byte behind is a visitor's.
* Both sides prove that they know the session's secret, which only the session
  itself carries.  Both nonces go into the keys: a recorded exchange proves
  nothing, and no list of seen nonces and no clock is needed.
* Each connection has keys of its own, one for each purpose and direction.  A
  sealing key seals one record, so its nonce is constant.
* Nothing here tells how far a wrong MAC was right (`hmac.compare_digest`).

Source: RFC 5869 (HKDF), RFC 2104 (HMAC).  The sealing itself (AES-256-GCM) is
in `transports/direct.py`: codecs are made of the standard library.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import struct
from dataclasses import dataclass, field
from enum import IntEnum
from typing import Final, final

from trunnel.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from trunnel.names import KeyId
from trunnel.settings.limits import PROXY_HEADER_MAX

MAGIC: Final = b"\xf7trunnel"
"""How a data connection begins; its first byte begins no TLS record and no HTTP method."""
DIRECT_VERSION: Final = 1
"""The version of this exchange; a preface of another one may have another length."""
DIGEST_SIZE: Final = 32
"""Bytes of SHA-256: of names, nonces, MACs and keys alike."""

_PREFACE: Final = struct.Struct(f"!{len(MAGIC)}sB{DIGEST_SIZE}s{DIGEST_SIZE}s{DIGEST_SIZE}s")
_CHALLENGE: Final = struct.Struct(f"!B{DIGEST_SIZE}s{DIGEST_SIZE}s")
_VERSION_AT: Final = len(MAGIC)

PREFACE_SIZE: Final = _PREFACE.size
"""Bytes of the agent's preface."""
CHALLENGE_SIZE: Final = _CHALLENGE.size
"""Bytes of the relay's challenge, or of its refusal."""
PROOF_SIZE: Final = DIGEST_SIZE
"""Bytes of the agent's proof."""
LENGTH: Final = struct.Struct("!H")
"""Ahead of the sealed header: how many bytes it has."""
SEAL_SIZE: Final = 16
"""Bytes that sealing adds (the tag of AES-GCM)."""
ANSWER_SIZE: Final = 1 + SEAL_SIZE
"""Bytes of the sealed answer."""

_INFO: Final = b"trunnel direct 1"
_SESSION_LABEL: Final = b"trunnel direct session"
_FIRST_BLOCK: Final = b"\x01"
"""The counter behind each HKDF label: a key is one block long (RFC 5869 §2.3)."""
MAC_AGENT: Final = b"mac agent"
MAC_RELAY: Final = b"mac relay"
SEAL_AGENT: Final = b"seal agent"
"""Label of the agent's sealed record, and what is authenticated with it."""
SEAL_RELAY: Final = b"seal relay"
"""Label of the relay's sealed record, and what is authenticated with it."""

_REFUSALS: Final = (
    "it was not refused",
    "the address leads to another relay (is there a load balancer in front?)",
    "the relay does not know the session",
    "the relay holds as many data connections as it may",
    "the relay is shutting down",
    "the relay speaks another version of the data path",
)


@final
class Refusal(IntEnum):
    """Why a relay does not take a data connection (status of the challenge)."""

    NONE = 0
    """It takes it."""
    WRONG_RELAY = 1
    """The preface names another relay."""
    UNKNOWN_SESSION = 2
    """No session here has this tag."""
    FULL = 3
    """A cap on parked connections is reached."""
    DRAINING = 4
    """The relay is shutting down."""
    VERSION = 5
    """Another version of this exchange."""

    @property
    def reason(self) -> str:
        """A sentence for people."""
        return _REFUSALS[self]


@final
class Answer(IntEnum):
    """What an agent says to the visitor's header; anything but ACCEPTED ends the connection."""

    ACCEPTED = 0
    """The visitor is served here; what it is answered follows."""
    BAD_PREFACE = 1
    """The header is malformed."""
    UNKNOWN_ENDPOINT = 2
    """The agent does not serve the name."""
    DRAINING = 3
    """The agent takes no more visitors."""
    REFUSED = 4
    """The agent serves as many visitors as it may."""
    FAILED = 5
    """A bug or an exhausted resource of the agent; an unknown answer counts as this one."""

    @classmethod
    def from_wire(cls, value: int) -> Answer:
        """Name an answer from a peer."""
        return cls(value) if value in _ANSWERS else cls.FAILED

    @property
    def code(self) -> ErrorCode:
        """What a stream inside the session would have been reset with."""
        return _ANSWER_CODES[self]


_ANSWERS: Final = frozenset(Answer)
_ANSWER_CODES: Final = {
    Answer.ACCEPTED: ErrorCode.NO_ERROR,
    Answer.BAD_PREFACE: ErrorCode.BAD_PREFACE,
    Answer.UNKNOWN_ENDPOINT: ErrorCode.UNKNOWN_ENDPOINT,
    Answer.DRAINING: ErrorCode.DRAINING,
    Answer.REFUSED: ErrorCode.REFUSED_STREAM,
    Answer.FAILED: ErrorCode.INTERNAL_ERROR,
}


def session_tag(session_id: str) -> bytes:
    """Return what a preface says of the session, whose id is ASCII; it is no secret, but it names nobody."""
    return hashlib.sha256(_SESSION_LABEL + session_id.encode("ascii")).digest()


def relay_digest(relay: KeyId) -> bytes:
    """Return the SHA-256 that a relay's id spells in base32."""
    return base64.b32decode(relay.value.upper() + "====")


# --- preface ----------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class Preface:
    """The agent's first words: whom it means, and for which session."""

    relay: bytes
    """The relay that it means to talk to (`relay_digest`)."""
    session: bytes
    """The session that it belongs to (`session_tag`)."""
    nonce: bytes
    """Random, of this connection alone."""

    def encode(self) -> bytes:
        """Return the `PREFACE_SIZE` bytes to send."""
        return _PREFACE.pack(MAGIC, DIRECT_VERSION, self.relay, self.session, self.nonce)


def head_version_untrusted(head: bytes) -> int | None:
    """Return the version that the first bytes of a data connection tell, None if that needs more of them.

    Raises:
        RemoteProtocolError: They do not begin a data connection.
    """
    if head[:_VERSION_AT] != MAGIC[: len(head)]:
        raise RemoteProtocolError("direct: not the head of a data connection")
    return head[_VERSION_AT] if len(head) > _VERSION_AT else None


def read_preface_untrusted(raw: bytes) -> Preface:
    """Read the preface of a data connection.

    Args:
        raw: All of it, `PREFACE_SIZE` bytes.

    Raises:
        RemoteProtocolError: It is none, or one of another version.
    """
    if len(raw) != PREFACE_SIZE:
        raise RemoteProtocolError(f"direct: a preface of {len(raw)} bytes, not {PREFACE_SIZE}")
    magic, version, relay, session, nonce = _PREFACE.unpack(raw)
    if magic != MAGIC or version != DIRECT_VERSION:
        raise RemoteProtocolError("direct: not a preface of this version")
    return Preface(relay, session, nonce)


# --- proof ------------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True)
class DirectKeys:
    """The keys of one data connection."""

    mac_agent: bytes = field(repr=False)
    mac_relay: bytes = field(repr=False)
    seal_agent: bytes = field(repr=False)
    seal_relay: bytes = field(repr=False)

    @classmethod
    def derive(cls, secret: bytes, nonce_a: bytes, nonce_r: bytes) -> DirectKeys:
        """Derive them from the session's secret and both sides' nonces.

        Source: RFC 5869 with SHA-256; each key is one block of output.
        """
        root = hmac.digest(nonce_a + nonce_r, secret, "sha256")
        return cls(
            hmac.digest(root, _INFO + MAC_AGENT + _FIRST_BLOCK, "sha256"),
            hmac.digest(root, _INFO + MAC_RELAY + _FIRST_BLOCK, "sha256"),
            hmac.digest(root, _INFO + SEAL_AGENT + _FIRST_BLOCK, "sha256"),
            hmac.digest(root, _INFO + SEAL_RELAY + _FIRST_BLOCK, "sha256"),
        )

    def challenge(self, preface: bytes, nonce_r: bytes) -> bytes:
        """Return the relay's answer to *preface* (its bytes), which proves that the relay knows the secret."""
        head = bytes([Refusal.NONE]) + nonce_r
        return head + hmac.digest(self.mac_relay, MAC_RELAY + preface + head, "sha256")

    def proof(self, preface: bytes, challenge: bytes) -> bytes:
        """Return the agent's answer to *challenge*, which proves that the agent knows the secret."""
        return hmac.digest(self.mac_agent, MAC_AGENT + preface + challenge, "sha256")

    def check_challenge_untrusted(self, preface: bytes, challenge: bytes) -> None:
        """Check the MAC of the relay's challenge; raises RemoteProtocolError if it is wrong."""
        head, mac = challenge[:-DIGEST_SIZE], challenge[-DIGEST_SIZE:]
        if not hmac.compare_digest(mac, hmac.digest(self.mac_relay, MAC_RELAY + preface + head, "sha256")):
            raise RemoteProtocolError("direct: the relay does not know the session's secret")

    def check_proof_untrusted(self, preface: bytes, challenge: bytes, proof: bytes) -> None:
        """Check the agent's proof; raises RemoteProtocolError if it is wrong."""
        if not hmac.compare_digest(proof, self.proof(preface, challenge)):
            raise RemoteProtocolError("direct: the agent does not know the session's secret")


def refusal_bytes(refusal: Refusal) -> bytes:
    """Return what a relay sends instead of a challenge."""
    return _CHALLENGE.pack(refusal, b"", b"")


def read_challenge_untrusted(raw: bytes) -> bytes | Refusal:
    """Read what the relay said to the preface.

    Args:
        raw: All of it, `CHALLENGE_SIZE` bytes.

    Returns:
        1. The relay's nonce; the MAC is still to be checked.
        2. Why it refuses.

    Raises:
        RemoteProtocolError: It is neither, or a refusal that we do not know.
    """
    if len(raw) != CHALLENGE_SIZE:
        raise RemoteProtocolError(f"direct: a challenge of {len(raw)} bytes, not {CHALLENGE_SIZE}")
    status, nonce, _mac = _CHALLENGE.unpack(raw)
    if status == Refusal.NONE:
        return bytes(nonce)
    try:
        return Refusal(status)
    except ValueError as exc:
        raise RemoteProtocolError(f"direct: the relay refuses for reason {status}, which is unknown here") from exc


# --- taking -----------------------------------------------------------------------------------


def sealed_length(header: bytes) -> bytes:
    """Return the two bytes ahead of the sealed *header*; raises LocalProtocolError if it is too long."""
    if not 0 < len(header) <= PROXY_HEADER_MAX:
        raise LocalProtocolError(f"a PROXY header of {len(header)} bytes, not 1 to {PROXY_HEADER_MAX}")
    return LENGTH.pack(len(header) + SEAL_SIZE)


def sealed_length_untrusted(raw: bytes) -> int:
    """Return how many bytes of sealed header follow the two in *raw*.

    Raises:
        RemoteProtocolError: No header is so long, or there are not two.
    """
    if len(raw) != LENGTH.size:
        raise RemoteProtocolError(f"direct: a length of {len(raw)} bytes")
    (length,) = LENGTH.unpack(raw)
    if not SEAL_SIZE < length <= PROXY_HEADER_MAX + SEAL_SIZE:
        raise RemoteProtocolError(f"direct: a sealed header of {length} bytes")
    return int(length)


def read_answer_untrusted(plain: bytes) -> Answer:
    """Read the agent's answer, unsealed; raises RemoteProtocolError if it is not one byte."""
    if len(plain) != ANSWER_SIZE - SEAL_SIZE:
        raise RemoteProtocolError(f"direct: an answer of {len(plain)} bytes")
    return Answer.from_wire(plain[0])
