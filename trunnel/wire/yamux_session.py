"""The state of one yamux session and what we send on it, sans-IO.

yamux (hashicorp/yamux, `spec.md`) is the leanest multiplexer: twelve bytes a
frame, a window for each stream, none for the session.  Both ends may open
streams, the client those with odd numbers.  What the specification leaves
open, and we settle (`wire/PROTOCOL.md`, "yamux"):

- **Why a stream was reset** goes into the length of the WINDOW_UPDATE that
  carries RST: `ErrorCode`.  Others send 0: CANCEL, or after their FIN
  NO_ERROR ("content").  To others ours is credit for a stream that is gone.
- **A stream is acknowledged when somebody accepts it**, as others do: what an
  opener has in its backlog is what nobody has taken yet.
- **Wanting no more of a peer that has not ended** is said by RST(NO_ERROR)
  when it sends again, not at once: an RST makes other implementations drop
  what they have not read, our last words included.  Only a peer that used up
  its credit is told at once; it would wait for ever.  Such streams *linger*;
  beyond `YAMUX_LINGERING_MAX` the oldest is told anyway.

A stream's states, by what has ended:

    open --we end--> half-closed (local) --peer ends--> closed
    open --peer ends--> half-closed (remote) --we end--> closed
    any --RST either way--> closed          half-closed (local) --NO_ERROR--> lingering --> closed

Closed and lingering streams are not in `streams`.  The specification gives
each stream 256 KiB of credit; `CreditBudget` bounds what windows grow beyond
that, and `YAMUX_UNREAD_MAX` what may lie unread in all.
"""

from __future__ import annotations

from typing import Final, final

from trunnel.errors import ErrorCode, LocalProtocolError
from trunnel.settings import limits
from trunnel.wire.credit import CreditBudget, ReceiveWindow
from trunnel.wire.flood import FloodGuard
from trunnel.wire.muxevents import Role
from trunnel.wire.yamux_frames import ACK, FIN, RST, STREAM_ID_MAX, SYN, FrameType, FrameWriter, GoAwayCode

INITIAL_WINDOW: Final = 256 * limits.KIB
"""Bytes that either side may send on a new stream."""
_PING: Final = 0x7472_6E6C  # "trnl"; the driver has one under way at a time
_OUR_MISTAKES: Final = frozenset({ErrorCode.INTERNAL_ERROR, ErrorCode.DEADLINE, ErrorCode.CANCEL, ErrorCode.DRAINING})
"""Codes that do not blame the peer; but for NO_ERROR the others do."""


def go_away_code(code: ErrorCode) -> GoAwayCode:
    """Return what GO_AWAY says for *code*: it knows three reasons."""
    if code is ErrorCode.NO_ERROR:
        return GoAwayCode.NORMAL
    return GoAwayCode.INTERNAL_ERROR if code in _OUR_MISTAKES else GoAwayCode.PROTOCOL_ERROR


@final
class StreamState:
    """What the session knows of one open stream."""

    __slots__ = (
        "acknowledged",
        "ours",
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

    def __init__(self, stream_id: int, *, ours: bool, window: ReceiveWindow) -> None:
        self.stream_id = stream_id
        self.ours = ours
        """Whether we opened it."""
        self.acknowledged = False
        """Whether the other end has acknowledged that one end opened it."""
        self.window = window
        self.send_window = INITIAL_WINDOW
        """Bytes we may send."""
        self.receive_left = INITIAL_WINDOW
        """Bytes the peer may still send."""
        self.returned = 0
        """Bytes consumed whose credit has not been sent yet."""
        self.sent = False
        """Whether payload went out."""
        self.received = False
        """Whether payload came in."""
        self.we_ended = False
        self.they_ended = False


class YamuxSession:
    """State and sending half; `yamux.YamuxConnection` adds the receiving half."""

    def __init__(self, role: Role, *, now: float, window_max: int = limits.STREAM_WINDOW_MAX) -> None:
        """Begin a session; yamux has no greeting.

        Args:
            role: Which end we are.
            now: Seconds on a monotonic clock.
            window_max: Bytes to which a stream's receive window may grow.
        """
        self.role = role
        self.streams: dict[int, StreamState] = {}
        """Streams that have not ended both ways."""
        self.lingering: dict[int, int] = {}
        """Streams that we have done with and the peer has not -> bytes it may still send, the oldest first."""
        self.guard = FloodGuard(now=now)
        self.round_trip = 0.0
        """Seconds; set by the owner from its pings, tunes the windows."""
        self.unread = 0
        """Bytes reported and neither consumed nor discarded, all streams together."""
        self.late_credit = 0
        """Bytes that may still be under way on streams that we reset."""
        self.refusing = False
        """Whether we told the peer to open no more streams."""
        self.output = FrameWriter()
        """What the session's writer takes."""
        self._window_max = window_max
        self._budget = CreditBudget()
        self._next_id = 1 if role is Role.CLIENT else 2
        self._unacknowledged = 0  # streams of ours

    @property
    def exhausted(self) -> bool:
        """Whether all our stream ids are used up: two billion streams."""
        return self._next_id > STREAM_ID_MAX

    @property
    def peer_stream_limit(self) -> int:
        """Streams that may be open: none more while `YAMUX_BACKLOG` wait for the peer's acknowledgement."""
        return len(self.streams) if self.backlogged else limits.STREAMS_ON_CARRIER

    @property
    def backlogged(self) -> bool:
        """Whether the peer must acknowledge streams before we open another."""
        return self._unacknowledged >= limits.YAMUX_BACKLOG

    # --- streams ----------------------------------------------------------------------------------

    def _add_stream(self, stream_id: int, *, ours: bool, now: float) -> None:
        window = ReceiveWindow(self._budget, maximum=self._window_max, now=now)
        self._budget.grant(-window.size)  # it is for growth: the opening window is the specification's gift
        window.size = INITIAL_WINDOW
        self.streams[stream_id] = StreamState(stream_id, ours=ours, window=window)

    def open_stream(self, *, now: float) -> int:
        """Open a stream and return its id.

        Raises:
            LocalProtocolError: Ids are used up, or too many streams wait for the peer.
        """
        if self.exhausted or self.backlogged:
            raise LocalProtocolError("no stream can be opened here")
        stream_id = self._next_id
        self._next_id += 2
        self._unacknowledged += 1
        self._add_stream(stream_id, ours=True, now=now)
        self.output.frame(FrameType.WINDOW_UPDATE, SYN, stream_id, 0)
        return stream_id

    def accepted(self, stream_id: int) -> None:
        """Acknowledge a stream of the peer: somebody has taken it, its opener's backlog has room again."""
        stream = self.streams.get(stream_id)
        if stream is not None and not stream.ours and not stream.acknowledged:
            stream.acknowledged = True
            self.output.answer(FrameType.WINDOW_UPDATE, ACK, stream_id, 0)

    def sendable(self, stream_id: int) -> int:
        """Return how many bytes may be sent on a stream now."""
        stream = self.streams.get(stream_id)
        return 0 if stream is None or stream.we_ended else stream.send_window

    def send(self, stream_id: int, payload: memoryview) -> int:
        """Queue one DATA frame with as much of *payload* as credit and `YAMUX_FRAME_MAX` allow.

        Returns the bytes taken; 0 means that the window is closed.
        """
        amount = min(len(payload), self.sendable(stream_id), limits.YAMUX_FRAME_MAX)
        if amount:
            stream = self.streams[stream_id]
            stream.sent = True
            stream.send_window -= amount
            self.output.data(stream_id, payload[:amount])
            self.guard.sent(amount)
        return amount

    def end(self, stream_id: int) -> None:
        """Queue our FIN on a stream; no effect if it has ended."""
        stream = self.streams.get(stream_id)
        if stream is not None and not stream.we_ended:
            stream.we_ended = True
            self.output.frame(FrameType.WINDOW_UPDATE, FIN, stream_id, 0)
            self._close_if_ended(stream)

    def reset(self, stream_id: int, code: ErrorCode) -> bool:
        """Abort a stream that has not ended; whether there was one.

        NO_ERROR behind our FIN means "no more of this, please": see the
        module's head.
        """
        stream = self.streams.get(stream_id)
        if stream is None:
            return False
        if code is ErrorCode.NO_ERROR and stream.we_ended and stream.receive_left:
            self._linger(stream)
        else:
            self.output.frame(FrameType.WINDOW_UPDATE, RST, stream_id, code)
            if not stream.they_ended:
                self.late_credit += stream.receive_left
        self._drop_stream(stream)
        return True

    def _linger(self, stream: StreamState) -> None:
        self.lingering[stream.stream_id] = stream.receive_left
        if len(self.lingering) > limits.YAMUX_LINGERING_MAX:
            self._stop_lingering(next(iter(self.lingering)))

    def _stop_lingering(self, stream_id: int) -> None:
        """Tell the peer that nobody reads a stream."""
        self.late_credit += self.lingering.pop(stream_id)
        self.output.answer(FrameType.WINDOW_UPDATE, RST, stream_id, ErrorCode.NO_ERROR)

    def _refuse(self, stream_id: int) -> None:
        """Answer the peer's opening of a stream with RST."""
        self.late_credit += INITIAL_WINDOW
        self.output.answer(FrameType.WINDOW_UPDATE, RST, stream_id, ErrorCode.REFUSED_STREAM)

    def _close_if_ended(self, stream: StreamState) -> None:
        """Forget a stream once both sides have ended it."""
        if stream.we_ended and stream.they_ended:
            if stream.sent and stream.received:
                self.guard.worked()
            self._drop_stream(stream)

    def _drop_stream(self, stream: StreamState) -> None:
        """Forget a stream."""
        del self.streams[stream.stream_id]
        self._acknowledge(stream)
        stream.window.release()
        self._budget.grant(INITIAL_WINDOW)
        if stream.sent or stream.received:
            self.guard.ended()

    def _acknowledge(self, stream: StreamState) -> None:
        """Note that a stream of ours is no longer in the peer's backlog."""
        if stream.ours and not stream.acknowledged:
            stream.acknowledged = True
            self._unacknowledged -= 1

    # --- credit -----------------------------------------------------------------------------------

    def consumed(self, stream_id: int, amount: int, *, unread: int | None, now: float) -> None:
        """Give back credit for bytes that a consumer took.

        Args:
            stream_id: The stream, which may have ended.
            amount: Bytes taken.
            unread: Bytes of the stream that still lie unread; None if that
                says nothing of the consumer's pace.
            now: Seconds on a monotonic clock.
        """
        self.unread -= amount
        stream = self.streams.get(stream_id)
        if stream is None or stream.they_ended:
            return
        stream.returned += amount
        if unread is not None:
            stream.returned += stream.window.consumed(amount, unread=unread, now=now, round_trip=self.round_trip)
        if stream.returned >= stream.window.step(self.round_trip):
            stream.receive_left += stream.returned
            self.output.frame(FrameType.WINDOW_UPDATE, 0, stream_id, stream.returned)
            stream.returned = 0

    def discard(self, amount: int) -> None:
        """Count bytes that need no consumer any more; their stream is gone, and its credit with it."""
        self.unread -= amount

    # --- the session ------------------------------------------------------------------------------

    def ping(self) -> None:
        """Queue a ping."""
        self.output.frame(FrameType.PING, SYN, 0, _PING)

    def go_away(self, code: ErrorCode, reason: str = "") -> None:  # noqa: ARG002 - yamux has no room for it
        """Queue a GO_AWAY: open streams go on, new ones of the peer are refused."""
        self.refusing = True
        self.output.frame(FrameType.GO_AWAY, 0, 0, go_away_code(code))
