"""A QUIC connection that hostile bytes can end, and nothing more.

- **Whatever aioquic raises ends this connection** with INTERNAL_ERROR and
  nothing else: `GuardedConnection.contain` catches `Exception`, the one place
  in the transports that does, because a library's parser runs there on a
  stranger's bytes and its failure must not reach the other connections of the
  same socket.
- **Frames that cost us work and the peer nothing** are counted by `wire.flood`;
  past the bound the connection closes with ENHANCE_YOUR_CALM.  Counted are all
  but bytes of streams, padding, closing, and the first ACK of a packet.  aioquic
  1.7 itself caps connection ids (8 active, 32 retired and unacknowledged), path
  challenges (32 a path), paths (8), and the ranges of what it acknowledges (64).
- **Handshakes are small**: aioquic buffers 512 KiB for one packet of a stranger
  that names a large CRYPTO offset.
- **Mutual TLS**: a server asks for a certificate; aioquic checks that the client
  has its key, and nothing more.  A client without one completes the handshake:
  the owner looks at `peer_certificates` before it serves anything.  No stream
  exists before the handshake is complete: no session tickets, hence no 0-RTT.
- DATAGRAM frames are not offered; one that comes ends the connection.
- **What has ended is freed at once** (`dispose`).  aioquic's connection is held
  by its own tables of bound methods; a flood of handshakes would grow us by as
  many connections as fit between two runs of the cyclic collector.

The private names of aioquic that are used are listed in `quic_credit`.
"""

# pyright: reportPrivateUsage=false

from __future__ import annotations

import logging
from collections.abc import Callable
from functools import partial
from typing import Final, ParamSpec, TypeVar

from aioquic._buffer import Buffer
from aioquic.quic.configuration import QuicConfiguration
from aioquic.quic.connection import (
    NetworkAddress,
    QuicConnection,
    QuicConnectionError,
    QuicConnectionState,
    QuicReceiveContext,
)
from aioquic.quic.events import ConnectionTerminated
from aioquic.quic.packet import QuicErrorCode, QuicFrameType
from aioquic.quic.recovery import MAX_ACK_RANGES
from aioquic.tls import Epoch
from cryptography import x509

from trunnel.errors import RemoteProtocolError
from trunnel.settings import limits
from trunnel.transports.quic_halves import CryptoHalf, PacketRefusedError
from trunnel.transports.quic_streams import StreamTable

logger = logging.getLogger(__name__)

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

P = ParamSpec("P")
T = TypeVar("T")
FrameTaker = Callable[[QuicReceiveContext, int, Buffer], None]


class GuardedConnection(QuicConnection):
    """aioquic's connection behind a guard; see the module's head."""

    def __init__(
        self,
        *,
        configuration: QuicConfiguration,
        original_destination_connection_id: bytes | None = None,
        retry_source_connection_id: bytes | None = None,
    ) -> None:
        super().__init__(
            configuration=configuration,
            original_destination_connection_id=original_destination_connection_id,
            retry_source_connection_id=retry_source_connection_id,
        )
        self._table = StreamTable(parity=0 if configuration.is_client else 1)
        self._streams = self._table
        self._acknowledging: QuicReceiveContext | None = None
        self._proved: tuple[x509.Certificate, ...] | None = None  # of a connection that was disposed of
        self._count_cheap_frames()

    @property
    def peer_certificates(self) -> tuple[x509.Certificate, ...]:
        """The peer's chain, leaf first, whose key it proved to have; empty if none, or before the handshake's end."""
        if self._proved is not None:
            return self._proved
        leaf = self.tls._peer_certificate if self._handshake_complete else None
        return () if leaf is None else (leaf, *self.tls._peer_certificate_chain)

    @property
    def ending(self) -> ConnectionTerminated | None:
        """Why the connection ends, as soon as either side began to close it; aioquic's event comes later."""
        return self._close_event

    def dispose(self) -> None:
        """Drop what only a living connection needs, and all that holds the connection itself.  Idempotent.

        Reference counting frees it then, once its owner lets go.  Until that it
        answers as one that has ended, sends nothing, and ignores what it is given;
        `ending` and `peer_certificates` stay.
        """
        if self._proved is not None:
            return
        self._proved = self.peer_certificates
        self._state = QuicConnectionState.TERMINATED
        self._close_at = None
        self._close_pending = False
        self._acknowledging = None
        self._table.clear()
        self._streams_queue = []
        self._streams_blocked_bidi = []
        self._loss.spaces = []
        for space in self._spaces.values():
            space.sent_packets.clear()  # each packet knows its space, and us
        self._loss._send_probe = _send_nothing
        for held in (
            self._crypto_buffers,
            self._crypto_streams,
            self._cryptos,
            self._cryptos_initial,
            self._spaces,
            vars(self)[FRAME_TAKERS],
        ):
            held.clear()
        vars(self).pop("tls", None)  # there is none before the first packet

    # --- containment ------------------------------------------------------------------------------

    def receive_untrusted(self, datagram: bytes, address: NetworkAddress, now: float) -> None:
        """Take a datagram of the peer, or of anybody: `receive_datagram` by the name that our rules ask for."""
        self.receive_datagram(datagram, address, now)

    def receive_datagram(self, data: bytes, addr: NetworkAddress, now: float) -> None:
        """Take a datagram of the peer, or of anybody; whatever it contains is this connection's affair alone."""
        self.contain(super().receive_datagram, data, addr, now)

    def handle_timer(self, now: float) -> None:
        """Do what `get_timer` asked for."""
        if self._proved is None:
            self.contain(super().handle_timer, now)

    def datagrams_to_send(self, now: float) -> list[tuple[bytes, NetworkAddress]]:
        """Return the datagrams to send now, with their addresses."""
        if not self._network_paths:
            return []  # a server that has not understood anything yet
        write = super().datagrams_to_send
        datagrams = self.contain(write, now)
        if datagrams is None:  # it failed and was closed: say so to the peer
            datagrams = self.contain(write, now)
        return datagrams or []

    def contain(self, call: Callable[P, T], *args: P.args, **kwargs: P.kwargs) -> T | None:
        """Call aioquic, or who hears of its events; close this connection if that fails, and return None."""
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

    def _payload_received(
        self, context: QuicReceiveContext, plain: bytes, crypto_frame_required: bool = False
    ) -> tuple[bool, bool]:
        """Read the frames of one packet."""
        self._table.now = context.time
        try:
            return super()._payload_received(context, plain, crypto_frame_required)
        except RemoteProtocolError as exc:
            raise ApplicationClose(exc) from exc

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


def _send_nothing() -> None:
    """Stand in for the probes of a connection that has ended."""


class ApplicationClose(QuicConnectionError):
    """A protocol error of ours in aioquic's terms: a close with an application's code (RFC 9000 §20.2)."""

    def __init__(self, error: RemoteProtocolError) -> None:
        super().__init__(error_code=error.code, frame_type=None, reason_phrase=error.reason)  # type: ignore[arg-type]
