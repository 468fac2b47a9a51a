"""The order in which streams are served, and the work that a packet costs."""

from __future__ import annotations

import sys
from types import FrameType

import pytest
from aioquic.quic import events
from aioquic.quic.stream import QuicStream

from tests.transports.quic_wire import DELAY, Wire, frame
from trunnel.errors import ErrorCode
from trunnel.settings import limits
from trunnel.transports.quic_credit import CreditedConnection
from trunnel.transports.quic_halves import sending_half

KIB = limits.KIB


def calls_of(wire: Wire, stream: int, payload: bytes) -> int:
    """Return how many functions of Python one transfer called: work that no clock and no neighbour disturbs."""
    calls = 0

    def count(_frame: FrameType, event: str, _argument: object) -> None:
        nonlocal calls
        calls += event == "call"

    sys.setprofile(count)
    try:
        wire.transfer(wire.server, stream, payload)
    finally:
        sys.setprofile(None)
    return calls


def test_the_work_for_a_packet_does_not_grow_with_idle_streams() -> None:
    alone, crowd = Wire(), Wire()
    crowd.open(limits.STREAMS_PER_SESSION)
    crowd.settle()
    payload = bytes(200 * KIB)
    (first,), (second,) = alone.open(), crowd.open()
    assert calls_of(crowd, second, payload) < 1.25 * calls_of(alone, first, payload)


def test_the_work_for_a_packet_does_not_grow_with_streams_that_wait_for_credit() -> None:
    """900 consumers stand still with their windows full, and their senders have more to send."""
    alone, crowd = Wire(), Wire()
    stalled = crowd.open(900)
    crowd.settle()
    for stream in stalled:
        crowd.server._streams[stream].max_stream_data_remote = 1
        crowd.server.send_stream_data(stream, bytes(KIB))
    crowd.settle()
    payload = bytes(200 * KIB)
    (first,), (second,) = alone.open(), crowd.open()
    assert calls_of(crowd, second, payload) < 1.25 * calls_of(alone, first, payload)


def test_the_work_for_a_packet_does_not_grow_with_streams_that_are_busy_too() -> None:
    """A packet is filled by one or two of 900 streams; the others are not looked at."""
    wire = Wire()
    streams = wire.open(900)
    wire.settle()
    for stream in streams:
        wire.server.send_stream_data(stream, bytes(KIB))
    looked = turns = 0
    table = wire.server._table
    choose = table.next_turn

    def counted(last: list[QuicStream], *, credit: int, size: int) -> list[QuicStream]:
        nonlocal looked, turns
        turn = choose(last, credit=credit, size=size)
        looked, turns = looked + len(turn), turns + 1
        return turn

    table.next_turn = counted  # type: ignore[method-assign]
    wire.settle()
    assert turns > 700
    assert looked < 3 * turns
    assert all(len(wire.received[wire.client, stream]) == KIB + 1 for stream in streams)


def test_busy_streams_take_turns() -> None:
    wire = Wire()
    streams = wire.open(10)
    wire.settle()
    for stream in streams:
        wire.server.send_stream_data(stream, bytes(60 * KIB))
    wire.run(lambda: sum(len(wire.received[wire.client, stream]) for stream in streams) > 300 * KIB)
    shares = [len(wire.received[wire.client, stream]) for stream in streams]
    assert max(shares) - min(shares) <= 6 * 1200


def test_a_new_stream_is_served_soon_beside_a_busy_one() -> None:
    wire = Wire()
    (busy,) = wire.open()
    wire.settle()
    wire.server.send_stream_data(busy, bytes(60 * KIB))
    (fresh,) = wire.open()
    datagrams = wire.server.datagrams_to_send(wire.now)
    assert datagrams
    assert wire.server.unacknowledged(fresh) == 1
    assert sending_half(wire.server._streams[fresh]).unsent == 0


def test_small_writes_of_many_streams_share_packets() -> None:
    wire = Wire()
    streams = wire.open(20)
    wire.settle()
    for stream in streams:
        wire.server.send_stream_data(stream, b"x" * 40)
    assert len(wire.server.datagrams_to_send(wire.now)) == 1


def test_control_frames_that_fill_several_packets_go_out_at_once() -> None:
    """300 streams stopped and reset: more frames than a packet holds, and nothing else will wake the connection."""
    wire = Wire()
    streams = wire.open(300)
    for stream in streams:
        wire.server.send_stream_data(stream, b"content")
    wire.settle()
    for stream in streams:
        wire.server.stop_stream(stream, ErrorCode.CANCEL)
        wire.server.reset_stream(stream, ErrorCode.CANCEL)
    _goes_on_soon(wire, wire.server)


def test_announcements_of_credit_that_fill_several_packets_go_out_at_once() -> None:
    wire = Wire()
    streams = wire.open(300)
    wire.settle()
    for stream in streams:
        wire.client.consumed(stream, limits.STREAM_WINDOW_MIN, unread=0, now=wire.now)
    _goes_on_soon(wire, wire.client)


def _goes_on_soon(wire: Wire, end: CreditedConnection) -> None:
    """Assert that what does not fit the first packet waits for the pacer at most, not for an acknowledgement."""
    assert _control_waits(end)
    while _control_waits(end):
        assert end.datagrams_to_send(wire.now)
        timer = end.get_timer()
        assert timer is not None
        assert timer < wire.now + DELAY or not _control_waits(end)
        wire.now = timer


def _control_waits(end: CreditedConnection) -> bool:
    streams = dict.values(end._table)
    return bool(end._table.announcing) or any(
        stream.receiver.stop_pending or stream.sender.reset_pending for stream in streams
    )


def test_a_stream_that_waits_for_credit_goes_on_when_it_comes() -> None:
    wire = Wire()
    (stream,) = wire.open()
    wire.settle()
    wire.server._streams[stream].max_stream_data_remote = 1
    wire.server.send_stream_data(stream, b"waits")
    wire.settle()
    assert wire.received[wire.client, stream] == b"\0"
    wire.forge(wire.server, frame(0x11, stream, 6))
    wire.settle()
    assert wire.received[wire.client, stream] == b"\0waits"


@pytest.mark.parametrize("kind", ["data", "fin", "reset", "stop"])
def test_what_was_lost_is_sent_again(kind: str) -> None:
    wire = Wire()
    (stream,) = wire.open()
    wire.settle()
    until = wire.now + 0.5
    wire.lose[wire.server] = lambda _: wire.now < until
    match kind:
        case "data":
            wire.server.send_stream_data(stream, b"late")
        case "fin":
            wire.server.send_stream_data(stream, b"", end_stream=True)
        case "reset":
            wire.server.reset_stream(stream, 7)
        case _:
            wire.server.stop_stream(stream, 7)
    wire.settle()
    wire.run(lambda: wire.now > until + 1 or not wire.step(1.0))
    match kind:
        case "data":
            assert wire.received[wire.client, stream] == b"\0late"
        case "fin":
            assert any(event.end_stream for event in wire.happened(wire.client, events.StreamDataReceived))
        case "reset":
            assert [event.error_code for event in wire.happened(wire.client, events.StreamReset)] == [7]
        case _:
            assert [event.error_code for event in wire.happened(wire.client, events.StopSendingReceived)] == [7]


def test_streams_that_wait_for_the_connection_s_credit_go_on_with_it() -> None:
    wire = Wire()
    streams = wire.open(5)
    wire.settle()
    wire.server._remote_max_data = wire.server._remote_max_data_used
    for stream in streams:
        wire.server.send_stream_data(stream, b"waits")
    wire.settle()
    assert all(wire.received[wire.client, stream] == b"\0" for stream in streams)
    wire.client.discard(streams[0], limits.SESSION_CREDIT)
    wire.settle()
    assert all(wire.received[wire.client, stream] == b"\0waits" for stream in streams)


def test_a_fin_needs_no_credit() -> None:
    wire = Wire()
    (stream,) = wire.open()
    wire.settle()
    wire.server._remote_max_data = wire.server._remote_max_data_used
    wire.server._streams[stream].max_stream_data_remote = 1
    wire.server.send_stream_data(stream, b"", end_stream=True)
    wire.settle()
    assert any(event.end_stream for event in wire.happened(wire.client, events.StreamDataReceived))


def test_a_stream_that_ended_both_ways_is_forgotten_by_both() -> None:
    wire = Wire()
    streams = wire.open(50)
    wire.settle()
    for end in wire.ends:
        for stream in streams:
            end.send_stream_data(stream, b"bye", end_stream=True)
    wire.settle()
    for end in wire.ends:
        assert not end._streams
        assert not end._streams_queue
        assert not end._table._waiting
        assert not end._table._starved
        assert not end._table.announcing
