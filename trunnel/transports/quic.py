"""A session over one QUIC connection.

The connection is driven elsewhere (`quic_link`): by the relay's endpoint, or
by the tasks of `open_quic_session` at the agent.  This file is what happens
*in* it: streams are opened, announced, fed and ended; nothing here waits for
the network, and nobody waits for a consumer.

- QUIC has no empty open: a stream exists at the peer with its first byte.  So
  whoever opens one writes an octet at its head: 0x00 for a stream of bytes, 0x01
  for "open no more streams" (QUIC has no GOAWAY either).  Another octet is
  refused, and that stream alone (`wire/PROTOCOL.md`, "QUIC").
- The *keeper* task pings, notices a dead peer, and resets stalled streams when
  the session runs out of buffer; an idle session sleeps from ping to ping.
- `abort` with NO_ERROR is orderly: the session is over at once for us, but
  CONNECTION_CLOSE goes out when the peer has acknowledged what was written, at
  the latest after `CLOSE_TIMEOUT`.  With any other code it goes out at once.

Stream errors are `ErrorCode`s (RFC 9000 §20.2), as is the application's code in
CONNECTION_CLOSE.
"""

from __future__ import annotations

from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, final

import trio
from aioquic.quic import events

from trunnel.errors import ErrorCode, SessionClosed
from trunnel.settings import limits
from trunnel.streams.nursery import bare_nursery
from trunnel.transports.base import Peer, Session, SessionStatistics, Stream
from trunnel.transports.quic_handshake import QuicCarrier
from trunnel.transports.quic_keeper import Keeper
from trunnel.transports.quic_link import close_reason
from trunnel.transports.quic_sending import Sending
from trunnel.transports.quic_stream import QuicStream

HEAD_STREAM: Final = 0x00
"""First octet of a stream of bytes."""
HEAD_GOAWAY: Final = 0x01
"""First octet of a stream that says: open no more streams."""


@final
class QuicSession(Session):
    """See the module's head; made by `open_quic_session`."""

    __slots__ = (
        "_accepted",
        "_arrival",
        "_bytes_in",
        "_carrier",
        "_closed",
        "_closing",
        "_connection",
        "_going_away",
        "_keeper",
        "_link",
        "_newest",
        "_out",
        "_peer",
        "_refusing",
        "_room",
        "_skipped",
        "_streams",
        "_unread",
    )

    def __init__(self, carrier: QuicCarrier, peer: Peer) -> None:
        self._carrier = carrier
        self._link = carrier.link
        self._connection = carrier.link.connection
        self._peer = peer
        self._out = Sending(self._link)
        self._keeper = Keeper(self, self._link)
        self._streams: dict[int, QuicStream] = {}
        self._newest = -1  # the highest number of the peer's streams, counted from 0
        self._skipped: set[int] = set()  # streams of the peer below it of which nothing was heard yet
        self._accepted: deque[QuicStream] = deque()
        self._arrival = trio.Event()
        self._room = trio.Event()  # set and replaced when the peer may let us open more
        self._closing = trio.Event()
        self._closed: SessionClosed | None = None
        self._going_away: SessionClosed | None = None
        self._refusing = False
        self._unread = 0
        self._bytes_in = 0

    # --- the interface ------------------------------------------------------------------------------

    @property
    def transport(self) -> str:
        """`quic`."""
        return "quic"

    @property
    def peer(self) -> Peer:
        """The other end."""
        return self._peer

    @property
    def closed(self) -> SessionClosed | None:
        """Why the session ended, or None."""
        return self._closed

    @property
    def last_heard(self) -> float:
        """When the last datagram of the peer came."""
        return self._link.heard

    @property
    def unanswered_since(self) -> float | None:
        """Since when the peer owes an acknowledgement and is silent; see `base.Session`."""
        return self._connection.oldest_unacknowledged

    @property
    def round_trip(self) -> float:
        """Seconds, smoothed."""
        return self._connection.round_trip

    def _refusal(self) -> SessionClosed | None:
        reason = self._closed or self._going_away
        return None if reason is None else SessionClosed(reason.reason, retryable=reason.retryable, code=reason.code)

    async def open_stream(self) -> Stream:
        """Open a stream.  See `base.Session`."""
        await trio.lowlevel.checkpoint()
        while True:
            if (refusal := self._refusal()) is not None:
                raise refusal
            if self._may_open:
                break
            await self._room.wait()
        return self._open(HEAD_STREAM)

    @property
    def _may_open(self) -> bool:
        return self._connection.streams_open < self._connection.peer_stream_limit

    def _open(self, head: int) -> QuicStream:
        stream = QuicStream(self, self._out, self._connection.get_next_available_stream_id(), announced=True)
        self._streams[stream.stream_id] = stream
        self._out.announce(stream.stream_id, head)
        return stream

    async def accept_stream(self) -> Stream:
        """Return the next stream of the peer.  See `base.Session`."""
        await trio.lowlevel.checkpoint()
        while not self._accepted:
            if self._closed is not None:
                raise SessionClosed(self._closed.reason, retryable=self._closed.retryable, code=self._closed.code)
            if self._arrival.is_set():  # else somebody waits for it, too
                self._arrival = trio.Event()
            await self._arrival.wait()
        return self._accepted.popleft()

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Tell the peer to open no more streams; open ones go on."""
        if self._closed is not None or self._refusing:
            return
        self._refusing = True
        self._going_away = self._going_away or SessionClosed("the session is going away", code=code)
        self._signal_room()
        farewell = self._open(HEAD_GOAWAY)
        self._out.finish(farewell.stream_id)
        self.forget(farewell)

    def abort(self, reason: str, *, code: ErrorCode = ErrorCode.CANCEL, retryable: bool = True) -> None:
        """End the session now; see `base.Session`, and this module's head."""
        if self._closed is not None:
            return
        self._close(SessionClosed(reason, retryable=retryable, code=code))
        if code is not ErrorCode.NO_ERROR:
            self.say_goodbye()

    def say_goodbye(self) -> None:
        """Send what is written and not sent as far as the network takes it now, then CONNECTION_CLOSE."""
        if self._closed is not None:
            self._link.settle(trio.current_time())
            self._link.close(self._closed.code, self._closed.reason)

    async def wait_closed(self) -> SessionClosed:
        """Wait for the end and return why."""
        await self._closing.wait()
        return self._closed or SessionClosed("closed")

    async def migrate(self) -> bool:
        """Go on from a new local socket, with a connection id that nobody has seen; see `base.Session`."""
        await trio.lowlevel.checkpoint()
        return self._closed is None and self._carrier.migrate()

    def statistics(self) -> SessionStatistics:
        """Return a snapshot of the counters."""
        return SessionStatistics(
            streams_open=len(self._streams),
            unread=self._unread,
            unsent=self._connection.unsent,
            bytes_received=self._bytes_in,
            bytes_sent=self._out.written,
        )

    # --- ending -------------------------------------------------------------------------------------

    def _close(self, reason: SessionClosed) -> None:
        """Record why the session ends, and break its streams."""
        if self._closed is not None:
            return
        self._closed = reason
        for stream in tuple(self._streams.values()):
            stream.lose(reason)
        self._streams.clear()
        self._out.end()
        self._arrival.set()
        self._signal_room()
        self._closing.set()

    async def run(self) -> None:
        """Keep the session until it has ended, and say goodbye."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keeper.run)
                closed = await self.wait_closed()
                nursery.cancel_scope.cancel()
            if closed.code is ErrorCode.NO_ERROR:
                with trio.move_on_after(limits.CLOSE_TIMEOUT):
                    await self._out.wait_flushed()
        finally:
            self._close(SessionClosed("the session was cancelled"))
            self.say_goodbye()

    # --- for the streams ----------------------------------------------------------------------------

    def consumed(self, stream: QuicStream, amount: int) -> None:
        """Give back the credit of bytes that the consumer took."""
        self._unread -= amount
        self._connection.consumed(stream.stream_id, amount, unread=stream.unread, now=trio.current_time())
        self._link.touch()

    def discarded(self, stream: QuicStream, amount: int) -> None:
        """Give back the credit of bytes that nobody will read."""
        if amount:
            self._unread -= amount
            self._connection.discard(stream.stream_id, amount)
            self._link.touch()

    def forget(self, stream: QuicStream) -> None:
        """Drop a stream that its owner has let go of."""
        self._streams.pop(stream.stream_id, None)
        self._out.forget(stream.stream_id)

    def _signal_room(self) -> None:
        self._room.set()
        self._room = trio.Event()

    # --- for the keeper -----------------------------------------------------------------------------

    @property
    def unread(self) -> int:
        """Bytes received and not consumed, all streams."""
        return self._unread

    def open_streams(self) -> list[QuicStream]:
        """Return the streams whose owner has not let go of them."""
        return list(self._streams.values())

    # --- what the peer did --------------------------------------------------------------------------

    def take_event(self, event: events.QuicEvent, now: float) -> None:
        """Act on an event of the connection."""
        match event:
            case events.StreamDataReceived(data, end_stream, stream_id):
                self._on_bytes(stream_id, data, end_stream, now)
            case events.StreamReset(error_code, stream_id):
                self._on_reset(stream_id, ErrorCode.from_wire(error_code))
            case events.StopSendingReceived(error_code, stream_id):
                stream = self._find(stream_id)
                if stream is not None:
                    stream.deliver_stop(ErrorCode.from_wire(error_code))
            case events.ConnectionTerminated():
                self._out.give_up()
                reason, code = close_reason(event)
                self._close(SessionClosed(reason, code=code))
            case _:
                pass

    def _find(self, stream_id: int) -> QuicStream | None:
        """Return the open stream, a new one if the peer has opened it with this, None if nobody wants it any more."""
        stream = self._streams.get(stream_id)
        if stream is not None or self._closed is not None or self._is_ours(stream_id):
            return stream
        number = stream_id >> 2
        if number > self._newest:
            self._skipped.update(range(self._newest + 1, number))
            self._newest = number
        elif number in self._skipped:
            self._skipped.remove(number)
        else:
            return None
        stream = self._streams[stream_id] = QuicStream(self, self._out, stream_id, announced=False)
        return stream

    def _is_ours(self, stream_id: int) -> bool:
        return not (stream_id ^ self._connection.get_next_available_stream_id()) & 1

    def _on_bytes(self, stream_id: int, payload: bytes, end: bool, now: float) -> None:
        stream = self._find(stream_id)
        if stream is None:
            self._connection.discard(stream_id, len(payload))
            return
        if payload and not stream.announced:
            stream.announced = True
            self._connection.consumed(stream_id, 1, unread=len(payload) - 1, now=now)
            self._on_head(stream, payload[0])
            payload = payload[1:]
        if payload:
            self._bytes_in += len(payload)
            self._unread += len(payload)
            stream.deliver(payload)
            self._keeper.note_unread()
        if end:
            stream.deliver_eof()
            if not stream.announced:  # it ended without a head
                self._refuse(stream, ErrorCode.PROTOCOL_ERROR)

    def _on_head(self, stream: QuicStream, head: int) -> None:
        if head == HEAD_GOAWAY:
            self._going_away = self._going_away or SessionClosed("the peer is going away")
            self._signal_room()
            self._out.finish(stream.stream_id)
            self.forget(stream)
        elif head != HEAD_STREAM:
            self._refuse(stream, ErrorCode.PROTOCOL_ERROR)
        elif self._refusing or len(self._accepted) >= limits.ACCEPT_QUEUE:
            self._refuse(stream, ErrorCode.REFUSED_STREAM)
        else:
            self._accepted.append(stream)
            self._arrival.set()

    def _refuse(self, stream: QuicStream, code: ErrorCode) -> None:
        stream.reset(code)
        stream.deliver_stop(code)

    def _on_reset(self, stream_id: int, code: ErrorCode) -> None:
        stream = self._find(stream_id)
        if stream is None:
            return
        stream.deliver_reset(code)  # it stays until its owner lets go: what it has unread counts
        if not stream.announced:
            self.forget(stream)  # nobody has seen it

    def look(self, now: float) -> None:
        """Let senders and openers go on that can."""
        self._out.look(now)
        if self._room.statistics().tasks_waiting and self._may_open:
            self._signal_room()


@asynccontextmanager
async def open_quic_session(carrier: QuicCarrier, peer: Peer) -> AsyncIterator[QuicSession]:
    """Run a session over *carrier* for as long as the body runs.

    Args:
        carrier: From `dial_quic` or `serve_quic`; owned and closed by the session.
        peer: Who is at the other end, as the carrier's certificates proved it.

    Leaving the body ends the session within `CLOSE_TIMEOUT`.  The session's
    end does not cancel the body: wait for `wait_closed`, or see
    `SessionClosed` from the streams.
    """
    session = QuicSession(carrier, peer)
    async with carrier.driven(), bare_nursery() as nursery:
        carrier.link.own(session)
        nursery.start_soon(session.run)
        try:
            yield session
        finally:
            session.abort("closed by us", code=ErrorCode.NO_ERROR)
