"""What hostile bytes may do to a QUIC connection: end it, with a code, and nothing else."""

from __future__ import annotations

import gc
import logging
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import pytest
from aioquic import tls
from aioquic.quic import events
from aioquic.quic.packet import QuicErrorCode
from aioquic.tls import Epoch

from tests.transports.quic_wire import CLIENT, Wire, frame, key_of, stream_frame
from trunnel.errors import ErrorCode
from trunnel.identity.keys import spki_of
from trunnel.settings import limits
from trunnel.transports.quic_credit import CreditedConnection
from trunnel.transports.quic_halves import CryptoHalf

PING, RESET, CRYPTO, DATAGRAM = 0x01, 0x04, 0x06, 0x30


def code_of(wire: Wire) -> int | None:
    return None if wire.server.ending is None else wire.server.ending.error_code


def why(wire: Wire) -> events.ConnectionTerminated | None:
    return wire.client.ending


# --- who is there ---------------------------------------------------------------------------------


def test_both_ends_see_the_certificate_whose_key_the_other_proved() -> None:
    wire = Wire()
    for end, name in ((wire.server, "client"), (wire.client, "server")):
        (certificate,) = end.peer_certificates
        assert spki_of(certificate) == key_of(name).spki


def test_a_client_without_a_certificate_shows_none() -> None:
    wire = Wire(certificate=False)
    assert wire.happened(wire.server, events.HandshakeCompleted)
    assert wire.server.peer_certificates == ()


def test_nobody_is_shown_before_the_handshake_is_complete() -> None:
    wire = Wire(connect=False)
    assert wire.client.peer_certificates == wire.server.peer_certificates == ()
    for _ in range(50):
        if not wire.happened(wire.server, events.HandshakeCompleted):
            assert wire.server.peer_certificates == ()
        wire.step()
    assert wire.server.peer_certificates


def test_a_client_that_cannot_sign_for_its_certificate_is_refused() -> None:
    """A genuine certificate of somebody else, with a signature of another key (CertificateVerify)."""
    wire = Wire(connect=False)
    wire.client.tls.certificate_private_key = key_of("thief").private_key
    wire.settle()
    assert wire.server.peer_certificates == ()
    assert not wire.happened(wire.server, events.HandshakeCompleted)
    assert code_of(wire) == QuicErrorCode.CRYPTO_ERROR + tls.AlertDescription.decrypt_error


def test_no_stream_is_seen_before_the_handshake_is_complete() -> None:
    wire = Wire(accept=10, connect=False)
    wire.client.send_stream_data(0, b"early")
    wire.settle()
    kinds = [type(event) for event in wire.events[wire.server]]
    assert kinds.index(events.HandshakeCompleted) < kinds.index(events.StreamDataReceived)


def test_there_is_nothing_to_resume() -> None:
    """No session ticket goes out, so there is no early data (RFC 9001 §4.6.1)."""
    wire = Wire()
    assert wire.client.tls.new_session_ticket_cb is wire.server.tls.new_session_ticket_cb is None
    (done,) = wire.happened(wire.server, events.HandshakeCompleted)
    assert not done.early_data_accepted
    assert not done.session_resumed
    assert not wire.server._cryptos[Epoch.ZERO_RTT].recv.is_valid()
    assert wire.client._crypto_streams[Epoch.ONE_RTT].receiver.highest_offset == 0


# --- containment ----------------------------------------------------------------------------------


@pytest.mark.parametrize("error", [IndexError, ValueError, AssertionError, KeyError, TypeError, RecursionError])
def test_whatever_a_packet_makes_aioquic_raise_ends_this_connection_with_a_code(
    error: type[Exception], monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    wire = Wire()

    def fail(*_: object) -> None:
        raise error("hostile")

    monkeypatch.setattr(wire.server._loss, "on_ack_received", fail)
    with caplog.at_level(logging.ERROR, logger="trunnel"):
        wire.forge(wire.server, frame(0x02, 0, 0, 0, 0))
    assert code_of(wire) == QuicErrorCode.INTERNAL_ERROR
    assert "connection failed" in caplog.text
    wire.settle()
    (told,) = wire.happened(wire.client, events.ConnectionTerminated)
    assert told.error_code == QuicErrorCode.INTERNAL_ERROR


def test_a_failure_while_writing_ends_the_connection_and_tells_the_peer(monkeypatch: pytest.MonkeyPatch) -> None:
    wire = Wire()

    def fail(*_: object, **__: object) -> None:
        raise IndexError

    monkeypatch.setattr(wire.server, "_write_application", fail)
    assert wire.server.datagrams_to_send(wire.now)
    assert code_of(wire) == QuicErrorCode.INTERNAL_ERROR


def test_a_server_that_understood_nothing_has_nothing_to_say() -> None:
    wire = Wire(connect=False)
    for garbage in (b"", b"\0", b"\xff" * 1200, bytes(1200), b"\x40" + bytes(30)):
        wire.server.receive_untrusted(garbage, CLIENT, wire.now)
        assert wire.server.datagrams_to_send(wire.now) == []
    wire.settle()
    assert wire.happened(wire.server, events.HandshakeCompleted)


def test_a_peer_that_names_the_same_connection_id_again_and_retires_all_others_cannot_crash_us() -> None:
    wire = Wire()
    for sequence in (7, 8, 7, 8):
        wire.forge(wire.server, frame(0x18, sequence, sequence, tail=b"\x08" + bytes(8) + bytes(16)))
        wire.flush()


# --- what is refused ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("frames", "code"),
    [
        (b"", QuicErrorCode.FRAME_ENCODING_ERROR),
        (frame(0x21), QuicErrorCode.FRAME_ENCODING_ERROR),
        (frame(DATAGRAM, tail=b"datagram"), QuicErrorCode.PROTOCOL_VIOLATION),
        (frame(0x31, 3, tail=b"abc"), QuicErrorCode.PROTOCOL_VIOLATION),
        (frame(CRYPTO, limits.QUIC_CRYPTO_LATE_MAX, 1, tail=b"x"), QuicErrorCode.CRYPTO_BUFFER_EXCEEDED),
        (frame(CRYPTO, 2**62 - 2, 1, tail=b"x"), QuicErrorCode.CRYPTO_BUFFER_EXCEEDED),
        (frame(0x07, 4, tail=b"abcd"), QuicErrorCode.PROTOCOL_VIOLATION),
        (frame(0x1E), QuicErrorCode.PROTOCOL_VIOLATION),
    ],
    ids=["cut", "unknown", "datagram", "datagram-length", "crypto", "crypto-far", "token", "done"],
)
def test_frames_that_make_no_sense_here_end_the_connection(frames: bytes, code: QuicErrorCode) -> None:
    wire = Wire()
    wire.forge(wire.server, frames or b"\x40\x40\x40\x40\x40")
    assert code_of(wire) == code


def test_an_initial_packet_with_a_large_offset_reserves_no_memory() -> None:
    wire = Wire(connect=False)
    hello = wire.client._crypto_streams[Epoch.INITIAL].sender
    hello._buffer = bytearray(limits.QUIC_CRYPTO_MAX) + hello._buffer
    hello._buffer_stop += limits.QUIC_CRYPTO_MAX
    hello._pending.subtract(0, limits.QUIC_CRYPTO_MAX)
    hello._pending.add(limits.QUIC_CRYPTO_MAX, limits.QUIC_CRYPTO_MAX + 100)
    wire.step()
    assert code_of(wire) == QuicErrorCode.CRYPTO_BUFFER_EXCEEDED
    receiver = wire.server._crypto_streams[Epoch.INITIAL].receiver
    assert isinstance(receiver, CryptoHalf)
    assert len(receiver._ahead) == len(receiver._buffer) == 0


# --- what has ended -------------------------------------------------------------------------------


@contextmanager
def without_collector() -> Iterator[None]:
    """Free by reference counting alone."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


def never_began(wire: Wire) -> None:
    """A connection to which nothing came yet."""


def half_open(wire: Wire) -> None:
    """A client whose Initial came; its flight and probes are on the way."""
    wire.flush()
    wire.step()


def failed(wire: Wire) -> None:
    """A handshake that went wrong in the middle."""
    half_open(wire)
    wire.server.close(error_code=0x150, frame_type=6, reason_phrase="no")
    wire.settle()


def lived(wire: Wire) -> None:
    """A connection with streams: busy, reset, blocked, ahead of their turn; and packets in flight."""
    wire.settle()
    busy, cut, ahead = wire.open(3)
    wire.settle()
    wire.transfer(wire.server, busy, b"x" * 100_000)
    wire.server.reset_stream(cut, 1)
    wire.client.stop_stream(ahead, 1)
    wire.client.send_stream_data(ahead, b"y" * 5_000)
    wire.forge(wire.client, stream_frame(ahead, 100, b"x"))
    wire.server.send_ping(1)
    wire.flush()


@pytest.mark.parametrize("life", [never_began, half_open, failed, lived])
def test_what_was_disposed_of_is_freed_by_reference_counting_alone(life: Callable[[Wire], None]) -> None:
    """LOAD-16: a flood must not grow us by what the cyclic collector has not come to yet."""
    wire = Wire(connect=False)
    with without_collector():
        life(wire)
        parts: list[object] = [part for end in wire.ends for part in (end, end._table, end._loss)]
        watched = [weakref.ref(part) for part in parts]
        for end in wire.ends:
            end.dispose()
            end.dispose()
        del parts, end, wire
        assert [each() for each in watched] == [None] * 6


@pytest.mark.parametrize("life", [never_began, half_open, failed, lived])
def test_what_was_disposed_of_answers_as_what_has_ended(
    life: Callable[[Wire], None], caplog: pytest.LogCaptureFixture
) -> None:
    wire = Wire(connect=False)
    life(wire)
    for end in wire.ends:
        ending, certificates, later = end.ending, end.peer_certificates, wire.now + limits.DEAD_AFTER
        end.dispose()
        assert (end.ending, end.peer_certificates) == (ending, certificates)
        check_silent(end, later)
        assert end.ending == ending
    assert "connection failed" not in caplog.text


def check_silent(end: CreditedConnection, now: float) -> None:
    """Nothing that is asked or told fails, or has an effect."""
    end.receive_untrusted(bytes(1_200), CLIENT, now)
    end.handle_timer(now)
    assert end.datagrams_to_send(now) == []
    assert end.get_timer() is None
    end.close(error_code=1, reason_phrase="too late")
    end.send_ping(2)
    end.consumed(1, 10, unread=0, now=now)
    end.discard(1, 10)
    assert end.datagrams_to_send(now) == []
    assert (end.streams_open, end.unsent, end.unacknowledged(1), end.room(1), end.room(5)) == (0, 0, 0, 0, 0)
    assert end.drained(1)
    assert not end.writable(1)
    assert end.round_trip >= 0
    assert end.oldest_unacknowledged is None or end.oldest_unacknowledged <= now
    assert end.take_progress() is not None


# --- floods ---------------------------------------------------------------------------------------

CHEAP = {
    "ping": frame(PING),
    "reset": frame(RESET, 1, 0, 1),
    "stop": frame(0x05, 1, 0),
    "max-data": frame(0x10, 1),
    "max-stream-data": frame(0x11, 1, 1),
    "max-streams": frame(0x12, 1),
    "max-streams-uni": frame(0x13, 1),
    "blocked": frame(0x14, 1),
    "stream-blocked": frame(0x15, 1, 1),
    "streams-blocked": frame(0x16, 1),
    "challenge": frame(0x1A, tail=bytes(8)),
    "response": frame(0x1B, tail=bytes(8)),
    "empty": stream_frame(1, 1, b""),
    "second-ack": frame(0x02, 0, 0, 0, 0) * 2,
}


@pytest.mark.parametrize("name", CHEAP)
def test_a_flood_of_cheap_frames_ends_the_connection(name: str) -> None:
    wire = Wire()
    wire.open()
    wire.settle()
    for number in range(limits.CONTROL_FRAMES_MAX + 1):
        if number == limits.CONTROL_FRAMES_MAX - 100:
            assert why(wire) is None
            wire.flush()
        wire.forge(wire.client, CHEAP[name])
    end = why(wire)
    assert end is not None
    assert end.error_code == ErrorCode.ENHANCE_YOUR_CALM
    assert end.frame_type is None, "a code of ours: RFC 9000 §20.2"


def test_what_an_honest_peer_sends_is_no_flood() -> None:
    """As many frames as are allowed, again once the window is over; and more with every 4 KiB sent."""
    wire = Wire()
    (stream,) = wire.open()
    wire.settle()
    for _ in range(3):
        for _ in range(limits.CONTROL_FRAMES_MAX - 100):
            wire.forge(wire.client, frame(PING))
        wire.flush()
        wire.now += limits.FLOOD_WINDOW
    wire.settle()
    wire.transfer(wire.server, stream, bytes(limits.MIB))
    assert wire.client.ending is None
    wire.client.send_stream_data(stream, bytes(limits.STREAM_WINDOW_MIN))
    wire.settle()
    for _ in range(limits.CONTROL_FRAMES_MAX - 100):
        wire.forge(wire.client, frame(PING))
    assert wire.client.ending is None


def test_streams_opened_and_reset_for_nothing_end_the_connection() -> None:
    wire = Wire()
    for number in range(limits.RESETS_MAX):
        assert why(wire) is None
        stream = 1 + 4 * number
        wire.forge(wire.client, stream_frame(stream, 0, b"\0") + frame(RESET, stream, 0, 1))
    end = why(wire)
    assert end is not None
    assert end.error_code == ErrorCode.ENHANCE_YOUR_CALM


def test_visitors_who_abort_their_streams_do_not_end_an_agent_s_connection() -> None:
    wire = Wire()
    for _ in range(4 * limits.RESETS_MAX):
        (stream,) = wire.open()
        wire.server.send_stream_data(stream, b"a hello")
        wire.flush()
        wire.step()
        wire.server.reset_stream(stream, ErrorCode.PEER_ABORTED)
        wire.server.stop_stream(stream, ErrorCode.PEER_ABORTED)
        wire.settle()
    assert wire.client.ending is wire.server.ending is None
    assert wire.server.streams_open == 0
