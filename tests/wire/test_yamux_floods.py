"""Floods: each ends the connection with ENHANCE_YOUR_CALM, and what visitors do is none."""

from __future__ import annotations

import pytest

from tests.wire.yamux_model import Lone, ack, content, fin, frame, rst, syn, update
from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.settings import limits
from trunnel.wire import muxevents as events
from trunnel.wire.muxevents import Role
from trunnel.wire.yamux_frames import ACK, HEADER_BYTES, SYN, FrameType
from trunnel.wire.yamux_session import INITIAL_WINDOW

CALM = ErrorCode.ENHANCE_YOUR_CALM
BOTH = pytest.mark.parametrize("role", list(Role))

FLOODS = {
    "ping": frame(FrameType.PING, SYN, 0, 1),
    "pong": frame(FrameType.PING, ACK, 0, 1),
    "credit of a byte": update(1, 1),
    "credit of nothing": update(1, 0),
    "empty DATA": content(1, b""),
    "goodbye": frame(FrameType.GO_AWAY, 0, 0, 0),
}


@BOTH
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_floods_of_cheap_frames_end_the_connection(role: Role, flood: bytes) -> None:
    """LOAD-10: after `CONTROL_FRAMES_MAX` in `FLOOD_WINDOW`, also when the peer reads every answer."""
    lone = Lone(role, streams=1)
    lone.now = limits.FLOOD_WINDOW  # a new window: what set this up is not counted
    for _ in range(limits.CONTROL_FRAMES_MAX):
        lone.feed(flood)
        lone.yamux.output.take()
    lone.refuses(flood, CALM, "control frames")


@BOTH
def test_cheap_frames_over_a_long_time_are_no_flood(role: Role) -> None:
    lone = Lone(role)
    for _ in range(5):
        lone.now += limits.FLOOD_WINDOW
        lone.feed(FLOODS["ping"] * (limits.CONTROL_FRAMES_MAX - 1))
        lone.yamux.output.take()
    assert lone.feed(FLOODS["ping"]) == []


def test_rapid_resets_end_the_connection() -> None:
    """LOAD-07: after `RESETS_MAX` streams opened and reset for nothing."""
    lone = Lone(Role.SERVER)
    for number in range(limits.RESETS_MAX - 1):
        lone.feed(syn(2 * number + 1) + rst(2 * number + 1))
        lone.yamux.output.take()
    lone.refuses(syn(999) + rst(999), CALM, "reset without work")


def test_streams_opened_behind_our_goodbye_are_counted() -> None:
    lone = Lone(Role.SERVER)
    lone.yamux.go_away(ErrorCode.NO_ERROR)
    for number in range(limits.CONTROL_FRAMES_MAX):
        lone.feed(syn(2 * number + 1))
        lone.yamux.output.take()
    lone.refuses(syn(2 * limits.CONTROL_FRAMES_MAX + 1), CALM, "control frames")


def test_resets_of_streams_with_payload_are_visitors_and_not_counted() -> None:
    lone = Lone(Role.SERVER)
    for number in range(3 * limits.RESETS_MAX):
        lone.feed(syn(2 * number + 1) + content(2 * number + 1, b"hello") + rst(2 * number + 1))
        lone.yamux.discard(5)
        lone.yamux.output.take()
    assert lone.yamux.streams == {}
    assert lone.yamux.unread == 0


def test_resets_by_an_agent_are_not_counted() -> None:
    """The relay opened them; an agent that resets them all harms nobody else."""
    lone = Lone(Role.CLIENT)
    for _ in range(3 * limits.RESETS_MAX):
        stream_id = lone.yamux.open_stream(now=0.0)
        assert lone.feed(rst(stream_id)) == [events.StreamAborted(stream_id, ErrorCode.CANCEL)]


def test_what_a_peer_owes_for_our_streams_is_no_flood() -> None:
    """Each of them is acknowledged and ended, whether or not it carried anything."""
    lone = Lone(Role.CLIENT)
    for _ in range(limits.CONTROL_FRAMES_MAX):
        stream_id = lone.yamux.open_stream(now=0.0)
        lone.yamux.end(stream_id)
        lone.feed(ack(stream_id) + fin(stream_id))
        lone.yamux.output.take()
    assert lone.yamux.streams == {}


def test_a_stream_that_ends_in_order_clears_the_count_of_resets() -> None:
    lone = Lone(Role.SERVER)
    for number in range(2 * limits.RESETS_MAX):
        stream_id = 2 * number + 1
        lone.feed(syn(stream_id))
        if number % (limits.RESETS_MAX // 2):
            lone.feed(rst(stream_id))
        else:
            lone.feed(content(stream_id) + fin(stream_id))
            lone.yamux.send(stream_id, memoryview(b"x"))
            lone.yamux.end(stream_id)
        lone.yamux.output.take()
    assert lone.yamux.streams == {}


def test_window_updates_for_what_we_send_are_no_flood() -> None:
    lone = Lone(Role.CLIENT, streams=1)
    for _ in range(3 * limits.CONTROL_FRAMES_MAX):
        assert lone.yamux.send(1, memoryview(bytes(8_192))) == 8_192
        lone.feed(update(1, 8_192))
        lone.yamux.output.take()
    assert lone.yamux.sendable(1) == INITIAL_WINDOW


def test_answers_that_the_peer_does_not_read_end_the_connection() -> None:
    """LOAD-10: more than 64 KiB of them."""
    lone = Lone(Role.SERVER)
    with pytest.raises(RemoteProtocolError, match="does not read") as caught:
        for number in range(limits.UNSENT_CONTROL_MAX):
            lone.now += 1.0
            lone.feed(FLOODS["ping"] + syn(2 * number + 1) + content(2 * number + 1) + rst(2 * number + 1))
    assert caught.value.code is CALM
    assert 0 < lone.yamux.output.pending - limits.UNSENT_CONTROL_MAX <= HEADER_BYTES


def test_window_updates_that_the_peer_does_not_read_end_the_connection() -> None:
    """A peer may guess what credit it was given and send on without ever reading."""
    lone = Lone(Role.SERVER, streams=1)
    half = INITIAL_WINDOW // 2
    lone.yamux.output.data(1, memoryview(bytes(limits.UNSENT_OUTPUT_MAX - 100)))  # what it has not read so far
    with pytest.raises(RemoteProtocolError, match="does not read") as caught:
        while True:
            lone.now += 1.0  # slow enough for the window to stay small
            lone.feed(content(1, bytes(half)))
            lone.yamux.consumed(1, half, unread=0, now=lone.now)
    assert caught.value.code is CALM


# --- what is nobody's fault -------------------------------------------------------------------------


def test_a_window_of_bytes_for_a_stream_that_lingered_is_free() -> None:
    lone = Lone(Role.SERVER, streams=1)
    lone.yamux.end(1)
    lone.yamux.reset(1, ErrorCode.NO_ERROR)
    lone.now = limits.FLOOD_WINDOW
    for _ in range(2 * limits.CONTROL_FRAMES_MAX):
        assert lone.feed(content(1, bytes(100))) == []


def test_bytes_behind_a_stream_that_we_refused_are_free() -> None:
    lone = Lone(Role.SERVER)
    lone.yamux.go_away(ErrorCode.NO_ERROR)
    lone.feed(syn(1))
    for _ in range(2 * limits.CONTROL_FRAMES_MAX):
        assert lone.feed(content(1, bytes(100))) == []


def test_frames_that_cross_the_ends_of_busy_streams_are_free() -> None:
    """Visitors decide when streams end: credit and an end may be under way when we reset each."""
    lone = Lone(Role.CLIENT)
    for _ in range(limits.CONTROL_FRAMES_MAX):
        stream_id = lone.yamux.open_stream(now=0.0)
        lone.yamux.send(stream_id, memoryview(b"x"))
        lone.yamux.reset(stream_id, ErrorCode.PEER_ABORTED)
        assert lone.feed(ack(stream_id) + update(stream_id, 1) + fin(stream_id)) == []
        lone.yamux.output.take()


@pytest.mark.parametrize("late", [update(1, 1), fin(1), rst(1)], ids=["credit", "FIN", "RST"])
def test_frames_for_a_stream_that_is_long_gone_are_counted(late: bytes) -> None:
    lone = Lone(Role.SERVER, streams=1)
    lone.yamux.reset(1, ErrorCode.CANCEL)
    lone.now = limits.FLOOD_WINDOW
    lone.feed(late * limits.CONTROL_FRAMES_MAX)
    lone.refuses(late, CALM, "control frames")


def test_streams_that_carried_bytes_one_way_clear_no_count() -> None:
    lone = Lone(Role.SERVER)
    with pytest.raises(RemoteProtocolError, match="reset without work"):
        for number in range(limits.RESETS_MAX):
            for stream_id in (4 * number + 1, 4 * number + 3):
                lone.feed(syn(stream_id))
            lone.feed(rst(4 * number + 1) + fin(4 * number + 3))
            lone.yamux.send(4 * number + 3, memoryview(b"x"))
            lone.yamux.end(4 * number + 3)
            lone.yamux.output.take()
