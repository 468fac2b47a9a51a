"""Floods: each is answered with GOAWAY(ENHANCE_YOUR_CALM), and what visitors do is none."""

from __future__ import annotations

import pytest

from tests.transports.h2_model import Lone, content, frame, headers, rst, settings, u32, window_update
from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.settings import limits
from trunnel.transports import h2_frames as frames
from trunnel.transports.h2_connection import Role
from trunnel.transports.h2_frames import FrameType
from trunnel.wire import muxevents as events

CALM = ErrorCode.ENHANCE_YOUR_CALM
BOTH = pytest.mark.parametrize("role", list(Role))


def test_rapid_resets_end_the_agents_connection() -> None:
    """LOAD-07: after `RESETS_MAX` streams opened and reset for nothing."""
    lone = Lone(Role.SERVER)
    for number in range(limits.RESETS_MAX - 1):
        lone.feed(headers(2 * number + 1) + rst(2 * number + 1))
        lone.h2.output.take()
    lone.refuses(headers(999) + rst(999), CALM, "reset without work")


def test_resets_of_streams_with_payload_are_visitors_and_not_counted() -> None:
    lone = Lone(Role.SERVER)
    for number in range(3 * limits.RESETS_MAX):
        lone.feed(headers(2 * number + 1) + content(2 * number + 1, b"hello") + rst(2 * number + 1))
        lone.h2.discard(5)
        lone.h2.output.take()
    assert lone.h2.streams == {}


def test_resets_by_an_agent_are_not_counted() -> None:
    """The relay opened them; an agent that resets them all harms nobody else."""
    lone = Lone(Role.CLIENT)
    for _ in range(3 * limits.RESETS_MAX):
        stream_id = lone.h2.open_stream(now=0.0)
        assert lone.feed(rst(stream_id)) == [events.StreamAborted(stream_id, ErrorCode.CANCEL)]
    assert lone.h2.streams == {}


@BOTH
@pytest.mark.parametrize("worked", [False, True], ids=["idle", "with payload both ways"])
def test_resets_that_the_peer_provokes_are_counted(role: Role, worked: bool) -> None:
    """LOAD-08 (MadeYouReset): also when each stream carried a byte each way."""
    lone = Lone(role, streams=limits.RESETS_MAX)
    for stream_id in lone.ids:
        if worked:
            lone.h2.send(stream_id, memoryview(b"x"))
            lone.feed(content(stream_id))
        if stream_id == lone.ids[-1]:
            lone.refuses(window_update(stream_id, 0), CALM, "reset without work")
        else:
            lone.feed(window_update(stream_id, 0))


def test_a_stream_that_ends_in_order_clears_the_count_of_resets() -> None:
    lone = Lone(Role.SERVER)
    for number in range(2 * limits.RESETS_MAX):
        stream_id = 2 * number + 1
        lone.feed(headers(stream_id))
        if number % (limits.RESETS_MAX // 2):
            lone.feed(rst(stream_id))
        else:
            lone.feed(content(stream_id, flags=frames.END_STREAM))
            lone.h2.send(stream_id, memoryview(b"x"))
            lone.h2.end(stream_id)
        lone.h2.output.take()
    assert lone.h2.streams == {}


FLOODS = {
    "PING": frame(FrameType.PING, 0, 0, bytes(8)),
    "PING ACK": frame(FrameType.PING, frames.ACK, 0, bytes(8)),
    "SETTINGS": settings(),
    "SETTINGS ACK": frame(FrameType.SETTINGS, frames.ACK),
    "PRIORITY": frame(FrameType.PRIORITY, 0, 1, bytes(5)),
    "WINDOW_UPDATE": window_update(0, 1),
    "WINDOW_UPDATE on a stream": window_update(1, 1),
    "empty DATA": content(1, b""),
    "padded empty DATA": frame(FrameType.DATA, frames.PADDED, 1, b"\0"),
    "unknown": frame(0xFA, 0, 0, b"x"),
    "GOAWAY": frame(FrameType.GOAWAY, 0, 0, u32(1) + u32(0)),
}


@BOTH
@pytest.mark.parametrize("flood", FLOODS.values(), ids=FLOODS)
def test_floods_of_cheap_frames_end_the_connection(role: Role, flood: bytes) -> None:
    """LOAD-10: after `CONTROL_FRAMES_MAX` in `FLOOD_WINDOW`, also when the peer reads every answer."""
    lone = Lone(role, streams=1)
    lone.now = limits.FLOOD_WINDOW  # a new window: what set this up is not counted
    for _ in range(limits.CONTROL_FRAMES_MAX):
        lone.feed(flood)
        lone.h2.output.take()
    lone.refuses(flood, CALM, "control frames")


@BOTH
def test_cheap_frames_over_a_long_time_are_no_flood(role: Role) -> None:
    lone = Lone(role)
    for _ in range(5):
        lone.now += limits.FLOOD_WINDOW
        lone.feed(FLOODS["PING"] * (limits.CONTROL_FRAMES_MAX - 1))
        lone.h2.output.take()
    assert lone.feed(FLOODS["PING"]) == []


def test_window_updates_for_what_we_send_are_no_flood() -> None:
    lone = Lone(Role.CLIENT, streams=1)
    for _ in range(3 * limits.CONTROL_FRAMES_MAX):
        assert lone.h2.send(1, memoryview(bytes(8_192))) == 8_192
        lone.feed(window_update(0, 8_192) + window_update(1, 8_192))
        lone.h2.output.take()
    assert lone.h2.send_window > 0


def test_answers_that_the_peer_does_not_read_end_the_connection() -> None:
    """LOAD-10: more than 64 KiB of them."""
    lone = Lone(Role.SERVER)
    lone.now = limits.FLOOD_WINDOW
    with pytest.raises(RemoteProtocolError, match="does not read") as caught:
        for number in range(limits.UNSENT_CONTROL_MAX):
            lone.now += 1.0
            lone.feed(FLOODS["PING"] + headers(2 * number + 1) + content(2 * number + 1) + rst(2 * number + 1))
    assert caught.value.code is CALM
    assert limits.UNSENT_CONTROL_MAX < lone.h2.output.pending < limits.UNSENT_CONTROL_MAX + 200


def test_window_updates_that_the_peer_does_not_read_end_the_connection() -> None:
    """A peer may guess what credit it was given and send on without ever reading."""
    lone = Lone(Role.SERVER, streams=1)
    half = limits.STREAM_WINDOW_MIN // 2
    with pytest.raises(RemoteProtocolError, match="does not read") as caught:
        while True:
            lone.now += 1.0  # slow enough for the window to stay small
            lone.feed(content(1, bytes(half)))
            lone.h2.consumed(1, half, unread=0, now=lone.now)
    assert caught.value.code is CALM
    assert lone.h2.output.pending < limits.UNSENT_OUTPUT_MAX + 200
