"""The driver of every multiplexer on one byte stream: HTTP/2 and yamux run on it.

Three tasks in one nursery:

- the *reader* takes bytes from the carrier, parses them and delivers to the
  streams' inboxes; it never waits for a consumer;
- the *writer* (`mux_writer`) is the only task that sends on the carrier;
- the *keeper* (`mux_keeper`) pings, measures the round trip, notices a dead
  peer, and resets stalled streams when the session runs out of buffer.

Each ends by recording why, once; then every stream breaks with that reason,
the writer flushes what is queued (a goodbye, usually) within `CLOSE_TIMEOUT`,
and the carrier is closed.  Frames, ids and windows are the protocol's
(`mux_connection`); the driver knows none of them.
"""

from __future__ import annotations

import math
from collections.abc import AsyncIterator, Collection
from contextlib import asynccontextmanager
from typing import final

import trio

from trunnel.errors import ErrorCode, RemoteProtocolError, SessionClosed
from trunnel.settings import limits
from trunnel.streams.nursery import bare_nursery
from trunnel.transports.base import Peer, Session, SessionStatistics, Stream
from trunnel.transports.lifetime import Lifetime
from trunnel.transports.linger import linger
from trunnel.transports.mux_connection import Multiplexer
from trunnel.transports.mux_keeper import Keeper
from trunnel.transports.mux_stream import MuxStream
from trunnel.transports.mux_writer import MuxWriter
from trunnel.wire import muxevents as events


@final
class MuxSession(Session):
    """See the module's head; made by `open_mux_session`."""

    __slots__ = (
        "_bytes_in",
        "_carrier",
        "_keeper",
        "_life",
        "_name",
        "_peer",
        "_receiver",
        "_room",
        "_scope",
        "_streams",
        "_tell_accepted",
        "_title",
        "_violated",
        "_writer",
        "connection",
    )

    def __init__(self, carrier: trio.abc.HalfCloseableStream, multiplexer: Multiplexer, peer: Peer) -> None:
        self.connection = multiplexer.connection
        """The protocol's state; for this package only."""
        self._receiver = multiplexer.receiver
        self._tell_accepted = multiplexer.accepted
        self._name = multiplexer.name
        self._title = multiplexer.title
        self._keeper = Keeper(self, multiplexer.ping)
        self._writer = MuxWriter(self.connection)
        self._carrier = carrier
        self._peer = peer
        self._streams: dict[int, MuxStream] = {}
        self._room = trio.Event()  # set and replaced when the peer may let us open more
        self._scope = trio.CancelScope()
        self._life = Lifetime[MuxStream]()
        self._violated = False  # the peer broke the protocol and may still be sending
        self._bytes_in = 0

    # --- the interface ------------------------------------------------------------------------------

    @property
    def transport(self) -> str:
        """The multiplexer's name: `h2`, `yamux`."""
        return self._name

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
        """When the last bytes of the peer came."""
        return self._keeper.heard

    @property
    def unanswered_since(self) -> float | None:
        """When the ping or the new stream went out since which nothing at all was heard, or None."""
        return self._keeper.unanswered_since

    @property
    def round_trip(self) -> float:
        """Seconds, measured by the last ping; 0 before the first."""
        return self.connection.round_trip

    @property
    def load(self) -> float:
        """See `base.Session`."""
        full = len(self.connection.streams) >= self.connection.peer_stream_limit
        return math.inf if full else len(self._streams)

    async def open_stream(self) -> Stream:
        """Open a stream.  See `base.Session`."""
        await trio.lowlevel.checkpoint()
        while True:
            if self.connection.exhausted:
                self.abort("the stream numbers are used up", code=ErrorCode.NO_ERROR)
            if (refusal := self._life.refusal()) is not None:
                raise refusal
            if len(self.connection.streams) < self.connection.peer_stream_limit:
                break
            await self._room.wait()
        now = trio.current_time()
        stream = MuxStream(self, self.connection.open_stream(now=now))
        self._streams[stream.stream_id] = stream
        self._keeper.asked(now)
        self.wake_writer()
        return stream

    async def accept_stream(self) -> Stream:
        """Return the next stream of the peer.  See `base.Session`."""
        stream = await self._life.accept()
        if self._tell_accepted is not None:
            self._tell_accepted(stream.stream_id)
            self._writer.wake()
        return stream

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        """Tell the peer to open no more streams; open ones go on."""
        if self.closed is None and not self.connection.refusing:
            self._life.leave(SessionClosed("the session is going away", code=code))
            self.connection.go_away(code)
            self.wake_writer()
            self.made_room()

    def abort(self, reason: str, *, code: ErrorCode = ErrorCode.CANCEL, retryable: bool = True) -> None:
        """End the session now.  See `base.Session`."""
        self._close(SessionClosed(reason, retryable=retryable, code=code), tell=code)

    async def wait_closed(self) -> SessionClosed:
        """Wait for the end and return why."""
        return await self._life.wait_closed()

    def statistics(self) -> SessionStatistics:
        """Return a snapshot of the counters."""
        return SessionStatistics(
            streams_open=len(self._streams),
            unread=sum(stream.unread for stream in self._streams.values()),
            unsent=self.connection.output.pending
            + sum(len(stream.pending or b"") for stream in self._streams.values()),
            bytes_received=self._bytes_in,
            bytes_sent=self._writer.sent,
        )

    # --- ending -------------------------------------------------------------------------------------

    def _close(self, reason: SessionClosed, *, tell: ErrorCode | None) -> None:
        """Record why the session ends, break its streams, let the writer flush and finish."""
        if not self._life.close(reason):
            return
        if tell is not None:
            self.connection.go_away(tell, reason.reason)
        for stream in tuple(self._streams.values()):
            stream.lose(reason)
        self._streams.clear()
        self.made_room()
        self._scope.deadline = trio.current_time() + limits.CLOSE_TIMEOUT
        self._writer.finish()

    # --- called by streams and the keeper --------------------------------------------------------------------------

    def offer(self, stream: MuxStream) -> None:
        """Put a stream with pending bytes into the writer's round."""
        self._writer.offer(stream)

    def wake_writer(self) -> None:
        """Let the writer look for frames."""
        self._writer.wake()

    def open_streams(self) -> Collection[MuxStream]:
        """Return the streams that nobody has closed yet, those that the peer aborted included."""
        return self._streams.values()

    def forget(self, stream: MuxStream) -> None:
        """Drop a stream that ended here."""
        if self._streams.pop(stream.stream_id, None) is not None:
            self.made_room()

    def made_room(self) -> None:
        """Let those who want to open a stream look again."""
        self._room.set()
        self._room = trio.Event()

    # --- the tasks ----------------------------------------------------------------------------------

    async def run(self) -> None:
        """Run reader, writer and keeper until the session has ended, then close the carrier."""
        try:
            with self._scope:
                async with trio.open_nursery() as nursery:
                    nursery.start_soon(self._read)
                    nursery.start_soon(self._keeper.run)
                    await self._write()
                    nursery.cancel_scope.cancel()
        finally:
            self._close(SessionClosed("the session was cancelled"), tell=None)
            if self._violated:
                await linger(self._carrier)
            with trio.move_on_after(limits.CLOSE_TIMEOUT, shield=True):
                await self._carrier.aclose()

    async def _read(self) -> None:
        try:
            slice_size = limits.READ_SLICE
            while chunk := await self._carrier.receive_some(slice_size):
                self._keeper.hear(now := trio.current_time())
                if self.closed is not None:  # read on, so that closing the carrier is no RST, but nobody is there
                    continue
                happened = self._receiver.feed_untrusted(bytes(chunk), now=now)
                for event in happened:
                    self._on_event(event, now)
                if self.connection.output.pending:
                    self._writer.wake()
                bulk = len(chunk) >= len(happened) * limits.READ_FRAME_LARGE
                slice_size = min(2 * slice_size, limits.READ_SLICE_MAX) if bulk else limits.READ_SLICE
            self._close(SessionClosed("the peer closed the connection"), tell=None)
        except RemoteProtocolError as exc:
            self._violated = True
            self._close(SessionClosed(f"the peer broke {self._title}: {exc.reason}", code=exc.code), tell=exc.code)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._close(SessionClosed(f"the connection was lost: {exc.__cause__ or exc}"), tell=None)

    async def _write(self) -> None:
        try:
            await self._writer.run(self._carrier)
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            self._close(SessionClosed(f"the connection was lost: {exc.__cause__ or exc}"), tell=None)

    # --- what the peer did --------------------------------------------------------------------------

    def _on_event(self, event: events.MuxEvent, now: float) -> None:
        match event:
            case events.BytesReceived(stream_id, payload):
                self._on_bytes(stream_id, payload)
            case events.WindowOpened(stream_id):
                self._on_window(stream_id)
            case events.StreamOpened(stream_id):
                self._on_opened(stream_id)
            case events.StreamEnded(stream_id):
                self._on_ended(stream_id)
            case events.StreamAborted(stream_id, code):
                self._on_aborted(stream_id, code)
            case events.PingAnswered():
                self._keeper.answered(now)
            case events.GoneAway(code, _, debug):
                self._on_gone_away(code, debug)

    def _on_bytes(self, stream_id: int, payload: bytes) -> None:
        self._bytes_in += len(payload)
        stream = self._streams.get(stream_id)
        if stream is None:
            self.connection.discard(len(payload))
        else:
            stream.deliver(payload)
            self._keeper.received(len(payload))

    def _on_ended(self, stream_id: int) -> None:
        stream = self._streams.get(stream_id)
        if stream is not None:
            stream.deliver_eof()
        self.made_room()

    def _on_aborted(self, stream_id: int, code: ErrorCode) -> None:
        stream = self._streams.get(stream_id)  # it stays until its owner lets go: what it has unread counts
        if stream is not None:
            stream.deliver_reset(code)
        self.made_room()

    def _on_window(self, stream_id: int) -> None:
        if stream_id:
            opened = [self._streams[stream_id]] if stream_id in self._streams else []
        else:
            opened = list(self._streams.values())
            self.made_room()
        for stream in opened:
            if stream.pending is None:
                stream.notify_taken()
            else:
                self.offer(stream)

    def _on_opened(self, stream_id: int) -> None:
        if self._life.waiting >= limits.ACCEPT_QUEUE:
            self.connection.reset(stream_id, ErrorCode.REFUSED_STREAM)
            return
        stream = MuxStream(self, stream_id)
        self._streams[stream_id] = stream
        self._life.arrive(stream)

    def _on_gone_away(self, code: ErrorCode, debug: bytes) -> None:
        reason = f"the peer said goodbye: {code.name} {debug.decode('ascii', 'replace')!a}"
        if code is ErrorCode.NO_ERROR:
            self._life.leave(SessionClosed(reason, code=code))
            self.made_room()
        else:
            self._close(SessionClosed(reason, code=code), tell=None)


@asynccontextmanager
async def open_mux_session(
    carrier: trio.abc.HalfCloseableStream, multiplexer: Multiplexer, peer: Peer
) -> AsyncIterator[MuxSession]:
    """Run a multiplexer's session over *carrier* for as long as the body runs.

    Args:
        carrier: An authenticated byte stream; owned and closed by the session.
        multiplexer: A fresh connection of the protocol.
        peer: Who is at the other end, as the carrier proved it.

    Leaving the body ends the session (goodbye, close_notify) within twice
    `CLOSE_TIMEOUT`.  The session's end does not cancel the body: wait for
    `wait_closed`, or see `SessionClosed` from the streams.
    """
    session = MuxSession(carrier, multiplexer, peer)
    async with bare_nursery() as nursery:
        nursery.start_soon(session.run)
        try:
            yield session
        finally:
            session.abort("closed by us", code=ErrorCode.NO_ERROR)
