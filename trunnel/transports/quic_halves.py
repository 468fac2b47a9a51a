"""The two halves of a QUIC stream, as aioquic has them, with accounts of what they hold.

Each half tells its `Ledger` (`quic_streams.StreamTable`) when the stream has
something to send, and what is buffered.  They know their stream's id and not
the stream: frames of a stream that is forgotten may still be acknowledged.

Rules of memory (RFC 9000 §2.2, §4.1):

- Received: aioquic fills gaps with zeros, up to the credit that we granted: one
  byte costs 64 KiB.  Here what comes ahead of its turn is held as it came
  (`quic_segments`); aioquic keeps the rest: what comes in order, and the rules
  of final sizes.  The gaps are capped, for each costs memory, and time for every
  frame behind it.  A packet that comes ahead of its turn when there are too many
  is treated as lost, so its content comes again; what continues the stream in
  order is always taken.
- Sent: what was never sent, and what nobody acknowledged yet, are counted for
  each stream and for all; `quic_credit` grants room by these figures.
- A half that was reset drops its buffer at once.

The private names of aioquic that are used are listed in `quic_credit`.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

from typing import Final, Protocol, cast, final

from aioquic.quic.connection import QuicConnectionError
from aioquic.quic.events import StreamDataReceived, StreamReset
from aioquic.quic.packet import QuicErrorCode, QuicFrameType, QuicStreamFrame
from aioquic.quic.packet_builder import QuicDeliveryState
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender

from trunnel.settings import limits
from trunnel.transports.quic_segments import Segments
from trunnel.wire.credit import ReceiveWindow
from trunnel.wire.flood import FloodGuard

ACKED: Final = QuicDeliveryState.ACKED


class Ledger(Protocol):
    """What the halves write their accounts into."""

    now: float
    """Seconds: when the packet came that is being read."""
    guard: FloodGuard
    progress: set[int]
    """Streams whose room or drained state may have changed."""
    buffered: int
    """Bytes written and not acknowledged, all streams."""
    unsent: int
    """Bytes written and never sent, all streams."""
    undelivered: int
    """Bytes of credit that reset streams never used."""

    def wake(self, stream_id: int, *, first: bool = False) -> None:
        """Queue a stream that has something to send, or that ended."""

    def is_ours(self, stream_id: int) -> bool:
        """Whether we opened a stream."""
        ...


class PacketRefusedError(Exception):
    """This packet is to be treated as lost: it is not acknowledged, the peer sends its content again."""


@final
class SendingHalf(QuicStreamSender):
    """aioquic's sending half, which tells its ledger what it has to send and what it holds."""

    def __init__(self, stream_id: int, ledger: Ledger, *, writable: bool) -> None:
        super().__init__(stream_id, writable)
        self.stream_id = stream_id
        self._ledger = ledger
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
    def writable(self) -> bool:
        """Whether it was neither ended nor reset, by us or by the peer's STOP_SENDING."""
        return self._buffer_fin is None and self._reset_error_code is None

    @property
    def completed(self) -> bool:
        """Whether all bytes and the FIN were acknowledged."""
        return self.is_finished and self._reset_error_code is None

    @property
    def written(self) -> int:
        """The offset of the next byte to be written."""
        return self._buffer_stop

    def sendable(self, limit: int, credit: int) -> int:
        """Return how many bytes could go into a packet now; a FIN alone counts as one.

        Args:
            limit: The offset up to which the peer lets this stream go.
            credit: Bytes never sent before that the peer takes on all streams.
        """
        if self._reset_error_code is not None:
            return 0
        try:
            first = self._pending[0]
        except IndexError:
            return int(self._pending_eof)
        return max(0, min(first.stop, limit, self.highest_offset + credit) - first.start)

    def write(self, data: bytes, end_stream: bool = False) -> None:
        """Buffer bytes, and a FIN, for sending."""
        super().write(data, end_stream)
        self._ledger.buffered += len(data)
        self._ledger.unsent += len(data)
        self._ledger.wake(self.stream_id)

    def get_frame(self, max_size: int, max_offset: int | None = None) -> QuicStreamFrame | None:
        """Take a frame of at most *max_size* bytes."""
        before = self.highest_offset
        frame = super().get_frame(max_size, max_offset)
        if frame is not None:
            self.served = True
            ledger = self._ledger
            ledger.unsent -= self.highest_offset - before
            ledger.progress.add(self.stream_id)
        return frame

    def on_data_delivery(self, delivery: QuicDeliveryState, start: int, stop: int, fin: bool) -> None:
        """Free what was acknowledged; send again what was lost."""
        before = self._buffer_start
        super().on_data_delivery(delivery, start, stop, fin)
        ledger = self._ledger
        if delivery is ACKED:
            if self._buffer_start != before or self.is_finished:
                ledger.buffered -= self._buffer_start - before
                ledger.progress.add(self.stream_id)
            if self.is_finished:
                ledger.wake(self.stream_id)
        else:
            ledger.wake(self.stream_id, first=True)

    def reset(self, error_code: int) -> None:
        """Abort sending; what is buffered is dropped."""
        if self._reset_error_code is None and not self.is_finished:
            self._ledger.buffered -= self.unacknowledged
            self._ledger.unsent -= self.unsent
            self._buffer.clear()
            self._buffer_start = self._buffer_stop
        super().reset(error_code)
        self._ledger.progress.add(self.stream_id)
        self._ledger.wake(self.stream_id)

    def on_reset_delivery(self, delivery: QuicDeliveryState) -> None:
        """Note that a RESET_STREAM arrived or was lost."""
        super().on_reset_delivery(delivery)
        self._ledger.wake(self.stream_id)


class SparseHalf(QuicStreamReceiver):
    """aioquic's receiving half, with a cap on gaps, which take no memory; its own buffer stays empty."""

    def __init__(self, stream_id: int | None, *, readable: bool) -> None:
        super().__init__(stream_id, readable)
        self._ahead = Segments()

    def handle_frame(self, frame: QuicStreamFrame) -> StreamDataReceived | None:
        """Take one frame.

        Raises:
            PacketRefusedError: It would leave too many gaps.
            FinalSizeError: aioquic's, a bad FIN.
        """
        start, ahead = self._buffer_start, self._ahead
        if frame.offset <= start and not ahead.starts:
            return QuicStreamReceiver.handle_frame(self, frame)  # for nearly every packet: `super` costs more
        if frame.offset > start and len(ahead) >= limits.QUIC_RANGES_MAX:
            raise PacketRefusedError("too many gaps")
        self._note_size(frame)
        if self.is_finished:
            return None
        missed = max(0, start - frame.offset)
        ahead.add(frame.offset + missed, frame.data[missed:])
        content = ahead.take(start)
        self._buffer_start = start + len(content)
        self.is_finished = self._buffer_start == self._final_size
        if not content and not self.is_finished:
            return None
        stream_id = cast("int", self._stream_id)  # None in a handshake, where nobody asks
        return StreamDataReceived(data=content, end_stream=self.is_finished, stream_id=stream_id)

    def _note_size(self, frame: QuicStreamFrame) -> None:
        """Let aioquic check a frame's place against the final size, and note both: of a finished half it keeps none."""
        finished, self.is_finished = self.is_finished, True
        try:
            super().handle_frame(frame)
        finally:
            self.is_finished = finished


@final
class ReceivingHalf(SparseHalf):
    """The receiving half of a stream, with its consumption."""

    def __init__(self, stream_id: int, ledger: Ledger, *, readable: bool) -> None:
        super().__init__(stream_id, readable=readable)
        self.stream_id = stream_id
        self._ledger = ledger
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
        if not frame.data and not frame.fin:
            self._ledger.guard.control_frame(now=self._ledger.now)
        event = super().handle_frame(frame)
        if self.is_finished:
            self._ledger.wake(self.stream_id)
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
            self._ahead.clear()
            self._ledger.undelivered += self.highest_offset - self._buffer_start
        self._ledger.wake(self.stream_id)
        if event is not None and final_size <= limits.QUIC_EMPTY_STREAM and not self._ledger.is_ours(self.stream_id):
            self._ledger.guard.reset_without_work(now=self._ledger.now)
        return event

    def stop(self, error_code: int = QuicErrorCode.NO_ERROR) -> None:
        """Ask the peer to stop sending."""
        super().stop(error_code)
        self._ledger.wake(self.stream_id)

    def on_stop_sending_delivery(self, delivery: QuicDeliveryState) -> None:
        """Note that a STOP_SENDING arrived or was lost."""
        super().on_stop_sending_delivery(delivery)
        self._ledger.wake(self.stream_id)


@final
class CryptoHalf(SparseHalf):
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
        return super().handle_frame(frame)


def sending_half(stream: QuicStream) -> SendingHalf:
    """Return the sending half that the table gave a stream."""
    assert isinstance(stream.sender, SendingHalf)  # noqa: S101  the table made it
    return stream.sender


def receiving_half(stream: QuicStream) -> ReceivingHalf:
    """Return the receiving half that the table gave a stream."""
    assert isinstance(stream.receiver, ReceivingHalf)  # noqa: S101  the table made it
    return stream.receiver
