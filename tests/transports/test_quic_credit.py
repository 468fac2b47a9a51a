"""Credit, room and streams of one QUIC connection."""

from __future__ import annotations

import itertools
import random

import pytest
from aioquic.quic import events
from aioquic.quic.packet import QuicErrorCode

from tests.transports.quic_wire import DELAY, Wire, frame, losing, stream_frame
from trunnel.errors import ErrorCode
from trunnel.settings import limits
from trunnel.transports.quic_credit import CREDIT_STEP

KIB, MIB = limits.KIB, limits.MIB
BULK = MIB
FIRST = limits.STREAM_WINDOW_MIN + limits.QUIC_EMPTY_STREAM
"""Bytes that a new stream of the relay may carry until some are consumed: the octet that opens it does not count."""


def unread(wire: Wire) -> int:
    return sum(len(each) for (end, _), each in wire.received.items() if end is wire.client)


def test_a_consumer_that_does_not_read_stops_the_sender_at_the_window() -> None:
    wire = Wire()
    wire.reading = False
    (stream,) = wire.open()
    writing = wire.write(wire.server, stream, bytes(BULK))
    for _ in itertools.islice(writing, 200):
        wire.step()
    assert unread(wire) == FIRST
    assert wire.server.room(stream) == 0
    assert wire.server.unsent == 0, "what cannot be sent is not buffered"


def test_what_is_consumed_lets_the_rest_through() -> None:
    wire = Wire()
    wire.reading = False
    (stream,) = wire.open()
    payload = random.Random(1).randbytes(BULK)
    taken = 0
    for _ in wire.write(wire.server, stream, payload):
        wire.step()
        fresh = unread(wire) - taken
        wire.client.consumed(stream, fresh, unread=0, now=wire.now)
        taken += fresh
    wire.settle()
    assert bytes(wire.received[wire.client, stream]) == b"\0" + payload


def test_the_window_grows_while_the_consumer_keeps_pace_and_no_further_than_its_maximum() -> None:
    wire, most = Wire(), 512 * KIB
    wire.client._window_max = most
    (stream,) = wire.open()
    wire.transfer(wire.server, stream, bytes(2 * MIB))
    window = wire.client._streams[stream].max_stream_data_local - len(wire.received[wire.client, stream])
    assert most // 2 < window <= most


def test_far_away_credit_comes_back_long_before_half_of_the_window_is_consumed() -> None:
    """Half of it at a time would leave the sender idle for half of each round trip (at 200 ms: half of the speed)."""
    wire = Wire()
    (stream,) = wire.open()
    wire.transfer(wire.server, stream, bytes(BULK))
    received = wire.client._streams[stream]
    assert wire.client.round_trip > limits.ROUND_TRIP_FLOOR
    steps: list[int] = []
    for _ in range(2):  # from one announcement to the next
        granted, taken = received.max_stream_data_local, 0
        while received.max_stream_data_local == granted:
            wire.client.consumed(stream, 16 * KIB, unread=0, now=wire.now)
            taken += 16 * KIB
        steps.append(taken)
    assert steps[1] <= limits.WINDOW_UPDATE_STEP + 16 * KIB


def test_all_streams_together_get_no_more_than_the_session_s_credit() -> None:
    wire = Wire()
    wire.reading = False
    streams = wire.open(200)
    writers = [wire.write(wire.server, stream, bytes(limits.STREAM_WINDOW_MIN)) for stream in streams]
    for _ in range(20):
        for writer in writers:
            next(writer, None)
        wire.settle()
    assert unread(wire) == limits.SESSION_CREDIT
    assert wire.server.room(streams[-1]) == 0


def test_credit_of_bytes_that_nobody_reads_is_given_back() -> None:
    wire = Wire()
    wire.reading = False
    streams = wire.open(200)
    wire.settle()
    for stream in streams:
        for start in range(1, FIRST, 8 * KIB):
            wire.forge(wire.client, stream_frame(stream, start, bytes(8 * KIB)))
        wire.flush()
        wire.client.discard(stream, limits.STREAM_WINDOW_MIN)
    assert wire.client.ending is None
    assert unread(wire) == 200 * FIRST > limits.SESSION_CREDIT


def test_a_reset_gives_back_the_credit_of_bytes_that_never_came() -> None:
    """Of 64 KiB only the last octet comes, then a reset: 200 times, more than the whole credit."""
    wire = Wire()
    for stream in wire.open(200):
        wire.settle()
        wire.forge(wire.client, stream_frame(stream, FIRST - 1, b"x"))
        wire.forge(wire.client, frame(0x04, stream, 0, FIRST))
        wire.flush()
    assert wire.client.ending is None
    assert wire.client._local_max_data.value - wire.client._local_max_data.used > limits.SESSION_CREDIT - CREDIT_STEP


@pytest.mark.parametrize("seconds", [0.2, 2.0])
def test_a_lost_announcement_of_credit_is_sent_again(seconds: float) -> None:
    wire = Wire()
    wire.reading = False
    (stream,) = wire.open()
    writing = wire.write(wire.server, stream, bytes(limits.STREAM_WINDOW_MIN * 2))
    for _ in itertools.islice(writing, 50):
        wire.step()
    until = wire.now + seconds
    wire.lose[wire.client] = lambda _: wire.now < until
    wire.client.consumed(stream, limits.STREAM_WINDOW_MIN, unread=0, now=wire.now)
    wire.reading = True
    for _ in writing:
        wire.step()
    wire.settle()
    assert unread(wire) == limits.STREAM_WINDOW_MIN * 2 + 1


def test_lost_connection_credit_is_sent_again() -> None:
    wire = Wire()
    until = wire.now + 1.0
    wire.lose[wire.client] = lambda _: wire.now < until
    wire.client.discard(1, CREDIT_STEP)
    wire.run(lambda: wire.server._remote_max_data == limits.SESSION_CREDIT + CREDIT_STEP)
    assert wire.now >= until


def test_more_than_the_credit_ends_the_connection() -> None:
    wire = Wire()
    (stream,) = wire.open()
    wire.settle()
    wire.forge(wire.client, stream_frame(stream, FIRST, b"x"))
    assert wire.client.ending is not None
    assert wire.client.ending.error_code == QuicErrorCode.FLOW_CONTROL_ERROR


# --- room -------------------------------------------------------------------------------------


def test_room_is_bounded_and_comes_back_as_the_peer_acknowledges() -> None:
    wire = Wire()
    (stream,) = wire.open()
    for left in wire.write(wire.server, stream, bytes(BULK)):
        assert wire.server.unsent <= limits.QUIC_UNSENT_STREAM
        assert wire.server.unacknowledged(stream) <= limits.STREAM_WINDOW_MAX
        if not left:
            assert not wire.server.drained(stream)
        wire.step()
    wire.settle()
    assert wire.server.drained(stream)
    assert wire.server.unacknowledged(stream) == 0


def test_progress_names_the_streams_whose_room_changed_and_no_others() -> None:
    wire = Wire()
    wire.reading = False
    stalled, other = wire.open(2)
    for _ in itertools.islice(wire.write(wire.server, stalled, bytes(BULK)), 100):
        wire.step()
    wire.settle()
    wire.server.take_progress()
    wire.client.consumed(stalled, limits.STREAM_WINDOW_MIN, unread=0, now=wire.now)
    wire.settle()
    assert wire.server.take_progress() == {stalled}
    assert wire.server.room(stalled) > 0
    assert wire.server.take_progress() == set()
    wire.server.send_stream_data(other, b"x")
    wire.settle()
    assert other in wire.server.take_progress()


def test_what_all_streams_share_wakes_those_that_waited_for_it() -> None:
    wire = Wire()
    wire.reading = False
    *full, last = wire.open(131)
    for stream in full:
        next(wire.write(wire.server, stream, bytes(limits.STREAM_WINDOW_MIN)))
        wire.settle()
    assert wire.server.room(last) == 0
    wire.server.take_progress()
    wire.client.discard(full[0], MIB)
    wire.settle()
    assert last in wire.server.take_progress()
    assert wire.server.room(last) > 0


def test_streams_that_fill_the_buffers_leave_a_floor_to_the_others() -> None:
    wire = Wire()
    streams = wire.open(40)
    wire.settle()
    for stream in streams[:-1]:
        while room := wire.server.room(stream):
            wire.server.send_stream_data(stream, bytes(room))
    assert wire.server.unsent >= limits.QUIC_UNSENT_TOTAL
    assert wire.server.room(streams[-1]) == limits.QUIC_UNSENT_FLOOR
    wire.settle()
    assert wire.server.unsent == 0


def test_a_stream_that_ended_has_no_room_and_is_drained() -> None:
    wire = Wire()
    (stream,) = wire.open()
    wire.settle()
    for end in wire.ends:
        end.send_stream_data(stream, b"", end_stream=True)
    wire.settle()
    assert wire.server.room(stream) == 0
    assert wire.server.drained(stream)
    assert wire.server.streams_open == 0


# --- streams ----------------------------------------------------------------------------------


def test_a_thousand_streams_and_the_control_stream_may_be_open_at_once() -> None:
    wire = Wire()
    streams = wire.open(limits.STREAMS_ON_CARRIER)
    wire.settle()
    assert wire.server.streams_open == wire.server.peer_stream_limit == limits.STREAMS_ON_CARRIER
    assert len({stream for end, stream in wire.received if end is wire.client}) == len(streams)
    for end in wire.ends:
        for stream in streams[:600]:
            end.send_stream_data(stream, b"", end_stream=True)
    wire.settle()
    assert wire.server.streams_open == limits.STREAMS_ON_CARRIER - 600
    assert wire.server.streams_open < wire.server.peer_stream_limit <= limits.STREAMS_ON_CARRIER
    wire.open(600)
    wire.settle()
    assert len({stream for end, stream in wire.received if end is wire.client}) == len(streams) + 600


def test_a_stream_beyond_the_limit_waits_until_another_one_ended() -> None:
    wire = Wire()
    *first, beyond = wire.open(limits.STREAMS_ON_CARRIER + 1)
    wire.settle()
    assert (wire.client, beyond) not in wire.received
    for end in wire.ends:
        for stream in first:
            end.send_stream_data(stream, b"", end_stream=True)
    wire.settle()
    assert (wire.client, beyond) in wire.received


ONE_TOO_MANY = 1 + 4 * limits.STREAMS_ON_CARRIER


@pytest.mark.parametrize(("stream", "what"), [(3, "unidirectional"), (ONE_TOO_MANY, "one too many")])
def test_the_agent_refuses_streams_beyond_what_it_offers(stream: int, what: str) -> None:
    wire = Wire()
    wire.forge(wire.client, stream_frame(stream, 0, b"x"))
    assert wire.client.ending is not None, what
    assert wire.client.ending.error_code == QuicErrorCode.STREAM_LIMIT_ERROR


def test_a_relay_lets_agents_open_no_stream() -> None:
    wire = Wire()
    wire.forge(wire.server, stream_frame(0, 0, b"x"))
    assert wire.server.ending is not None
    assert wire.server.ending.error_code == QuicErrorCode.STREAM_LIMIT_ERROR


def test_a_relay_may_be_told_to_accept_streams() -> None:
    wire = Wire(accept=1)
    wire.client.send_stream_data(0, b"hello")
    wire.settle()
    assert wire.received[wire.server, 0] == b"hello"


# --- liveness ---------------------------------------------------------------------------------


def test_the_question_that_is_open_longest_is_dated_from_its_first_sending() -> None:
    wire = Wire()
    asked = wire.now
    wire.lose[wire.server] = lambda _: wire.now < asked + 3.0
    wire.server.send_ping(1)
    wire.run(lambda: wire.now > asked + 2.0)
    assert wire.server.oldest_unacknowledged == asked
    wire.run(lambda: bool(wire.happened(wire.server, events.PingAcknowledged)))
    assert wire.server.oldest_unacknowledged is None


def test_the_round_trip_is_measured() -> None:
    wire = Wire()
    assert wire.server.round_trip == pytest.approx(2 * DELAY, rel=0.5)


# --- all of it ------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(3))
def test_many_streams_over_a_lossy_line_are_exact_and_leave_nothing(seed: int) -> None:
    """Some end, some are reset by either side, both directions, 5 % of all datagrams lost."""
    wire, chance = Wire(), random.Random(seed)
    wire.lose = {end: losing(0.05, seed=seed) for end in wire.ends}
    streams = wire.open(40)
    wire.settle()
    payloads = {(end, stream): chance.randbytes(chance.randrange(80_000)) for end in wire.ends for stream in streams}
    aborted = set(chance.sample(streams, 10))
    writers = {key: wire.write(*key, payload) for key, payload in payloads.items()}
    while writers:
        for key, writer in list(writers.items()):
            end, stream = key
            left = next(writer, 0)
            if stream in aborted and chance.random() < 0.1:
                end.reset_stream(stream, ErrorCode.CANCEL)
                end.stop_stream(stream, ErrorCode.CANCEL)
                wire.other(end).reset_stream(stream, ErrorCode.CANCEL)
                del writers[key]
            elif stream not in aborted and not left:
                end.send_stream_data(stream, b"", end_stream=True)
                del writers[key]
        wire.step()
    wire.run(lambda: all(not end._streams for end in wire.ends))
    for end in wire.ends:
        assert (end._table.buffered, end._table.unsent, end.streams_open) == (0, 0, 0)
        assert end.ending is None
        assert end._table.budget.left == limits.SESSION_CREDIT
    for (end, stream), payload in payloads.items():
        if stream not in aborted:
            head = b"\0" if end is wire.server else b""
            assert wire.received.get((wire.other(end), stream), b"") == head + payload
