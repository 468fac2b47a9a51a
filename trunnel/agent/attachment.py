"""One attachment of the agent to its relay: hello, welcome, visitors, goodbye.

    carrier → HTTP/2 session → control stream (the relay's first)
      → hello → welcome: addresses are ours, visitors come as streams
              → rejected: raised
      → until the relay says goodbye, the carrier is lost, or we drain

`attached` is a context manager that owns the control stream's tasks; the
visitors' tasks live in the nursery of whoever runs `serve_visitors`.
"""

from __future__ import annotations

import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import final

import trio

from trunnel.agent.dial import Carrier
from trunnel.agent.forward import Forwarding, forward_stream
from trunnel.errors import ErrorCode, LocalProtocolError, Rejected, RemoteProtocolError, SessionClosed
from trunnel.settings import limits
from trunnel.streams.nursery import bare_nursery
from trunnel.transports.base import Peer, Session, Stream
from trunnel.transports.control_stream import ControlStream, receive_one
from trunnel.transports.h2 import open_h2_session
from trunnel.transports.h2_connection import Role
from trunnel.wire import control

logger = logging.getLogger(__name__)


@final
class Attachment:
    """A session in which the relay has welcomed us."""

    def __init__(self, link: Session, channel: ControlStream, welcome: control.Welcome) -> None:
        self.link = link
        self.welcome = welcome
        self.endpoints: tuple[control.Endpoint, ...] = tuple(welcome.endpoints)
        """Our public addresses, as the relay said last."""
        self._endpoints_changed = trio.Event()
        self.relay_drains = trio.Event()
        """Set when the relay has said that it is about to stop."""
        self._idle = trio.Event()  # replaced whenever a visitor comes
        self.visitors = 0
        """Streams of visitors that are open."""
        self._channel = channel
        self._rejected: Rejected | None = None
        self._answered = trio.current_time()

    async def wait_changed(self) -> SessionClosed | Rejected | None:
        """Wait until `endpoints` has changed (None), or the session has ended, and return why it did.

        Cancellation: no effect.
        """
        async with trio.open_nursery() as nursery:
            changed = self._endpoints_changed

            async def ended() -> None:
                await self.link.wait_closed()
                nursery.cancel_scope.cancel()

            nursery.start_soon(ended)
            await changed.wait()
            nursery.cancel_scope.cancel()
        if self.link.closed is not None:
            return self._rejected or self.link.closed
        self._endpoints_changed = trio.Event()
        return None

    async def drain(self, grace: float, reason: str) -> None:
        """Tell the relay that we stop, and let visitors finish, at most *grace* seconds.

        The relay ends the session once its last visitor has everything: what
        we have sent may still be on its way when our own tasks are done.
        """
        self._channel.post(control.Drain(min(grace, limits.CONTROL_SECONDS_MAX), control.printable(reason)))
        with trio.move_on_after(grace):
            await self.link.wait_closed()

    async def wait_idle(self) -> None:
        """Wait until no visitor's stream is open."""
        while self.visitors:
            await self._idle.wait()

    # --- tasks ------------------------------------------------------------------------------------

    async def serve_visitors(self, forwarding: Forwarding, nursery: trio.Nursery) -> None:
        """Take every stream that the relay opens into *nursery*."""
        try:
            while True:
                stream = await self.link.accept_stream()
                self.visitors += 1
                self._idle = trio.Event()
                nursery.start_soon(self._visitor, stream, forwarding)
        except SessionClosed:
            return

    async def _visitor(self, stream: Stream, forwarding: Forwarding) -> None:
        try:
            await forward_stream(stream, forwarding)
        finally:
            self.visitors -= 1
            if not self.visitors:
                self._idle.set()

    async def listen(self) -> None:
        """Hear the relay's control messages until the session ends."""
        try:
            while True:
                match await self._channel.receive():
                    case control.Ping(id=number):
                        self._channel.post(control.Pong(number))
                    case control.Pong():
                        self._answered = trio.current_time()
                    case control.Endpoints(endpoints=endpoints):
                        self.endpoints = tuple(endpoints)
                        self._endpoints_changed.set()
                    case control.Drain(reason=reason):
                        logger.info("relay_drains", extra={"reason": reason})
                        self.relay_drains.set()
                    case control.Rejected() as rejected:
                        self._rejected = rejected.to_error()
                        self.link.abort(self._rejected.reason, code=ErrorCode.NO_ERROR)
                    case _:
                        pass  # the phase admits nothing else
        except SessionClosed as exc:
            self.link.abort(exc.reason, retryable=exc.retryable)
        except RemoteProtocolError as exc:
            self.link.abort(f"control: {exc.reason}", code=ErrorCode.PROTOCOL_ERROR)

    async def heartbeat(self) -> None:
        """Ping the relay's control task; one that has stopped answering is as good as dead."""
        number = 0
        while self.link.closed is None:
            number += 1
            self._channel.post(control.Ping(number))
            await trio.sleep(limits.HEARTBEAT)
            if trio.current_time() - self._answered > limits.DEAD_AFTER:
                self.link.abort(f"the relay answered no ping for {limits.DEAD_AFTER:.0f} s", code=ErrorCode.DEADLINE)


async def _introduce(link: Session, hello: control.Hello) -> tuple[ControlStream, control.Welcome]:
    """Say hello and return the relay's welcome.

    Raises:
        Rejected: The relay said no.
        SessionClosed: The carrier was lost, or the relay is no such thing.
    """
    try:
        with trio.fail_after(limits.HANDSHAKE_TIMEOUT):
            channel = ControlStream(link, await link.accept_stream(), control.Phase.EXPECT_ANSWER)
            await channel.send(hello)
        answer = await receive_one(channel, limits.HANDSHAKE_TIMEOUT)
    except trio.TooSlowError as exc:
        raise SessionClosed("the relay opened no control stream in time") from exc
    except RemoteProtocolError as exc:
        raise SessionClosed(f"the relay's answer made no sense: {exc.reason}") from exc
    if isinstance(answer, control.Rejected):
        raise answer.to_error()
    if not isinstance(answer, control.Welcome):
        raise LocalProtocolError("the phase admits nothing else")
    if answer.relay != link.peer.key_id.value:
        raise SessionClosed("the relay claims another key than the one it proved", retryable=False)
    return channel, answer


@asynccontextmanager
async def attached(carrier: Carrier, hello: control.Hello, *, window_max: int) -> AsyncIterator[Attachment]:
    """Attach to the relay on *carrier* for as long as the body runs.

    The body runs `serve_visitors`; it is to be left when `wait_changed` says that the session has ended.

    Raises:
        Rejected, SessionClosed: Before the body, as `_introduce`.
    """
    peer = Peer(key_id=carrier.trust.relay_id, address=carrier.address)
    async with open_h2_session(carrier.stream, Role.SERVER, peer, window_max=window_max) as link:
        channel, welcome = await _introduce(link, hello)
        attachment = Attachment(link, channel, welcome)
        async with bare_nursery() as nursery:
            nursery.start_soon(channel.run_writer)
            nursery.start_soon(attachment.listen)
            nursery.start_soon(attachment.heartbeat)
            yield attachment
            nursery.cancel_scope.cancel()
