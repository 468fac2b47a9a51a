"""yamux frames: the twelve bytes, and no meaning (hashicorp/yamux, `spec.md`, version 0).

    version (8) | type (8) | flags (16) | stream id (32) | length (32)    all big-endian

Only DATA has a payload, of *length* bytes.  In the other types *length* is
the frame's one value: credit, a ping's opaque value, a goodbye's code.

What has no meaning is refused by the header alone: another version, a type or
flag that the specification does not name, a stream frame without a stream, a
session frame with one.  Nothing here knows streams; `yamux_session` does.
"""

from __future__ import annotations

from enum import IntEnum
from struct import Struct
from typing import Final, NamedTuple, final

from trunnel.errors import RemoteProtocolError

VERSION: Final = 0
HEADER_BYTES: Final = 12
STREAM_ID_MAX: Final = 0xFFFF_FFFF
WINDOW_SIZE_MAX: Final = 0xFFFF_FFFF

SYN: Final = 0x1
ACK: Final = 0x2
FIN: Final = 0x4
RST: Final = 0x8
_FLAGS: Final = SYN | ACK | FIN | RST

_HEADER: Final = Struct(">BBHII")


@final
class FrameType(IntEnum):
    """What a frame is."""

    DATA = 0
    WINDOW_UPDATE = 1
    PING = 2
    GO_AWAY = 3


@final
class GoAwayCode(IntEnum):
    """Why a session ends, as far as yamux has words for it."""

    NORMAL = 0
    PROTOCOL_ERROR = 1
    INTERNAL_ERROR = 2


@final
class FrameHeader(NamedTuple):
    """The fields behind the version."""

    kind: int
    flags: int
    stream_id: int
    length: int


def encode_header(kind: int, flags: int, stream_id: int, length: int) -> bytes:
    """Return the twelve bytes; for every type but DATA they are the frame."""
    return _HEADER.pack(VERSION, kind, flags, stream_id, length)


def parse_header_untrusted(octets: bytes, at: int = 0) -> FrameHeader:
    """Return the header whose twelve bytes begin at *at*.

    Raises:
        RemoteProtocolError: It has no meaning in version 0.
    """
    version, kind, flags, stream_id, length = _HEADER.unpack_from(octets, at)
    if version != VERSION:
        raise RemoteProtocolError(f"yamux version {version}")
    if kind > FrameType.GO_AWAY:
        raise RemoteProtocolError(f"a frame of type {kind}")
    if flags & ~_FLAGS:
        raise RemoteProtocolError(f"flags {flags:#06x}")
    if (stream_id == 0) != (kind >= FrameType.PING):
        raise RemoteProtocolError(f"a frame of type {kind} for stream {stream_id}")
    return FrameHeader(kind, flags, stream_id, length)


@final
class FrameWriter:
    """Gathers outgoing frames in one buffer, which a single writer takes."""

    __slots__ = ("_buffer", "answers")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self.answers = 0
        """Bytes among those pending that the peer made us write (acknowledgements, resets)."""

    @property
    def pending(self) -> int:
        """Bytes that wait to be taken."""
        return len(self._buffer)

    def frame(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        """Append a frame without payload."""
        self._buffer += encode_header(kind, flags, stream_id, length)

    def data(self, stream_id: int, payload: memoryview) -> None:
        """Append a DATA frame: the only copy that its payload makes on the way to TLS."""
        self._buffer += encode_header(FrameType.DATA, 0, stream_id, len(payload))
        self._buffer += payload

    def answer(self, kind: int, flags: int, stream_id: int, length: int) -> None:
        """Append a frame that the peer provoked; `answers` counts it."""
        self.frame(kind, flags, stream_id, length)
        self.answers += HEADER_BYTES

    def take(self) -> bytearray:
        """Return all bytes to send, in order, and forget them."""
        taken = self._buffer
        self._buffer = bytearray()
        self.answers = 0
        return taken
