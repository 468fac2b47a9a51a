"""Two sans-IO yamux connections and a pipe between them, for tests without a clock or a task.

`Wire` is one honest conversation: what one end writes reaches the other in
pieces as the test decides.  `Lone` is one end whose peer is the test itself,
frame by frame.
"""

from __future__ import annotations

from collections.abc import Iterable

import pytest

from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.settings import limits
from trunnel.wire import muxevents as events
from trunnel.wire.muxevents import MuxEvent, Role
from trunnel.wire.yamux import YamuxConnection
from trunnel.wire.yamux_frames import (
    ACK,
    FIN,
    HEADER_BYTES,
    RST,
    SYN,
    FrameType,
    encode_header,
    parse_header_untrusted,
)

PATTERN = bytes(range(251)) * 2_000
"""Position-dependent payload: bytes out of order do not compare equal."""
BASE = 251
"""Its period."""

Frame = tuple[int, int, int, int, bytes]
"""Type, flags, stream, length and payload."""


def frame(kind: int, flags: int = 0, stream_id: int = 0, length: int = 0) -> bytes:
    """One frame without payload."""
    return encode_header(kind, flags, stream_id, length)


def content(stream_id: int, payload: bytes = b"x", *, flags: int = 0) -> bytes:
    """A DATA frame."""
    return encode_header(FrameType.DATA, flags, stream_id, len(payload)) + payload


def update(stream_id: int, increment: int = 0, *, flags: int = 0) -> bytes:
    """A WINDOW_UPDATE frame."""
    return frame(FrameType.WINDOW_UPDATE, flags, stream_id, increment)


def syn(stream_id: int) -> bytes:
    """The opening of a stream."""
    return update(stream_id, flags=SYN)


def ack(stream_id: int) -> bytes:
    """Its acknowledgement."""
    return update(stream_id, flags=ACK)


def fin(stream_id: int) -> bytes:
    """A stream's end in one direction."""
    return update(stream_id, flags=FIN)


def rst(stream_id: int, code: int = ErrorCode.CANCEL) -> bytes:
    """A stream's abort."""
    return update(stream_id, code, flags=RST)


def read_frames(wire: bytes) -> list[Frame]:
    """Return the frames in *wire*, which must hold whole ones."""
    found: list[Frame] = []
    at = 0
    while at < len(wire):
        header = parse_header_untrusted(wire, at)
        at += HEADER_BYTES
        size = header.length if header.kind == FrameType.DATA else 0
        assert at + size <= len(wire), "a frame was cut"
        found.append((header.kind, header.flags, header.stream_id, header.length, wire[at : at + size]))
        at += size
    return found


def joined(happened: Iterable[MuxEvent]) -> list[MuxEvent]:
    """Join neighbouring `BytesReceived` of one stream: what no split may change."""
    result: list[MuxEvent] = []
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
    """One end of a connection with a few streams; the test plays the peer.

    A client opened its streams itself, a server's were opened by the test: 1, 3, ...
    """

    def __init__(self, role: Role, *, streams: int = 0, window_max: int = limits.STREAM_WINDOW_MAX) -> None:
        self.yamux = YamuxConnection(role, now=0.0, window_max=window_max)
        self.now = 0.0
        self.ids = [self._open(2 * number + 1) for number in range(streams)]
        self.yamux.output.take()

    def _open(self, stream_id: int) -> int:
        if self.yamux.role is Role.CLIENT:
            assert self.yamux.open_stream(now=self.now) == stream_id
            self.feed(ack(stream_id))
        else:
            self.feed(syn(stream_id))
            self.yamux.accepted(stream_id)
        return stream_id

    def feed(self, wire: bytes) -> list[MuxEvent]:
        """Take bytes of the peer."""
        return self.yamux.feed_untrusted(wire, now=self.now)

    def refuses(self, wire: bytes, code: ErrorCode, reason: str = ".") -> None:
        """Assert that *wire* ends the connection with *code*."""
        with pytest.raises(RemoteProtocolError, match=reason) as caught:
            self.feed(wire)
        assert caught.value.code is code

    def written(self) -> list[Frame]:
        """Take the frames that this end has queued."""
        return read_frames(bytes(self.yamux.output.take()))

    def resets(self) -> list[tuple[int, ErrorCode]]:
        """Take what this end has queued; return its resets."""
        return [(stream_id, ErrorCode(length)) for _, flags, stream_id, length, _ in self.written() if flags & RST]


class End:
    """One end of a `Wire`, with a consumer that the test moves by hand."""

    def __init__(self, role: Role) -> None:
        self.yamux = YamuxConnection(role, now=0.0)
        self.incoming = bytearray()  # under way to us
        self.opened: list[int] = []  # by us
        self.accepted: list[int] = []
        self.sent: dict[int, bytearray] = {}
        self.received: dict[int, bytearray] = {}
        self.unread: dict[int, int] = {}
        self.finished: set[int] = set()  # our FIN went out
        self.ended: set[int] = set()  # the peer's FIN came
        self.aborted: dict[int, ErrorCode] = {}  # by the peer
        self.aborting: dict[int, ErrorCode] = {}  # by us
        self.farewell: ErrorCode | None = None
        self.pings = 0

    def took(self, event: MuxEvent) -> None:
        """Note an event; asserts that none comes after a stream's end."""
        match event:
            case events.StreamOpened(stream_id):
                assert not self.accepted or stream_id > self.accepted[-1], "an id came twice"
                self.accepted.append(stream_id)
            case events.BytesReceived(stream_id, payload):
                self._check_open(stream_id)
                self.received.setdefault(stream_id, bytearray()).extend(payload)
                self.unread[stream_id] = self.unread.get(stream_id, 0) + len(payload)
            case events.StreamEnded(stream_id):
                self._check_open(stream_id)
                self.ended.add(stream_id)
            case events.StreamAborted(stream_id, code):
                assert stream_id not in self.aborted | self.aborting, "an abort after an abort"
                assert not (stream_id in self.ended and stream_id in self.finished), "an abort after both ends"
                self.aborted[stream_id] = code
            case events.PingAnswered():
                self.pings -= 1
            case events.GoneAway(code):
                self.farewell = code
            case events.WindowOpened():
                pass

    def _check_open(self, stream_id: int) -> None:
        assert stream_id not in self.ended, "something after the end"
        assert stream_id not in self.aborted | self.aborting, "something after an abort"

    def send(self, stream_id: int, amount: int) -> int:
        """Send the next up to *amount* bytes of the pattern; return how many were taken."""
        sent = self.sent.setdefault(stream_id, bytearray())
        at = len(sent) % BASE
        taken = self.yamux.send(stream_id, memoryview(PATTERN)[at : at + amount])
        sent += PATTERN[at : at + taken]
        return taken

    def consume(self, stream_id: int, amount: int, *, now: float) -> None:
        """Let the consumer take up to *amount* bytes."""
        taken = min(amount, self.unread.get(stream_id, 0))
        if taken:
            self.unread[stream_id] -= taken
            self.yamux.consumed(stream_id, taken, unread=self.unread[stream_id], now=now)

    def reset(self, stream_id: int, code: ErrorCode) -> None:
        """Abort a stream as the driver's stream does."""
        if self.yamux.reset(stream_id, code):
            self.aborting[stream_id] = code
        self.yamux.discard(self.unread.pop(stream_id, 0))

    def finish(self, stream_id: int) -> None:
        """End our direction."""
        self.yamux.end(stream_id)
        self.finished.add(stream_id)

    def close(self, stream_id: int) -> None:
        """Let go of a stream as the driver's `aclose` does: FIN, and no more, please."""
        if stream_id in self.yamux.streams:
            self.finish(stream_id)
        self.reset(stream_id, ErrorCode.NO_ERROR)


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
            self.far(end).incoming += end.yamux.output.take()

    def deliver(self, end: End, amount: int) -> None:
        """Let up to *amount* bytes reach *end*."""
        self.flush()
        chunk = bytes(end.incoming[:amount])
        del end.incoming[:amount]
        for event in end.yamux.feed_untrusted(chunk, now=self.now):
            end.took(event)

    def settle(self) -> None:
        """Deliver until nothing is under way."""
        self.flush()
        while any(end.incoming for end in self.ends):
            for end in self.ends:
                self.deliver(end, len(end.incoming))
            self.flush()
