"""The state of one HTTP/2 connection and what we send on it (RFC 9113), sans-IO.

Of HTTP/2 this speaks exactly what `wire/PROTOCOL.md` asks: the relay is the
client and opens streams with one fixed request, the agent answers 200, both
send DATA until they end or reset.  No push, no priorities, no trailers of our
own; whatever a legal peer may send besides is understood (`h2_receive`).

Receive credit is given back by consumption: `consumed` for bytes that were
read, `discard` for bytes nobody will read.  Outgoing frames gather in one
buffer that a single writer takes, so frames leave in the order of the calls.

A stream's states (RFC 9113 §5.1), by what has ended:

    open --we end--> half-closed (local) --peer ends--> closed
    open --peer ends--> half-closed (remote) --we end--> closed
    any --RST_STREAM either way--> closed

A closed stream leaves `streams` at once.
"""

from __future__ import annotations

from typing import Final, final

from trunnel.errors import ErrorCode, LocalProtocolError
from trunnel.settings import limits
from trunnel.transports import h2_frames as frames
from trunnel.transports.h2_frames import FrameType, FrameWriter, Setting
from trunnel.wire.credit import CreditBudget, ReceiveWindow
from trunnel.wire.flood import FloodGuard
from trunnel.wire.muxevents import Role

__all__ = ["CREDIT_STEP", "DEFAULT_FRAME", "DEFAULT_WINDOW", "H2Connection", "Role", "StreamState"]

DEFAULT_WINDOW: Final = 65_535
"""Initial windows of RFC 9113 §6.9.2."""
DEFAULT_FRAME: Final = 16_384
"""Initial SETTINGS_MAX_FRAME_SIZE."""
CREDIT_STEP: Final = limits.SESSION_CREDIT // 16
"""Bytes of connection credit that are returned at once.  Less than what `SESSION_PRESSURE` leaves free: else
stalled streams could hold so much that the others' credit never adds up to an update, and all stand still."""
REQUEST_PATH: Final = b"/trunnel"
_RESPONSE_BLOCK: Final = b"\x88"  # :status 200, static table entry 8 (RFC 7541 appendix A)
_METHOD_POST: Final = b"\x83"  # static table entry 3
_SCHEME_HTTPS: Final = b"\x87"  # static table entry 7
_PATH_INDEX: Final = 4
_AUTHORITY_INDEX: Final = 1
_LITERAL_MAX: Final = 126  # one length byte without Huffman (RFC 7541 §5.2)


@final
class StreamState:
    """What the connection knows of one open stream."""

    __slots__ = (
        "answered",
        "receive_left",
        "received",
        "returned",
        "send_window",
        "sent",
        "stream_id",
        "they_ended",
        "we_ended",
        "window",
    )

    def __init__(self, stream_id: int, *, send_window: int, window: ReceiveWindow) -> None:
        self.stream_id = stream_id
        self.send_window = send_window
        """Bytes we may send; negative after SETTINGS shrank it (RFC 9113 §6.9.2)."""
        self.window = window
        self.receive_left = window.size
        """Bytes the peer may still send."""
        self.returned = 0
        """Bytes consumed whose credit has not been sent yet."""
        self.sent = False
        """Whether payload went out."""
        self.received = False
        """Whether payload came in."""
        self.answered = False
        """Whether the response has come (client)."""
        self.we_ended = False
        self.they_ended = False


def _literal(index: int, value: bytes) -> bytes:
    """Encode a header with an indexed name, without indexing (RFC 7541 §6.2.2)."""
    if len(value) > _LITERAL_MAX:
        raise LocalProtocolError("a header value that is too long")
    return bytes((index, len(value))) + value


@final
class H2Connection:
    """State and sending half of one HTTP/2 connection; see the module's head."""

    def __init__(
        self, role: Role, *, now: float, authority: str = "relay", window_max: int = limits.STREAM_WINDOW_MAX
    ) -> None:
        """Queue the preface, our settings and the connection's credit.

        Args:
            role: Which end we are.
            now: Seconds on a monotonic clock.
            authority: `:authority` of our requests (client only).
            window_max: Bytes to which a stream's receive window may grow.
        """
        self.role = role
        self.streams: dict[int, StreamState] = {}
        """Streams that have not ended both ways."""
        self.guard = FloodGuard(now=now)
        self.round_trip = 0.0
        """Seconds; set by the owner from its pings, tunes the windows."""
        self.peer_stream_limit = limits.STREAMS_PER_SESSION
        """Streams the peer lets us have open."""
        self.initial_send_window = DEFAULT_WINDOW
        self.send_window = DEFAULT_WINDOW
        """Bytes we may send on all streams together."""
        self.frame_limit = DEFAULT_FRAME
        """Bytes of payload in the largest frame that we send."""
        self.receive_left = limits.SESSION_CREDIT
        """Bytes the peer may still send on all streams together."""
        self.late_credit = 0
        """Bytes that may still be under way on streams that we reset."""
        self.highest_seen = 0
        """The highest stream id that the peer opened."""
        self.refusing = False
        """Whether we told the peer to open no more streams."""
        self._window_max = window_max
        self._budget = CreditBudget()
        self._request = (
            _METHOD_POST
            + _SCHEME_HTTPS
            + _literal(_PATH_INDEX, REQUEST_PATH)
            + _literal(_AUTHORITY_INDEX, authority.encode("ascii"))
        )
        self._returned = 0
        self._next_id = 1
        self.output = FrameWriter()
        """What the session's writer takes."""
        self._start()

    def _start(self) -> None:
        settings = {
            Setting.INITIAL_WINDOW_SIZE: limits.STREAM_WINDOW_MIN,
            Setting.MAX_FRAME_SIZE: limits.FRAME_MAX,
            Setting.MAX_HEADER_LIST_SIZE: limits.HEADER_LIST_MAX,
        }
        if self.role is Role.CLIENT:
            self.output.put(frames.PREFACE)
            settings[Setting.ENABLE_PUSH] = 0
        else:
            settings[Setting.MAX_CONCURRENT_STREAMS] = limits.STREAMS_ON_CARRIER
        self.output.put(frames.encode_settings(settings))
        self._window_update(0, limits.SESSION_CREDIT - DEFAULT_WINDOW)

    @property
    def exhausted(self) -> bool:
        """Whether all stream ids are used up: a billion streams."""
        return self._next_id > frames.STREAM_ID_MASK

    @property
    def highest_opened(self) -> int:
        """The highest stream id that we opened, or 0."""
        return max(0, self._next_id - 2)

    # --- streams ----------------------------------------------------------------------------------

    def _window_update(self, stream_id: int, increment: int) -> None:
        self.output.frame(FrameType.WINDOW_UPDATE, 0, stream_id, increment.to_bytes(4, "big"))

    def _add_stream(self, stream_id: int, *, now: float) -> StreamState:
        """Book a new stream, ours or the peer's."""
        window = ReceiveWindow(self._budget, maximum=self._window_max, now=now)
        stream = StreamState(stream_id, send_window=self.initial_send_window, window=window)
        self.streams[stream_id] = stream
        return stream

    def open_stream(self, *, now: float) -> int:
        """Open a stream and return its id (client).

        Raises:
            LocalProtocolError: We are the server, or ids are used up.
        """
        if self.role is not Role.CLIENT or self.exhausted:
            raise LocalProtocolError("no stream can be opened here")
        stream_id = self._next_id
        self._next_id += 2
        self._add_stream(stream_id, now=now)
        self.output.frame(FrameType.HEADERS, frames.END_HEADERS, stream_id, self._request)
        return stream_id

    def accept_stream(self, stream_id: int, *, now: float) -> None:
        """Book a stream of the peer and answer its request with 200 (server)."""
        self._add_stream(stream_id, now=now)
        self.output.answer(FrameType.HEADERS, frames.END_HEADERS, stream_id, _RESPONSE_BLOCK)

    def sendable(self, stream_id: int) -> int:
        """Return how many bytes may be sent on a stream now, at least 0."""
        stream = self.streams.get(stream_id)
        if stream is None or stream.we_ended:
            return 0
        return max(0, min(stream.send_window, self.send_window))

    def send(self, stream_id: int, payload: memoryview) -> int:
        """Queue one DATA frame with as much of *payload* as credit and frame size allow.

        Returns the bytes taken; 0 means that the windows are closed.
        """
        amount = min(len(payload), self.sendable(stream_id), self.frame_limit)
        if amount:
            stream = self.streams[stream_id]
            stream.sent = True
            stream.send_window -= amount
            self.send_window -= amount
            self.output.put(frames.encode_header(amount, FrameType.DATA, 0, stream_id))
            self.output.put(payload[:amount])
            self.guard.sent(amount)
        return amount

    def end(self, stream_id: int) -> None:
        """Queue our FIN on a stream; no effect if it has ended."""
        stream = self.streams.get(stream_id)
        if stream is not None and not stream.we_ended:
            stream.we_ended = True
            self.output.frame(FrameType.DATA, frames.END_STREAM, stream_id)
            self.close_if_ended(stream)

    def reset(self, stream_id: int, code: ErrorCode) -> bool:
        """Queue RST_STREAM for a stream that has not ended; whether there was one."""
        stream = self.streams.get(stream_id)
        if stream is None:
            return False
        self.output.frame(FrameType.RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))
        if not stream.they_ended:
            self._allow_late(stream.receive_left)
        self.drop_stream(stream)
        return True

    def refuse(self, stream_id: int, code: ErrorCode) -> None:
        """Answer a stream of the peer, or a frame for one that has ended, with RST_STREAM."""
        self._allow_late(limits.STREAM_WINDOW_MIN)
        self.output.answer(FrameType.RST_STREAM, 0, stream_id, code.to_bytes(4, "big"))

    def _allow_late(self, amount: int) -> None:
        """Expect bytes of a stream that we reset; the connection's credit bounds what can be under way."""
        self.late_credit = min(limits.SESSION_CREDIT, self.late_credit + amount)

    def close_if_ended(self, stream: StreamState) -> None:
        """Forget a stream once both sides have ended it."""
        if stream.we_ended and stream.they_ended:
            if stream.sent and stream.received:
                self.guard.worked()
            self.drop_stream(stream)

    def drop_stream(self, stream: StreamState) -> None:
        """Forget a stream."""
        del self.streams[stream.stream_id]
        stream.window.release()
        if stream.sent or stream.received:
            self.guard.ended()

    # --- credit -----------------------------------------------------------------------------------

    def consumed(self, stream_id: int, amount: int, *, unread: int | None, now: float) -> None:
        """Give back credit for bytes that a consumer took.

        Args:
            stream_id: The stream; one that has ended gives connection credit only.
            amount: Bytes taken.
            unread: Bytes of the stream that still lie unread; None for padding,
                which is no sign of a consumer that keeps pace.
            now: Seconds on a monotonic clock.
        """
        self.discard(amount)
        stream = self.streams.get(stream_id)
        if stream is None or stream.they_ended:
            return
        stream.returned += amount
        if unread is not None:
            stream.returned += stream.window.consumed(amount, unread=unread, now=now, round_trip=self.round_trip)
        if stream.returned >= stream.window.step(self.round_trip):
            stream.receive_left += stream.returned
            self._window_update(stream_id, stream.returned)
            stream.returned = 0

    def discard(self, amount: int) -> None:
        """Give connection credit back for bytes that need no consumer any more."""
        self._returned += amount
        if self._returned >= CREDIT_STEP:
            self.receive_left += self._returned
            self._window_update(0, self._returned)
            self._returned = 0

    # --- the connection ---------------------------------------------------------------------------

    def go_away(self, code: ErrorCode, reason: str = "") -> None:
        """Queue a GOAWAY: open streams go on, new ones of the peer are refused."""
        self.refusing = True
        body = self.highest_seen.to_bytes(4, "big") + code.to_bytes(4, "big") + reason.encode("ascii", "replace")
        self.output.frame(FrameType.GOAWAY, 0, 0, body)
