"""The halves of a stream: their accounts, and the cap on gaps."""

from __future__ import annotations

import pytest
from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.packet import QuicStreamFrame
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.stream import FinalSizeError, QuicStream, QuicStreamReceiver
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.transports.quic_wire import Wire, stream_frame
from tests.transports.test_quic_attacks import memory
from trunnel.errors import RemoteProtocolError
from trunnel.settings import limits
from trunnel.transports.quic_halves import (
    CryptoHalf,
    PacketRefusedError,
    ReceivingHalf,
    SendingHalf,
    SparseHalf,
    receiving_half,
    sending_half,
)
from trunnel.transports.quic_streams import StreamTable

ACKED, LOST = QuicDeliveryState.ACKED, QuicDeliveryState.LOST


def opened(stream_id: int = 1) -> tuple[StreamTable, SendingHalf, ReceivingHalf]:
    table = StreamTable(parity=1)
    table[stream_id] = QuicStream(stream_id=stream_id, max_stream_data_local=10_000, max_stream_data_remote=10_000)
    return table, sending_half(table[stream_id]), receiving_half(table[stream_id])


# --- sending --------------------------------------------------------------------------------------


def test_the_ledger_counts_what_was_never_sent_and_what_is_not_acknowledged() -> None:
    table, half, _ = opened()
    half.write(b"x" * 100)
    assert (table.unsent, table.buffered) == (half.unsent, half.unacknowledged) == (100, 100)
    half.get_frame(60)
    assert (table.unsent, table.buffered) == (half.unsent, half.unacknowledged) == (40, 100)
    half.on_data_delivery(ACKED, 0, 60, False)
    assert (table.unsent, table.buffered) == (half.unsent, half.unacknowledged) == (40, 40)


def test_what_is_sent_again_counts_once() -> None:
    table, half, _ = opened()
    half.write(b"x" * 100)
    half.get_frame(100)
    half.on_data_delivery(LOST, 0, 100, False)
    assert half.sendable(limit=10_000, credit=0) == 100, "it needs no credit again"
    half.get_frame(100)
    assert (table.unsent, table.buffered) == (0, 100)
    half.on_data_delivery(ACKED, 0, 100, False)
    assert table.buffered == 0


@pytest.mark.parametrize("sent", [0, 60, 100])
def test_a_reset_drops_the_buffer_at_once_and_late_acknowledgements_change_nothing(sent: int) -> None:
    table, half, _ = opened()
    half.write(b"x" * 100)
    if sent:
        half.get_frame(sent)
    half.reset(7)
    half.reset(8)
    assert (table.unsent, table.buffered, half.unsent, half.unacknowledged, len(half._buffer)) == (0, 0, 0, 0, 0)
    assert not half.writable
    if sent:
        half.on_data_delivery(ACKED, 0, sent, False)
        half.on_data_delivery(LOST, 0, sent, False)
    assert (table.unsent, table.buffered) == (0, 0)
    assert half.get_reset_frame().final_size == sent


def test_what_may_go_into_a_packet_is_bounded_by_both_credits() -> None:
    _, half, _ = opened()
    half.write(b"x" * 100)
    assert half.sendable(limit=10_000, credit=10_000) == 100
    assert half.sendable(limit=30, credit=10_000) == 30
    assert half.sendable(limit=10_000, credit=20) == 20
    assert half.sendable(limit=0, credit=0) == 0


def test_a_fin_alone_is_something_to_send() -> None:
    _, half, _ = opened()
    half.write(b"", end_stream=True)
    assert half.sendable(limit=0, credit=0) == 1
    assert not half.writable


@pytest.mark.parametrize("finish", ["fin", "reset"])
def test_only_a_stream_whose_fin_arrived_is_completed(finish: str) -> None:
    _, half, _ = opened()
    if finish == "fin":
        half.write(b"x", end_stream=True)
        half.get_frame(10)
        half.on_data_delivery(ACKED, 0, 1, True)
    else:
        half.reset(1)
        half.on_reset_delivery(ACKED)
    assert half.is_finished
    assert half.completed == (finish == "fin")


# --- receiving ------------------------------------------------------------------------------------


def test_a_packet_that_would_leave_too_many_gaps_is_refused_and_one_in_order_never() -> None:
    _, _, half = opened()
    for number in range(limits.QUIC_RANGES_MAX):
        half.handle_frame(QuicStreamFrame(data=b"x", offset=2 * number + 1))
    with pytest.raises(PacketRefusedError):
        half.handle_frame(QuicStreamFrame(data=b"x", offset=5_000))
    assert half.highest_offset < 5_000
    event = half.handle_frame(QuicStreamFrame(data=b"x", offset=0))
    assert event is not None
    assert event.data == b"xx"
    half.handle_frame(QuicStreamFrame(data=b"x", offset=5_000))


def test_what_a_refused_packet_carried_arrives_by_its_repetition() -> None:
    wire = Wire()
    (stream,) = wire.open()
    wire.settle()
    for number in range(limits.QUIC_RANGES_MAX):
        wire.forge(wire.client, stream_frame(stream, 2 + 2 * number, b"x"))
    wire.forge(wire.client, stream_frame(stream, 5_000, b"refused"))
    assert wire.client.ending is None
    assert wire.client._streams[stream].receiver.highest_offset < 5_000
    wire.forge(wire.client, stream_frame(stream, 1, b"x" * (2 * limits.QUIC_RANGES_MAX)))
    wire.flush()
    assert wire.received[wire.client, stream] == b"\0" + b"x" * (2 * limits.QUIC_RANGES_MAX)


def test_a_reset_tells_of_the_credit_that_was_never_used() -> None:
    table, _, half = opened()
    half.handle_frame(QuicStreamFrame(data=b"abc", offset=0))
    half.handle_frame(QuicStreamFrame(data=b"z", offset=50))
    half.handle_reset(final_size=100)
    assert table.undelivered == 97
    assert len(half._ahead) == 0
    assert half.aborted
    half.handle_reset(final_size=100)
    assert table.undelivered == 97, "once"


LENGTH = 24
TEXT = bytes(range(LENGTH))
frames = st.lists(
    st.one_of(
        st.tuples(st.integers(0, LENGTH), st.integers(0, LENGTH), st.booleans()),  # offset, stop, FIN
        st.integers(0, LENGTH),  # RESET_STREAM with this final size
    ),
    max_size=30,
)


def take(half: QuicStreamReceiver, each: tuple[int, int, bool] | int) -> object:
    """Give a frame to a half; return its event or its complaint."""
    try:
        if isinstance(each, int):
            return half.handle_reset(final_size=each, error_code=7)
        offset, stop, fin = each
        return half.handle_frame(QuicStreamFrame(data=TEXT[offset:stop], offset=offset, fin=fin))
    except FinalSizeError as exc:
        return str(exc)


@settings(max_examples=500)
@given(frames)
def test_it_says_what_aioquic_s_own_half_says_whatever_comes(sequence: list[tuple[int, int, bool] | int]) -> None:
    """Splits, repetitions, overlaps, any order, ends that contradict each other: the same events, errors and sizes."""
    model, ours = QuicStreamReceiver(1, readable=True), SparseHalf(1, readable=True)
    for each in sequence:
        assert take(ours, each) == take(model, each)
        for name in ("highest_offset", "is_finished", "_final_size", "_buffer_start"):
            assert getattr(ours, name) == getattr(model, name), name
        assert not ours._buffer


@given(st.permutations(range(0, LENGTH, 2)), st.integers(2, 7))
def test_all_pieces_in_any_order_make_the_whole(starts: list[int], size: int) -> None:
    _, _, half = opened()
    received = b""
    for start in starts:
        frame = QuicStreamFrame(data=TEXT[start : start + size], offset=start, fin=start + size >= LENGTH)
        event = half.handle_frame(frame)
        received += b"" if event is None else event.data
    assert received == TEXT
    assert half.is_finished


def test_a_fin_far_ahead_takes_no_memory_and_ends_what_comes_after_it() -> None:
    _, _, half = opened()
    with memory(1_000):
        assert half.handle_frame(QuicStreamFrame(data=b"", offset=1 << 30, fin=True)) is None
    with pytest.raises(FinalSizeError):
        half.handle_frame(QuicStreamFrame(data=b"x", offset=1 << 30))
    assert not half.is_finished


def test_frames_that_say_nothing_are_counted() -> None:
    _, _, half = opened()
    with pytest.raises(RemoteProtocolError):
        for _ in range(limits.CONTROL_FRAMES_MAX + 1):
            half.handle_frame(QuicStreamFrame(data=b"", offset=0))


def test_a_fin_without_bytes_says_something() -> None:
    _, _, half = opened()
    for _ in range(limits.CONTROL_FRAMES_MAX + 1):
        half.handle_frame(QuicStreamFrame(data=b"", offset=0, fin=True))
    assert half.is_finished


def test_only_the_peer_s_own_streams_count_as_opened_for_nothing() -> None:
    """The answer to our STOP_SENDING is a reset without bytes, too."""
    table, _, half = opened(stream_id=1)
    for _ in range(2 * limits.RESETS_MAX):
        half.is_finished = False
        half._final_size = None
        half.handle_reset(final_size=0)
    table, _, half = opened(stream_id=2)
    with pytest.raises(RemoteProtocolError):
        for _ in range(2 * limits.RESETS_MAX):
            half.is_finished = False
            half._final_size = None
            half.handle_reset(final_size=0)
    del table


# --- handshakes -----------------------------------------------------------------------------------


def test_a_handshake_is_capped_in_bytes_and_gaps() -> None:
    half = CryptoHalf(total=1_000)
    with pytest.raises(QuicConnectionError, match="more than 1000 bytes"):
        half.handle_frame(QuicStreamFrame(data=b"x", offset=1_000))
    with pytest.raises(PacketRefusedError):
        for number in range(limits.QUIC_RANGES_MAX + 1):
            half.handle_frame(QuicStreamFrame(data=b"x", offset=2 * number + 1))
    event = half.handle_frame(QuicStreamFrame(data=b"x", offset=0))
    assert event is not None
