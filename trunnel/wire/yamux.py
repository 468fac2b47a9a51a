"""A yamux connection: the receiving half, frames in, events out.

Whatever breaks the protocol raises `RemoteProtocolError`; the connection is
then finished, and GO_AWAY says so.  A frame for a stream that has ended may
have crossed that end, or come of a peer that closes while it writes: it is
dropped.  DATA may be as much as the stream had credit for when we reset it;
more, and any other frame that nobody owed us, counts with the guard.

DATA is passed on as it arrives, one copy, none when a read holds nothing else:
a frame of 256 KiB never waits in a buffer.  Its length is judged against the
stream's credit before a byte of it is looked at.

Numbers of streams may come in any order within `YAMUX_BACKLOG`: the reference
implementation draws them before it queues the frame.
"""

from __future__ import annotations

from typing import Final, final

from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.settings import limits
from trunnel.wire import muxevents as events
from trunnel.wire import yamux_frames as frames
from trunnel.wire.muxevents import MuxEvent, Role
from trunnel.wire.yamux_frames import ACK, FIN, HEADER_BYTES, RST, SYN, FrameHeader, FrameType, GoAwayCode
from trunnel.wire.yamux_session import INITIAL_WINDOW, StreamState, YamuxSession

_GOODBYES: Final[dict[int, ErrorCode]] = {
    GoAwayCode.NORMAL: ErrorCode.NO_ERROR,
    GoAwayCode.PROTOCOL_ERROR: ErrorCode.PROTOCOL_ERROR,
}
"""What GO_AWAY says; every other code is INTERNAL_ERROR."""


@final
class YamuxConnection(YamuxSession):
    """One end of a yamux connection; see `YamuxSession` for what it sends."""

    def __init__(
        self, role: Role, *, now: float, window_max: int = limits.STREAM_WINDOW_MAX, accepting: bool = True
    ) -> None:
        """Begin a connection.

        Args:
            role: As in `YamuxSession`, and so are *now* and *window_max*.
            now: Seconds on a monotonic clock.
            window_max: Bytes.
            accepting: Whether the peer may open streams; if not, one that does breaks the protocol.
        """
        super().__init__(role, now=now, window_max=window_max)
        self._accepting = accepting
        self._head = b""  # a header that a read has cut
        self._left = 0  # payload bytes of the current DATA frame that have not come
        self._header = FrameHeader(0, 0, 0, 0)  # of that frame
        self._highest_seen = 0
        self._skipped: dict[int, None] = {}  # ids below it that the peer may still use, in order
        self._events: list[MuxEvent] = []
        self._now = now

    def feed_untrusted(self, chunk: bytes, *, now: float) -> list[MuxEvent]:
        """Parse *chunk* and return what happened, in order.

        Args:
            chunk: Bytes as they came; any split of the same bytes gives the
                same events once `BytesReceived` are joined.
            now: Seconds on a monotonic clock.

        Raises:
            RemoteProtocolError: The peer broke the protocol or floods; the
                connection is finished, nothing of it may be used but
                `go_away` and `output`.
        """
        self._now = now
        self._events = []
        at, total = 0, len(chunk)
        while at < total:
            if self._left:
                end = min(total, at + self._left)
                self._left -= end - at
                self._on_payload(chunk[at:end])
                at = end
            elif self._head or total - at < HEADER_BYTES:
                missing = HEADER_BYTES - len(self._head)
                self._head += chunk[at : at + missing]
                at += missing
                if len(self._head) == HEADER_BYTES:
                    head, self._head = self._head, b""
                    self._on_frame(frames.parse_header_untrusted(head))
            else:
                self._on_frame(frames.parse_header_untrusted(chunk, at))
                at += HEADER_BYTES
        return self._events

    def _on_frame(self, header: FrameHeader) -> None:
        if header.kind <= FrameType.WINDOW_UPDATE:
            self._on_stream_frame(header)
        elif header.kind == FrameType.PING:
            self._on_ping(header)
        else:
            self._on_go_away(header)
        if self.output.answers > limits.UNSENT_CONTROL_MAX or self.output.pending > limits.UNSENT_OUTPUT_MAX:
            raise RemoteProtocolError("the peer does not read our answers", code=ErrorCode.ENHANCE_YOUR_CALM)

    # --- streams ----------------------------------------------------------------------------------

    def _on_stream_frame(self, header: FrameHeader) -> None:
        if header.flags & SYN:
            self._on_syn(header.stream_id)
        stream = self.streams.get(header.stream_id)
        if header.kind == FrameType.DATA:
            self._begin_payload(header, stream)
        if stream is None:
            self._on_stray(header)
            return
        if header.flags & ACK:
            self._on_ack(stream)
        if header.flags & RST:
            self._on_rst(header, stream)
            return
        if header.kind == FrameType.WINDOW_UPDATE:
            self._on_window_update(header, stream)
        if header.flags & FIN and not self._left:
            self._on_fin(stream)

    def _begin_payload(self, header: FrameHeader, stream: StreamState | None) -> None:
        """Take a DATA frame's length from the stream's credit, or from what may come late."""
        self._header = header
        self._left = header.length
        if stream is not None and not stream.they_ended:
            stream.receive_left -= header.length
            if stream.receive_left < 0:
                raise RemoteProtocolError("more than the stream's credit", code=ErrorCode.FLOW_CONTROL_ERROR)
            if not header.length and not header.flags:
                self.guard.control_frame(now=self._now)
            return
        if header.length > max(self._window_max, INITIAL_WINDOW):
            raise RemoteProtocolError("more than any stream's credit", code=ErrorCode.FLOW_CONTROL_ERROR)
        if header.length and header.stream_id in self.lingering:
            self._stop_lingering(header.stream_id)
        if 0 < header.length <= self.late_credit:
            self.late_credit -= header.length
        else:
            self.guard.control_frame(now=self._now)

    def _on_payload(self, payload: bytes) -> None:
        stream_id = self._header.stream_id
        stream = self.streams.get(stream_id)
        if stream is None or stream.they_ended:
            if stream_id in self.lingering:  # it began to linger inside this frame
                self._stop_lingering(stream_id)
        elif self.unread + len(payload) > limits.YAMUX_UNREAD_MAX:
            self.reset(stream_id, ErrorCode.SLOW_CONSUMER)
            self._events.append(events.StreamAborted(stream_id, ErrorCode.SLOW_CONSUMER))
        else:
            stream.received = True
            self.unread += len(payload)
            self._events.append(events.BytesReceived(stream_id, payload))
            if not self._left and self._header.flags & FIN:
                self._on_fin(stream)

    def _on_syn(self, stream_id: int) -> None:
        self._use_id(stream_id)
        if not self._accepting:
            raise RemoteProtocolError("a stream of the side that opens none")
        if self.refusing:  # it may not have read our GO_AWAY yet
            self.guard.control_frame(now=self._now)
            self._refuse(stream_id)
        elif len(self.streams) >= limits.STREAMS_ON_CARRIER:
            self.guard.reset_without_work(now=self._now)
            self._refuse(stream_id)
        else:
            self._add_stream(stream_id, ours=False, now=self._now)
            self._events.append(events.StreamOpened(stream_id))

    def _use_id(self, stream_id: int) -> None:
        """Note that the peer opens a stream; refuse a number of ours, or one that it has used."""
        if self._is_ours(stream_id):
            raise RemoteProtocolError("a stream with a number of ours")
        if stream_id in self._skipped:
            del self._skipped[stream_id]
            return
        if stream_id <= self._highest_seen:
            raise RemoteProtocolError("a stream with a number that was used")
        first = self._highest_seen + 2 if self._highest_seen else 2 - stream_id % 2
        self._highest_seen = stream_id
        for skipped in range(max(first, stream_id - 2 * limits.YAMUX_BACKLOG), stream_id, 2):
            self._skipped[skipped] = None
        while len(self._skipped) > limits.YAMUX_BACKLOG:
            del self._skipped[next(iter(self._skipped))]

    def _is_ours(self, stream_id: int) -> bool:
        return stream_id % 2 == self._next_id % 2

    def _on_stray(self, header: FrameHeader) -> None:
        """Take a frame for a stream that is closed, lingers, or was just refused."""
        stream_id = header.stream_id
        idle = stream_id >= self._next_id if self._is_ours(stream_id) else stream_id > self._highest_seen
        if idle or stream_id in self._skipped:
            raise RemoteProtocolError("a frame for a stream that is idle")
        if stream_id in self.lingering and header.flags & (FIN | RST):
            del self.lingering[stream_id]
        elif header.kind == FrameType.WINDOW_UPDATE and not header.flags & SYN:
            self.guard.control_frame(now=self._now)

    def _on_ack(self, stream: StreamState) -> None:
        if not stream.ours:
            raise RemoteProtocolError("an ACK of a stream that we did not open")
        if stream.acknowledged:
            self.guard.control_frame(now=self._now)
            return
        waiting = self.backlogged
        self._acknowledge(stream)
        if waiting:
            self._events.append(events.WindowOpened(0))

    def _on_window_update(self, header: FrameHeader, stream: StreamState) -> None:
        if not header.flags:
            self.guard.control_frame(now=self._now)
        if not header.length:
            return
        stream.send_window += header.length
        if stream.send_window > frames.WINDOW_SIZE_MAX:
            raise RemoteProtocolError("a window out of range", code=ErrorCode.FLOW_CONTROL_ERROR)
        self._events.append(events.WindowOpened(stream.stream_id))

    def _on_fin(self, stream: StreamState) -> None:
        if stream.they_ended:
            self.guard.control_frame(now=self._now)
            return
        stream.they_ended = True
        self._events.append(events.StreamEnded(stream.stream_id))
        self._close_if_ended(stream)

    def _on_rst(self, header: FrameHeader, stream: StreamState) -> None:
        said = header.length if header.kind == FrameType.WINDOW_UPDATE else 0
        code = ErrorCode.from_wire(said)
        if code is ErrorCode.NO_ERROR and not stream.they_ended:
            code = ErrorCode.CANCEL
        self._drop_stream(stream)
        if not stream.ours and not stream.received:
            # A stream without payload was opened for nothing.  Ours are one reset each at most, and visitors open them.
            self.guard.reset_without_work(now=self._now)
        self._events.append(events.StreamAborted(stream.stream_id, code))

    # --- the session ------------------------------------------------------------------------------

    def _on_ping(self, header: FrameHeader) -> None:
        self.guard.control_frame(now=self._now)
        if header.flags == SYN:
            self.output.answer(FrameType.PING, ACK, 0, header.length)
        elif header.flags == ACK:
            self._events.append(events.PingAnswered(header.length.to_bytes(4, "big")))
        else:
            raise RemoteProtocolError("a ping that neither asks nor answers")

    def _on_go_away(self, header: FrameHeader) -> None:
        if header.flags:
            raise RemoteProtocolError("a GO_AWAY with flags")
        self.guard.control_frame(now=self._now)
        code = _GOODBYES.get(header.length, ErrorCode.INTERNAL_ERROR)
        self._events.append(events.GoneAway(code, self._highest_seen, b""))
