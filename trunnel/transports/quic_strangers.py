"""What the relay does with a datagram that belongs to no connection: pure, stateless, and cheap.

- A version that we do not speak: a Version Negotiation packet (RFC 9000 §6).
- An Initial packet in a datagram of at least 1,200 bytes (§14.1) may open a
  connection.  While many handshakes are in progress the stranger must first
  prove its address: it gets a Retry with a token (§8.1.2), and only an Initial
  with that token, from that address, within 30 s, opens one.
- Anything else is dropped without a word.  So is a bad token (it was made by a
  relay that has restarted meanwhile, or for another address): the agent dials anew.

Every answer is shorter than the datagram it answers, so nobody can be flooded
by way of us, and nothing is remembered.
"""

from __future__ import annotations

import secrets
from dataclasses import dataclass
from typing import Final, final

from aioquic._buffer import Buffer
from aioquic.quic.packet import (
    QuicHeader,
    QuicPacketType,
    QuicProtocolVersion,
    encode_quic_retry,
    encode_quic_version_negotiation,
    pull_quic_header,
)
from aioquic.quic.retry import QuicRetryTokenHandler

from trunnel.streams.listen import HostPort
from trunnel.transports.quic_configuration import CONNECTION_ID_LENGTH

VERSIONS: Final = [int(QuicProtocolVersion.VERSION_1), int(QuicProtocolVersion.VERSION_2)]
"""Versions that we speak (RFC 9000, RFC 9369)."""
INITIAL_DATAGRAM_MIN: Final = 1_200
"""Bytes that a datagram with a client's Initial packet has at least (RFC 9000 §14.1)."""
INITIAL_CONNECTION_ID_MIN: Final = 8
"""Bytes of the connection id that a client chooses for the relay (RFC 9000 §7.2)."""
_LONG_HEADER: Final = 0x80
_LONG_ID_AT: Final = 6
"""Where the destination connection id begins in a long header: behind flags, version and its length."""


@final
@dataclass(frozen=True, slots=True)
class Reply:
    """Send `octets` back; remember nothing."""

    octets: bytes


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Newcomer:
    """Open a connection."""

    original_id: bytes
    """The destination connection id of the client's first Initial packet."""
    retry_id: bytes | None
    """The source connection id of our Retry, to which the client has answered; None without one."""

    @property
    def proved(self) -> bool:
        """Whether the client has proved that it receives what is sent to its address."""
        return self.retry_id is not None


Verdict = Reply | Newcomer | None


def destination_untrusted(datagram: bytes) -> bytes:
    """Return the destination connection id of a datagram's first packet; too short a datagram has a short one."""
    if datagram[:1] >= b"\x80":
        return datagram[_LONG_ID_AT : _LONG_ID_AT + datagram[_LONG_ID_AT - 1]] if len(datagram) >= _LONG_ID_AT else b""
    return datagram[1 : 1 + CONNECTION_ID_LENGTH]


@final
class Doorkeeper:
    """Judges strangers' datagrams; keeps nothing but the key of its tokens."""

    __slots__ = ("_tokens",)

    def __init__(self) -> None:
        self._tokens = QuicRetryTokenHandler()

    def judge_untrusted(self, datagram: bytes, source: HostPort, *, must_prove: bool, now: float) -> Verdict:
        """Decide on a datagram that belongs to no connection.

        Args:
            datagram: All of it.
            source: Where it says that it comes from.
            must_prove: A newcomer has to prove that it is there.
            now: Seconds on a monotonic clock.

        Returns:
            1. What to send back.
            2. The newcomer that it is.
            3. None: drop it.
        """
        if len(datagram) < INITIAL_DATAGRAM_MIN or not datagram[0] & _LONG_HEADER:
            return None
        version = int.from_bytes(datagram[1:5], "big")
        if version not in VERSIONS:
            return _negotiation_untrusted(datagram) if version else None  # 0 is itself a Version Negotiation
        header = _initial_untrusted(datagram)
        if header is None:
            return None
        if header.token:
            return self._returning(header, source, now)
        if must_prove:
            return Reply(self._retry(header, version, source, now))
        return Newcomer(original_id=header.destination_cid, retry_id=None)

    def _returning(self, header: QuicHeader, source: HostPort, now: float) -> Newcomer | None:
        try:
            original = self._tokens.validate_token(
                address=source, destination_cid=header.destination_cid, token=header.token, now=now
            )
        except ValueError:
            return None
        return Newcomer(original_id=original, retry_id=header.destination_cid)

    def _retry(self, header: QuicHeader, version: int, source: HostPort, now: float) -> bytes:
        chosen = secrets.token_bytes(CONNECTION_ID_LENGTH)
        token = self._tokens.create_token(
            address=source,
            original_destination_connection_id=header.destination_cid,
            retry_source_connection_id=chosen,
            now=now,
        )
        return encode_quic_retry(
            version=version,
            source_cid=chosen,
            destination_cid=header.source_cid,
            original_destination_cid=header.destination_cid,
            retry_token=token,
        )


def _initial_untrusted(datagram: bytes) -> QuicHeader | None:
    """Return the header of a datagram's first packet, if that is a client's Initial."""
    try:
        header = pull_quic_header(Buffer(data=datagram), CONNECTION_ID_LENGTH)
    except ValueError:
        return None
    is_initial = header.packet_type is QuicPacketType.INITIAL
    return header if is_initial and len(header.destination_cid) >= INITIAL_CONNECTION_ID_MIN else None


def _negotiation_untrusted(datagram: bytes) -> Reply:
    """Return a Version Negotiation packet: of a version unknown to us only the two ids can be read (RFC 8999 §5.1)."""
    destination = destination_untrusted(datagram)
    source_at = _LONG_ID_AT + len(destination)
    source = datagram[source_at + 1 : source_at + 1 + datagram[source_at]]
    return Reply(
        encode_quic_version_negotiation(source_cid=destination, destination_cid=source, supported_versions=VERSIONS)
    )
