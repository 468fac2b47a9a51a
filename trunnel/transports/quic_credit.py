"""aioquic's connection, made safe against slow consumers, floods and many streams.

Every use of a private name of aioquic in the package is in this file and in
`quic_streams`; `tests/transports/test_quic_hooks.py` lists them all and names
the one that a new release changed.  aioquic is pinned below its next minor.

What is changed, and why (measured on aioquic 1.7.2):

- **Credit follows consumption** (RFC 9000 §4.1).  aioquic doubles a window when
  the highest offset *seen* passes its half: nothing slows a sender, and twelve
  frames of ten bytes cost 2 GB.  Here MAX_STREAM_DATA = consumed + window, the
  window tuned by `wire.credit`, and MAX_DATA = consumed + `SESSION_CREDIT`.
- **The send buffer is bounded** (`room`): by the credit of the peer, so that a
  stalled stream holds nothing, and by what the path can take soon.
- **Streams**: `accept` at a time instead of 128, none unidirectional; the work for
  a packet does not depend on how many are open (`quic_streams`).
- **Frames that cost us work for nothing** are counted by `wire.flood`; past the
  bound the connection closes with ENHANCE_YOUR_CALM.  aioquic itself caps
  connection ids, path challenges, paths and ranges of acknowledgements.
- **Mutual TLS**: a server asks for a certificate; aioquic checks that the client
  has its key, and nothing more.  A client without one completes the handshake:
  the owner looks at `peer_certificates` before it serves anything.  No stream
  exists before the handshake is complete: no session tickets, hence no 0-RTT.
- **Whatever hostile bytes make aioquic raise ends this connection** and nothing
  else: `_contain` is the one place that catches `Exception`.

No clock, no socket: `now` is always an argument, seconds on a monotonic clock.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final, ParamSpec, TypeVar, final

from aioquic.buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    CONNECTION_LIMIT_FRAME_CAPACITY,
    MAX_STREAM_DATA_FRAME_CAPACITY,
    NetworkAddress,
    QuicConnection,
    QuicConnectionError,
    QuicReceiveContext,
)
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.packet_builder import QuicDeliveryState, QuicPacketBuilder
from aioquic.quic.recovery import MAX_ACK_RANGES, QuicPacketSpace
from aioquic.quic.stream import QuicStream
from aioquic.tls import Epoch
from cryptography import x509

from trunnel.errors import RemoteProtocolError
from trunnel.settings import limits
from trunnel.transports.quic_streams import (
    CryptoHalf,
    PacketRefusedError,
    StreamTable,
    receiving_half,
    sending_half,
)
from trunnel.wire.credit import ReceiveWindow

logger = logging.getLogger(__name__)

CREDIT_STEP: Final = limits.SESSION_CREDIT // 16
"""Bytes of connection credit that are returned at once; see `h2_connection.CREDIT_STEP`."""

FRAME_TAKERS: Final = "_QuicConnection__frame_handlers"
"""aioquic's table from frame type to what takes it and where it is legal."""
CHEAP_FRAMES: Final = (
    QuicFrameType.PING,
    QuicFrameType.RESET_STREAM,
    QuicFrameType.STOP_SENDING,
    QuicFrameType.CRYPTO,
    QuicFrameType.NEW_TOKEN,
    QuicFrameType.MAX_DATA,
    QuicFrameType.MAX_STREAM_DATA,
    QuicFrameType.MAX_STREAMS_BIDI,
    QuicFrameType.MAX_STREAMS_UNI,
    QuicFrameType.DATA_BLOCKED,
    QuicFrameType.STREAM_DATA_BLOCKED,
    QuicFrameType.STREAMS_BLOCKED_BIDI,
    QuicFrameType.STREAMS_BLOCKED_UNI,
    QuicFrameType.NEW_CONNECTION_ID,
    QuicFrameType.RETIRE_CONNECTION_ID,
    QuicFrameType.PATH_CHALLENGE,
    QuicFrameType.PATH_RESPONSE,
    QuicFrameType.HANDSHAKE_DONE,
)
"""What `wire.flood` counts: all but bytes of streams, padding, a first acknowledgement, and the close."""

P = ParamSpec("P")
T = TypeVar("T")
FrameTaker = Callable[[QuicReceiveContext, int, Buffer], None]


@final
class CreditedConnection(QuicConnection):
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
        self._acknowledging: QuicReceiveContext | None = None
        self._asked_at: float | None = None
        self._short: set[int] = set()
        self._table = StreamTable(parity=0 if configuration.is_client else 1)
        self._streams = self._table
        for limit, value in (
            (self._local_max_data, limits.SESSION_CREDIT),
            (self._local_max_streams_bidi, accept),
            (self._local_max_streams_uni, 0),
        ):
            limit.value = limit.sent = value
        self._local_max_stream_data_bidi_local = limits.STREAM_WINDOW_MIN
        self._local_max_stream_data_bidi_remote = limits.STREAM_WINDOW_MIN
        self._local_max_stream_data_uni = 0
        self._count_cheap_frames()

    @classmethod
    def for_client(
        cls,
        configuration: QuicConfiguration,
        *,
        window_max: int = limits.STREAM_WINDOW_MAX,
        accept: int = limits.STREAMS_PER_SESSION + 1,
    ) -> CreditedConnection:
        """Make the client's end (the agent's).

        Args:
            configuration: aioquic's; its limits of data and streams are replaced.
            window_max: Bytes to which a stream's receive window may grow.
            accept: Streams that the peer may have open at once.
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
            configuration: aioquic's; its limits of data and streams are replaced.
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
    def peer_certificates(self) -> tuple[x509.Certificate, ...]:
        """The peer's chain, leaf first, whose key it proved to have; empty if none, or before the handshake's end."""
        leaf = self.tls._peer_certificate if self._handshake_complete else None
        return () if leaf is None else (leaf, *self.tls._peer_certificate_chain)

    @property
    def ending(self) -> ConnectionTerminated | None:
        """Why the connection ends, as soon as either side began to close it; aioquic's event comes later."""
        return self._close_event

    @property
    def round_trip(self) -> float:
        """Seconds, smoothed; 0 before the first measurement."""
        return self._loss._rtt_smoothed

    @property
    def oldest_unacknowledged(self) -> float | None:
        """When the oldest packet went out that asks for an answer, if nothing was heard from the peer since."""
        return self._asked_at if self._ack_eliciting_sent_since_receipt else None

    @property
    def peer_stream_limit(self) -> int:
        """How many streams the peer lets us open in all, over the connection's life."""
        return self._remote_max_streams_bidi

    @property
    def streams_open(self) -> int:
        """How many streams that we opened have not ended both ways."""
        return self._table.opened_here

    @property
    def can_open(self) -> bool:
        """Whether the peer lets us open one more stream now."""
        return self._local_next_stream_id_bidi // 4 < self._remote_max_streams_bidi

    def unacknowledged(self, stream_id: int) -> int:
        """Return the bytes written to a stream that the peer has not acknowledged."""
        stream = self._table.get(stream_id)
        return 0 if stream is None else sending_half(stream).unacknowledged

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
            unsent = half.unsent
            own = min(
                stream.max_stream_data_remote - half.written,
                limits.QUIC_UNSENT_STREAM - unsent,
                self._window_max - half.unacknowledged,
            )
        elif self._stream_is_discarded(stream_id):
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
        if self._short and self._shared_room() > 0:
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
        if limit - stream.max_stream_data_local >= half.window.size // 2:
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

    # --- driven by the owner ----------------------------------------------------------------------

    def receive_untrusted(self, datagram: bytes, address: NetworkAddress, now: float) -> None:
        """Take a datagram of the peer, or of anybody; whatever it contains is this connection's affair alone."""
        self._contain(self.receive_datagram, datagram, address, now)

    def handle_timer(self, now: float) -> None:
        """Do what `get_timer` asked for."""
        self._contain(super().handle_timer, now)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Return the datagrams to send now, with their addresses."""
        asked = self._ack_eliciting_sent_since_receipt
        used = self._remote_max_data_used
        write = super().datagrams_to_send
        datagrams = self._contain(write, now)
        if datagrams is None:  # it closed the connection, and that has to be said
            datagrams = self._contain(write, now) or []
        while self._table.control_waiting and (more := self._contain(write, now)):
            datagrams += more  # aioquic ends at the first frame for which a packet has no place
        if self._remote_max_data_used != used:
            self._table.guard.sent(self._remote_max_data_used - used)
        if self._ack_eliciting_sent_since_receipt and not asked:
            self._asked_at = now
        return datagrams

    def _contain(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Close this connection if aioquic lets an exception out: nobody else has to suffer for its peer."""
        try:
            return call(*args, **kwargs)
        except PacketRefusedError as exc:
            logger.debug("packet refused", extra={"reason": str(exc)})
        except Exception:
            logger.exception("connection failed")
            self.close(
                error_code=QuicErrorCode.INTERNAL_ERROR,
                frame_type=QuicFrameType.PADDING,
                reason_phrase="internal error",
            )
        return None

    # --- hooks ------------------------------------------------------------------------------------

    def _initialize(self, peer_cid: bytes) -> None:
        super()._initialize(peer_cid)
        if not self._is_client:
            self.tls._request_client_certificate = True
        for epoch, stream in self._crypto_streams.items():
            late = epoch is Epoch.ONE_RTT
            stream.receiver = CryptoHalf(total=limits.QUIC_CRYPTO_LATE_MAX if late else limits.QUIC_CRYPTO_MAX)

    def _count_cheap_frames(self) -> None:
        """Let the guard see each frame that costs the peer nothing, before aioquic works for it."""
        takers: dict[int, tuple[FrameTaker, frozenset[Epoch]]] = vars(self)[FRAME_TAKERS]
        for frame_type in CHEAP_FRAMES:
            take, epochs = takers[frame_type]
            takers[frame_type] = (partial(self._take_cheap_frame, take), epochs)
        for frame_type in (QuicFrameType.ACK, QuicFrameType.ACK_ECN):
            take, epochs = takers[frame_type]
            takers[frame_type] = (partial(self._take_ack_frame, take), epochs)

    def _take_cheap_frame(self, take: FrameTaker, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        self._table.guard.control_frame(now=context.time)
        take(context, frame_type, buf)

    def _take_ack_frame(self, take: FrameTaker, context: QuicReceiveContext, frame_type: int, buf: Buffer) -> None:
        """Take an ACK; a second one in a packet, or one of many ranges, is a cheap frame."""
        start = buf.tell()
        buf.pull_uint_var()  # the largest acknowledged
        buf.pull_uint_var()  # the delay
        ranges = buf.pull_uint_var()
        buf.seek(start)
        if ranges > MAX_ACK_RANGES or self._acknowledging is context:
            self._table.guard.control_frame(now=context.time)
        self._acknowledging = context
        take(context, frame_type, buf)

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        """Read the frames of one packet."""
        table = self._table
        table.now = context.time
        try:
            return super()._payload_received(context, plain, crypto_frame_required)
        except RemoteProtocolError as exc:
            raise QuicConnectionError(exc.code, None, exc.reason) from exc  # type: ignore[arg-type]
        finally:
            if table.undelivered:
                self._return_credit(table.undelivered)
                table.undelivered = 0

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
        """Write MAX_DATA and MAX_STREAMS; aioquic calls this once for each packet, before it serves streams."""
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
        stream_id = stream.stream_id
        assert stream_id is not None  # noqa: S101  only crypto streams have none
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
        if delivery is not QuicDeliveryState.ACKED and stream.stream_id in self._table:
            self._table.announcing[stream.stream_id] = stream
