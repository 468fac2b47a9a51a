"""The streams of one QUIC connection: who has something to send, what is buffered, what was consumed.

aioquic walks every open stream twice for every packet that it writes.  Here it
is shown only those with work: `StreamTable.values()` gives the streams whose
MAX_STREAM_DATA has to go out, and `StreamTable.next_turn` the streams that can
put bytes, a FIN, a RESET_STREAM or a STOP_SENDING into the next packet, in
turns.  So the work for a packet depends on what is in it, and not on how many
streams are open, idle, or waiting for the peer's credit.

A stream is *queued* while it stands in the order of service or in aioquic's own
list (the turn).  It leaves when it has nothing that could be sent, and every
way in which that can change calls `wake`: a write, a reset, a stop, a frame
declared lost, credit of the peer, the end of both halves (aioquic then forgets
the stream).  `wake` takes an id, because frames of a stream that is forgotten
may still be acknowledged.

Rules of memory (RFC 9000 §2.2, §4.1, §4.6):

- Received: aioquic fills gaps with zeros, up to the credit that we granted; the
  connection's credit counts the highest offsets, gaps included.  Ranges between
  gaps are capped; a packet that would add one more is treated as lost.
- Sent: what nobody acknowledged yet and what was never sent are counted, for
  each stream and for all; `quic_credit` grants room by these figures.
- A half that was reset drops its buffer at once.

The hooks into aioquic that are used here are listed in `quic_credit`.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import math
from collections import deque
from typing import final

from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.events import StreamDataReceived, StreamReset
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicStreamFrame
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender

from trunnel.settings import limits
from trunnel.wire.credit import CreditBudget, ReceiveWindow
from trunnel.wire.flood import FloodGuard


class PacketRefusedError(Exception):
    """This packet is to be treated as lost: it is not acknowledged, the peer sends its content again."""


@final
class SendingHalf(QuicStreamSender):
    """aioquic's sending half, which tells the table what it has to send and what it holds."""

    def __init__(self, stream_id: int, table: StreamTable, *, writable: bool) -> None:
        super().__init__(stream_id, writable)
        self._id = stream_id
        self._table = table
        self.queued = True  # aioquic appends a new stream to its list itself
        self.served = False
        """Whether it put a frame into the present turn's packet."""

    @property
    def unacknowledged(self) -> int:
        """Bytes written and not yet acknowledged; 0 after a reset."""
        return self._buffer_stop - self._buffer_start

    @property
    def unsent(self) -> int:
        """Bytes written and never sent; 0 after a reset."""
        return 0 if self._reset_error_code is not None else self._buffer_stop - self.highest_offset

    @property
    def completed(self) -> bool:
        """Whether all bytes and the FIN were acknowledged."""
        return self.is_finished and self._reset_error_code is None

    @property
    def written(self) -> int:
        """The offset of the next byte to be written."""
        return self._buffer_stop

    def sendable(self, *, limit: int, credit: int) -> int:
        """Return how many bytes could go into a packet now; a FIN alone counts as one.

        Args:
            limit: The offset up to which the peer lets this stream go.
            credit: Bytes never sent before that the peer takes on all streams.
        """
        if self._reset_error_code is not None:
            return 0
        if not len(self._pending):
            return int(self._pending_eof)
        first = self._pending[0]
        return max(0, min(first.stop, limit, self.highest_offset + credit) - first.start)

    def write(self, data: bytes, end_stream: bool = False) -> None:
        """Buffer bytes, and a FIN, for sending."""
        super().write(data, end_stream)
        self._table.buffered += len(data)
        self._table.unsent += len(data)
        self._table.wake(self._id)

    def get_frame(self, max_size: int, max_offset: int | None = None) -> QuicStreamFrame | None:
        """Take a frame of at most *max_size* bytes."""
        before = self.highest_offset
        frame = super().get_frame(max_size, max_offset)
        if frame is not None:
            self.served = True
            self._table.unsent -= self.highest_offset - before
            self._table.progress.add(self._id)
        return frame

    def on_data_delivery(self, delivery: QuicDeliveryState, start: int, stop: int, fin: bool) -> None:
        """Free what was acknowledged; send again what was lost."""
        before = self._buffer_start
        super().on_data_delivery(delivery, start, stop, fin)
        if delivery is QuicDeliveryState.ACKED:
            self._table.buffered -= self._buffer_start - before
            self._table.progress.add(self._id)
            if self.is_finished:
                self._table.wake(self._id)
        else:
            self._table.wake(self._id, first=True)

    def reset(self, error_code: int) -> None:
        """Abort sending; what is buffered is dropped."""
        if self._reset_error_code is None and not self.is_finished:
            self._table.buffered -= self.unacknowledged
            self._table.unsent -= self.unsent
            self._buffer.clear()
            self._buffer_start = self._buffer_stop
        super().reset(error_code)
        self._table.progress.add(self._id)
        self._table.wake(self._id)

    def on_reset_delivery(self, delivery: QuicDeliveryState) -> None:
        """Note that a RESET_STREAM arrived or was lost."""
        super().on_reset_delivery(delivery)
        self._table.wake(self._id)


@final
class ReceivingHalf(QuicStreamReceiver):
    """aioquic's receiving half, with its consumption and a cap on gaps."""

    def __init__(self, stream_id: int, table: StreamTable, *, readable: bool) -> None:
        super().__init__(stream_id, readable)
        self._id = stream_id
        self._table = table
        self.aborted = False
        """Whether the peer ended it by RESET_STREAM."""
        self.consumed = 0
        """Bytes that a consumer took."""
        self.window: ReceiveWindow | None = None
        """Made when a consumer takes its first bytes: an idle stream needs none."""

    def handle_frame(self, frame: QuicStreamFrame) -> StreamDataReceived | None:
        """Take one STREAM frame.

        Raises:
            PacketRefusedError: It would leave too many gaps.
            FinalSizeError: aioquic's, a bad FIN.
            RemoteProtocolError: Too many frames that say nothing.
        """
        if len(self._ranges) >= limits.QUIC_RANGES_MAX and frame.offset > self._buffer_start:
            raise PacketRefusedError("too many gaps in a stream")
        if not frame.data and not frame.fin:
            self._table.guard.control_frame(now=self._table.now)
        event = super().handle_frame(frame)
        if self.is_finished:
            self._table.wake(self._id)
        return event

    def handle_reset(self, *, final_size: int, error_code: int = QuicErrorCode.NO_ERROR) -> StreamReset | None:
        """Take a RESET_STREAM; credit for bytes that will never come is given back.

        Raises:
            FinalSizeError: aioquic's, a bad final size.
            RemoteProtocolError: Too many streams opened and reset for nothing.
        """
        event = super().handle_reset(final_size=final_size, error_code=error_code)
        if event is not None:
            self.aborted = True
            self._buffer.clear()
            self._table.undelivered += self.highest_offset - self._buffer_start
        self._table.wake(self._id)
        if event is not None and final_size <= limits.QUIC_EMPTY_STREAM:
            self._table.guard.reset_without_work(now=self._table.now)
        return event

    def stop(self, error_code: int = QuicErrorCode.NO_ERROR) -> None:
        """Ask the peer to stop sending."""
        super().stop(error_code)
        self._table.wake(self._id)

    def on_stop_sending_delivery(self, delivery: QuicDeliveryState) -> None:
        """Note that a STOP_SENDING arrived or was lost."""
        super().on_stop_sending_delivery(delivery)
        self._table.wake(self._id)


@final
class CryptoHalf(QuicStreamReceiver):
    """The receiving half of a handshake's stream of bytes: capped in length and in gaps."""

    def __init__(self, *, total: int) -> None:
        super().__init__(None, readable=True)
        self._total = total

    def handle_frame(self, frame: QuicStreamFrame) -> StreamDataReceived | None:
        """Take one CRYPTO frame.

        Raises:
            QuicConnectionError: More bytes than any handshake has.
            PacketRefusedError: Too many gaps.
        """
        if frame.offset + len(frame.data) > self._total:
            raise QuicConnectionError(
                error_code=QuicErrorCode.CRYPTO_BUFFER_EXCEEDED,
                frame_type=QuicFrameType.CRYPTO,
                reason_phrase=f"more than {self._total} bytes of handshake",
            )
        if len(self._ranges) >= limits.QUIC_RANGES_MAX and frame.offset > self._buffer_start:
            raise PacketRefusedError("too many gaps in a handshake")
        return super().handle_frame(frame)


@final
class StreamTable(dict[int, QuicStream]):
    """aioquic's table of open streams, with the order in which they are served."""

    def __init__(self, *, parity: int) -> None:
        """Start empty; *parity* is the lowest bit of the ids of our own streams (client 0, server 1)."""
        super().__init__()
        self._parity = parity
        self._waiting: deque[int] = deque()
        self._starved: set[int] = set()
        self.now = -math.inf
        """Seconds: when the packet came that is being read; set by the connection."""
        self.guard = FloodGuard(now=self.now)
        self.undelivered = 0
        """Bytes of credit that reset streams never used; taken by the connection."""
        self.budget = CreditBudget()
        self.announcing: dict[int, QuicStream] = {}
        """Streams whose MAX_STREAM_DATA has to go out."""
        self.progress: set[int] = set()
        """Streams of which bytes were sent or acknowledged, or that got credit, since somebody looked."""
        self.buffered = 0
        """Bytes written and not acknowledged, all streams."""
        self.unsent = 0
        """Bytes written and never sent, all streams."""
        self.opened_here = 0
        """Streams open that we opened."""

    def __setitem__(self, stream_id: int, stream: QuicStream) -> None:
        stream.sender = SendingHalf(stream_id, self, writable=not stream.sender.is_finished)
        stream.receiver = ReceivingHalf(stream_id, self, readable=not stream.receiver.is_finished)
        self.opened_here += stream_id & 1 == self._parity
        super().__setitem__(stream_id, stream)

    def pop(self, stream_id: int) -> QuicStream:  # type: ignore[override]
        """Forget a stream that ended both ways."""
        stream = super().pop(stream_id)
        self.opened_here -= stream_id & 1 == self._parity
        self.announcing.pop(stream_id, None)
        self.progress.add(stream_id)
        sender, receiver = sending_half(stream), receiving_half(stream)
        if receiver.window is not None:
            receiver.window.release()
        if receiver.highest_offset > limits.QUIC_EMPTY_STREAM:
            self.guard.ended()
            if sender.completed and not receiver.aborted:
                self.guard.worked()
        return stream

    def values(self) -> list[QuicStream]:  # type: ignore[override]
        """Return the streams that aioquic has to write MAX_STREAM_DATA for, as many as fit a packet."""
        if not self.announcing:
            return []
        return list(self.announcing.values())[: limits.QUIC_TURN_MAX]

    # --- the order of service ---------------------------------------------------------------------

    def wake(self, stream_id: int, *, first: bool = False) -> None:
        """Queue a stream that has something to send, or that ended.

        Args:
            stream_id: The stream; nothing happens if it is forgotten or queued.
            first: Serve it before the others: it sends again what was lost.
        """
        stream = self.get(stream_id)
        if stream is None:
            return
        sender = sending_half(stream)
        if not sender.queued:
            sender.queued = True
            if first:
                self._waiting.appendleft(stream_id)
            else:
                self._waiting.append(stream_id)

    def wake_starved(self) -> None:
        """Queue the streams that waited for the connection's credit."""
        while self._starved:
            self.wake(self._starved.pop())

    def next_turn(self, last: list[QuicStream], *, credit: int, size: int) -> list[QuicStream]:
        """Choose the streams that fill the next packet.

        Args:
            last: The turn before; those that got nothing come first again.
            credit: Bytes never sent before that the peer takes on all streams.
            size: Bytes that a packet holds.
        """
        waiting = self._waiting
        for stream in reversed(last):
            if stream.stream_id in self:
                sender = sending_half(stream)
                if sender.served:
                    sender.served = False
                    waiting.append(stream.stream_id)
                else:
                    waiting.appendleft(stream.stream_id)
        turn: list[QuicStream] = []
        filled = 0
        while waiting and filled < size and len(turn) < limits.QUIC_TURN_MAX:
            stream_id = waiting.popleft()
            chosen = self[stream_id]
            sender = sending_half(chosen)
            amount = 0 if chosen.is_blocked else sender.sendable(limit=chosen.max_stream_data_remote, credit=credit)
            if amount or sender.reset_pending or chosen.receiver.stop_pending or chosen.is_finished:
                turn.append(chosen)
                filled += amount
            else:
                sender.queued = False
                if sender.unsent and not credit:
                    self._starved.add(stream_id)
        return turn

    @property
    def control_waiting(self) -> bool:
        """Whether frames other than bytes of streams may wait that did not fit the last packet."""
        if self.announcing:
            return True
        stream = self.get(self._waiting[0]) if self._waiting else None
        return stream is not None and (stream.receiver.stop_pending or stream.sender.reset_pending)


def sending_half(stream: QuicStream) -> SendingHalf:
    """Return the sending half that the table gave a stream."""
    assert isinstance(stream.sender, SendingHalf)  # noqa: S101  the table made it
    return stream.sender


def receiving_half(stream: QuicStream) -> ReceivingHalf:
    """Return the receiving half that the table gave a stream."""
    assert isinstance(stream.receiver, ReceivingHalf)  # noqa: S101  the table made it
    return stream.receiver
