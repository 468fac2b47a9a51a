"""The in-process transport: for tests, and for embedding relay and agent in one program.

Two `MemorySession` objects share nothing but the streams between them.  Each
direction of a stream is an `Inbox` whose sender waits while a window's worth
lies unread, so backpressure, FIN and aborts behave as on the other transports
and the same conformance suite runs against it.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import final

import trio

from trunnel.errors import ErrorCode, SessionClosed, StreamReset
from trunnel.settings import limits
from trunnel.streams.conflict import ConflictDetector
from trunnel.transports.base import Peer, Session, SessionStatistics, Stream
from trunnel.transports.inbox import Inbox
from trunnel.transports.lifetime import Lifetime


@final
class MemoryStream(Stream):
    """One end of an in-process stream."""

    __slots__ = (
        "_closed",
        "_conflict",
        "_error",
        "_far",
        "_inbox",
        "_number",
        "_reset_code",
        "_room",
        "_sent_eof",
        "_session",
    )

    def __init__(self, session: MemorySession, number: int) -> None:
        self._session = session
        self._number = number
        self._far: MemoryStream = self  # replaced by `_join` before anyone sees it
        self._inbox = Inbox()
        self._sent_eof = False
        self._closed = False
        self._error: BaseException | None = None  # why sending cannot go on
        self._reset_code: ErrorCode | None = None
        self._room = trio.Event()
        self._room.set()
        self._conflict = ConflictDetector("another task is sending on this stream")

    @property
    def stream_id(self) -> int:
        """The stream's number, from 1."""
        return self._number

    @property
    def reset_code(self) -> ErrorCode | None:
        """The code with which the peer reset this stream, or None."""
        return self._reset_code

    @property
    def unread(self) -> int:
        """Bytes received and not consumed."""
        return self._inbox.unread

    def _check_sendable(self) -> None:
        if self._closed or self._sent_eof:
            raise trio.ClosedResourceError("this stream was closed for sending")
        if self._error is not None:
            raise trio.BrokenResourceError(str(self._error)) from self._error

    async def _wait_room(self) -> None:
        await trio.lowlevel.checkpoint()
        self._check_sendable()
        while not self._room.is_set():
            await self._room.wait()
            self._check_sendable()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send *data*; waits while the far end's window is full.  See `base.Stream`."""
        with self._conflict:
            self._check_sendable()
            view = memoryview(data)
            try:
                await trio.lowlevel.checkpoint()
                while view:
                    await self._room.wait()
                    self._check_sendable()
                    chunk = bytes(view[: limits.STREAM_WINDOW_MIN])
                    view = view[len(chunk) :]
                    self._session.count_sent(len(chunk))
                    self._far.deliver(chunk)
            except trio.Cancelled:
                self._break(trio.BrokenResourceError("an earlier send was cancelled"))
                raise

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the far end has room."""
        with self._conflict:
            await self._wait_room()

    async def send_eof(self) -> None:
        """Send FIN; idempotent."""
        with self._conflict:
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            if not self._sent_eof:
                self._check_sendable()
                self._sent_eof = True
                self._far.deliver_eof()
            await trio.lowlevel.checkpoint()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return bytes of the peer, b"" at FIN.  See `Inbox.take`."""
        taken = await self._inbox.take(max_bytes)
        if self._inbox.unread < limits.STREAM_WINDOW_MIN:
            self._far.allow()
        return taken

    def reset(self, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Abort both directions."""
        if self._sent_eof and self._inbox.ended and not self._inbox.unread and self._error is None:
            self._session.forget(self)  # it has ended both ways
            return
        if not (self._closed or self._reset_code is not None):
            self._far.deliver_reset(code)
        self._break(StreamReset(code))
        self._inbox.abandon(StreamReset(code))
        self._session.forget(self)

    async def aclose(self) -> None:
        """End what was sent with FIN, discard what comes; after a cancelled send a reset, for a part is no end."""
        if not self._closed:
            if self._error is not None and self._reset_code is None:
                self._far.deliver_reset(ErrorCode.CANCEL)
            elif not self._sent_eof:
                self._far.deliver_eof()
            if not self._inbox.ended:
                self._far.stop(ErrorCode.NO_ERROR)
            self._closed = True
            self._inbox.close()
            self._room.set()
            self._session.forget(self)
        await trio.lowlevel.checkpoint()

    # --- called by the far end, or by the session -----------------------------------------------

    def deliver(self, chunk: bytes) -> None:
        """Take a chunk of the far end; past the window the far end waits."""
        if self._closed:
            return
        self._session.count_received(len(chunk))
        self._inbox.put(chunk)
        if self._inbox.unread >= limits.STREAM_WINDOW_MIN:
            self._far.hold()

    def deliver_eof(self) -> None:
        """Take the far end's FIN."""
        self._inbox.finish()

    def deliver_reset(self, code: ErrorCode) -> None:
        """Take the far end's abort."""
        if not self._closed and self._session.closed is None:
            self._inbox.fail(StreamReset(code))
            self.stop(code)
            self._session.forget(self)

    def stop(self, code: ErrorCode) -> None:
        """Learn that the far end reads no more."""
        if self._reset_code is None:
            self._reset_code = code
        self._break(StreamReset(code))

    def hold(self) -> None:
        """Make senders wait."""
        if self._error is None:
            self._room = trio.Event()

    def allow(self) -> None:
        """Let senders go on."""
        self._room.set()

    def lose(self, reason: SessionClosed) -> None:
        """Break both directions: the session ended."""
        self._break(reason)
        self._inbox.fail(reason)

    def join(self, far: MemoryStream) -> None:
        """Connect the two ends; called once, before anyone sees them."""
        self._far = far

    def _break(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._room.set()


@final
class MemorySession(Session):
    """One end of an in-process session; see `memory_session_pair`."""

    __slots__ = (
        "_far",
        "_life",
        "_next",
        "_peer",
        "_received",
        "_sent",
        "_streams",
        "refusing",
    )

    def __init__(self, peer: Peer) -> None:
        self._peer = peer
        self._far: MemorySession = self
        self._streams: set[MemoryStream] = set()
        self._life = Lifetime[MemoryStream]()
        self._next = 1
        self._received = 0
        self._sent = 0
        self.refusing = False
        """Whether this end told the other to open no more streams."""

    @property
    def transport(self) -> str:
        """`memory`."""
        return "memory"

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
        """Now: a peer in the same process is always alive."""
        return trio.current_time()

    @property
    def unanswered_since(self) -> float | None:
        """None: nobody needs to ask."""
        return None

    def join(self, far: MemorySession) -> None:
        """Connect the two ends; called once."""
        self._far = far

    async def open_stream(self) -> Stream:
        """Open a stream to the far end.  See `base.Session`."""
        await trio.lowlevel.checkpoint()
        if (refusal := self._life.refusal()) is not None:
            raise refusal
        if self.refusing or self._far.refusing:
            raise SessionClosed("the session is going away")
        near = MemoryStream(self, self._next)
        far = MemoryStream(self._far, self._next)
        self._next += 1
        near.join(far)
        far.join(near)
        self._streams.add(near)
        self._far.arrive(far)
        return near

    def arrive(self, stream: MemoryStream) -> None:
        """Queue a stream that the far end opened."""
        self._streams.add(stream)
        if self._life.waiting >= limits.ACCEPT_QUEUE:
            stream.reset(ErrorCode.REFUSED_STREAM)
            return
        self._life.arrive(stream)

    async def accept_stream(self) -> Stream:
        """Return the next stream.  See `base.Session`."""
        return await self._life.accept()

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:  # noqa: ARG002 - nobody to tell
        """Refuse new streams from now on."""
        self.refusing = True

    def abort(self, reason: str, *, code: ErrorCode = ErrorCode.CANCEL, retryable: bool = True) -> None:
        """End both ends of the session now."""
        for end in (self, self._far):
            end.lose(SessionClosed(reason, retryable=retryable, code=code))

    def lose(self, reason: SessionClosed) -> None:
        """End this end."""
        if not self._life.close(reason):
            return
        for stream in tuple(self._streams):
            stream.lose(reason)
        self._streams.clear()

    async def wait_closed(self) -> SessionClosed:
        """Wait for the end."""
        return await self._life.wait_closed()

    def forget(self, stream: MemoryStream) -> None:
        """Drop an ended stream from the books."""
        self._streams.discard(stream)

    def count_sent(self, amount: int) -> None:
        """Count payload bytes sent."""
        self._sent += amount

    def count_received(self, amount: int) -> None:
        """Count payload bytes received."""
        self._received += amount

    def statistics(self) -> SessionStatistics:
        """Return a snapshot."""
        return SessionStatistics(
            streams_open=len(self._streams),
            unread=sum(stream.unread for stream in self._streams),
            unsent=0,
            bytes_received=self._received,
            bytes_sent=self._sent,
        )


@asynccontextmanager
async def memory_session_pair(relay_peer: Peer, agent_peer: Peer) -> AsyncIterator[tuple[MemorySession, MemorySession]]:
    """Yield the relay's and the agent's end of one session.

    Args:
        relay_peer: What the agent sees as its peer.
        agent_peer: What the relay sees as its peer.
    """
    relay = MemorySession(agent_peer)
    agent = MemorySession(relay_peer)
    relay.join(agent)
    agent.join(relay)
    try:
        yield relay, agent
    finally:
        relay.abort("the session's scope ended")
