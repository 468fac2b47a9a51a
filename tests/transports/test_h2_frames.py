"""Frames: cut anywhere they mean the same, and a header is judged before a byte of payload is kept."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.transports.h2_model import frame
from tests.wire.three_way import Parsed, Refused, check_refused, check_split_invariance, check_three_ways
from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.settings import limits
from trunnel.transports import h2_frames as frames
from trunnel.transports.h2_frames import FrameHeader, FrameReader, FrameType, Setting

Whole = tuple[FrameHeader, bytes]
"""A frame with its payload."""
PING = frame(FrameType.PING, 0, 0, b"12345678")
LENGTH_MAX = 2**24 - 1
LENGTHS = (0, 1, limits.FRAME_MAX - 1, limits.FRAME_MAX, limits.FRAME_MAX + 1, LENGTH_MAX)


def read_all(chunks: Iterable[bytes], *, preface: bool = False) -> list[Whole]:
    """Feed *chunks* and join each frame's pieces; a frame that has not ended is not there."""
    reader = FrameReader(expect_preface=preface)
    found: list[Whole] = []
    parts = bytearray()
    for chunk in chunks:
        for piece in reader.feed_untrusted(chunk):
            assert piece.first == (not parts), "a first piece in the middle"
            parts += piece.payload
            if piece.last:
                found.append((piece.header, bytes(parts)))
                parts.clear()
    return found


def drive(chunks: Iterable[bytes]) -> Parsed:
    """The first frame is the value, the frames behind it are the rest."""
    first, *later = read_all(chunks)
    return Parsed(first, b"".join(frame(head.kind, head.flags, head.stream_id, payload) for head, payload in later))


def drive_all(chunks: Iterable[bytes]) -> Parsed:
    """All frames are the value."""
    return Parsed(read_all(chunks))


@pytest.mark.parametrize(
    ("kind", "payload"),
    [
        (FrameType.DATA, b""),
        (FrameType.DATA, b"some bytes"),
        (FrameType.HEADERS, b"\x88"),
        (FrameType.PRIORITY, b"12345"),
        (FrameType.RST_STREAM, b"1234"),
        (FrameType.SETTINGS, b""),
        (FrameType.SETTINGS, b"123456"),
        (FrameType.PUSH_PROMISE, b"1234"),
        (FrameType.PING, b"12345678"),
        (FrameType.GOAWAY, b"12345678"),
        (FrameType.WINDOW_UPDATE, b"1234"),
        (FrameType.CONTINUATION, b"1234"),
    ],
)
def test_each_kind_is_read_three_ways(kind: FrameType, payload: bytes) -> None:
    head = FrameHeader(len(payload), kind, 0x5, 7)
    check_three_ways(drive, frame(kind, 0x5, 7, payload), (head, payload), trailing=PING)


def test_the_reserved_bit_is_ignored() -> None:
    """RFC 9113 §4.1."""
    wire = frame(FrameType.DATA, 0, 0x8000_0001, b"x")
    assert read_all([wire]) == [(FrameHeader(1, FrameType.DATA, 0, 1), b"x")]


@pytest.mark.parametrize("kind", [0x0A, 0x10, 0xFF])
def test_unknown_frames_are_passed_over_unread(kind: int) -> None:
    wire = frame(kind, 0xFF, 3, bytes(limits.FRAME_MAX)) + PING
    (unknown, nothing), ping = read_all([wire])
    assert (unknown.kind, nothing) == (kind, b"")
    assert ping[1] == b"12345678"
    reader = FrameReader(expect_preface=False)
    assert list(reader.feed_untrusted(wire[:-20])) == []
    assert not reader._body, "not a byte of it is kept"


@pytest.mark.parametrize("length", LENGTHS)
@pytest.mark.parametrize("kind", [*FrameType, 0xFA])
def test_a_length_is_judged_before_the_payload_comes(kind: int, length: int) -> None:
    """FUZZ-04: nine bytes are enough to refuse, and nothing was kept."""
    exact = {FrameType.PRIORITY: 5, FrameType.RST_STREAM: 4, FrameType.PING: 8, FrameType.WINDOW_UPDATE: 4}
    capped = {FrameType.HEADERS, FrameType.PUSH_PROMISE, FrameType.GOAWAY, FrameType.CONTINUATION}
    legal = length <= limits.FRAME_MAX
    if kind in exact:
        legal = length == exact[FrameType(kind)]
    elif kind == FrameType.SETTINGS:
        legal = length <= 64 * 6
    elif kind in capped:
        legal = length <= limits.HEADER_BLOCK_MAX
    reader = FrameReader(expect_preface=False)
    head = frames.encode_header(length, kind, 0, 1)
    if legal:
        list(reader.feed_untrusted(head))
    else:
        with pytest.raises(RemoteProtocolError):
            list(reader.feed_untrusted(head))
    assert not reader._body


@pytest.mark.parametrize("kind", [FrameType.HEADERS, FrameType.PUSH_PROMISE, FrameType.GOAWAY, FrameType.CONTINUATION])
def test_frames_that_are_kept_whole_have_a_cap(kind: FrameType) -> None:
    for length, legal in ((limits.HEADER_BLOCK_MAX, True), (limits.HEADER_BLOCK_MAX + 1, False)):
        wire = frame(kind, 0, 1, bytes(length))
        if legal:
            assert len(read_all([wire])) == 1
        else:
            assert check_refused(drive, wire).code is ErrorCode.ENHANCE_YOUR_CALM


def test_data_is_passed_on_before_its_frame_is_complete() -> None:
    reader = FrameReader(expect_preface=False)
    wire = frame(FrameType.DATA, frames.END_STREAM, 1, bytes(limits.FRAME_MAX))
    (first,) = reader.feed_untrusted(wire[:100])
    assert (len(first.payload), first.first, first.last) == (91, True, False)
    (last,) = reader.feed_untrusted(wire[100:])
    assert (len(last.payload), last.first, last.last) == (limits.FRAME_MAX - 91, False, True)


# --- preface ------------------------------------------------------------------------------------


def test_the_preface_may_come_in_pieces() -> None:
    wire = frames.PREFACE + PING
    for cut in range(len(wire)):
        assert len(read_all([wire[:cut], wire[cut:]], preface=True)) == 1
    assert len(read_all([wire[at : at + 1] for at in range(len(wire))], preface=True)) == 1


@pytest.mark.parametrize("at", range(len(frames.PREFACE)))
def test_a_wrong_preface_is_refused_at_its_first_wrong_byte(at: int) -> None:
    wire = bytearray(frames.PREFACE)
    wire[at] ^= 0x20
    reader = FrameReader(expect_preface=True)
    list(reader.feed_untrusted(bytes(wire[:at])))
    with pytest.raises(RemoteProtocolError, match="preface"):
        list(reader.feed_untrusted(bytes(wire[at : at + 1])))


# --- padding and settings -----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("payload", "content"), [(b"\0abc", b"abc"), (b"\x02abcXX", b"abc"), (b"\0", b""), (b"\x03XXX", b"")]
)
def test_padding_is_removed(payload: bytes, content: bytes) -> None:
    head = FrameHeader(len(payload), FrameType.DATA, frames.PADDED, 1)
    assert frames.strip_padding_untrusted(head, payload) == content


@pytest.mark.parametrize("payload", [b"", b"\x01", b"\x04abc", b"\xff" + bytes(254)])
def test_padding_longer_than_its_frame_is_refused(payload: bytes) -> None:
    head = FrameHeader(len(payload), FrameType.DATA, frames.PADDED, 1)
    with pytest.raises(RemoteProtocolError, match="padding"):
        frames.strip_padding_untrusted(head, payload)


def test_without_the_flag_nothing_is_padding() -> None:
    assert frames.strip_padding_untrusted(FrameHeader(2, FrameType.DATA, 0, 1), b"\xffx") == b"\xffx"


@given(st.dictionaries(st.sampled_from(Setting), st.integers(0, 2**32 - 1)))
def test_settings_round_trip(values: dict[Setting, int]) -> None:
    ((head, payload),) = read_all([frames.encode_settings(values)])
    assert head.kind == FrameType.SETTINGS
    assert dict(frames.parse_settings_untrusted(payload)) == values


@pytest.mark.parametrize("length", [1, 5, 7])
def test_settings_of_odd_length_are_refused(length: int) -> None:
    with pytest.raises(RemoteProtocolError):
        frames.parse_settings_untrusted(bytes(length))


# --- properties ---------------------------------------------------------------------------------

FRAMES = st.builds(
    frame,
    st.integers(0, 12),
    st.integers(0, 255),
    st.integers(0, frames.STREAM_ID_MASK),
    st.one_of(st.binary(max_size=20), st.sampled_from((4, 5, 6, 8)).map(bytes)),
)


@given(st.lists(FRAMES, max_size=6), st.binary(max_size=12), st.lists(st.integers(1, 150), max_size=6))
def test_cuts_change_nothing(parts: list[bytes], tail: bytes, cuts: list[int]) -> None:
    outcome = check_split_invariance(drive_all, b"".join(parts) + tail, cuts)
    assert isinstance(outcome, Parsed | Refused)


@given(st.integers(0, 9), st.integers(0, 255), st.integers(0, frames.STREAM_ID_MASK), st.integers(0, LENGTH_MAX))
def test_headers_are_written_as_they_are_read(kind: int, flags: int, stream_id: int, length: int) -> None:
    head = frames.encode_header(length, kind, flags, stream_id)
    assert len(head) == frames.HEADER_BYTES
    assert (int.from_bytes(head[:3], "big"), head[3], head[4], int.from_bytes(head[5:], "big")) == (
        length,
        kind,
        flags,
        stream_id,
    )
