"""The receiving half of an HTTP/2 connection (RFC 9113): frames in, events out.

Whatever breaks the protocol raises `RemoteProtocolError` with the code that
belongs into GOAWAY; the connection is then finished.  A mistake that concerns
one stream resets that stream and counts as a reset that the peer provoked.

Frames that were under way when a stream closed are dropped, and their bytes
give connection credit back (hyper-h2 ends the connection when an RST_STREAM
crosses our END_STREAM).  DATA may be as much as the stream had credit for when
we reset it; more, and any other late frame, counts with the guard.  So no
visitor that aborts its download can end the session of all.
"""

from __future__ import annotations

from typing import Final, final

import hpack

from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.settings import limits
from trunnel.transports import h2_frames as frames
from trunnel.transports.h2_connection import H2Connection, Role, StreamState
from trunnel.transports.h2_frames import FrameHeader, FrameReader, FrameType, Piece, Setting
from trunnel.wire import muxevents as events
from trunnel.wire.muxevents import MuxEvent

_FRAME_SIZES: Final = range(16_384, 2**24)
"""Legal values of SETTINGS_MAX_FRAME_SIZE (RFC 9113 §6.5.2)."""
_PRIORITY_BYTES: Final = 5
_GOAWAY_BYTES: Final = 8
_DEBUG_MAX: Final = 128
"""Bytes of a GOAWAY's debug data that we keep."""


@final
class H2Receiver:
    """Feeds one connection's incoming bytes into its state."""

    def __init__(self, connection: H2Connection) -> None:
        self._h2 = connection
        self._reader = FrameReader(expect_preface=connection.role is Role.SERVER)
        self._decoder = hpack.Decoder(max_header_list_size=limits.HEADER_LIST_MAX)
        self._settings_seen = False
        self._block = bytearray()
        self._block_header: FrameHeader | None = None  # HEADERS that CONTINUATION continues
        self._continuations = 0
        self._events: list[MuxEvent] = []
        self._now = 0.0
        self._dispatch = {
            FrameType.HEADERS: self._on_headers,
            FrameType.PRIORITY: self._on_priority,
            FrameType.RST_STREAM: self._on_rst_stream,
            FrameType.SETTINGS: self._on_settings,
            FrameType.PUSH_PROMISE: self._on_push_promise,
            FrameType.PING: self._on_ping,
            FrameType.GOAWAY: self._on_goaway,
            FrameType.WINDOW_UPDATE: self._on_window_update,
            FrameType.CONTINUATION: self._on_continuation,
        }

    def feed_untrusted(self, chunk: bytes, *, now: float) -> list[MuxEvent]:
        """Parse *chunk* and return what happened, in order.

        Args:
            chunk: Bytes as they came; any split of the same bytes gives the
                same events once `BytesReceived` are joined.
            now: Seconds on a monotonic clock.

        Raises:
            RemoteProtocolError: The peer broke the protocol or floods; the
                connection is finished, nothing of it may be used but
                `H2Connection.go_away` and `take_output`.
        """
        self._now = now
        self._events = []
        for piece in self._reader.feed_untrusted(chunk):
            header = piece.header
            if self._block_header is not None and header.kind != FrameType.CONTINUATION:
                raise RemoteProtocolError("a frame inside a header block")
            if not self._settings_seen and header.kind != FrameType.SETTINGS:
                raise RemoteProtocolError("the first frame is not SETTINGS")
            if header.kind == FrameType.DATA:
                self._on_data(piece)
            elif header.kind > FrameType.CONTINUATION:
                self._h2.guard.control_frame(now=now)
            else:
                self._dispatch[FrameType(header.kind)](header, piece.payload)
            if (
                self._h2.output.answers > limits.UNSENT_CONTROL_MAX
                or self._h2.output.pending > limits.UNSENT_OUTPUT_MAX
            ):
                raise RemoteProtocolError("the peer does not read our answers", code=ErrorCode.ENHANCE_YOUR_CALM)
        return self._events

    # --- streams ----------------------------------------------------------------------------------

    def _on_data(self, piece: Piece) -> None:
        header = piece.header
        stream = self._h2.streams.get(header.stream_id)
        if piece.first:
            self._charge(header, stream)
        payload = frames.strip_padding_untrusted(header, piece.payload)
        if stream is None or stream.they_ended:
            self._h2.discard(len(piece.payload))
            return
        if overhead := len(piece.payload) - len(payload):
            self._h2.consumed(header.stream_id, overhead, unread=None, now=self._now)
        if payload:
            stream.received = True
            self._events.append(events.BytesReceived(header.stream_id, payload))
        if piece.last and header.flags & frames.END_STREAM:
            self._end(stream)
        elif not payload:
            self._h2.guard.control_frame(now=self._now)

    def _charge(self, header: FrameHeader, stream: StreamState | None) -> None:
        """Take a DATA frame's length from the windows (RFC 9113 §6.9.1)."""
        self._h2.receive_left -= header.length
        if self._h2.receive_left < 0:
            raise RemoteProtocolError("more than the connection's credit", code=ErrorCode.FLOW_CONTROL_ERROR)
        if stream is None or stream.they_ended:
            self._check_not_idle(header.stream_id)
            if 0 < header.length <= self._h2.late_credit:
                self._h2.late_credit -= header.length
            else:
                self._h2.guard.control_frame(now=self._now)
            return
        stream.receive_left -= header.length
        if stream.receive_left < 0:
            raise RemoteProtocolError("more than the stream's credit", code=ErrorCode.FLOW_CONTROL_ERROR)

    def _check_not_idle(self, stream_id: int) -> None:
        """Refuse frames for a stream that was never opened (RFC 9113 §5.1); no server of ours opens even ones."""
        if stream_id % 2 == 0 or stream_id > max(self._h2.highest_seen, self._h2.highest_opened):
            raise RemoteProtocolError("a frame for a stream that is idle")

    def _end(self, stream: StreamState) -> None:
        if not stream.they_ended:
            stream.they_ended = True
            self._events.append(events.StreamEnded(stream.stream_id))
            self._h2.close_if_ended(stream)

    def _provoked_reset(self, stream_id: int, code: ErrorCode) -> None:
        """Reset a stream for the peer's mistake; such resets are counted (MadeYouReset)."""
        self._h2.guard.reset_without_work(now=self._now)
        if self._h2.reset(stream_id, code):
            self._events.append(events.StreamAborted(stream_id, code))
        else:
            self._h2.refuse(stream_id, code)

    def _on_headers(self, header: FrameHeader, payload: bytes) -> None:
        if header.stream_id % 2 == 0:
            raise RemoteProtocolError("a stream with an even number")
        payload = frames.strip_padding_untrusted(header, payload)
        if header.flags & frames.PRIORITY_FLAG:
            if len(payload) < _PRIORITY_BYTES:
                raise RemoteProtocolError("HEADERS too short for its priority")
            payload = payload[_PRIORITY_BYTES:]
        self._block = bytearray(payload)
        self._block_header = header
        self._continuations = 0
        if header.flags & frames.END_HEADERS:
            self._finish_block()

    def _on_continuation(self, header: FrameHeader, payload: bytes) -> None:
        if self._block_header is None or self._block_header.stream_id != header.stream_id:
            raise RemoteProtocolError("CONTINUATION without HEADERS")
        self._continuations += 1
        self._block += payload
        if self._continuations > limits.CONTINUATIONS_MAX or len(self._block) > limits.HEADER_BLOCK_MAX:
            raise RemoteProtocolError("a header block without end", code=ErrorCode.ENHANCE_YOUR_CALM)
        if header.flags & frames.END_HEADERS:
            self._finish_block()

    def _finish_block(self) -> None:
        header, block = self._block_header, bytes(self._block)
        self._block_header = None
        self._block.clear()
        if header is None:
            raise AssertionError("no header block has begun")
        try:
            fields = dict(self._decoder.decode(block, raw=True))
        except hpack.OversizedHeaderListError as exc:
            raise RemoteProtocolError("a header list that is too long", code=ErrorCode.ENHANCE_YOUR_CALM) from exc
        except (hpack.HPACKError, ValueError, IndexError) as exc:
            raise RemoteProtocolError("a header block that does not decode", code=ErrorCode.COMPRESSION_ERROR) from exc
        ended = bool(header.flags & frames.END_STREAM)
        if self._h2.role is Role.SERVER:
            self._on_request(header.stream_id, fields, ended=ended)
        else:
            self._on_response(header.stream_id, fields, ended=ended)

    def _on_request(self, stream_id: int, fields: dict[bytes, bytes], *, ended: bool) -> None:
        if stream_id <= self._h2.highest_seen:  # trailers, or a request for a stream that was
            self._on_trailers(stream_id, ended=ended)
            return
        self._h2.highest_seen = stream_id
        if self._h2.refusing:  # it may not have read our GOAWAY yet
            self._h2.guard.control_frame(now=self._now)
            self._h2.refuse(stream_id, ErrorCode.REFUSED_STREAM)
            return
        if len(self._h2.streams) >= limits.STREAMS_ON_CARRIER:
            self._provoked_reset(stream_id, ErrorCode.REFUSED_STREAM)
            return
        if fields.get(b":method") != b"POST":
            self._provoked_reset(stream_id, ErrorCode.PROTOCOL_ERROR)
            return
        self._h2.accept_stream(stream_id, now=self._now)
        self._events.append(events.StreamOpened(stream_id))
        if ended:
            self._end(self._h2.streams[stream_id])

    def _on_response(self, stream_id: int, fields: dict[bytes, bytes], *, ended: bool) -> None:
        self._check_not_idle(stream_id)
        stream = self._h2.streams.get(stream_id)
        if stream is None:
            self._h2.guard.control_frame(now=self._now)
        elif stream.answered:
            self._on_trailers(stream_id, ended=ended)
        elif (status := fields.get(b":status", b"")) == b"200":
            stream.answered = True
            if ended:
                self._end(stream)
        elif status.startswith(b"1") and not ended:  # informational: another response follows
            self._h2.guard.control_frame(now=self._now)
        else:
            self._provoked_reset(stream_id, ErrorCode.PROTOCOL_ERROR)

    def _on_trailers(self, stream_id: int, *, ended: bool) -> None:
        stream = self._h2.streams.get(stream_id)
        if stream is None:
            self._h2.guard.control_frame(now=self._now)
        elif stream.they_ended or not ended:
            self._provoked_reset(stream_id, ErrorCode.STREAM_CLOSED)
        else:
            self._end(stream)

    def _on_rst_stream(self, header: FrameHeader, payload: bytes) -> None:
        self._check_not_idle(header.stream_id)
        stream = self._h2.streams.get(header.stream_id)
        if stream is None:
            self._h2.guard.control_frame(now=self._now)
            return
        code = ErrorCode.from_wire(int.from_bytes(payload, "big"))
        self._h2.drop_stream(stream)
        if self._h2.role is Role.SERVER and not stream.received:
            # A stream without payload was opened for nothing.  Ours are one reset each at most, and visitors open them.
            self._h2.guard.reset_without_work(now=self._now)
        self._events.append(events.StreamAborted(header.stream_id, code))

    def _on_window_update(self, header: FrameHeader, payload: bytes) -> None:
        self._h2.guard.control_frame(now=self._now)
        increment = int.from_bytes(payload, "big") & frames.STREAM_ID_MASK
        if header.stream_id == 0:
            self._h2.send_window += increment
            if not increment:
                raise RemoteProtocolError("a WINDOW_UPDATE of nothing")
            if self._h2.send_window > frames.WINDOW_SIZE_MAX:
                raise RemoteProtocolError("a WINDOW_UPDATE out of range", code=ErrorCode.FLOW_CONTROL_ERROR)
            self._events.append(events.WindowOpened(0))
            return
        self._check_not_idle(header.stream_id)
        stream = self._h2.streams.get(header.stream_id)
        if stream is None:
            return
        stream.send_window += increment
        if not increment:
            self._provoked_reset(header.stream_id, ErrorCode.PROTOCOL_ERROR)
        elif stream.send_window > frames.WINDOW_SIZE_MAX:
            self._provoked_reset(header.stream_id, ErrorCode.FLOW_CONTROL_ERROR)
        else:
            self._events.append(events.WindowOpened(header.stream_id))

    # --- the connection ---------------------------------------------------------------------------

    def _on_priority(self, header: FrameHeader, payload: bytes) -> None:
        if not header.stream_id:
            raise RemoteProtocolError("a PRIORITY without a stream")
        self._h2.guard.control_frame(now=self._now)
        itself = int.from_bytes(payload[:4], "big") & frames.STREAM_ID_MASK == header.stream_id
        if itself and header.stream_id in self._h2.streams:
            self._provoked_reset(header.stream_id, ErrorCode.PROTOCOL_ERROR)

    def _on_push_promise(self, _header: FrameHeader, _payload: bytes) -> None:
        raise RemoteProtocolError("PUSH_PROMISE, which we did not enable")

    def _on_ping(self, header: FrameHeader, payload: bytes) -> None:
        if header.stream_id:
            raise RemoteProtocolError("a PING on a stream")
        self._h2.guard.control_frame(now=self._now)
        if header.flags & frames.ACK:
            self._events.append(events.PingAnswered(payload))
        else:
            self._h2.output.answer(FrameType.PING, frames.ACK, 0, payload)

    def _on_goaway(self, header: FrameHeader, payload: bytes) -> None:
        if header.stream_id or len(payload) < _GOAWAY_BYTES:
            raise RemoteProtocolError("a malformed GOAWAY")
        self._h2.guard.control_frame(now=self._now)
        last = int.from_bytes(payload[:4], "big") & frames.STREAM_ID_MASK
        code = ErrorCode.from_wire(int.from_bytes(payload[4:_GOAWAY_BYTES], "big"))
        if self._h2.role is Role.CLIENT:  # what lies behind *last* was not processed at all (RFC 9113 §6.8)
            for stream in [stream for stream in self._h2.streams.values() if stream.stream_id > last]:
                self._h2.drop_stream(stream)
                self._events.append(events.StreamAborted(stream.stream_id, ErrorCode.REFUSED_STREAM))
        self._events.append(events.GoneAway(code, last, payload[_GOAWAY_BYTES : _GOAWAY_BYTES + _DEBUG_MAX]))

    def _on_settings(self, header: FrameHeader, payload: bytes) -> None:
        if header.stream_id:
            raise RemoteProtocolError("SETTINGS on a stream")
        self._h2.guard.control_frame(now=self._now)
        if header.flags & frames.ACK:
            if not self._settings_seen:
                raise RemoteProtocolError("an acknowledgement ahead of the first SETTINGS")
            if payload:
                raise RemoteProtocolError("a SETTINGS acknowledgement with a payload")
            return
        self._settings_seen = True
        for key, value in frames.parse_settings_untrusted(payload):
            self._apply(key, value)
        self._h2.output.answer(FrameType.SETTINGS, frames.ACK, 0)

    def _apply(self, key: int, value: int) -> None:
        if key == Setting.MAX_CONCURRENT_STREAMS:
            self._h2.peer_stream_limit = min(value, limits.STREAMS_ON_CARRIER)
            self._events.append(events.WindowOpened(0))
        elif key == Setting.INITIAL_WINDOW_SIZE:
            if value > frames.WINDOW_SIZE_MAX:
                raise RemoteProtocolError("an initial window out of range", code=ErrorCode.FLOW_CONTROL_ERROR)
            self._shift_windows(value - self._h2.initial_send_window)
            self._h2.initial_send_window = value
        elif key == Setting.MAX_FRAME_SIZE:
            if value not in _FRAME_SIZES:
                raise RemoteProtocolError("a frame size out of range")
            self._h2.frame_limit = min(value, limits.FRAME_MAX)
        elif key == Setting.ENABLE_PUSH and value > (self._h2.role is Role.SERVER):
            raise RemoteProtocolError("SETTINGS_ENABLE_PUSH out of range")  # a server may only say 0

    def _shift_windows(self, delta: int) -> None:
        for stream in self._h2.streams.values():
            stream.send_window += delta
            if stream.send_window > frames.WINDOW_SIZE_MAX:
                raise RemoteProtocolError("a window out of range", code=ErrorCode.FLOW_CONTROL_ERROR)
        if delta > 0:
            self._events.append(events.WindowOpened(0))
