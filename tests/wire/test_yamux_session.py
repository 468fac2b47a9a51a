"""What one end sends, rule by rule; `test_yamux_conversation` lets two of them talk."""

from __future__ import annotations

import pytest

from tests.wire.yamux_model import PATTERN, Frame, Lone, ack, content, fin, frame, rst, syn, update
from trunnel.errors import ErrorCode, LocalProtocolError
from trunnel.settings import limits
from trunnel.wire import muxevents as events
from trunnel.wire.muxevents import Role
from trunnel.wire.yamux import YamuxConnection
from trunnel.wire.yamux_frames import ACK, FIN, RST, STREAM_ID_MAX, SYN, FrameType, GoAwayCode
from trunnel.wire.yamux_session import INITIAL_WINDOW, YamuxSession, go_away_code

BOTH = pytest.mark.parametrize("role", list(Role))


@BOTH
def test_yamux_has_no_greeting(role: Role) -> None:
    assert YamuxConnection(role, now=0.0).output.pending == 0


@pytest.mark.parametrize(("role", "first"), [(Role.CLIENT, 1), (Role.SERVER, 2)])
def test_clients_count_odd_and_servers_even(role: Role, first: int) -> None:
    lone = Lone(role)
    assert [lone.yamux.open_stream(now=0.0) for _ in range(3)] == [first, first + 2, first + 4]
    assert lone.written() == [(FrameType.WINDOW_UPDATE, SYN, first + 2 * n, 0, b"") for n in range(3)]


def test_ids_are_used_up_rather_than_used_again() -> None:
    yamux = YamuxSession(Role.CLIENT, now=0.0)
    yamux._next_id = STREAM_ID_MAX
    assert yamux.open_stream(now=0.0) == STREAM_ID_MAX
    assert yamux.exhausted
    with pytest.raises(LocalProtocolError):
        yamux.open_stream(now=0.0)


def test_no_more_streams_than_the_peer_keeps_in_its_backlog() -> None:
    """hashicorp/yamux resets what exceeds an accept backlog of 256."""
    lone = Lone(Role.CLIENT)
    opened = [lone.yamux.open_stream(now=0.0) for _ in range(limits.YAMUX_BACKLOG)]
    assert lone.yamux.peer_stream_limit == len(lone.yamux.streams)
    with pytest.raises(LocalProtocolError):
        lone.yamux.open_stream(now=0.0)
    assert lone.feed(ack(opened[0])) == [events.WindowOpened(0)], "who waits for room is told"
    assert lone.feed(ack(opened[1])) == []
    assert lone.yamux.peer_stream_limit == limits.STREAMS_ON_CARRIER
    assert lone.yamux.reset(opened[2], ErrorCode.CANCEL), "also one that was never acknowledged"
    for _ in range(3):
        lone.yamux.open_stream(now=0.0)
    assert lone.yamux.peer_stream_limit == len(lone.yamux.streams)


def test_a_stream_is_acknowledged_once_and_when_somebody_takes_it() -> None:
    """So that 256 streams in the opener's backlog are 256 that nobody accepted, not 256 that came."""
    lone = Lone(Role.SERVER)
    lone.feed(syn(1) + content(1, b"xyz"))
    assert lone.written() == []
    lone.yamux.accepted(1)
    lone.yamux.accepted(1)
    assert lone.written() == [(FrameType.WINDOW_UPDATE, ACK, 1, 0, b"")]


@BOTH
def test_only_streams_of_the_peer_that_are_still_there_are_acknowledged(role: Role) -> None:
    lone = Lone(role)
    ours = lone.yamux.open_stream(now=0.0)
    lone.feed(syn(theirs := 3 - ours) + rst(theirs))
    lone.yamux.output.take()
    lone.yamux.accepted(ours)
    lone.yamux.accepted(theirs)
    assert lone.written() == []


def test_a_stream_that_is_refused_needs_no_acknowledgement() -> None:
    lone = Lone(Role.SERVER)
    lone.feed(syn(1))
    lone.yamux.reset(1, ErrorCode.REFUSED_STREAM)
    lone.yamux.accepted(1)
    assert [flags for _, flags, _, _, _ in lone.written()] == [RST]


def test_frames_are_cut_by_window_and_frame_size() -> None:
    lone = Lone(Role.CLIENT, streams=1)
    assert lone.feed(update(1, limits.YAMUX_FRAME_MAX)) == [events.WindowOpened(1)]
    payload = memoryview(PATTERN)
    sent: list[int] = []
    while taken := lone.yamux.send(1, payload):
        sent.append(taken)
    assert sent == [limits.YAMUX_FRAME_MAX, INITIAL_WINDOW]
    lone.feed(update(1, 7))
    assert lone.yamux.send(1, payload) == 7
    assert lone.written()[-1] == (FrameType.DATA, 0, 1, 7, PATTERN[:7])


def test_nothing_is_sent_where_there_is_no_stream() -> None:
    lone = Lone(Role.CLIENT)
    assert lone.yamux.sendable(1) == 0
    assert lone.yamux.send(1, memoryview(b"x")) == 0
    lone.yamux.end(1)
    assert not lone.yamux.reset(1, ErrorCode.CANCEL)
    assert lone.written() == []


def test_a_stream_that_ended_takes_nothing_more() -> None:
    lone = Lone(Role.CLIENT, streams=1)
    lone.yamux.end(1)
    lone.yamux.end(1)
    assert lone.yamux.send(1, memoryview(b"late")) == 0
    assert lone.written() == [(FrameType.WINDOW_UPDATE, FIN, 1, 0, b"")]
    assert lone.yamux.reset(1, ErrorCode.CANCEL)
    assert not lone.yamux.reset(1, ErrorCode.CANCEL)
    assert lone.resets() == [(1, ErrorCode.CANCEL)]


# --- credit ---------------------------------------------------------------------------------------


def granted(frames: list[Frame]) -> int:
    """Return the sum of the window updates among *frames*."""
    return sum(length for kind, flags, _, length, _ in frames if kind == FrameType.WINDOW_UPDATE and not flags)


def test_credit_is_returned_when_read_and_not_before() -> None:
    lone = Lone(Role.SERVER, streams=1)
    lone.feed(content(1, bytes(INITIAL_WINDOW)))
    assert lone.written() == []
    lone.now = 60.0  # a slow consumer: the window does not grow
    lone.yamux.consumed(1, INITIAL_WINDOW // 2 - 1, unread=INITIAL_WINDOW, now=lone.now)
    assert lone.written() == []
    lone.yamux.consumed(1, 1, unread=INITIAL_WINDOW // 2, now=lone.now)
    assert granted(lone.written()) == INITIAL_WINDOW // 2
    assert lone.yamux.unread == INITIAL_WINDOW // 2


@pytest.mark.parametrize("window_max", [limits.STREAM_WINDOW_MAX, limits.STREAM_WINDOW_LIMIT])
def test_a_window_grows_to_its_maximum_while_the_consumer_keeps_pace(window_max: int) -> None:
    lone = Lone(Role.SERVER, streams=1, window_max=window_max)
    lone.yamux.round_trip = 0.1
    size = 64 * limits.KIB
    for _ in range(2_000):
        lone.feed(content(1, bytes(size)))
        lone.now += 0.001
        lone.yamux.consumed(1, size, unread=0, now=lone.now)
    stream = lone.yamux.streams[1]
    assert stream.window.size == min(window_max, INITIAL_WINDOW + limits.SESSION_CREDIT - growth_left(lone))
    assert stream.receive_left + stream.returned == stream.window.size
    lone.feed(rst(1))
    assert growth_left(lone) == limits.SESSION_CREDIT


def growth_left(lone: Lone) -> int:
    """Return what windows may still grow."""
    return lone.yamux._budget.left


def test_idle_streams_take_nothing_from_the_growth_of_others() -> None:
    """The specification promises each its 256 KiB; the budget is for what goes beyond."""
    lone = Lone(Role.SERVER, streams=1_000)
    assert growth_left(lone) == limits.SESSION_CREDIT


def test_padding_like_bytes_give_credit_and_no_growth() -> None:
    lone = Lone(Role.SERVER, streams=1)
    lone.feed(content(1, bytes(INITIAL_WINDOW)))
    lone.yamux.consumed(1, INITIAL_WINDOW, unread=None, now=0.0)
    assert granted(lone.written()) == INITIAL_WINDOW
    assert lone.yamux.streams[1].window.size == INITIAL_WINDOW


def test_a_stream_whose_peer_has_ended_needs_no_credit() -> None:
    lone = Lone(Role.SERVER, streams=1)
    lone.feed(content(1, bytes(INITIAL_WINDOW)) + fin(1))
    lone.yamux.consumed(1, INITIAL_WINDOW, unread=0, now=0.0)
    assert lone.written() == []
    assert lone.yamux.unread == 0


# --- lingering ------------------------------------------------------------------------------------


def lingering() -> Lone:
    """A server that has let go of stream 1, whose peer has not ended."""
    lone = Lone(Role.SERVER, streams=1)
    lone.yamux.end(1)
    assert lone.yamux.reset(1, ErrorCode.NO_ERROR)
    assert lone.written() == [(FrameType.WINDOW_UPDATE, FIN, 1, 0, b"")], "no RST: it would eat what is unread"
    assert lone.yamux.streams == {}
    return lone


def test_a_peer_that_sends_to_nobody_is_told_once() -> None:
    lone = lingering()
    assert lone.feed(content(1, b"more") + content(1, b"and more")) == []
    assert lone.resets() == [(1, ErrorCode.NO_ERROR)]
    assert lone.yamux.lingering == {}


@pytest.mark.parametrize("wire", [fin(1), rst(1), content(1, b"", flags=FIN)], ids=["FIN", "RST", "empty DATA, FIN"])
def test_a_peer_that_ends_is_not_told(wire: bytes) -> None:
    lone = lingering()
    assert lone.feed(wire) == []
    assert lone.written() == []
    assert lone.yamux.lingering == {}


def test_credit_for_a_stream_that_lingers_changes_nothing() -> None:
    lone = lingering()
    assert lone.feed(update(1, 1_000)) == []
    assert lone.written() == []
    assert set(lone.yamux.lingering) == {1}


def test_a_peer_without_credit_is_told_at_once() -> None:
    """It waits for credit and would never send what we could answer."""
    lone = Lone(Role.SERVER, streams=1)
    lone.feed(content(1, bytes(INITIAL_WINDOW)))
    lone.yamux.end(1)
    lone.yamux.reset(1, ErrorCode.NO_ERROR)
    assert lone.resets() == [(1, ErrorCode.NO_ERROR)]
    assert lone.yamux.lingering == {}


def test_a_peer_inside_a_frame_is_told_at_its_next_byte() -> None:
    lone = Lone(Role.SERVER, streams=1)
    wire = content(1, bytes(INITIAL_WINDOW // 2))
    lone.feed(wire[:100])
    lone.yamux.end(1)
    lone.yamux.reset(1, ErrorCode.NO_ERROR)
    assert lone.resets() == []
    assert lone.feed(wire[100:]) == []
    assert lone.resets() == [(1, ErrorCode.NO_ERROR)]


def test_streams_that_linger_are_bounded() -> None:
    lone = Lone(Role.SERVER)
    for number in range(limits.YAMUX_LINGERING_MAX + 2):
        stream_id = 2 * number + 1
        lone.feed(syn(stream_id))
        lone.yamux.end(stream_id)
        lone.yamux.reset(stream_id, ErrorCode.NO_ERROR)
    assert len(lone.yamux.lingering) == limits.YAMUX_LINGERING_MAX
    assert lone.resets() == [(1, ErrorCode.NO_ERROR), (3, ErrorCode.NO_ERROR)], "the oldest go first"


# --- goodbye --------------------------------------------------------------------------------------


@pytest.mark.parametrize("code", list(ErrorCode))
def test_every_code_has_a_goodbye(code: ErrorCode) -> None:
    lone = Lone(Role.CLIENT)
    lone.yamux.go_away(code, "a reason, for which there is no room")
    said = go_away_code(code)
    assert lone.written() == [(FrameType.GO_AWAY, 0, 0, said, b"")]
    assert (said is GoAwayCode.NORMAL) == (code is ErrorCode.NO_ERROR)


def test_a_goodbye_blames_the_peer_only_for_its_own_mistakes() -> None:
    ours = {ErrorCode.INTERNAL_ERROR, ErrorCode.CANCEL, ErrorCode.DEADLINE, ErrorCode.DRAINING}
    assert {code for code in ErrorCode if go_away_code(code) is GoAwayCode.INTERNAL_ERROR} == ours


def test_after_a_goodbye_streams_go_on_and_new_ones_are_refused() -> None:
    lone = Lone(Role.SERVER, streams=1)
    lone.yamux.go_away(ErrorCode.NO_ERROR)
    assert lone.yamux.refusing
    assert lone.feed(content(1, b"goes on")) == [events.BytesReceived(1, b"goes on")]
    assert lone.feed(syn(3) + content(3, b"lost")) == []
    assert lone.resets() == [(3, ErrorCode.REFUSED_STREAM)]


def test_a_ping_asks() -> None:
    lone = Lone(Role.CLIENT)
    lone.yamux.ping()
    ((kind, flags, stream_id, length, _),) = lone.written()
    assert (kind, flags, stream_id) == (FrameType.PING, SYN, 0)
    assert lone.feed(frame(FrameType.PING, ACK, 0, length)) == [events.PingAnswered(length.to_bytes(4, "big"))]


def test_a_reset_of_a_stream_that_the_peer_ended_expects_no_late_bytes() -> None:
    lone = Lone(Role.SERVER, streams=1)
    lone.feed(fin(1))
    lone.yamux.reset(1, ErrorCode.PEER_ABORTED)
    assert lone.yamux.late_credit == 0
    assert lone.written() == [(FrameType.WINDOW_UPDATE, RST, 1, ErrorCode.PEER_ABORTED, b"")]
