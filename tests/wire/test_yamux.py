"""Every rule that ends a yamux connection, with its code; what is tolerated; and any cut of the bytes."""

from __future__ import annotations

import tracemalloc
from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.wire.three_way import (
    Parsed,
    Refused,
    check_refused,
    check_split_invariance,
    check_three_ways,
    octets,
)
from tests.wire.yamux_model import Lone, ack, content, fin, frame, joined, rst, syn, update
from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.settings import limits
from trunnel.wire import muxevents as events
from trunnel.wire.muxevents import MuxEvent, Role
from trunnel.wire.yamux import YamuxConnection
from trunnel.wire.yamux_frames import ACK, FIN, RST, SYN, FrameType
from trunnel.wire.yamux_session import INITIAL_WINDOW

BOTH = pytest.mark.parametrize("role", list(Role))
CALM = ErrorCode.ENHANCE_YOUR_CALM
FLOW = ErrorCode.FLOW_CONTROL_ERROR
PROTOCOL = ErrorCode.PROTOCOL_ERROR


def drive(chunks: Iterable[bytes]) -> Parsed:
    """What a server with stream 1 makes of *chunks*; the payload of stream 999 is the rest."""
    lone = Lone(Role.SERVER, streams=1)
    happened = joined(event for chunk in chunks for event in lone.feed(chunk))
    rest = b""
    if happened and isinstance(last := happened[-1], events.BytesReceived) and last.stream_id == 999:
        rest = last.payload
        happened = happened[:-2]
    return Parsed(happened, rest)


# --- what frames mean -----------------------------------------------------------------------------

MEANINGS: dict[str, tuple[bytes, list[MuxEvent]]] = {
    "a stream": (syn(3), [events.StreamOpened(3)]),
    "bytes": (content(1, b"hello"), [events.BytesReceived(1, b"hello")]),
    "bytes of two streams": (
        content(1, b"a") + syn(3) + content(3, b"b") + content(1, b"c"),
        [
            events.BytesReceived(1, b"a"),
            events.StreamOpened(3),
            events.BytesReceived(3, b"b"),
            events.BytesReceived(1, b"c"),
        ],
    ),
    "SYN, bytes and FIN in one": (
        content(3, b"all", flags=SYN | FIN),
        [events.StreamOpened(3), events.BytesReceived(3, b"all"), events.StreamEnded(3)],
    ),
    "SYN and RST in one": (
        update(3, ErrorCode.PEER_ABORTED, flags=SYN | RST),
        [events.StreamOpened(3), events.StreamAborted(3, ErrorCode.PEER_ABORTED)],
    ),
    "FIN": (fin(1), [events.StreamEnded(1)]),
    "FIN with empty DATA": (content(1, b"", flags=FIN), [events.StreamEnded(1)]),
    "FIN with credit": (update(1, 5, flags=FIN), [events.WindowOpened(1), events.StreamEnded(1)]),
    "credit": (update(1, 5), [events.WindowOpened(1)]),
    "no credit": (update(1, 0), []),
    "RST with our code": (rst(1, ErrorCode.DEADLINE), [events.StreamAborted(1, ErrorCode.DEADLINE)]),
    "RST of others": (rst(1, 0), [events.StreamAborted(1, ErrorCode.CANCEL)]),
    "RST with a code of the future": (rst(1, 0xFFFF), [events.StreamAborted(1, ErrorCode.INTERNAL_ERROR)]),
    "RST behind FIN": (
        fin(1) + rst(1, 0),
        [events.StreamEnded(1), events.StreamAborted(1, ErrorCode.NO_ERROR)],
    ),
    "RST with bytes that nobody reads": (
        content(1, b"lost", flags=RST) + update(1, 1),
        [events.StreamAborted(1, ErrorCode.CANCEL)],
    ),
    "the answer to a ping": (frame(FrameType.PING, ACK, 0, 258), [events.PingAnswered(b"\0\0\1\2")]),
    "goodbye": (frame(FrameType.GO_AWAY, 0, 0, 0), [events.GoneAway(ErrorCode.NO_ERROR, 1, b"")]),
    "goodbye, protocol error": (frame(FrameType.GO_AWAY, 0, 0, 1), [events.GoneAway(PROTOCOL, 1, b"")]),
    "goodbye, internal error": (
        frame(FrameType.GO_AWAY, 0, 0, 2),
        [events.GoneAway(ErrorCode.INTERNAL_ERROR, 1, b"")],
    ),
    "goodbye, unknown": (frame(FrameType.GO_AWAY, 0, 0, 99), [events.GoneAway(ErrorCode.INTERNAL_ERROR, 1, b"")]),
}
BEHIND = content(999, b"what follows", flags=SYN)


@pytest.mark.parametrize(("wire", "expected"), MEANINGS.values(), ids=MEANINGS)
def test_frames_mean_the_same_however_they_are_cut(wire: bytes, expected: list[MuxEvent]) -> None:
    check_three_ways(drive, wire, expected, trailing=b"")
    followed = wire + BEHIND
    assert drive([followed]) == Parsed(expected, b"what follows")
    assert drive(octets(followed)) == Parsed(expected, b"what follows")


def test_bytes_are_passed_on_before_their_frame_is_complete() -> None:
    lone = Lone(Role.SERVER, streams=1)
    wire = content(1, bytes(INITIAL_WINDOW))
    assert lone.feed(wire[:20]) == [events.BytesReceived(1, bytes(8))]
    assert lone.feed(wire[20:21]) == [events.BytesReceived(1, b"\0")]


def test_a_read_within_a_frame_is_not_copied() -> None:
    lone = Lone(Role.SERVER, streams=1)
    lone.feed(content(1, bytes(100_000))[:12])
    chunk = bytes(50_000)
    (event,) = lone.feed(chunk)
    assert isinstance(event, events.BytesReceived)
    assert event.payload is chunk


def test_a_header_that_announces_much_allocates_nothing() -> None:
    lone = Lone(Role.SERVER, streams=1)
    wire = frame(FrameType.DATA, 0, 1, INITIAL_WINDOW) + b"x"
    tracemalloc.start()
    lone.feed(wire)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < INITIAL_WINDOW // 16


def test_a_ping_is_answered_at_once() -> None:
    lone = Lone(Role.SERVER)
    assert lone.feed(frame(FrameType.PING, SYN, 0, 4_711)) == []
    assert lone.written() == [(FrameType.PING, ACK, 0, 4_711, b"")]


def test_an_acknowledgement_may_come_with_bytes() -> None:
    lone = Lone(Role.CLIENT)
    stream_id = lone.yamux.open_stream(now=0.0)
    assert lone.feed(content(stream_id, b"hi", flags=ACK)) == [events.BytesReceived(stream_id, b"hi")]
    assert lone.yamux.streams[stream_id].acknowledged


def test_a_stream_that_both_have_ended_is_gone() -> None:
    lone = Lone(Role.SERVER, streams=1)
    lone.yamux.end(1)
    assert lone.feed(fin(1)) == [events.StreamEnded(1)]
    assert lone.yamux.streams == {}


# --- what ends the connection ---------------------------------------------------------------------

ENDED = {
    "another version": (b"\1" + bytes(11), PROTOCOL, "version"),
    "an unknown type": (b"\0\4" + bytes(10), PROTOCOL, "type 4"),
    "an unknown flag": (update(1, flags=0x10), PROTOCOL, "flags"),
    "DATA for the session": (frame(FrameType.DATA, 0, 0, 0), PROTOCOL, "stream 0"),
    "a ping on a stream": (frame(FrameType.PING, SYN, 1, 0), PROTOCOL, "stream 1"),
    "a ping without flags": (frame(FrameType.PING, 0, 0, 0), PROTOCOL, "neither"),
    "a ping with both": (frame(FrameType.PING, SYN | ACK, 0, 0), PROTOCOL, "neither"),
    "a goodbye with flags": (frame(FrameType.GO_AWAY, FIN, 0, 0), PROTOCOL, "with flags"),
    "SYN for a stream that is": (syn(1), PROTOCOL, "was used"),
    "SYN for one that was": (rst(1) + syn(1), PROTOCOL, "was used"),
    "SYN with our number": (syn(2), PROTOCOL, "of ours"),
    "ACK of its own stream": (ack(1), PROTOCOL, "did not open"),
    "DATA ahead of SYN": (content(3), PROTOCOL, "idle"),
    "FIN ahead of SYN": (fin(3), PROTOCOL, "idle"),
    "RST ahead of SYN": (rst(3), PROTOCOL, "idle"),
    "credit ahead of SYN": (update(3, 1), PROTOCOL, "idle"),
    "DATA on a number that was skipped": (syn(7) + content(5), PROTOCOL, "idle"),
    "DATA on a number of ours": (content(2), PROTOCOL, "idle"),
    "a frame beyond the credit": (frame(FrameType.DATA, 0, 1, INITIAL_WINDOW + 1), FLOW, "the stream's credit"),
    "the same with RST": (frame(FrameType.DATA, RST, 1, INITIAL_WINDOW + 1), FLOW, "the stream's credit"),
    "4 GiB": (frame(FrameType.DATA, SYN, 3, 0xFFFF_FFFF), FLOW, "the stream's credit"),
    "4 GiB for a stream that is gone": (rst(1) + frame(FrameType.DATA, 0, 1, 0xFFFF_FFFF), FLOW, "any stream's"),
    "credit beyond all bounds": (update(1, 0xFFFF_FFFF), FLOW, "out of range"),
}


@pytest.mark.parametrize(("wire", "code", "reason"), ENDED.values(), ids=ENDED)
def test_what_breaks_the_protocol_ends_the_connection(wire: bytes, code: ErrorCode, reason: str) -> None:
    assert check_refused(drive, wire, reason=reason) == Refused(check_refused(drive, wire).reason, code)


def test_a_byte_beyond_the_credit_ends_the_connection() -> None:
    lone = Lone(Role.SERVER, streams=1)
    lone.feed(content(1, bytes(INITIAL_WINDOW)))
    lone.refuses(content(1), FLOW, "the stream's credit")


def test_the_side_that_opens_streams_need_not_accept_any() -> None:
    yamux = YamuxConnection(Role.CLIENT, now=0.0, accepting=False)
    with pytest.raises(RemoteProtocolError, match="opens none"):
        yamux.feed_untrusted(syn(2), now=0.0)


@given(st.binary(max_size=200), st.lists(st.integers(0, 200)))
def test_any_bytes_mean_the_same_however_they_are_cut(wire: bytes, cuts: list[int]) -> None:
    check_split_invariance(drive, wire, cuts)


FRAMES = st.one_of(
    st.builds(content, st.integers(1, 5), st.binary(max_size=20), flags=st.integers(0, 15)),
    st.builds(update, st.integers(1, 5), st.integers(0, 300), flags=st.integers(0, 15)),
    st.builds(frame, st.sampled_from((FrameType.PING, FrameType.GO_AWAY)), st.integers(0, 2)),
)


@given(st.lists(FRAMES, max_size=12).map(b"".join), st.lists(st.integers(0, 300)))
def test_any_frames_mean_the_same_however_they_are_cut(wire: bytes, cuts: list[int]) -> None:
    check_split_invariance(drive, wire, cuts)


# --- numbers ----------------------------------------------------------------------------------------


def test_streams_may_come_out_of_order() -> None:
    """hashicorp/yamux draws a number before it queues the frame, so that two openers may overtake each other."""
    lone = Lone(Role.SERVER)
    for stream_id in (5, 1, 9, 3, 7):
        assert lone.feed(syn(stream_id)) == [events.StreamOpened(stream_id)]
    lone.refuses(syn(3), PROTOCOL, "was used")


def test_numbers_that_were_skipped_long_ago_are_used_up() -> None:
    lone = Lone(Role.SERVER)
    last = 2 * limits.YAMUX_BACKLOG + 5
    lone.feed(syn(last))
    assert lone.feed(syn(last - 2 * limits.YAMUX_BACKLOG)) != []
    lone.refuses(syn(last - 2 * limits.YAMUX_BACKLOG - 2), PROTOCOL, "was used")


def test_a_leap_of_numbers_costs_no_more_than_a_backlog() -> None:
    lone = Lone(Role.SERVER)
    for stream_id in (2**31 + 1, 2**32 - 1):
        lone.feed(syn(stream_id))
        assert len(lone.yamux._skipped) <= limits.YAMUX_BACKLOG


def test_a_servers_peer_may_begin_at_any_odd_and_a_clients_at_any_even_number() -> None:
    assert Lone(Role.SERVER).feed(syn(3) + syn(1)) == [events.StreamOpened(3), events.StreamOpened(1)]
    assert Lone(Role.CLIENT).feed(syn(4) + syn(2)) == [events.StreamOpened(4), events.StreamOpened(2)]


# --- what crosses an end --------------------------------------------------------------------------


@BOTH
@pytest.mark.parametrize("wire", [content(1, b"x" * 100), update(1, 5), fin(1), rst(1), content(1, b"x", flags=FIN)])
def test_frames_that_cross_our_reset_are_dropped(role: Role, wire: bytes) -> None:
    lone = Lone(role, streams=1)
    lone.yamux.reset(1, ErrorCode.CANCEL)
    assert lone.feed(wire) == []
    assert lone.yamux.unread == 0


def test_the_rest_of_a_frame_that_our_reset_cut_is_dropped() -> None:
    lone = Lone(Role.SERVER, streams=1)
    wire = content(1, bytes(1_000))
    lone.feed(wire[:500])
    lone.yamux.reset(1, ErrorCode.CANCEL)
    assert lone.feed(wire[500:] + syn(3)) == [events.StreamOpened(3)]


def test_a_window_of_late_bytes_is_free_and_more_is_counted() -> None:
    lone = Lone(Role.SERVER, streams=1)
    lone.yamux.reset(1, ErrorCode.CANCEL)
    lone.now = limits.FLOOD_WINDOW
    for _ in range(4):
        assert lone.feed(content(1, bytes(INITIAL_WINDOW // 4))) == []
    lone.feed(content(1) * limits.CONTROL_FRAMES_MAX)
    lone.refuses(content(1), CALM, "control frames")


@pytest.mark.parametrize("wire", [content(1), fin(1), ack(1)], ids=["DATA", "FIN", "ACK"])
def test_what_a_careless_peer_sends_twice_is_dropped_and_counted(wire: bytes) -> None:
    """A write may race its own stream's close: data behind FIN."""
    lone = Lone(Role.CLIENT, streams=1)
    lone.feed(fin(1))
    lone.now = limits.FLOOD_WINDOW
    assert lone.feed(wire * limits.CONTROL_FRAMES_MAX) == []
    lone.refuses(wire, CALM, "control frames")


# --- limits ---------------------------------------------------------------------------------------


def test_more_streams_than_agreed_are_refused_and_counted() -> None:
    lone = Lone(Role.SERVER, streams=limits.STREAMS_ON_CARRIER)
    over = 2 * limits.STREAMS_ON_CARRIER + 1
    assert lone.feed(syn(over) + content(over, b"for nobody")) == []
    assert lone.resets() == [(over, ErrorCode.REFUSED_STREAM)]
    with pytest.raises(RemoteProtocolError, match="without work"):
        for number in range(limits.RESETS_MAX):
            lone.feed(syn(over + 2 + 2 * number))


def test_what_lies_unread_is_bounded_whatever_was_promised() -> None:
    """A thousand windows are 256 MiB: beyond `YAMUX_UNREAD_MAX` the stream that brings more is reset."""
    lone = Lone(Role.SERVER)
    window = bytes(INITIAL_WINDOW)
    fitting = limits.YAMUX_UNREAD_MAX // INITIAL_WINDOW
    for number in range(fitting):
        lone.feed(syn(2 * number + 1) + content(2 * number + 1, window))
    last = 2 * fitting + 1
    assert lone.feed(syn(last) + content(last, b"x")) == [
        events.StreamOpened(last),
        events.StreamAborted(last, ErrorCode.SLOW_CONSUMER),
    ]
    assert lone.yamux.unread == limits.YAMUX_UNREAD_MAX
    assert lone.resets() == [(last, ErrorCode.SLOW_CONSUMER)]
    lone.yamux.discard(INITIAL_WINDOW)
    assert lone.feed(syn(last + 2) + content(last + 2, b"y"))[1:] == [events.BytesReceived(last + 2, b"y")]
