"""HTTP/2 frames (RFC 9113 §4, §6): the bytes, and no meaning.

`FrameReader` cuts a byte stream into pieces.  DATA payload is passed on as it
arrives, one copy, before its frame is complete: a 64 KiB frame never waits in
a buffer.  Every other frame is small (capped by its header, before a byte of
it is kept) and comes whole; frames of unknown type are passed over unread.

Nothing here knows streams or windows; `h2_connection` does.
"""

from __future__ import annotations

from collections.abc import Iterator
from enum import IntEnum
from typing import Final, NamedTuple, final

from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.settings import limits

PREFACE: Final = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
"""What a client sends first (RFC 9113 §3.4)."""
HEADER_BYTES: Final = 9
STREAM_ID_MASK: Final = 0x7FFF_FFFF
WINDOW_SIZE_MAX: Final = 0x7FFF_FFFF

END_STREAM: Final = 0x1
ACK: Final = 0x1
END_HEADERS: Final = 0x4
PADDED: Final = 0x8
PRIORITY_FLAG: Final = 0x20


@final
class FrameType(IntEnum):
    """RFC 9113 §6."""

    DATA = 0x0
    HEADERS = 0x1
    PRIORITY = 0x2
    RST_STREAM = 0x3
    SETTINGS = 0x4
    PUSH_PROMISE = 0x5
    PING = 0x6
    GOAWAY = 0x7
    WINDOW_UPDATE = 0x8
    CONTINUATION = 0x9


@final
class Setting(IntEnum):
    """RFC 9113 §6.5.2."""

    HEADER_TABLE_SIZE = 0x1
    ENABLE_PUSH = 0x2
    MAX_CONCURRENT_STREAMS = 0x3
    INITIAL_WINDOW_SIZE = 0x4
    MAX_FRAME_SIZE = 0x5
    MAX_HEADER_LIST_SIZE = 0x6


_EXACT: Final = {FrameType.PRIORITY: 5, FrameType.RST_STREAM: 4, FrameType.PING: 8, FrameType.WINDOW_UPDATE: 4}
"""Frames whose payload has one length (RFC 9113 §6.3, §6.4, §6.7, §6.9)."""
_WHOLE: Final = frozenset({FrameType.HEADERS, FrameType.PUSH_PROMISE, FrameType.GOAWAY, FrameType.CONTINUATION})
"""Frames that are kept until they are whole and have no length of their own."""
_SETTING_BYTES: Final = 6
_SETTINGS_MAX: Final = 64 * _SETTING_BYTES
"""Bytes of a SETTINGS frame; ten times what anyone sends."""


@final
class FrameHeader(NamedTuple):
    """The nine bytes ahead of every frame."""

    length: int
    kind: int
    flags: int
    stream_id: int


@final
class Piece(NamedTuple):
    """A frame, or for DATA a part of one."""

    header: FrameHeader
    payload: bytes
    first: bool
    """Whether this is the frame's first piece."""
    last: bool
    """Whether it is the last."""


def encode_header(length: int, kind: int, flags: int, stream_id: int) -> bytes:
    """Return the nine header bytes."""
    return (length << 40 | kind << 32 | flags << 24).to_bytes(8, "big")[:5] + stream_id.to_bytes(4, "big")


def encode_frame(kind: int, flags: int, stream_id: int, payload: bytes = b"") -> bytes:
    """Return a whole frame."""
    return encode_header(len(payload), kind, flags, stream_id) + payload


def encode_settings(values: dict[Setting, int]) -> bytes:
    """Return a SETTINGS frame (RFC 9113 §6.5)."""
    body = b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in values.items())
    return encode_frame(FrameType.SETTINGS, 0, 0, body)


def parse_settings_untrusted(payload: bytes) -> list[tuple[int, int]]:
    """Return the pairs of a SETTINGS payload.

    Raises:
        RemoteProtocolError: The length is no multiple of six.
    """
    if len(payload) % _SETTING_BYTES:
        raise RemoteProtocolError("a SETTINGS frame of odd length")
    return [
        (int.from_bytes(payload[at : at + 2], "big"), int.from_bytes(payload[at + 2 : at + 6], "big"))
        for at in range(0, len(payload), _SETTING_BYTES)
    ]


def strip_padding_untrusted(header: FrameHeader, payload: bytes) -> bytes:
    """Return the payload without padding (RFC 9113 §6.1).

    Raises:
        RemoteProtocolError: The padding is longer than the payload.
    """
    if not header.flags & PADDED:
        return payload
    if not payload or payload[0] >= len(payload):
        raise RemoteProtocolError("padding longer than its frame")
    return payload[1 : len(payload) - payload[0]]


def _check(header: FrameHeader) -> None:
    """Refuse a frame by its header, before any of its payload is kept."""
    kind, length = header.kind, header.length
    if length > limits.FRAME_MAX:
        raise RemoteProtocolError(f"a frame of {length} bytes")
    if (exact := _EXACT.get(FrameType(kind)) if kind <= FrameType.CONTINUATION else None) is not None:
        if length != exact:
            raise RemoteProtocolError(f"a frame of type {kind} with {length} bytes instead of {exact}")
    elif kind == FrameType.SETTINGS and length > _SETTINGS_MAX:
        raise RemoteProtocolError("too many settings", code=ErrorCode.ENHANCE_YOUR_CALM)
    elif kind in _WHOLE and length > limits.HEADER_BLOCK_MAX:
        raise RemoteProtocolError("a header block that is too long", code=ErrorCode.ENHANCE_YOUR_CALM)


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

    def put(self, octets: bytes | memoryview) -> None:
        """Append encoded frames, or a part of one."""
        self._buffer += octets

    def frame(self, kind: int, flags: int, stream_id: int, payload: bytes = b"") -> None:
        """Append a whole frame."""
        self._buffer += encode_frame(kind, flags, stream_id, payload)

    def answer(self, kind: int, flags: int, stream_id: int, payload: bytes = b"") -> None:
        """Append a frame that the peer provoked; `answers` counts it."""
        self.frame(kind, flags, stream_id, payload)
        self.answers += HEADER_BYTES + len(payload)

    def take(self) -> bytearray:
        """Return all bytes to send, in order, and forget them."""
        taken = self._buffer
        self._buffer = bytearray()
        self.answers = 0
        return taken


@final
class FrameReader:
    """Cuts the bytes of one direction of a connection into frames."""

    __slots__ = ("_body", "_current", "_head", "_left", "_preface")

    def __init__(self, *, expect_preface: bool) -> None:
        self._preface = PREFACE if expect_preface else b""
        self._head = b""  # a header that a read has cut
        self._body = bytearray()  # payload of a frame that must come whole
        self._current: FrameHeader | None = None
        self._left = 0  # payload bytes of the current frame that have not come

    def feed_untrusted(self, chunk: bytes) -> Iterator[Piece]:
        """Yield the pieces that *chunk* completes or continues.

        Raises:
            RemoteProtocolError: Wrong preface, or a frame that is too large.
        """
        at = self._skip_preface(chunk)
        total = len(chunk)
        while at < total or (self._current is not None and not self._left):
            if self._current is None:
                missing = HEADER_BYTES - len(self._head)
                self._head += chunk[at : at + missing]
                at += missing
                if len(self._head) < HEADER_BYTES:
                    return
                self._begin()
                continue
            taken = min(self._left, total - at)
            piece = self._take(chunk[at : at + taken])
            at += taken
            if piece is not None:
                yield piece

    def _skip_preface(self, chunk: bytes) -> int:
        if not self._preface:
            return 0
        part = chunk[: len(self._preface)]
        if not self._preface.startswith(part):
            raise RemoteProtocolError("not the HTTP/2 preface")
        self._preface = self._preface[len(part) :]
        return len(part)

    def _begin(self) -> None:
        head = self._head
        self._head = b""
        header = FrameHeader(
            int.from_bytes(head[:3], "big"), head[3], head[4], int.from_bytes(head[5:], "big") & STREAM_ID_MASK
        )
        _check(header)
        self._current = header
        self._left = header.length

    def _take(self, payload: bytes) -> Piece | None:
        header = self._current
        if header is None:
            raise AssertionError("no frame has begun")
        first = self._left == header.length
        self._left -= len(payload)
        last = not self._left
        if last:
            self._current = None
        if header.kind == FrameType.DATA and not header.flags & PADDED:
            return Piece(header, payload, first, last)
        if header.kind > FrameType.CONTINUATION:
            return Piece(header, b"", True, True) if last else None
        if not last:
            self._body += payload
            return None
        if self._body:
            payload = bytes(self._body) + payload
            self._body.clear()
        return Piece(header, payload, True, True)
