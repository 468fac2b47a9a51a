"""Fuzz targets for HTTP/2: arbitrary bytes behind a legal preface and SETTINGS, at both ends.

Invariants: nothing but `RemoteProtocolError` leaves; events, what we write and
the refusal do not depend on how the bytes were cut; credit is never negative;
what we hold and what we write is bounded.
"""

from __future__ import annotations

from collections.abc import Iterator

from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.settings import limits
from trunnel.transports import h2_frames as frames
from trunnel.transports.h2_connection import H2Connection, Role
from trunnel.transports.h2_frames import (
    FrameHeader,
    FrameReader,
    FrameType,
    parse_settings_untrusted,
    strip_padding_untrusted,
)
from trunnel.transports.h2_receive import H2Receiver
from trunnel.wire import muxevents as events

Outcome = tuple[list[events.MuxEvent], bytes, tuple[str, ErrorCode] | None]
"""Events with neighbouring bytes joined, what was written, and the refusal."""
OPENED = 3
"""Streams that the relay's end opens before the noise comes."""
CHUNKED_MAX = 4_096
"""Bytes up to which an input is also fed byte by byte."""


def _pieces(wire: bytes) -> Iterator[bytes]:
    """Cut *wire* into pieces whose sizes depend on its bytes: 1 to 32."""
    at = 0
    while at < len(wire):
        size = 1 + wire[at] % 32
        yield wire[at : at + size]
        at += size


def _join(happened: list[events.MuxEvent]) -> list[events.MuxEvent]:
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


def _outcome(role: Role, chunks: Iterator[bytes]) -> Outcome:
    h2 = H2Connection(role, now=0.0)
    receiver = H2Receiver(h2)
    receiver.feed_untrusted((frames.PREFACE if role is Role.SERVER else b"") + frames.encode_settings({}), now=0.0)
    if role is Role.CLIENT:
        for _ in range(OPENED):
            h2.open_stream(now=0.0)
    happened: list[events.MuxEvent] = []
    refusal = None
    for chunk in chunks:
        try:
            happened += receiver.feed_untrusted(chunk, now=0.0)
        except RemoteProtocolError as exc:
            refusal = (exc.reason, exc.code)
            break
        _check_state(h2)
    assert h2.output.pending < limits.UNSENT_OUTPUT_MAX + limits.FRAME_MAX
    return _join(happened), bytes(h2.output.take()), refusal


def _check_state(h2: H2Connection) -> None:
    assert 0 <= h2.receive_left <= limits.SESSION_CREDIT
    assert h2.send_window <= frames.WINDOW_SIZE_MAX
    assert len(h2.streams) <= limits.STREAMS_PER_SESSION + 1
    for stream_id, stream in h2.streams.items():
        assert stream_id % 2 == 1
        assert 0 <= stream.receive_left <= limits.STREAM_WINDOW_MAX
        assert stream.send_window <= frames.WINDOW_SIZE_MAX
        assert not (stream.we_ended and stream.they_ended)


def _check_order(happened: list[events.MuxEvent]) -> None:
    """No stream has two beginnings, and none has an event after its end."""
    opened: set[int] = set()
    over: set[int] = set()
    for event in happened:
        match event:
            case events.StreamOpened(stream_id):
                assert stream_id not in opened
                opened.add(stream_id)
            case events.BytesReceived(stream_id) | events.StreamEnded(stream_id):
                assert stream_id not in over
                if isinstance(event, events.StreamEnded):
                    over.add(stream_id)
            case _:
                continue


def _check_end(role: Role, data: bytes) -> None:
    whole = _outcome(role, iter([data]))
    cuts = [_pieces(data)]
    if len(data) <= CHUNKED_MAX:
        cuts.append(iter([data[at : at + 1] for at in range(len(data))]))
    for cut in cuts:
        pieces = _outcome(role, cut)
        assert pieces[1:] == whole[1:]
        assert pieces[0] == whole[0] or whole[2] is not None  # a refusal takes its chunk's events with it
        _check_order(pieces[0])


def fuzz_h2_relay(data: bytes) -> None:
    """Check what an agent may send to the relay."""
    _check_end(Role.CLIENT, data)


def fuzz_h2_agent(data: bytes) -> None:
    """Check what a relay may send to the agent."""
    _check_end(Role.SERVER, data)


def fuzz_h2_frames(data: bytes) -> None:
    """Check the frame codec by itself, with and without the preface."""
    for wire, expect_preface in ((data, False), (data, True), (frames.PREFACE + data, True)):
        reader = FrameReader(expect_preface=expect_preface)
        try:
            seen = sum(len(piece.payload) for piece in reader.feed_untrusted(wire))
        except RemoteProtocolError:
            continue
        assert seen <= len(wire)
    header = FrameHeader(len(data), FrameType.DATA, frames.PADDED, 1)
    try:
        stripped = strip_padding_untrusted(header, data)
    except RemoteProtocolError:
        stripped = b""
    assert stripped in data
    try:
        pairs = parse_settings_untrusted(data)
    except RemoteProtocolError:
        return
    assert b"".join(key.to_bytes(2, "big") + value.to_bytes(4, "big") for key, value in pairs) == data
