"""aioquic's connection, made safe against slow consumers, floods and many streams.

What is changed, and why (measured on aioquic 1.7.2):

- **Credit follows consumption** (RFC 9000 §4.1).  aioquic doubles a window when
  the highest offset *seen* passes its half: nothing slows a sender, and twelve
  frames of ten bytes cost 2 GB.  Here MAX_STREAM_DATA = consumed + window, the
  window tuned by `wire.credit`, and MAX_DATA = consumed + `SESSION_CREDIT`.  A
  lost MAX_DATA or MAX_STREAM_DATA goes out again with the figure of then.
- **The send buffer is bounded** (`room`): by the credit of the peer, so that a
  stalled stream holds nothing that could not be sent, and by what the path takes
  soon.  What all streams share never shuts one out: `QUIC_UNSENT_FLOOR`.
- **Streams**: `accept` at a time instead of 128, none unidirectional; the work for
  a packet does not depend on how many are open (`quic_streams`).
- **Hostile peers**: `quic_guard`.

Hooks.  All private names of aioquic that the package uses are in this file and
in `quic_guard`, `quic_streams` and `quic_halves`.  They are these, and
`tests/transports/test_quic_hooks.py` names the one that a new release changed:

- `QuicConnection`, extended: `_initialize`, `_payload_received`,
  `_handle_*_frame` of RESET_STREAM, MAX_DATA and MAX_STREAM_DATA, `_unblock_streams`,
  `_on_max_stream_data_delivery`; replaced: `_write_connection_limits` (called once
  for each packet, before the streams are served), `_write_stream_limits`; replaced
  values: `_streams`, `_streams_queue`, `_local_max_*`, `_crypto_streams`' receivers
  and the table of what takes which frame.  `dispose` empties what holds streams,
  keys, packets or bound methods.
- `QuicStreamSender`, `QuicStreamReceiver`, extended: their methods, none of them
  private, and `_buffer*`, `_final_size`, `_pending*`, `_reset_error_code` read;
  `_buffer_start` of a receiver set, whose `_buffer` and `_ranges` stay empty.
- `tls.Context._request_client_certificate` set; `_peer_certificate*` read.

No clock, no socket: `now` is always an argument, seconds on a monotonic clock.
"""

# pyright: reportPrivateUsage=false, reportUnknownMemberType=false, reportUnknownVariableType=false

from __future__ import annotations

from typing import Final, final

from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    NetworkAddress,
    QuicReceiveContext,
)
from aioquic.quic.packet import QuicFrameType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder
from aioquic.quic.recovery import QuicPacketSpace
from aioquic.quic.stream import QuicStream

from trunnel.settings import limits
from trunnel.transports.quic_guard import GuardedConnection
from trunnel.transports.quic_halves import receiving_half, sending_half
from trunnel.wire.credit import ReceiveWindow

CREDIT_STEP: Final = limits.SESSION_CREDIT // 16
"""Bytes of connection credit that are returned at once.  Less than what `SESSION_PRESSURE` leaves free: else
stalled streams could hold so much that the others' credit never adds up to an update, and all stand still."""


@final
class CreditedConnection(GuardedConnection):
    """A QUIC connection whose peer can neither fill our memory nor waste our time; see the module's head."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
        window_max: int = limits.STREAM_WINDOW_MAX,
        accept: int = 0,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self._window_max = window_max
        self._consumed = 0
        self._asked_at: float | None = None
        self._short: set[int] = set()
        for limit, value in (
            (self._local_max_data, limits.SESSION_CREDIT),
            (self._local_max_streams_bidi, accept),
            (self._local_max_streams_uni, 0),
        ):
            limit.value = limit.sent = value
        self._local_max_stream_data_bidi_local = limits.STREAM_WINDOW_MIN
        self._local_max_stream_data_bidi_remote = limits.STREAM_WINDOW_MIN + limits.QUIC_EMPTY_STREAM
        self._local_max_stream_data_uni = 0

    @classmethod
    def for_client(
        cls,
        configuration: QuicConfiguration,
        *,
        window_max: int = limits.STREAM_WINDOW_MAX,
        accept: int = limits.STREAMS_ON_CARRIER,
    ) -> CreditedConnection:
        """Make the client's end (the agent's).

        Args:
            configuration: aioquic's; its limits of data and streams are not used.
            window_max: Bytes to which a stream's receive window may grow.
            accept: Streams that the peer may have open at once; by default the
                visitors' and the control stream.
        """
        return cls(configuration=configuration, window_max=window_max, accept=accept)

    @classmethod
    def for_server(
        cls,
        configuration: QuicConfiguration,
        *,
        original_destination_connection_id: bytes,
        retry_source_connection_id: bytes | None = None,
        window_max: int = limits.STREAM_WINDOW_MAX,
        accept: int = 0,
    ) -> CreditedConnection:
        """Make the server's end (the relay's), which asks for a client certificate.

        Args:
            configuration: aioquic's; its limits of data and streams are not used.
            original_destination_connection_id: Of the client's first Initial packet.
            retry_source_connection_id: Of our Retry packet, if we sent one.
            window_max: Bytes to which a stream's receive window may grow.
            accept: Streams that the peer may have open at once; agents open none.
        """
        return cls(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
            window_max=window_max,
            accept=accept,
        )

    # --- what the owner asks ----------------------------------------------------------------------

    @property
    def round_trip(self) -> float:
        """Seconds, smoothed; 0 before the first measurement."""
        return self._loss._rtt_smoothed

    @property
    def oldest_unacknowledged(self) -> float | None:
        """When the first packet went out that asks for an answer, since anything was heard from the peer; or None."""
        return self._asked_at if self._ack_eliciting_sent_since_receipt else None

    @property
    def peer_stream_limit(self) -> int:
        """How many streams of ours the peer lets be open now; one more may be opened if `streams_open` is less."""
        return self._remote_max_streams_bidi - self._local_next_stream_id_bidi // 4 + self.streams_open

    @property
    def streams_open(self) -> int:
        """How many streams that we opened have not ended both ways."""
        return self._table.opened_here

    @property
    def unsent(self) -> int:
        """Bytes written and never sent, all streams."""
        return self._table.unsent

    def unacknowledged(self, stream_id: int) -> int:
        """Return the bytes written to a stream that the peer has not acknowledged."""
        stream = self._table.get(stream_id)
        return 0 if stream is None else sending_half(stream).unacknowledged

    def writable(self, stream_id: int) -> bool:
        """Whether bytes or a FIN may be written to a stream: neither we nor the peer's STOP_SENDING have ended it.

        The peer's frames have their effect here before anybody hears of them.
        """
        stream = self._table.get(stream_id)
        return stream is not None and sending_half(stream).writable

    def drained(self, stream_id: int) -> bool:
        """Whether everything written to a stream was acknowledged, or dropped by a reset."""
        return not self.unacknowledged(stream_id)

    def room(self, stream_id: int) -> int:
        """Return how many bytes may be written to a stream now; 0 means wait (`take_progress`).

        Never more than the peer has credit for: what cannot be sent is not buffered.
        """
        stream = self._table.get(stream_id)
        if stream is not None:
            half = sending_half(stream)
            if not half.writable:
                return 0
            unsent = half.unsent
            own = min(
                stream.max_stream_data_remote - half.written,
                limits.QUIC_UNSENT_STREAM - unsent,
                self._window_max - half.unacknowledged,
            )
        elif self._proved is not None or self._stream_is_discarded(stream_id):
            return 0
        else:
            unsent = 0
            own = min(self._remote_max_stream_data_bidi_remote, limits.QUIC_UNSENT_STREAM)
        found = max(0, min(own, self._shared_room(unsent=unsent)))
        if own > 0 and not found:
            self._short.add(stream_id)
        return found

    def _shared_room(self, *, unsent: int = 0) -> int:
        """Return what all streams share, and a floor for one that holds *unsent* bytes."""
        table = self._table
        credit = self._remote_max_data - self._remote_max_data_used - table.unsent
        bound = min(limits.QUIC_UNSENT_TOTAL - table.unsent, limits.SESSION_CREDIT - table.buffered)
        return min(credit, max(bound, limits.QUIC_UNSENT_FLOOR - unsent))

    def take_progress(self) -> set[int]:
        """Return the streams whose `room` or `drained` may have changed since the last call.

        Among them those that wait for what all streams share, once there is some.
        """
        found = self._table.progress
        self._table.progress = set()
        if self._short and self._shared_room(unsent=limits.QUIC_UNSENT_FLOOR) > 0:
            found |= self._short
            self._short = set()
        return found

    # --- credit -----------------------------------------------------------------------------------

    def consumed(self, stream_id: int, amount: int, *, unread: int, now: float) -> None:
        """Give back credit, of the stream and of the connection, for bytes that a consumer took.

        Args:
            stream_id: The stream; one that has ended gives connection credit only.
            amount: Bytes taken.
            unread: Bytes of the stream that still lie unread.
            now: Seconds on a monotonic clock.
        """
        self._return_credit(amount)
        stream = self._table.get(stream_id)
        if stream is None or stream.receiver.is_finished:
            return
        half = receiving_half(stream)
        if half.window is None:
            half.window = ReceiveWindow(self._table.budget, maximum=self._window_max, now=now)
        half.consumed += amount
        half.window.consumed(amount, unread=unread, now=now, round_trip=self.round_trip)
        limit = half.consumed + half.window.size
        if limit - stream.max_stream_data_local >= half.window.step(self.round_trip):
            stream.max_stream_data_local = limit
            self._table.announcing[stream_id] = stream

    def discard(self, stream_id: int, amount: int) -> None:
        """Give connection credit back for bytes of a stream that nobody will read."""
        del stream_id  # its own credit stays used up: nothing more is wanted of it
        self._return_credit(amount)

    def _return_credit(self, amount: int) -> None:
        self._consumed += amount
        if self._consumed + limits.SESSION_CREDIT - self._local_max_data.value >= CREDIT_STEP:
            self._local_max_data.value = self._consumed + limits.SESSION_CREDIT

    # --- what aioquic calls -----------------------------------------------------------------------

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Return the datagrams to send now, with their addresses."""
        asked, used = self._ack_eliciting_sent_since_receipt, self._remote_max_data_used
        datagrams = super().datagrams_to_send(now)
        if self._remote_max_data_used != used:
            self._table.guard.sent(self._remote_max_data_used - used)
        if self._ack_eliciting_sent_since_receipt and not asked:
            self._asked_at = now
        return datagrams

    def _handle_reset_stream_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_reset_stream_frame(context, frame_type, buf)
        self._return_credit(self._table.undelivered)
        self._table.undelivered = 0

    def _handle_max_data_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        super()._handle_max_data_frame(context, frame_type, buf)
        self._table.wake_starved()

    def _handle_max_stream_data_frame(self, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        start = buf.tell()
        stream_id = buf.pull_uint_var()
        buf.seek(start)
        super()._handle_max_stream_data_frame(context, frame_type, buf)
        self._table.wake(stream_id)
        self._table.progress.add(stream_id)

    def _unblock_streams(self, is_unidirectional: bool) -> None:
        blocked = [stream.stream_id for stream in self._streams_blocked_bidi]
        super()._unblock_streams(is_unidirectional)
        for stream_id in blocked:
            if stream_id is not None:
                self._table.wake(stream_id)

    def _write_connection_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace) -> None:
        """Choose the streams of this packet; write MAX_DATA, and MAX_STREAMS once half of it is used up."""
        del space
        self._streams_queue = self._table.next_turn(
            self._streams_queue,
            credit=self._remote_max_data - self._remote_max_data_used,
            size=self._max_datagram_size,
        )
        credit, streams = self._local_max_data, self._local_max_streams_bidi
        pending = [credit] if credit.value != credit.sent else []
        if streams.sent - streams.used < streams.value - streams.sent:
            pending.append(streams)
        for limit in pending:
            frame = builder.start_frame(
                limit.frame_type,
                capacity=CONNECTION_LIMIT_FRAME_CAPACITY,
                handler=self._on_connection_limit_delivery,
                handler_args=(limit,),
            )
            frame.push_uint_var(limit.value)
            limit.sent = limit.value

    def _write_stream_limits(self, builder: QuicPacketBuilder, space: QuicPacketSpace, stream: QuicStream) -> None:
        """Write MAX_STREAM_DATA for a stream that waits for it."""
        del space
        stream_id = sending_half(stream).stream_id
        if not stream.receiver.is_finished:
            frame = builder.start_frame(
                QuicFrameType.MAX_STREAM_DATA,
                capacity=MAX_STREAM_DATA_FRAME_CAPACITY,
                handler=self._on_max_stream_data_delivery,
                handler_args=(stream,),
            )
            frame.push_uint_var(stream_id)
            frame.push_uint_var(stream.max_stream_data_local)
            stream.max_stream_data_local_sent = stream.max_stream_data_local
        self._table.announcing.pop(stream_id, None)

    def _on_max_stream_data_delivery(self, delivery: QuicDeliveryState, stream: QuicStream) -> None:
        super()._on_max_stream_data_delivery(delivery, stream)
        stream_id = sending_half(stream).stream_id
        if delivery is not QuicDeliveryState.ACKED and stream_id in self._table:
            self._table.announcing[stream_id] = stream
