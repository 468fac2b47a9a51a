"""A session's control stream: typed messages over its first stream.

Reading and writing are separate: `receive` is for one task, messages to send
are posted without waiting and leave through `run_writer`, one task as well.  A
peer that does not read what we post (the outbox is full) ends the session: it
could otherwise make us queue without bound.
"""

from __future__ import annotations

from typing import final

import trio

from trunnel.errors import ErrorCode, RemoteProtocolError, SessionClosed
from trunnel.settings import limits
from trunnel.transports.base import Session, Stream
from trunnel.wire.control import Message, Phase, advance_untrusted
from trunnel.wire.control_codec import ControlDecoder, encode


@final
class ControlStream:
    """Messages of one session; made by either side once it has the stream."""

    __slots__ = ("_decoder", "_finishing", "_outbox", "_phase", "_received", "_session", "_stream", "_wake")

    def __init__(self, session: Session, stream: Stream, phase: Phase) -> None:
        self._session = session
        self._stream = stream
        self._phase = phase
        self._decoder = ControlDecoder()
        self._received: list[Message] = []
        self._outbox: list[bytes] = []
        self._finishing = False
        self._wake = trio.Event()

    async def receive(self) -> Message:
        """Return the next message.

        Raises:
            SessionClosed: The stream or its session has ended.
            RemoteProtocolError: The peer broke the protocol.

        Cancellation: no effect.
        """
        while not self._received:
            try:
                chunk = await self._stream.receive_some()
            except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
                raise self._ended() from exc
            if not chunk:
                raise SessionClosed("the peer ended the control stream")
            self._received.extend(self._decoder.feed_untrusted(chunk))
        await trio.lowlevel.checkpoint()  # a burst of messages must not outrun our own writer
        message = self._received.pop(0)
        self._phase = advance_untrusted(self._phase, message)
        return message

    def _ended(self) -> SessionClosed:
        """Say why the session ended, as an exception of our own."""
        closed = self._session.closed
        if closed is None:
            return SessionClosed("the control stream broke")
        return SessionClosed(closed.reason, retryable=closed.retryable, code=closed.code)

    async def send(self, message: Message) -> None:
        """Send *message* now; only before `run_writer` runs.

        Raises:
            SessionClosed: The session has ended.
        """
        try:
            await self._stream.send_all(encode(message))
        except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
            raise self._ended() from exc

    def post(self, message: Message) -> None:
        """Queue *message*; never waits.  A full outbox ends the session."""
        if len(self._outbox) >= limits.CONTROL_OUTBOX:
            self._session.abort("the peer does not read control messages", code=ErrorCode.ENHANCE_YOUR_CALM)
            return
        self._outbox.append(encode(message))
        self._wake.set()

    def finish(self) -> None:
        """Let `run_writer` return once all that was posted is sent; FIN follows."""
        self._finishing = True
        self._wake.set()

    async def run_writer(self) -> None:
        """Send what is posted until `finish`, or until the session ends."""
        try:
            while True:
                while self._outbox:
                    await self._stream.send_all(self._outbox.pop(0))
                if self._finishing:
                    await self._stream.send_eof()
                    return
                self._wake = trio.Event()
                await self._wake.wait()
        except (trio.BrokenResourceError, trio.ClosedResourceError):
            return  # the session ends; its reader says why


async def receive_one(control: ControlStream, timeout: float) -> Message:  # noqa: ASYNC109 - the peer's time, not ours
    """Return the first message, which must come within *timeout* seconds.

    Raises:
        SessionClosed, RemoteProtocolError: As `ControlStream.receive`; a
            timeout is a RemoteProtocolError.
    """
    with trio.move_on_after(timeout):
        return await control.receive()
    raise RemoteProtocolError(f"no control message within {timeout:.0f} s", code=ErrorCode.DEADLINE)
