"""Two connections talk through a pipe of arbitrary chunks; a model of byte strings knows what must come out."""

from __future__ import annotations

from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from tests.wire.yamux_model import End, Wire
from trunnel.errors import ErrorCode
from trunnel.settings import limits
from trunnel.wire.yamux_session import INITIAL_WINDOW

CODES = st.sampled_from((ErrorCode.CANCEL, ErrorCode.REFUSED_STREAM, ErrorCode.PEER_ABORTED, ErrorCode.SLOW_CONSUMER))
AMOUNTS = st.sampled_from((1, 12, 100, 5_000, 16_384, 65_536, 200_000, 400_000))
SIDES = st.booleans()
DRAWS = st.integers(0, 7)
OPEN_MAX = 6
"""Streams open at a time: rules must meet."""


class Conversation(RuleBasedStateMachine):
    """Everything that two honest ends may do, in any order and any cut of the bytes."""

    def __init__(self) -> None:
        super().__init__()
        self.wire = Wire()
        self.farewells: dict[bool, ErrorCode] = {}

    def _end(self, side: bool) -> End:
        return self.wire.ends[side]

    def _stream(self, end: End, draw: int) -> int | None:
        known = sorted(end.yamux.streams) or end.opened + end.accepted
        return known[draw % len(known)] if known else None

    @rule(side=SIDES)
    def open(self, side: bool) -> None:
        end = self._end(side)
        if len(end.yamux.streams) >= OPEN_MAX or end.farewell is not None:
            return
        stream_id = end.yamux.open_stream(now=self.wire.now)
        assert stream_id % 2 == (end is self.wire.client)
        assert not end.opened or stream_id > end.opened[-1], "an id was used twice"
        end.opened.append(stream_id)

    @rule(side=SIDES, draw=DRAWS)
    def accept(self, side: bool, draw: int) -> None:
        end = self._end(side)
        if end.accepted:
            end.yamux.accepted(end.accepted[draw % len(end.accepted)])

    @rule(side=SIDES, draw=DRAWS, amount=AMOUNTS)
    def send(self, side: bool, draw: int, amount: int) -> None:
        end = self._end(side)
        if (stream_id := self._stream(end, draw)) is None:
            return
        taken = end.send(stream_id, amount)
        assert taken <= min(amount, limits.YAMUX_FRAME_MAX)
        assert not taken or stream_id not in end.finished | set(end.aborted) | set(end.aborting), "taken after the end"

    @rule(side=SIDES, draw=DRAWS)
    def finish(self, side: bool, draw: int) -> None:
        end = self._end(side)
        if (stream_id := self._stream(end, draw)) in end.yamux.streams and stream_id is not None:
            end.finish(stream_id)

    @rule(side=SIDES, draw=DRAWS, code=CODES)
    def reset(self, side: bool, draw: int, code: ErrorCode) -> None:
        end = self._end(side)
        if (stream_id := self._stream(end, draw)) is not None:
            end.reset(stream_id, code)

    @rule(side=SIDES, draw=DRAWS)
    def close(self, side: bool, draw: int) -> None:
        end = self._end(side)
        if (stream_id := self._stream(end, draw)) is not None:
            end.close(stream_id)

    @rule(side=SIDES, draw=DRAWS, amount=AMOUNTS)
    def consume(self, side: bool, draw: int, amount: int) -> None:
        end = self._end(side)
        unread = [stream_id for stream_id, left in end.unread.items() if left]
        if unread:
            end.consume(unread[draw % len(unread)], amount, now=self.wire.now)

    @rule(side=SIDES)
    def ping(self, side: bool) -> None:
        self._end(side).pings += 1
        self._end(side).yamux.ping()

    @precondition(lambda self: len(self.farewells) < 1)
    @rule(side=SIDES)
    def go_away(self, side: bool) -> None:
        self.farewells[side] = ErrorCode.NO_ERROR
        self._end(side).yamux.go_away(ErrorCode.NO_ERROR)

    @rule(side=SIDES, amount=st.integers(1, 300_000))
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
            assert set(end.accepted) <= set(far.opened)

    @invariant()
    def aborts_name_their_reason(self) -> None:
        for end in self.wire.ends:
            far = self.wire.far(end)
            for stream_id, code in end.aborted.items():
                assert code is far.aborting.get(stream_id, ErrorCode.REFUSED_STREAM)
                assert stream_id in far.aborting or self.farewells

    @invariant()
    def credit_is_kept(self) -> None:
        for end in self.wire.ends:
            yamux = end.yamux
            assert yamux.unread == sum(end.unread.values())
            assert yamux.late_credit >= 0
            for stream_id, state in yamux.streams.items():
                far_state = self.wire.far(end).yamux.streams.get(stream_id)
                assert state.send_window >= 0
                assert state.receive_left >= 0
                if far_state is not None:
                    assert far_state.send_window <= state.receive_left, "more than we gave"
                held = state.receive_left + state.returned + end.unread.get(stream_id, 0)
                assert held <= state.window.size <= limits.STREAM_WINDOW_MAX
            grown = sum(state.window.size - INITIAL_WINDOW for state in yamux.streams.values())
            assert yamux._budget._granted == grown <= limits.SESSION_CREDIT
            waiting = [state for state in yamux.streams.values() if state.ours and not state.acknowledged]
            assert yamux._unacknowledged == len(waiting)

    def teardown(self) -> None:
        self.wire.settle()
        self.bytes_come_in_order()
        client, server = self.wire.ends
        for near, far in ((client, server), (server, client)):
            assert near.pings == 0, "each ping was answered"
            assert set(near.yamux.streams) <= set(far.yamux.streams) | set(far.yamux.lingering)
            for stream_id in set(near.received) - set(near.yamux.streams):
                assert stream_id in near.ended | set(near.aborted) | set(near.aborting), "ended without an end"
            for stream_id, state in near.yamux.streams.items():
                if stream_id in far.yamux.streams:
                    held = state.receive_left + state.returned + near.unread.get(stream_id, 0)
                    assert held == state.window.size, "credit was lost or made"
                    assert far.yamux.streams[stream_id].send_window == state.receive_left or state.they_ended
        for end in self.wire.ends:
            for stream_id in list(end.yamux.streams):
                end.reset(stream_id, ErrorCode.CANCEL)
        self.wire.settle()
        for end in self.wire.ends:
            assert end.yamux.streams == {}
            assert end.yamux.lingering == {}, "an end or a reset is the end of it"
            assert end.yamux._budget._granted == 0


Conversation.TestCase.settings = settings(max_examples=40, stateful_step_count=60, deadline=None)
TestConversation = Conversation.TestCase
