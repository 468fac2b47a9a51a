"""A session over one QUIC connection.

The connection is driven elsewhere (`quic_link`): by the relay's endpoint, or
by the tasks of `open_quic_session` at the agent.  Its streams are in two books:
what the peer does to them (`quic_receiving`) and what they send (`quic_sending`).
This file is the session as a whole; nothing in it waits for the network.

- The *keeper* task pings, notices a dead peer, and resets stalled streams when
  the session runs out of buffer; an idle session sleeps from ping to ping.
- `abort` with NO_ERROR is orderly: the session is over at once for us, but
  CONNECTION_CLOSE goes out when the peer has acknowledged what was written, at
  the latest after `CLOSE_TIMEOUT`.  With any other code it goes out at once.

Stream errors are `ErrorCode`s (RFC 9000 §20.2), as is the application's code in
CONNECTION_CLOSE.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import final

import trio
from aioquic.quic import events

from trunnel.errors import ErrorCode, SessionClosed
from trunnel.settings import limits
from trunnel.streams.nursery import bare_nursery
from trunnel.transports.base import Peer, Session, SessionStatistics, Stream
from trunnel.transports.lifetime import Lifetime
from trunnel.transports.quic_handshake import QuicCarrier
from trunnel.transports.quic_keeper import Keeper
from trunnel.transports.quic_link import close_reason
from trunnel.transports.quic_receiving import Head, Receiving
from trunnel.transports.quic_sending import Sending
from trunnel.transports.quic_stream import QuicStream


@final
class QuicSession(Session):
    """See the module's head; made by `open_quic_session`."""

    __slots__ = (
        "_carrier",
        "_connection",
        "_in",
        "_keeper",
        "_life",
        "_link",
        "_out",
        "_peer",
        "_refusing",
        "_room",
    )

    def __init__(self, carrier: QuicCarrier, peer: Peer) -> None:
        self._carrier = carrier
        self._link = carrier.link
        self._connection = carrier.link.connection
        self._peer = peer
        self._out = Sending(self._link)
        self._in = Receiving(self._link, self._out)
        self._keeper = Keeper(self._link, self._in)
        self._life = Lifetime[QuicStream]()
        self._room = trio.Event()  # set and replaced when the peer may let us open more
        self._refusing = False

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
        return self._life.closed

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

    @property
    def load(self) -> float:
        """See `base.Session`."""
        return len(self._in.streams) if self._may_open else math.inf

    async def open_stream(self) -> Stream:
        """Open a stream.  See `base.Session`."""
        await trio.lowlevel.checkpoint()
        while True:
            if (refusal := self._life.refusal()) is not None:
                raise refusal
            if self._may_open:
                break
            await self._room.wait()
        return self._in.open(Head.STREAM)

    @property
    def _may_open(self) -> bool:
        return self._connection.streams_open < self._connection.peer_stream_limit

    async def accept_stream(self) -> Stream:
        """Return the next stream of the peer.  See `base.Session`."""
        return await self._life.accept()

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Tell the peer to open no more streams; open ones go on."""
        if self.closed is not None or self._refusing:
            return
        self._refusing = True
        self._life.leave(SessionClosed("the session is going away", code=code))
        self._signal_room()
        farewell = self._in.open(Head.GOAWAY)
        self._out.finish(farewell.stream_id)
        self._in.forget(farewell)

    def abort(self, reason: str, *, code: ErrorCode = ErrorCode.CANCEL, retryable: bool = True) -> None:
        """End the session now; see `base.Session`, and this module's head."""
        if self.closed is not None:
            return
        self._close(SessionClosed(reason, retryable=retryable, code=code))
        if code is not ErrorCode.NO_ERROR:
            self._say_goodbye()

    def _say_goodbye(self) -> None:
        """Send what is written and not sent as far as the network takes it now, then CONNECTION_CLOSE."""
        if self.closed is not None:
            self._link.settle(trio.current_time())
            self._link.close(self.closed.code, self.closed.reason)

    async def wait_closed(self) -> SessionClosed:
        """Wait for the end and return why."""
        return await self._life.wait_closed()

    def ask_every(self, seconds: float) -> None:
        """See `base.Session`; has an effect on the agent's end only."""
        self._keeper.heartbeat = seconds

    async def migrate(self) -> bool:
        """Go on from a new local socket, with a connection id that nobody has seen; see `base.Session`."""
        await trio.lowlevel.checkpoint()
        return self.closed is None and self._carrier.migrate()

    def statistics(self) -> SessionStatistics:
        """Return a snapshot of the counters."""
        return SessionStatistics(
            streams_open=len(self._in.streams),
            unread=self._in.unread,
            unsent=self._connection.unsent,
            bytes_received=self._in.received,
            bytes_sent=self._out.written,
        )

    # --- ending -------------------------------------------------------------------------------------

    def _close(self, reason: SessionClosed) -> None:
        """Record why the session ends, and break its streams."""
        if not self._life.close(reason):
            return
        self._in.end(reason)
        self._out.end()
        self._signal_room()

    async def run(self) -> None:
        """Keep the session until it has ended, and say goodbye."""
        try:
            async with trio.open_nursery() as nursery:
                nursery.start_soon(self._keeper.run, self.abort)
                closed = await self.wait_closed()
                nursery.cancel_scope.cancel()
            if closed.code is ErrorCode.NO_ERROR:
                with trio.move_on_after(limits.CLOSE_TIMEOUT):
                    await self._out.wait_flushed()
        finally:
            self._close(SessionClosed("the session was cancelled"))
            self._say_goodbye()

    def _signal_room(self) -> None:
        self._room.set()
        self._room = trio.Event()

    # --- what the peer did --------------------------------------------------------------------------

    def take_event(self, event: events.QuicEvent, now: float) -> None:
        """Act on an event of the connection."""
        if isinstance(event, events.ConnectionTerminated):
            self._out.give_up()
            reason, code = close_reason(event)
            self._close(SessionClosed(reason, code=code))
        elif self.closed is None:
            self._in.take_event(event, now, hall=self)

    def arrive(self, stream: QuicStream) -> bool:
        """Queue a stream of the peer for `accept_stream`; agents open none, they only say "no more"."""
        if self._refusing or not self._connection.configuration.is_client or self._life.waiting >= limits.ACCEPT_QUEUE:
            return False
        self._life.arrive(stream)
        return True

    def note_goaway(self) -> None:
        """Open no more streams: the peer wants none."""
        self._life.leave(SessionClosed("the peer is going away"))
        self._signal_room()

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
