"""Every rule that ends a connection or resets a stream, with its code; and what is tolerated."""

from __future__ import annotations

import tracemalloc

import hpack
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transports.h2_model import (
    REQUEST,
    RESPONSE,
    Lone,
    content,
    frame,
    headers,
    joined,
    rst,
    settings,
    u32,
    window_update,
)
from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.settings import limits
from trunnel.transports import h2_frames as frames
from trunnel.transports.h2_connection import H2Connection, Role
from trunnel.transports.h2_frames import FrameType, Setting
from trunnel.transports.h2_receive import H2Receiver
from trunnel.wire import muxevents as events

CALM = ErrorCode.ENHANCE_YOUR_CALM
FLOW = ErrorCode.FLOW_CONTROL_ERROR
PROTOCOL = ErrorCode.PROTOCOL_ERROR
BOTH = pytest.mark.parametrize("role", list(Role))


# --- what ends the connection -------------------------------------------------------------------

SELF = u32(1) + b"\0"
"""A priority that depends on stream 1."""
ENDED = [
    (frame(FrameType.DATA, 0, 0, b"x"), PROTOCOL, "idle"),
    (content(2), PROTOCOL, "idle"),
    (content(99), PROTOCOL, "idle"),
    (frame(FrameType.DATA, frames.PADDED, 1, b"\x05abc"), PROTOCOL, "padding"),
    (headers(0), PROTOCOL, "even"),
    (headers(2), PROTOCOL, "even"),
    (headers(1, b"\x04", flags=frames.END_HEADERS | frames.PRIORITY_FLAG), PROTOCOL, "priority"),
    (frame(FrameType.CONTINUATION, 0, 1, b"x"), PROTOCOL, "without HEADERS"),
    (headers(1, b"", flags=0) + frame(FrameType.CONTINUATION, 4, 3), PROTOCOL, "without HEADERS"),
    (headers(1, b"", flags=0) + frame(FrameType.PING, 0, 0, bytes(8)), PROTOCOL, "inside"),
    (headers(1, b"", flags=0) + headers(1), PROTOCOL, "inside"),
    (headers(1, b"", flags=0) + content(1), PROTOCOL, "inside"),
    (headers(1, b"", flags=0) + frame(0xFA), PROTOCOL, "inside"),
    (headers(1, b"\xff\xff\xff\xff"), ErrorCode.COMPRESSION_ERROR, "decode"),
    (headers(1, b"\xc0"), ErrorCode.COMPRESSION_ERROR, "decode"),
    (headers(1, b"\x00\x7f"), ErrorCode.COMPRESSION_ERROR, "decode"),
    (headers(1, b"\x3f\xff\xff\x03"), ErrorCode.COMPRESSION_ERROR, "decode"),
    (rst(0), PROTOCOL, "idle"),
    (rst(2), PROTOCOL, "idle"),
    (rst(99), PROTOCOL, "idle"),
    (frame(FrameType.PRIORITY, 0, 0, bytes(5)), PROTOCOL, "PRIORITY"),
    (frame(FrameType.PUSH_PROMISE, 4, 1, u32(2)), PROTOCOL, "PUSH_PROMISE"),
    (frame(FrameType.PING, 0, 1, bytes(8)), PROTOCOL, "PING"),
    (frame(FrameType.PING, 0, 0, bytes(7)), PROTOCOL, "instead of 8"),
    (frame(FrameType.GOAWAY, 0, 1, bytes(8)), PROTOCOL, "GOAWAY"),
    (frame(FrameType.GOAWAY, 0, 0, bytes(7)), PROTOCOL, "GOAWAY"),
    (frame(FrameType.SETTINGS, 0, 1), PROTOCOL, "on a stream"),
    (frame(FrameType.SETTINGS, frames.ACK, 0, bytes(6)), PROTOCOL, "acknowledgement"),
    (frame(FrameType.SETTINGS, 0, 0, bytes(7)), PROTOCOL, "odd length"),
    (frame(FrameType.SETTINGS, 0, 0, bytes(65 * 6)), CALM, "too many"),
    (settings({Setting.ENABLE_PUSH: 2}), PROTOCOL, "PUSH"),
    (settings({Setting.INITIAL_WINDOW_SIZE: 2**31}), FLOW, "initial window"),
    (settings({Setting.MAX_FRAME_SIZE: 16_383}), PROTOCOL, "frame size"),
    (settings({Setting.MAX_FRAME_SIZE: 2**24}), PROTOCOL, "frame size"),
    (window_update(0, 0), PROTOCOL, "nothing"),
    (window_update(0, 2**31 - 1), FLOW, "out of range"),
    (window_update(99, 1), PROTOCOL, "idle"),
    (window_update(1, 2**31 - 1 - 65_535) + settings({Setting.INITIAL_WINDOW_SIZE: 65_536}), FLOW, "out of range"),
    (frame(0xFA, 0, 0, bytes(limits.FRAME_MAX + 1)), PROTOCOL, "bytes"),
]


@BOTH
@pytest.mark.parametrize(("wire", "code", "reason"), ENDED, ids=lambda value: value if isinstance(value, str) else "")
def test_what_ends_the_connection(role: Role, wire: bytes, code: ErrorCode, reason: str) -> None:
    Lone(role, streams=1).refuses(wire, code, reason)


def test_only_the_relay_may_be_offered_push() -> None:
    """RFC 9113 §6.5.2: from a server SETTINGS_ENABLE_PUSH must be 0."""
    Lone(Role.CLIENT).refuses(settings({Setting.ENABLE_PUSH: 1}), PROTOCOL, "PUSH")
    assert Lone(Role.SERVER).feed(settings({Setting.ENABLE_PUSH: 1})) == []


@BOTH
@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        (frame(FrameType.PING, 0, 0, bytes(8)), "first frame"),
        (content(1), "first frame"),
        (frame(FrameType.SETTINGS, frames.ACK), "ahead of the first"),
    ],
)
def test_the_first_frame_is_settings(role: Role, wire: bytes, reason: str) -> None:
    preface = frames.PREFACE if role is Role.SERVER else b""
    Lone(role, greet=False).refuses(preface + wire, PROTOCOL, reason)


def test_a_server_wants_the_preface_first() -> None:
    Lone(Role.SERVER, greet=False).refuses(settings(), PROTOCOL, "preface")


@BOTH
def test_more_than_a_streams_credit_ends_the_connection(role: Role) -> None:
    lone = Lone(role, streams=1)
    lone.feed(content(1, bytes(limits.STREAM_WINDOW_MIN)))
    lone.refuses(content(1), FLOW, "stream's credit")


@BOTH
def test_more_than_the_connections_credit_ends_it(role: Role) -> None:
    count = limits.SESSION_CREDIT // limits.STREAM_WINDOW_MIN
    lone = Lone(role, streams=count + 1)
    for stream_id in lone.ids[:count]:
        lone.feed(content(stream_id, bytes(limits.STREAM_WINDOW_MIN)))
    lone.refuses(content(lone.ids[count]), FLOW, "connection's credit")


# --- header blocks (LOAD-09, LOAD-11) -----------------------------------------------------------


def test_a_header_block_may_be_continued() -> None:
    lone = Lone(Role.SERVER)
    wire = headers(1, REQUEST[:3], flags=0) + frame(FrameType.CONTINUATION, frames.END_HEADERS, 1, REQUEST[3:])
    assert lone.feed(wire) == [events.StreamOpened(1)]


def test_continuations_without_end_are_refused_by_count() -> None:
    """LOAD-09: empty ones, too."""
    lone = Lone(Role.SERVER)
    more = frame(FrameType.CONTINUATION, 0, 1)
    lone.feed(headers(1, REQUEST, flags=0) + more * limits.CONTINUATIONS_MAX)
    lone.refuses(more, CALM, "without end")


def test_continuations_without_end_are_refused_by_size() -> None:
    lone = Lone(Role.SERVER)
    lone.feed(headers(1, bytes(limits.HEADER_BLOCK_MAX), flags=0))
    lone.refuses(frame(FrameType.CONTINUATION, 0, 1, b"x"), CALM, "without end")


def test_a_header_list_that_is_too_long_is_refused() -> None:
    lone = Lone(Role.SERVER)
    encoder = hpack.Encoder()
    block = encoder.encode([(f"x-{number}", "v" * 100) for number in range(70)], huffman=False)
    assert len(block) < limits.HEADER_BLOCK_MAX
    lone.refuses(headers(1, bytes(block)), CALM, "too long")


def test_an_hpack_bomb_costs_no_memory() -> None:
    """LOAD-11: a table entry of 4,000 bytes, and 16,000 references to it."""
    lone = Lone(Role.SERVER)
    entry = b"\x40\x01x\x7f\xa1\x1e" + bytes(4_000)  # indexed literal: name `x`, a value of 4,000 bytes
    bomb = REQUEST + entry
    bomb += b"\xbe" * (limits.HEADER_BLOCK_MAX - len(bomb))
    tracemalloc.start()
    try:
        lone.refuses(headers(1, bomb), CALM, "too long")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < limits.MIB


@BOTH
def test_a_number_of_sixteen_thousand_bytes_is_refused(role: Role) -> None:
    Lone(role, streams=1).refuses(
        headers(1, b"\xff" * (limits.HEADER_BLOCK_MAX - 1) + b"\0"), ErrorCode.COMPRESSION_ERROR
    )


# --- what resets one stream ---------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize(
    ("wire", "code"),
    [
        (window_update(1, 0), PROTOCOL),
        (window_update(1, 2**31 - 1), FLOW),
        (frame(FrameType.PRIORITY, 0, 1, SELF), PROTOCOL),
        (headers(1, RESPONSE), ErrorCode.STREAM_CLOSED),
        (
            content(1, b"", flags=frames.END_STREAM) + headers(1, RESPONSE, flags=frames.END_HEADERS | 1),
            ErrorCode.STREAM_CLOSED,
        ),
    ],
)
def test_what_resets_a_stream(role: Role, wire: bytes, code: ErrorCode) -> None:
    lone = Lone(role, streams=2)
    assert lone.feed(wire)[-1] == events.StreamAborted(1, code)
    assert lone.resets() == [(1, code)]
    assert set(lone.h2.streams) == {3}
    assert lone.feed(content(3, b"goes on")) == [events.BytesReceived(3, b"goes on")]


@pytest.mark.parametrize("block", [b"\x82\x87\x84", b"", b"\x87"])
def test_a_request_that_is_not_post_is_reset(block: bytes) -> None:
    lone = Lone(Role.SERVER)
    assert lone.feed(headers(1, block)) == []
    assert lone.resets() == [(1, PROTOCOL)]
    assert lone.feed(headers(3)) == [events.StreamOpened(3)]


@pytest.mark.parametrize("block", [b"\x8d", b"", b"\x08\x03101"], ids=["404", "none", "101 with FIN"])
def test_an_answer_that_is_not_200_is_reset(block: bytes) -> None:
    lone = Lone(Role.CLIENT)
    lone.h2.open_stream(now=0.0)
    lone.h2.output.take()
    flags = frames.END_HEADERS | (frames.END_STREAM if block.startswith(b"\x08") else 0)
    assert lone.feed(headers(1, block, flags=flags)) == [events.StreamAborted(1, PROTOCOL)]
    assert lone.resets() == [(1, PROTOCOL)]


def test_an_informational_answer_is_not_the_answer() -> None:
    lone = Lone(Role.CLIENT)
    lone.h2.open_stream(now=0.0)
    assert lone.feed(headers(1, b"\x08\x03103")) == []
    assert lone.feed(headers(1, RESPONSE, flags=frames.END_HEADERS | frames.END_STREAM)) == [events.StreamEnded(1)]


def test_more_streams_than_agreed_are_refused_one_by_one() -> None:
    lone = Lone(Role.SERVER, streams=limits.STREAMS_ON_CARRIER)
    over = 2 * limits.STREAMS_ON_CARRIER + 1
    assert lone.feed(headers(over)) == []
    assert lone.resets() == [(over, ErrorCode.REFUSED_STREAM)]
    lone.h2.reset(1, ErrorCode.CANCEL)
    assert lone.feed(headers(over + 2)) == [events.StreamOpened(over + 2)]


def test_streams_behind_a_goodbye_of_ours_are_refused_and_are_no_flood() -> None:
    """The relay may open many before it has read the GOAWAY: none of that ends the streams that go on."""
    lone = Lone(Role.SERVER, streams=1)
    lone.h2.go_away(ErrorCode.NO_ERROR)
    lone.h2.output.take()
    for number in range(1, 2 * limits.RESETS_MAX):
        assert lone.feed(headers(2 * number + 1) + content(2 * number + 1, b"preface")) == []
    assert len(lone.resets()) == 2 * limits.RESETS_MAX - 1
    assert set(lone.h2.streams) == {1}


def test_a_goodbye_refuses_the_streams_behind_its_last() -> None:
    """RFC 9113 §6.8: they were not processed; the others go on."""
    lone = Lone(Role.CLIENT, streams=3)
    assert lone.feed(frame(FrameType.GOAWAY, 0, 0, u32(3) + u32(0) + b"bye")) == [
        events.StreamAborted(5, ErrorCode.REFUSED_STREAM),
        events.GoneAway(ErrorCode.NO_ERROR, 3, b"bye"),
    ]
    assert set(lone.h2.streams) == {1, 3}


def test_debug_text_of_a_goodbye_is_cut() -> None:
    (event,) = Lone(Role.SERVER).feed(frame(FrameType.GOAWAY, 0, 0, u32(0) + u32(0xFFFF) + bytes(9_000)))
    assert isinstance(event, events.GoneAway)
    assert (event.code, len(event.debug)) == (ErrorCode.INTERNAL_ERROR, 128)


def test_a_peer_cannot_raise_our_limit_of_streams() -> None:
    lone = Lone(Role.CLIENT)
    lone.feed(settings({Setting.MAX_CONCURRENT_STREAMS: 2**32 - 1}))
    assert lone.h2.peer_stream_limit == limits.STREAMS_ON_CARRIER
    assert lone.feed(settings({Setting.MAX_CONCURRENT_STREAMS: 2})) == [events.WindowOpened(0)]
    assert lone.h2.peer_stream_limit == 2


def test_a_larger_initial_window_opens_every_stream() -> None:
    lone = Lone(Role.CLIENT, streams=2)
    assert lone.feed(settings({Setting.INITIAL_WINDOW_SIZE: 70_000})) == [events.WindowOpened(0)]
    assert {stream.send_window for stream in lone.h2.streams.values()} == {70_000}


# --- frames that were under way -----------------------------------------------------------------


@BOTH
def test_late_bytes_of_a_stream_that_we_reset_are_dropped_and_are_no_flood(role: Role) -> None:
    """A visitor that aborts a slow download of tiny messages must not end the session of all."""
    lone = Lone(role, streams=2)
    lone.h2.reset(1, ErrorCode.CANCEL)
    assert lone.feed(content(1, b"0123456789") * (5 * limits.CONTROL_FRAMES_MAX)) == []
    lone.feed(content(3, bytes(limits.STREAM_WINDOW_MIN)))
    assert lone.h2.receive_left + lone.h2._returned == limits.SESSION_CREDIT - limits.STREAM_WINDOW_MIN


@BOTH
def test_late_bytes_beyond_the_credit_count(role: Role) -> None:
    lone = Lone(role, streams=1)
    lone.h2.reset(1, ErrorCode.CANCEL)
    lone.feed(content(1, bytes(limits.STREAM_WINDOW_MIN)))
    lone.feed(content(1) * (limits.CONTROL_FRAMES_MAX - 1))
    lone.refuses(content(1) * 10, CALM, "control frames")


@BOTH
@pytest.mark.parametrize(
    "late",
    [content(1, b""), rst(1), window_update(1, 1), headers(1, RESPONSE)],
    ids=["DATA", "RST", "WINDOW", "HEADERS"],
)
def test_late_frames_of_closed_streams_are_tolerated_but_counted(role: Role, late: bytes) -> None:
    lone = Lone(role, streams=1)
    lone.h2.reset(1, ErrorCode.CANCEL)
    assert lone.feed(late * (limits.CONTROL_FRAMES_MAX - 1)) == []
    lone.refuses(late * 2, CALM, "control frames")


def test_frames_that_cross_the_ends_of_many_visitors_streams_are_no_flood() -> None:
    lone = Lone(Role.CLIENT)
    for number in range(2 * limits.CONTROL_FRAMES_MAX):
        stream_id = lone.h2.open_stream(now=0.0)
        lone.feed(headers(stream_id, RESPONSE))
        lone.h2.send(stream_id, memoryview(b"GET"))
        lone.h2.reset(stream_id, ErrorCode.CANCEL)
        lone.feed(window_update(stream_id, 100) + rst(stream_id))
        lone.feed(window_update(0, 100))
        lone.h2.output.take()
        assert lone.h2.streams == {}, number


def test_a_reset_in_the_middle_of_a_frame_loses_no_credit() -> None:
    lone = Lone(Role.SERVER, streams=1)
    wire = content(1, bytes(1_000))
    (event,) = lone.feed(wire[:500])
    assert isinstance(event, events.BytesReceived)
    lone.h2.reset(1, ErrorCode.CANCEL)
    lone.h2.discard(len(event.payload))
    assert lone.feed(wire[500:]) == []
    assert lone.h2.receive_left + lone.h2._returned == limits.SESSION_CREDIT


def test_padding_gives_its_credit_back_and_grows_no_window() -> None:
    lone = Lone(Role.SERVER, streams=1)
    padded = frame(FrameType.DATA, frames.PADDED, 1, b"\xff" + b"x" + bytes(255))
    for _ in range(100_000 // 256):
        assert lone.feed(padded) == [events.BytesReceived(1, b"x")]
    stream = lone.h2.streams[1]
    assert stream.window.size == limits.STREAM_WINDOW_MIN
    assert stream.receive_left + stream.returned == limits.STREAM_WINDOW_MIN - 100_000 // 256
    assert lone.h2.receive_left + lone.h2._returned == limits.SESSION_CREDIT - 100_000 // 256


# --- cuts ---------------------------------------------------------------------------------------

STEPS = st.sampled_from(
    [
        headers(1),
        headers(3),
        headers(5, REQUEST, flags=frames.END_HEADERS | frames.END_STREAM),
        content(1, b"one"),
        content(1, bytes(300)),
        content(3, b"three", flags=frames.END_STREAM),
        frame(FrameType.DATA, frames.PADDED, 1, b"\x02abXX"),
        rst(1),
        rst(3),
        window_update(0, 10),
        window_update(1, 0),
        settings({Setting.INITIAL_WINDOW_SIZE: 5}),
        frame(FrameType.PING, 0, 0, b"12345678"),
        frame(0xFA, 0, 9, b"later"),
        frame(FrameType.GOAWAY, 0, 0, u32(0) + u32(0)),
    ]
)


def outcome(chunks: list[bytes]) -> tuple[list[events.MuxEvent], bytes, object]:
    """Feed *chunks* to an agent's end; returns events, what it wrote, and its refusal."""
    h2 = H2Connection(Role.SERVER, now=0.0)
    receiver = H2Receiver(h2)
    happened: list[events.MuxEvent] = []
    refusal: object = None
    try:
        for chunk in chunks:
            happened += receiver.feed_untrusted(chunk, now=0.0)
    except RemoteProtocolError as exc:
        refusal = (exc.reason, exc.code)
    return joined(happened), bytes(h2.output.take()), refusal


@given(st.lists(STEPS, max_size=12), st.integers(1, 40))
def test_cuts_change_nothing(steps: list[bytes], size: int) -> None:
    wire = frames.PREFACE + settings() + b"".join(steps)
    whole = outcome([wire])
    cut = outcome([wire[at : at + size] for at in range(0, len(wire), size)])
    assert cut[1:] == whole[1:]
    assert cut[0] == whole[0] or whole[2] is not None  # a refusal takes its chunk's events with it
