"""One stream of a multiplexer, as upper layers see it.

The stream never touches the carrier.  To send, it offers its bytes to the
session's writer and waits until the writer has taken all of them; to receive,
it takes from its inbox and gives the credit back.  So cancelling a visitor can
only ever break the visitor's own stream.
"""

from __future__ import annotations

from typing import Protocol, final

import trio

from trunnel.errors import ErrorCode, StreamReset
from trunnel.streams.conflict import ConflictDetector
from trunnel.transports.base import Stream
from trunnel.transports.inbox import Inbox
from trunnel.transports.mux_connection import MuxConnection


class StreamOwner(Protocol):
    """What a stream asks of its session."""

    @property
    def connection(self) -> MuxConnection:
        """The connection's state."""
        ...

    def offer(self, stream: MuxStream) -> None:
        """Let the writer take the stream's pending bytes."""
        ...

    def wake_writer(self) -> None:
        """Let the writer look for frames."""
        ...

    def forget(self, stream: MuxStream) -> None:
        """Drop a stream that has ended both ways."""
        ...

    def made_room(self) -> None:
        """Let another stream be opened."""
        ...


@final
class MuxStream(Stream):
    """A bidirectional stream inside a multiplexer's connection."""

    __slots__ = (
        "_closed",
        "_conflict",
        "_error",
        "_inbox",
        "_owner",
        "_reset_code",
        "_stream_id",
        "_taken",
        "pending",
        "taken",
    )

    def __init__(self, owner: StreamOwner, stream_id: int) -> None:
        self._owner = owner
        self._stream_id = stream_id
        self._inbox = Inbox()
        self._closed = False
        self._error: BaseException | None = None  # why sending cannot go on
        self._reset_code: ErrorCode | None = None
        self._taken: trio.Event | None = None
        self._conflict = ConflictDetector("another task is sending on this stream")
        self.pending: memoryview | None = None
        """Bytes offered to the writer and not taken yet."""
        self.taken = 0
        """Bytes that the consumer has taken in all."""

    @property
    def stream_id(self) -> int:
        """The stream's identifier in its connection."""
        return self._stream_id

    @property
    def reset_code(self) -> ErrorCode | None:
        """The code with which the peer reset this stream, or None."""
        return self._reset_code

    @property
    def unread(self) -> int:
        """Bytes received and not consumed."""
        return self._inbox.unread

    # --- sending ------------------------------------------------------------------------------------

    def _check_sendable(self) -> None:
        state = self._owner.connection.streams.get(self._stream_id)
        if self._closed or (state is not None and state.we_ended):
            raise trio.ClosedResourceError("this stream was closed for sending")
        if self._error is not None:
            raise trio.BrokenResourceError(str(self._error)) from self._error
        if state is None:
            raise trio.ClosedResourceError("this stream has ended")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send *data*; returns when the writer has taken all of it.

        Raises:
            trio.BrokenResourceError: Reset, or the session is gone; the cause says which.
            trio.ClosedResourceError: FIN was sent, or the stream was closed.

        Cancellation: an unknown part was sent; the stream is broken for
        sending and must be reset.
        """
        with self._conflict:
            self._check_sendable()
            view = memoryview(data).cast("B")
            if not view:
                await trio.lowlevel.checkpoint()
                return
            self.pending = view
            try:
                await self._until_taken()
            except trio.Cancelled:
                self._error = self._error or trio.BrokenResourceError("an earlier send was cancelled")
                raise
            finally:
                self.pending = None

    async def _until_taken(self) -> None:
        self._owner.offer(self)
        while self.pending:
            self._taken = trio.Event()
            await self._taken.wait()
            if self.pending:
                self._check_sendable()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is credit to send."""
        with self._conflict:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            while not self._owner.connection.sendable(self._stream_id):
                self._taken = trio.Event()
                await self._taken.wait()
                self._check_sendable()

    async def send_eof(self) -> None:
        """Send FIN; idempotent.  Raises as `send_all`."""
        with self._conflict:
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            state = self._owner.connection.streams.get(self._stream_id)
            if state is not None and not state.we_ended:
                self._check_sendable()
                self._owner.connection.end(self._stream_id)
                self._owner.wake_writer()
                if self._stream_id not in self._owner.connection.streams:
                    self._owner.made_room()
            elif state is None and self._error is not None:
                raise trio.BrokenResourceError(str(self._error)) from self._error
            await trio.lowlevel.checkpoint()

    def notify_taken(self) -> None:
        """Wake the sender: the writer took its bytes, credit came, or the stream broke."""
        if self._taken is not None:
            self._taken.set()
            self._taken = None

    # --- receiving ----------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return bytes of the peer, b"" at FIN; gives their credit back.  See `Inbox.take`."""
        taken = await self._inbox.take(max_bytes)
        if taken:
            now = trio.current_time()
            self.taken += len(taken)
            connection = self._owner.connection
            before = connection.output.pending
            connection.consumed(self._stream_id, len(taken), unread=self._inbox.unread, now=now)
            if connection.output.pending != before:
                self._owner.wake_writer()
        return taken

    # --- ending -------------------------------------------------------------------------------------

    def reset(self, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Abort both directions; see `base.Stream`."""
        connection = self._owner.connection
        if not connection.reset(self._stream_id, code) and self._error is None and not self.unread:
            self._owner.forget(self)  # it has ended both ways
            return
        if self._error is None:
            self._error = StreamReset(code)
        connection.discard(self._inbox.abandon(self._error))
        self._owner.wake_writer()  # also for the credit of what was dropped
        self.notify_taken()
        self._owner.forget(self)

    async def aclose(self) -> None:
        """Send FIN if need be, tell the peer to stop sending, discard what comes.

        After a send that was cancelled the stream is reset instead: a part of
        a message must not look like an end.
        """
        if not self._closed:
            self._closed = True
            connection = self._owner.connection
            if self._error is not None or self.pending:
                connection.reset(self._stream_id, ErrorCode.CANCEL)
            else:
                connection.end(self._stream_id)
                connection.reset(self._stream_id, ErrorCode.NO_ERROR)  # no effect if the peer has ended too
            connection.discard(self._inbox.close())
            self._owner.wake_writer()
            self.notify_taken()
            self._owner.forget(self)
        await trio.lowlevel.checkpoint()

    def _fail(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self._inbox.fail(error)
        self.notify_taken()

    # --- called by the session ----------------------------------------------------------------------

    def deliver(self, payload: bytes) -> None:
        """Take payload of the peer; if nobody will read it, give its credit back."""
        if self._closed:
            self._owner.connection.discard(len(payload))
        else:
            self._inbox.put(payload)

    def deliver_eof(self) -> None:
        """Take the peer's FIN."""
        self._inbox.finish()

    def deliver_reset(self, code: ErrorCode) -> None:
        """Take the peer's reset; bytes that came before stay readable."""
        self._reset_code = code
        self._fail(StreamReset(code))

    def lose(self, reason: BaseException) -> None:
        """Break both directions: the session has ended."""
        self._fail(reason)
