"""The open streams of one QUIC connection, and what the peer does to them.

- QUIC has no empty open: a stream exists at the peer with its first byte.  So
  whoever opens one writes an octet at its head that says what it is (`Head`).
  The stream is announced when that octet comes; whatever comes before it (a
  reset, a lone FIN) ends it unseen.
- Streams of the peer may be heard of in any order.  Their numbers are
  consecutive, so a new one is told from one long forgotten by the highest
  number and the gaps below it.
- Credit is given back for every byte: by its consumer, or here if nobody wants
  the stream any more.

Nothing here waits.  Source: RFC 9000 §2.1, §3, §4; `wire/PROTOCOL.md`, "QUIC".
"""

from __future__ import annotations

from enum import IntEnum
from typing import Protocol, final

import trio
from aioquic.quic import events

from trunnel.errors import ErrorCode
from trunnel.settings import limits
from trunnel.transports.quic_link import QuicLink
from trunnel.transports.quic_sending import Sending
from trunnel.transports.quic_stream import QuicStream


@final
class Head(IntEnum):
    """The first octet of a stream."""

    STREAM = 0x00
    """A stream of bytes."""
    GOAWAY = 0x01
    """"Open no more streams": QUIC has no frame that says so."""


class StreamHall(Protocol):
    """Who takes new streams: the session."""

    def arrive(self, stream: QuicStream) -> bool:
        """Take a stream that the peer has opened; returns False if there is no place for it."""
        ...

    def note_goaway(self) -> None:
        """The peer wants no more streams."""
        ...


@final
class Receiving:
    """See the module's head."""

    __slots__ = (
        "_connection",
        "_link",
        "_newest",
        "_out",
        "_skipped",
        "pressed",
        "received",
        "streams",
        "unread",
    )

    def __init__(self, link: QuicLink, out: Sending) -> None:
        self._link = link
        self._connection = link.connection
        self._out = out
        self._newest = -1  # the highest number of the peer's streams, counted from 0
        self._skipped: set[int] = set()  # streams of the peer below it of which nothing was heard yet
        self.streams: dict[int, QuicStream] = {}
        """The streams whose owner has not let go of them, by number."""
        self.unread = 0
        """Bytes received and not consumed, all streams."""
        self.pressed = trio.Event()
        """Set when what lies unread takes up the session's credit; replaced by whoever sees to it."""
        self.received = 0
        """Bytes of payload received, all streams."""

    def open(self, head: Head) -> QuicStream:
        """Open a stream of ours; the peer must allow one more."""
        stream_id = self._connection.get_next_available_stream_id()
        stream = self.streams[stream_id] = QuicStream(self, self._out, stream_id, announced=True)
        self._out.announce(stream_id, head)
        return stream

    def end(self, reason: BaseException) -> None:
        """Break all streams: the session has ended."""
        for stream in tuple(self.streams.values()):
            stream.lose(reason)
        self.streams.clear()

    # --- for the streams ----------------------------------------------------------------------------

    def consumed(self, stream: QuicStream, amount: int) -> None:
        """Give back the credit of bytes that the consumer took."""
        self.unread -= amount
        self._connection.consumed(stream.stream_id, amount, unread=stream.unread, now=trio.current_time())
        self._link.touch()

    def discarded(self, stream: QuicStream, amount: int) -> None:
        """Give back the credit of bytes that nobody will read."""
        if amount:
            self.unread -= amount
            self._discard(stream.stream_id, amount)

    def forget(self, stream: QuicStream) -> None:
        """Drop a stream that its owner has let go of."""
        self.streams.pop(stream.stream_id, None)
        self._out.forget(stream.stream_id)

    # --- what the peer did --------------------------------------------------------------------------

    def take_event(self, event: events.QuicEvent, now: float, *, hall: StreamHall) -> None:
        """Act on an event of a stream; a new one goes to *hall*, which is not kept: it holds us."""
        match event:
            case events.StreamDataReceived(data, end_stream, stream_id):
                self._on_bytes(stream_id, data, now, hall=hall)
                if end_stream:
                    self._on_end(stream_id)
            case events.StreamReset(error_code, stream_id):
                self._on_reset(stream_id, ErrorCode.from_wire(error_code))
            case events.StopSendingReceived(error_code, stream_id):
                stream = self._find(stream_id)
                if stream is not None:
                    stream.deliver_stop(ErrorCode.from_wire(error_code))
            case _:
                pass

    def _find(self, stream_id: int) -> QuicStream | None:
        """Return the open stream, a new one if the peer has opened it with this, None if nobody wants it any more."""
        stream = self.streams.get(stream_id)
        if stream is not None or self._is_ours(stream_id):
            return stream
        number = stream_id >> 2
        if number > self._newest:
            self._skipped.update(range(self._newest + 1, number))
            self._newest = number
        elif number in self._skipped:
            self._skipped.remove(number)
        else:
            return None
        stream = self.streams[stream_id] = QuicStream(self, self._out, stream_id, announced=False)
        return stream

    def _is_ours(self, stream_id: int) -> bool:
        return not (stream_id ^ self._connection.get_next_available_stream_id()) & 1

    def _on_bytes(self, stream_id: int, payload: bytes, now: float, *, hall: StreamHall) -> None:
        stream = self._find(stream_id)
        if stream is not None and payload and not stream.announced:
            stream.announced = True
            self._connection.consumed(stream_id, 1, unread=len(payload) - 1, now=now)
            self._on_head(stream, payload[0], hall)
            payload = payload[1:]
        if not payload:
            return
        if stream is None or stream_id not in self.streams:
            self._discard(stream_id, len(payload))
            return
        self.received += len(payload)
        self.unread += len(payload)
        stream.deliver(payload)
        if self.unread >= limits.SESSION_PRESSURE:
            self.pressed.set()

    def _on_head(self, stream: QuicStream, head: int, hall: StreamHall) -> None:
        if head == Head.GOAWAY:
            hall.note_goaway()
            self._out.finish(stream.stream_id)
            self.forget(stream)
        elif head != Head.STREAM:
            stream.reset(ErrorCode.PROTOCOL_ERROR)
        elif not hall.arrive(stream):
            stream.reset(ErrorCode.REFUSED_STREAM)

    def _on_end(self, stream_id: int) -> None:
        stream = self.streams.get(stream_id)
        if stream is not None:
            stream.deliver_eof()
            if not stream.announced:  # it ended without a head
                stream.reset(ErrorCode.PROTOCOL_ERROR)

    def _on_reset(self, stream_id: int, code: ErrorCode) -> None:
        stream = self._find(stream_id)
        if stream is not None:
            stream.deliver_reset(code)  # it stays until its owner lets go: what it has unread counts
            if not stream.announced:
                self.forget(stream)  # nobody has seen it

    def _discard(self, stream_id: int, amount: int) -> None:
        self._connection.discard(stream_id, amount)
        self._link.touch()
