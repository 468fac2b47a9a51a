"""Two connections talk through a pipe of arbitrary chunks; a model of byte strings knows what must come out."""

from __future__ import annotations

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from tests.transports.h2_model import End, Lone, Wire, content, headers, read_frames, rst, window_update
from tests.transports.h2_model import settings as settings_frame
from trunnel.errors import ErrorCode, LocalProtocolError
from trunnel.settings import limits
from trunnel.transports import h2_frames as frames
from trunnel.transports.h2_connection import CREDIT_STEP, DEFAULT_FRAME, DEFAULT_WINDOW, H2Connection, Role
from trunnel.transports.h2_frames import FrameType, Setting

CODES = st.sampled_from((ErrorCode.CANCEL, ErrorCode.NO_ERROR, ErrorCode.PEER_ABORTED, ErrorCode.SLOW_CONSUMER))
AMOUNTS = st.sampled_from((1, 9, 100, 5_000, 16_384, 40_000, 65_536, 200_000))
SIDES = st.booleans()
PATTERN = bytes(range(251)) * 2_000
"""Position-dependent payload: bytes out of order do not compare equal."""


class Conversation(RuleBasedStateMachine):
    """Everything that two honest ends may do, in any order and any cut of the bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.wire = Wire()
        self.refusing = False

    @initialize()
    def greet(self) -> None:
        self.wire.settle()

    def _end(self, side: bool) -> End:
        return self.wire.ends[side]

    def _stream(self, end: End, draw: int) -> int | None:
        known = sorted(end.h2.streams) or end.opened
        return known[draw % len(known)] if known else None

    @precondition(lambda self: not self.refusing and len(self.wire.client.h2.streams) < 6)
    @rule()
    def open(self) -> None:
        stream_id = self.wire.client.h2.open_stream(now=self.wire.now)
        assert not self.wire.client.opened or stream_id > self.wire.client.opened[-1]
        self.wire.client.opened.append(stream_id)

    @rule(side=SIDES, draw=st.integers(0, 5), amount=AMOUNTS)
    def send(self, side: bool, draw: int, amount: int) -> None:
        end = self._end(side)
        if (stream_id := self._stream(end, draw)) is None:
            return
        sent = end.sent.setdefault(stream_id, bytearray())
        at = len(sent) % 251
        taken = end.h2.send(stream_id, memoryview(PATTERN)[at : at + amount])
        assert taken <= min(amount, limits.FRAME_MAX)
        assert not taken or stream_id not in end.finished | end.aborted, "taken after the end"
        sent += PATTERN[at : at + taken]

    @rule(side=SIDES, draw=st.integers(0, 5))
    def finish(self, side: bool, draw: int) -> None:
        end = self._end(side)
        if (stream_id := self._stream(end, draw)) in end.h2.streams and stream_id is not None:
            end.h2.end(stream_id)
            end.finished.add(stream_id)

    @rule(side=SIDES, draw=st.integers(0, 5), code=CODES)
    def reset(self, side: bool, draw: int, code: ErrorCode) -> None:
        end = self._end(side)
        if (stream_id := self._stream(end, draw)) is not None:
            end.reset(stream_id, code)

    @rule(side=SIDES, draw=st.integers(0, 5), amount=AMOUNTS)
    def consume(self, side: bool, draw: int, amount: int) -> None:
        end = self._end(side)
        unread = [stream_id for stream_id, left in end.unread.items() if left]
        if unread:
            end.consume(unread[draw % len(unread)], amount, now=self.wire.now)

    @rule(side=SIDES)
    def ping(self, side: bool) -> None:
        self._end(side).pings += 1
        self._end(side).h2.output.frame(FrameType.PING, 0, 0, b"trunnel\0")

    @precondition(lambda self: not self.refusing)
    @rule()
    def go_away(self) -> None:
        self.refusing = True
        self.wire.server.h2.go_away(ErrorCode.NO_ERROR)

    @rule(side=SIDES, amount=st.integers(1, 200_000))
    def deliver(self, side: bool, amount: int) -> None:
        self.wire.deliver(self._end(side), amount)

    @rule(seconds=st.sampled_from((0.001, 0.02, 1.0)))
    def wait(self, seconds: float) -> None:
        self.wire.now += seconds

    @invariant()
    def bytes_come_in_order(self) -> None:
        for end in self.wire.ends:
            far = self.wire.far(end)
            for stream_id, received in end.received.items():
                assert far.sent[stream_id].startswith(received)
            for stream_id in end.ended:
                assert stream_id in far.finished
                assert end.received.get(stream_id, b"") == far.sent.get(stream_id, b""), "an end before the end"

    @invariant()
    def credit_is_kept(self) -> None:
        for end in self.wire.ends:
            h2, unread = end.h2, sum(end.unread.values())
            assert h2.receive_left >= 0
            assert h2.send_window >= 0
            assert h2.receive_left + unread + h2._returned <= limits.SESSION_CREDIT
            for stream_id, state in h2.streams.items():
                assert state.send_window >= 0
                assert state.receive_left >= 0
                held = state.receive_left + state.returned + end.unread.get(stream_id, 0)
                assert held <= state.window.size <= limits.STREAM_WINDOW_MAX
            sizes = sum(state.window.size for state in h2.streams.values())
            assert h2._budget._granted == sizes <= limits.SESSION_CREDIT

    def teardown(self) -> None:
        self.wire.settle()
        self.bytes_come_in_order()
        client, server = self.wire.ends
        assert set(client.h2.streams) == set(server.h2.streams)
        for end in self.wire.ends:
            assert end.pings == 0, "each ping was answered"
            settled = end.h2.receive_left + sum(end.unread.values()) + end.h2._returned
            assert settled == limits.SESSION_CREDIT, "credit was lost or made"
            for stream_id in set(end.received) - set(end.h2.streams):
                assert stream_id in end.ended | end.aborted, "a stream that ended without an end"
        for end in self.wire.ends:
            for stream_id in list(end.h2.streams):
                end.reset(stream_id, ErrorCode.CANCEL)
        self.wire.settle()
        for end in self.wire.ends:
            assert end.h2.streams == {}
            assert end.h2._budget._granted == 0


Conversation.TestCase.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)
TestConversation = Conversation.TestCase


# --- single rules -------------------------------------------------------------------------------


@pytest.mark.parametrize("role", list(Role))
def test_the_first_bytes_are_preface_settings_and_credit(role: Role) -> None:
    wire = bytes(H2Connection(role, now=0.0).output.take())
    first, second = read_frames(wire, preface=role is Role.CLIENT)
    assert first[:3] == (FrameType.SETTINGS, 0, 0)
    chosen = dict(frames.parse_settings_untrusted(first[3]))
    assert chosen[Setting.INITIAL_WINDOW_SIZE] == limits.STREAM_WINDOW_MIN
    assert chosen[Setting.MAX_FRAME_SIZE] == limits.FRAME_MAX
    assert chosen.get(Setting.ENABLE_PUSH) == (0 if role is Role.CLIENT else None)
    assert second == (FrameType.WINDOW_UPDATE, 0, 0, (limits.SESSION_CREDIT - DEFAULT_WINDOW).to_bytes(4, "big"))


def test_a_server_opens_no_streams() -> None:
    with pytest.raises(LocalProtocolError):
        H2Connection(Role.SERVER, now=0.0).open_stream(now=0.0)


def test_ids_are_used_up_rather_than_used_again() -> None:
    h2 = H2Connection(Role.CLIENT, now=0.0)
    h2._next_id = frames.STREAM_ID_MASK
    assert h2.open_stream(now=0.0) == frames.STREAM_ID_MASK
    assert h2.exhausted
    with pytest.raises(LocalProtocolError):
        h2.open_stream(now=0.0)


def test_an_authority_that_does_not_fit_is_our_mistake() -> None:
    with pytest.raises(LocalProtocolError):
        H2Connection(Role.CLIENT, now=0.0, authority="a" * 127)


def test_frames_are_cut_by_window_and_frame_size() -> None:
    lone = Lone(Role.CLIENT, streams=1)
    payload = memoryview(bytes(100_000))
    assert lone.h2.send(1, payload) == DEFAULT_FRAME
    lone.feed(settings_frame({Setting.MAX_FRAME_SIZE: limits.FRAME_MAX}))
    assert lone.h2.send(1, payload) == DEFAULT_WINDOW - DEFAULT_FRAME
    assert lone.h2.send(1, payload) == 0
    lone.feed(window_update(1, 10))
    assert lone.h2.send(1, payload) == 0, "the connection's window is closed"
    lone.feed(window_update(0, 7))
    assert lone.h2.send(1, payload) == 7


def test_a_stream_that_ended_takes_nothing_more() -> None:
    lone = Lone(Role.CLIENT, streams=1)
    lone.h2.end(1)
    lone.h2.end(1)
    assert lone.h2.send(1, memoryview(b"late")) == 0
    assert lone.written() == [(FrameType.DATA, frames.END_STREAM, 1, b"")]
    assert lone.h2.reset(1, ErrorCode.CANCEL)
    assert not lone.h2.reset(1, ErrorCode.CANCEL)
    assert lone.resets() == [(1, ErrorCode.CANCEL)]


def test_credit_is_returned_when_read_and_not_before() -> None:
    lone = Lone(Role.SERVER, streams=1)
    lone.feed(content(1, bytes(limits.STREAM_WINDOW_MIN)))
    assert lone.written() == []
    lone.now = 60.0  # a slow consumer: the window does not grow
    lone.h2.consumed(1, limits.STREAM_WINDOW_MIN, unread=0, now=lone.now)
    assert lone.written() == [(FrameType.WINDOW_UPDATE, 0, 1, limits.STREAM_WINDOW_MIN.to_bytes(4, "big"))]


def test_unread_bytes_of_a_reset_stream_give_their_credit_back() -> None:
    lone = Lone(Role.SERVER)
    for stream_id in range(1, 2 * CREDIT_STEP // limits.STREAM_WINDOW_MIN, 2):
        lone.feed(b"".join(window_bytes(stream_id)))
        lone.h2.reset(stream_id, ErrorCode.CANCEL)
        lone.h2.discard(limits.STREAM_WINDOW_MIN)
    updates = [one for one in lone.written() if one[0] == FrameType.WINDOW_UPDATE]
    assert updates == [(FrameType.WINDOW_UPDATE, 0, 0, CREDIT_STEP.to_bytes(4, "big"))]
    assert lone.h2.receive_left == limits.SESSION_CREDIT


def window_bytes(stream_id: int) -> list[bytes]:
    """A request and a whole window of bytes."""
    return [headers(stream_id), content(stream_id, bytes(limits.STREAM_WINDOW_MIN))]


def test_stalled_streams_below_the_pressure_limit_leave_the_others_moving() -> None:
    """Credit that is not stalled comes back in steps that always fit into it; else the session would stand still."""
    assert limits.SESSION_CREDIT - limits.SESSION_PRESSURE >= 2 * CREDIT_STEP
    lone = Lone(Role.SERVER)
    stalled = (limits.SESSION_PRESSURE - 1) // limits.STREAM_WINDOW_MIN
    for number in range(stalled):
        lone.feed(b"".join(window_bytes(2 * number + 1)))
    lone.feed(b"".join(window_bytes(2 * stalled + 1)))
    moved = limits.STREAM_WINDOW_MIN
    while moved < 4 * limits.SESSION_CREDIT:
        lone.now += 60.0
        lone.h2.consumed(2 * stalled + 1, limits.STREAM_WINDOW_MIN, unread=0, now=lone.now)
        lone.feed(content(2 * stalled + 1, bytes(limits.STREAM_WINDOW_MIN)))
        lone.h2.output.take()
        moved += limits.STREAM_WINDOW_MIN


def test_a_smaller_initial_window_makes_windows_negative_and_stops_the_sender() -> None:
    """RFC 9113 §6.9.2."""
    lone = Lone(Role.CLIENT, streams=1)
    assert lone.h2.send(1, memoryview(bytes(1_000))) == 1_000
    lone.feed(settings_frame({Setting.INITIAL_WINDOW_SIZE: 10}))
    assert lone.h2.streams[1].send_window == 10 - 1_000
    assert lone.h2.sendable(1) == 0
    lone.feed(window_update(1, 990))
    assert lone.h2.sendable(1) == 0
    lone.feed(window_update(1, 1))
    assert lone.h2.sendable(1) == 1


def test_goodbye_names_the_last_stream_and_refuses_later_ones() -> None:
    lone = Lone(Role.SERVER, streams=2)
    lone.h2.go_away(ErrorCode.DRAINING, "until later")
    assert lone.written() == [
        (FrameType.GOAWAY, 0, 0, (3).to_bytes(4, "big") + ErrorCode.DRAINING.to_bytes(4, "big") + b"until later")
    ]
    lone.feed(content(1, b"goes on"))
    lone.feed(rst(3))
    assert set(lone.h2.streams) == {1}
