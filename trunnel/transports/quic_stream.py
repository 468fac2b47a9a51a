"""One stream of a QUIC connection, as upper layers see it.

To send, a stream writes into the connection's send buffer as much as there is
room for, and waits for acknowledgements to make more; to receive, it takes
from its inbox and gives the credit back.  It never touches the socket.

How ends are carried (RFC 9000 §2.4, §3):

- `send_eof` is FIN.  `aclose` is FIN, and STOP_SENDING(NO_ERROR) if the peer
  has not ended, for nobody will read what still comes.
- `reset` is STOP_SENDING at once, and RESET_STREAM as soon as the bytes whose
  `send_all` has returned are acknowledged (the session sees to it): a
  RESET_STREAM that comes too early makes the peer drop them.
- Either of the two frames from the peer breaks sending; receiving ends with
  RESET_STREAM only, behind the bytes that came before it.
"""

from __future__ import annotations

from typing import Protocol, final

import trio

from trunnel.errors import ErrorCode, StreamReset
from trunnel.streams.conflict import ConflictDetector
from trunnel.transports.base import Stream
from trunnel.transports.inbox import Inbox
from trunnel.transports.quic_sending import Sending


class StreamOwner(Protocol):
    """What a stream asks of its session."""

    def consumed(self, stream: QuicStream, amount: int) -> None:
        """Give the credit of *amount* bytes back: the consumer took them."""
        ...

    def discarded(self, stream: QuicStream, amount: int) -> None:
        """Give the credit of *amount* bytes back: nobody will read them."""
        ...

    def forget(self, stream: QuicStream) -> None:
        """Drop a stream that its owner has let go of."""
        ...


@final
class QuicStream(Stream):
    """A bidirectional stream of a QUIC connection."""

    __slots__ = (
        "_closed",
        "_conflict",
        "_error",
        "_finished",
        "_inbox",
        "_out",
        "_owner",
        "_reset_code",
        "_sending",
        "_stream_id",
        "_wakeup",
        "announced",
        "taken",
    )

    def __init__(self, owner: StreamOwner, out: Sending, stream_id: int, *, announced: bool) -> None:
        self._owner = owner
        self._out = out
        self._stream_id = stream_id
        self._inbox = Inbox()
        self._closed = False
        self._finished = False  # FIN was written
        self._sending = False  # a send_all has written a part
        self._error: BaseException | None = None  # why sending cannot go on
        self._reset_code: ErrorCode | None = None
        self._wakeup: trio.Event | None = None
        self._conflict = ConflictDetector("another task is sending on this stream")
        self.announced = announced
        """Whether the octet at the head of the stream was sent or seen."""
        self.taken = 0
        """Bytes that the consumer has taken in all."""

    @property
    def stream_id(self) -> int:
        """The QUIC stream identifier."""
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
        if self._closed or self._finished:
            raise trio.ClosedResourceError("this stream was closed for sending")
        if self._error is not None:
            raise trio.BrokenResourceError(str(self._error)) from self._error

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send *data*; returns when the send buffer has all of it.

        Raises:
            trio.BrokenResourceError: Reset, or the session is gone; the cause says which.
            trio.ClosedResourceError: FIN was sent, or the stream was closed.

        Cancellation: an unknown part was sent; the stream is broken for
        sending and must be reset.
        """
        with self._conflict:
            self._check_sendable()
            view = memoryview(data).cast("B")
            self._sending = bool(view)
            try:
                await trio.lowlevel.checkpoint()
                while view:
                    self._check_sendable()
                    room = self._out.room(self._stream_id)
                    if room > 0:
                        self._out.write(self._stream_id, bytes(view[:room]))
                        view = view[room:]
                    else:
                        await self._until_woken()
            except trio.Cancelled:
                if self._sending and self._error is None:
                    self._error = trio.BrokenResourceError("an earlier send was cancelled")
                raise
            finally:
                self._sending = False

    async def _until_woken(self) -> None:
        self._wakeup = trio.Event()
        self._out.notify_room(self)
        await self._wakeup.wait()

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until there is room in the send buffer."""
        with self._conflict:
            await trio.lowlevel.checkpoint()
            self._check_sendable()
            while self._out.room(self._stream_id) <= 0:
                await self._until_woken()
                self._check_sendable()

    async def send_eof(self) -> None:
        """Send FIN; idempotent.  Raises as `send_all`."""
        with self._conflict:
            if self._closed:
                raise trio.ClosedResourceError("this stream was closed")
            if not self._finished:
                self._check_sendable()
                self._finished = True
                self._out.finish(self._stream_id)
            await trio.lowlevel.checkpoint()

    def wake(self) -> None:
        """Wake the sender: there is room, or the stream broke."""
        if self._wakeup is not None:
            self._wakeup.set()
            self._wakeup = None

    # --- receiving ----------------------------------------------------------------------------------

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return bytes of the peer, b"" at FIN; gives their credit back.  See `Inbox.take`."""
        taken = await self._inbox.take(max_bytes)
        if taken:
            self.taken += len(taken)
            self._owner.consumed(self, len(taken))
        return taken

    # --- ending -------------------------------------------------------------------------------------

    def reset(self, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Abort both directions; see `base.Stream`."""
        if self._finished and self._inbox.ended and not self.unread and self._error is None:
            self._owner.forget(self)  # it has ended both ways
            return
        self._stop(code)
        if self._error is None:
            self._error = StreamReset(code)
        self._owner.discarded(self, self._inbox.abandon(self._error))
        self.wake()
        self._owner.forget(self)

    async def aclose(self) -> None:
        """Send FIN if need be, tell the peer to stop sending, discard what comes.

        After a send that was cancelled the stream is reset instead: a part of
        a message must not look like an end.
        """
        if not self._closed:
            if (self._error is not None and not self._finished) or self._sending:
                self._stop(ErrorCode.CANCEL)
            else:
                if not self._finished:
                    self._finished = True
                    self._out.finish(self._stream_id)
                if not self._inbox.ended:
                    self._out.stop(self._stream_id, ErrorCode.NO_ERROR)
            self._closed = True
            self._owner.discarded(self, self._inbox.close())
            self.wake()
            self._owner.forget(self)
        await trio.lowlevel.checkpoint()

    def _stop(self, code: ErrorCode) -> None:
        """Abort on the wire what has not ended yet."""
        if not self._inbox.ended:
            self._out.stop(self._stream_id, code)
        if not self._finished:
            self._out.cut(self._stream_id, code)

    # --- called by the session ----------------------------------------------------------------------

    def deliver(self, payload: bytes) -> None:
        """Take payload of the peer; of a closed stream its credit is given back."""
        if self._closed:
            self._owner.discarded(self, len(payload))
        else:
            self._inbox.put(payload)

    def deliver_eof(self) -> None:
        """Take the peer's FIN."""
        self._inbox.finish()

    def deliver_stop(self, code: ErrorCode) -> None:
        """Take STOP_SENDING: the peer reads no more."""
        if self._reset_code is None:
            self._reset_code = code
        self._break(StreamReset(code))

    def deliver_reset(self, code: ErrorCode) -> None:
        """Take RESET_STREAM; bytes that came before stay readable."""
        error = StreamReset(code)
        self._inbox.fail(error)
        self._reset_code = code
        if not (self._finished or self._closed):
            self._out.cut(self._stream_id, code)
        self._break(error)

    def lose(self, reason: BaseException) -> None:
        """Break both directions: the session has ended."""
        self._inbox.fail(reason)
        self._break(reason)

    def _break(self, error: BaseException) -> None:
        if self._error is None:
            self._error = error
        self.wake()
