"""Fuzz targets for yamux: arbitrary bytes at either end, and two honest ends whose moves the bytes choose.

Invariants: nothing but `RemoteProtocolError` leaves; events, what we write and
the refusal do not depend on how the bytes were cut; credit is never negative;
what we hold and what we write is bounded.  Two honest ends never refuse each
other, and bytes come in order and whole, or their stream was reset.
"""

from __future__ import annotations

from collections.abc import Iterator

from tests.wire.yamux_model import End, Wire, joined
from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.settings import limits
from trunnel.wire import muxevents as events
from trunnel.wire.muxevents import MuxEvent, Role
from trunnel.wire.yamux import YamuxConnection
from trunnel.wire.yamux_frames import HEADER_BYTES, WINDOW_SIZE_MAX, encode_header, parse_header_untrusted

Outcome = tuple[list[MuxEvent], bytes, tuple[str, ErrorCode] | None]
"""Events with neighbouring bytes joined, what was written, and the refusal."""
OPENED = 3
"""Streams that our end opens before the noise comes."""
CHUNKED_MAX = 4_096
"""Bytes up to which an input is also fed byte by byte."""
MOVES_MAX = 200
"""Moves of a conversation that one input chooses."""


def _pieces(wire: bytes) -> Iterator[bytes]:
    """Cut *wire* into pieces whose sizes depend on its bytes: 1 to 32."""
    at = 0
    while at < len(wire):
        size = 1 + wire[at] % 32
        yield wire[at : at + size]
        at += size


def _outcome(role: Role, chunks: Iterator[bytes]) -> Outcome:
    yamux = YamuxConnection(role, now=0.0)
    opened = [yamux.open_stream(now=0.0) for _ in range(OPENED)]
    yamux.end(opened[1])
    yamux.end(opened[2])
    yamux.reset(opened[2], ErrorCode.NO_ERROR)  # it lingers
    happened: list[MuxEvent] = []
    refusal = None
    for chunk in chunks:
        try:
            happened += yamux.feed_untrusted(chunk, now=0.0)
        except RemoteProtocolError as exc:
            refusal = (exc.reason, exc.code)
            break
        _check_state(yamux)
        assert yamux.unread == sum(len(one.payload) for one in happened if isinstance(one, events.BytesReceived))
    assert yamux.output.pending <= limits.UNSENT_CONTROL_MAX + 2 * HEADER_BYTES + OPENED * HEADER_BYTES
    return joined(happened), bytes(yamux.output.take()), refusal


def _check_state(yamux: YamuxConnection) -> None:
    assert len(yamux.streams) <= limits.STREAMS_PER_SESSION + 1
    assert len(yamux.lingering) <= limits.YAMUX_LINGERING_MAX
    assert not set(yamux.lingering) & set(yamux.streams)
    assert 0 <= yamux.unread <= limits.YAMUX_UNREAD_MAX
    assert yamux.late_credit >= 0
    for stream in yamux.streams.values():
        assert 0 <= stream.receive_left <= stream.window.size <= limits.STREAM_WINDOW_MAX
        assert 0 <= stream.send_window <= WINDOW_SIZE_MAX
        assert not (stream.we_ended and stream.they_ended)


def _check_order(happened: list[MuxEvent]) -> None:
    """No stream has two beginnings, and none has bytes behind its end."""
    opened: set[int] = set()
    over: set[int] = set()
    for event in happened:
        match event:
            case events.StreamOpened(stream_id):
                assert stream_id not in opened
                opened.add(stream_id)
            case events.BytesReceived(stream_id) | events.StreamEnded(stream_id):
                assert stream_id not in over
                if isinstance(event, events.StreamEnded):
                    over.add(stream_id)
            case events.StreamAborted(stream_id):
                over.add(stream_id)
            case _:
                continue


def _check_end(role: Role, data: bytes) -> None:
    whole = _outcome(role, iter([data]))
    cuts = [_pieces(data)]
    if len(data) <= CHUNKED_MAX:
        cuts.append(iter([data[at : at + 1] for at in range(len(data))]))
    for cut in cuts:
        pieces = _outcome(role, cut)
        assert pieces[1:] == whole[1:]
        assert pieces[0] == whole[0] or whole[2] is not None  # a refusal takes its chunk's events with it
        _check_order(pieces[0])


def fuzz_yamux_relay(data: bytes) -> None:
    """Check what an agent may send to the relay."""
    _check_end(Role.CLIENT, data)


def fuzz_yamux_agent(data: bytes) -> None:
    """Check what a relay may send to the agent."""
    _check_end(Role.SERVER, data)


def fuzz_yamux_header(data: bytes) -> None:
    """Check the header codec by itself."""
    for at in range(0, len(data) - HEADER_BYTES + 1, HEADER_BYTES):
        try:
            header = parse_header_untrusted(data, at)
        except RemoteProtocolError:
            continue
        assert encode_header(*header) == data[at : at + HEADER_BYTES]


def fuzz_yamux_conversation(data: bytes) -> None:
    """Let each three bytes choose a move of one of two honest ends, and what of it arrives."""
    wire = Wire()
    for at in range(0, min(len(data) - 2, 3 * MOVES_MAX), 3):
        move, choice, amount = data[at : at + 3]
        _move(wire, wire.ends[move % 2], move // 2, choice, amount)
        wire.deliver(wire.ends[choice % 2], amount * amount)
        wire.now += amount / 1_000
    wire.settle()
    for end in wire.ends:
        _check_state(end.yamux)
        far = wire.far(end)
        assert end.pings == 0
        for stream_id, received in end.received.items():
            assert far.sent[stream_id].startswith(received)
            whole = received == far.sent[stream_id]
            assert whole or stream_id in end.aborted | end.aborting or stream_id in end.yamux.streams
            assert whole or stream_id not in end.ended


def _move(wire: Wire, end: End, move: int, choice: int, amount: int) -> None:
    known = sorted(end.yamux.streams)
    stream_id = known[choice % len(known)] if known else 0
    match move % 8:
        case 0 if end.farewell is None:
            end.opened.append(end.yamux.open_stream(now=wire.now))
        case 1 if known:
            end.send(stream_id, amount * amount)
        case 2 if end.accepted:
            end.yamux.accepted(end.accepted[choice % len(end.accepted)])
        case 3 if end.unread:
            chosen = sorted(end.unread)[choice % len(end.unread)]
            end.consume(chosen, 4 * amount * amount, now=wire.now)
        case 4 if known:
            end.finish(stream_id)
        case 5 if known:
            end.reset(stream_id, ErrorCode.PEER_ABORTED)
        case 6 if known:
            end.close(stream_id)
        case 7 if choice < amount:
            end.pings += 1
            end.yamux.ping()
        case 7 if choice == amount:
            end.yamux.go_away(ErrorCode.NO_ERROR)
        case _:
            return
