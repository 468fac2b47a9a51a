"""Two sans-IO HTTP/2 connections and a pipe between them, for tests without a clock or a task.

`Wire` is one honest conversation: what one end writes reaches the other in
pieces as the test decides.  `Lone` is one end whose peer is the test itself,
frame by frame.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.transports import h2_frames as frames
from trunnel.transports.h2_connection import H2Connection, Role
from trunnel.transports.h2_frames import FrameReader, FrameType, Setting
from trunnel.transports.h2_receive import H2Receiver
from trunnel.wire import muxevents as events

REQUEST = b"\x83\x87\x04\x08/trunnel\x01\x05relay"
"""A header block: POST, https, /trunnel, relay."""
RESPONSE = b"\x88"
"""A header block: 200."""


def frame(kind: int, flags: int = 0, stream_id: int = 0, payload: bytes = b"") -> bytes:
    """One frame."""
    return frames.encode_frame(kind, flags, stream_id, payload)


def settings(values: dict[Setting, int] | None = None) -> bytes:
    """A SETTINGS frame."""
    return frames.encode_settings(values or {})


def headers(stream_id: int, block: bytes = REQUEST, *, flags: int = frames.END_HEADERS) -> bytes:
    """A HEADERS frame."""
    return frame(FrameType.HEADERS, flags, stream_id, block)


def content(stream_id: int, payload: bytes = b"x", *, flags: int = 0) -> bytes:
    """A DATA frame."""
    return frame(FrameType.DATA, flags, stream_id, payload)


def u32(value: int) -> bytes:
    """Four bytes."""
    return value.to_bytes(4, "big")


def window_update(stream_id: int, increment: int) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(FrameType.WINDOW_UPDATE, 0, stream_id, u32(increment))


def rst(stream_id: int, code: ErrorCode = ErrorCode.CANCEL) -> bytes:
    """A RST_STREAM frame."""
    return frame(FrameType.RST_STREAM, 0, stream_id, u32(code))


def read_frames(wire: bytes, *, preface: bool = False) -> list[tuple[int, int, int, bytes]]:
    """Return (kind, flags, stream, payload) of each frame in *wire*, which must hold whole frames."""
    pieces = FrameReader(expect_preface=preface).feed_untrusted(wire)
    return [(piece.header.kind, piece.header.flags, piece.header.stream_id, piece.payload) for piece in pieces]


def joined(happened: Iterable[events.MuxEvent]) -> list[events.MuxEvent]:
    """Join neighbouring `BytesReceived` of one stream: what no split may change."""
    result: list[events.MuxEvent] = []
    for event in happened:
        last = result[-1] if result else None
        if (
            isinstance(event, events.BytesReceived)
            and isinstance(last, events.BytesReceived)
            and last.stream_id == event.stream_id
        ):
            result[-1] = events.BytesReceived(event.stream_id, last.payload + event.payload)
        else:
            result.append(event)
    return result


class Lone:
    """One end of a connection, past preface and SETTINGS; the test plays the peer."""

    def __init__(self, role: Role, *, streams: int = 0, greet: bool = True) -> None:
        self.h2 = H2Connection(role, now=0.0)
        self.receiver = H2Receiver(self.h2)
        self.now = 0.0
        if greet:
            self.feed((frames.PREFACE if role is Role.SERVER else b"") + settings())
        self.ids = [self._open(2 * number + 1) for number in range(streams)]
        self.h2.output.take()

    def _open(self, stream_id: int) -> int:
        if self.h2.role is Role.CLIENT:
            assert self.h2.open_stream(now=self.now) == stream_id
            self.feed(headers(stream_id, RESPONSE))
        else:
            self.feed(headers(stream_id))
        return stream_id

    def feed(self, wire: bytes) -> list[events.MuxEvent]:
        """Take bytes of the peer."""
        return self.receiver.feed_untrusted(wire, now=self.now)

    def refuses(self, wire: bytes, code: ErrorCode, reason: str = ".") -> None:
        """Assert that *wire* ends the connection with *code*."""
        with pytest.raises(RemoteProtocolError, match=reason) as caught:
            self.feed(wire)
        assert caught.value.code is code

    def written(self) -> list[tuple[int, int, int, bytes]]:
        """Take the frames that this end has queued."""
        return read_frames(bytes(self.h2.output.take()))

    def resets(self) -> list[tuple[int, ErrorCode]]:
        """Take the RST_STREAM frames that this end has queued."""
        return [
            (stream_id, ErrorCode(int.from_bytes(payload, "big")))
            for kind, _, stream_id, payload in self.written()
            if kind == FrameType.RST_STREAM
        ]


class End:
    """One end of a `Wire`, with a consumer that the test moves by hand."""

    def __init__(self, role: Role) -> None:
        self.h2 = H2Connection(role, now=0.0)
        self.receiver = H2Receiver(self.h2)
        self.incoming = bytearray()  # under way to us
        self.opened: list[int] = []
        self.sent: dict[int, bytearray] = {}
        self.received: dict[int, bytearray] = {}
        self.unread: dict[int, int] = {}
        self.finished: set[int] = set()  # our FIN went out
        self.ended: set[int] = set()  # the peer's FIN came
        self.aborted: set[int] = set()  # reset by either side
        self.pings = 0

    def took(self, event: events.MuxEvent) -> None:
        """Note an event; asserts that none comes after a stream's end."""
        match event:
            case events.StreamOpened(stream_id):
                assert not self.opened or stream_id > self.opened[-1], "an id came twice"
                self.opened.append(stream_id)
            case events.BytesReceived(stream_id, payload):
                assert stream_id not in self.ended | self.aborted, "bytes after the end"
                self.received.setdefault(stream_id, bytearray()).extend(payload)
                self.unread[stream_id] = self.unread.get(stream_id, 0) + len(payload)
            case events.StreamEnded(stream_id):
                assert stream_id not in self.ended | self.aborted, "an end after the end"
                self.ended.add(stream_id)
            case events.StreamAborted(stream_id):
                assert stream_id not in self.aborted, "an abort after an abort"
                assert not (stream_id in self.ended and stream_id in self.finished), "an abort after both ends"
                self.aborted.add(stream_id)
            case events.PingAnswered():
                self.pings -= 1
            case events.WindowOpened() | events.GoneAway():
                pass

    def consume(self, stream_id: int, amount: int, *, now: float) -> None:
        """Let the consumer take up to *amount* bytes."""
        taken = min(amount, self.unread.get(stream_id, 0))
        if taken:
            self.unread[stream_id] -= taken
            self.h2.consumed(stream_id, taken, unread=self.unread[stream_id], now=now)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """Abort a stream as `H2Stream.reset` does."""
        if self.h2.reset(stream_id, code):
            self.aborted.add(stream_id)
        self.h2.discard(self.unread.pop(stream_id, 0))


class Wire:
    """A client and a server joined by a lossless pipe that delivers when and what it is told."""

    def __init__(self) -> None:
        self.client = End(Role.CLIENT)
        self.server = End(Role.SERVER)
        self.ends = (self.client, self.server)
        self.now = 0.0

    def far(self, end: End) -> End:
        """The other end."""
        return self.server if end is self.client else self.client

    def flush(self) -> None:
        """Put what both ends have queued on the way."""
        for end in self.ends:
            self.far(end).incoming += end.h2.output.take()

    def deliver(self, end: End, amount: int) -> None:
        """Let up to *amount* bytes reach *end*."""
        self.flush()
        chunk = bytes(end.incoming[:amount])
        del end.incoming[:amount]
        for event in end.receiver.feed_untrusted(chunk, now=self.now):
            end.took(event)

    def settle(self) -> None:
        """Deliver until nothing is under way."""
        self.flush()
        while any(end.incoming for end in self.ends):
            for end in self.ends:
                self.deliver(end, len(end.incoming))
            self.flush()
