"""Data connections as the conformance suite sees a transport: each stream is a connection that is parked and taken.

A session of these is nothing but the two ends of a listener; there is no
carrier behind it, so what the suite asks of one is left out by name (`LEFT_OUT`).
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import final

import trio
import trio.testing

from tests.transports import conformance
from tests.transports.direct_pairs import HEADER, park, take
from trunnel.errors import ErrorCode, SessionClosed
from trunnel.streams.abort import abort_stream
from trunnel.transports.base import Peer, Session, SessionStatistics, Stream
from trunnel.wire.direct import Answer

LEFT_OUT = {
    conformance.reset_is_carried_with_its_code: "an RST of TCP has no code; that it arrives as a break is examined",
    conformance.a_cancelled_send_breaks_its_stream_only: "a socket can be sent on after a cancelled send; "
    "whoever cancels one, the pump, aborts it",
    conformance.a_lost_session_breaks_every_stream: "data connections outlive carriers, on purpose",
    conformance.going_away_lets_old_streams_finish: "there is no carrier that could say GOAWAY",
    conformance.closing_tells_the_sender: "the kernel answers bytes for a closed socket with RST, in both directions",
}
"""Exam -> why it cannot hold where a stream is a connection of its own."""


@final
class DirectStream(Stream):
    """A taken data connection as a stream: everything is the socket's."""

    def __init__(self, socket_stream: trio.SocketStream, number: int) -> None:
        self.socket_stream = socket_stream
        self._number = number

    @property
    def stream_id(self) -> int:
        return self._number

    @property
    def reset_code(self) -> ErrorCode | None:
        return None

    def reset(self, code: ErrorCode = ErrorCode.CANCEL) -> None:
        abort_stream(self.socket_stream, code)

    @property
    def is_open(self) -> bool:
        """Whether the socket has a descriptor."""
        return self.socket_stream.socket.fileno() >= 0

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.socket_stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.socket_stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.socket_stream.receive_some(max_bytes)

    async def send_eof(self) -> None:
        await self.socket_stream.send_eof()

    async def aclose(self) -> None:
        await self.socket_stream.aclose()


@final
class DirectSession(Session):
    """One end of a listener whose connections are proved, parked and taken."""

    def __init__(self, listener: trio.SocketListener, other: DirectSession | None) -> None:
        self._listener = listener
        self._other = other
        self._waiting: list[DirectStream] = []
        self._streams: list[DirectStream] = []

    async def open_stream(self) -> Stream:
        """Dial and park a connection, as an agent would ahead of need, and take it."""
        assert self._other is not None
        dialled = await trio.testing.open_stream_to_socket_listener(self._listener)
        agent, relay = await park(dialled, await self._listener.accept())
        assert relay.is_alive()
        assert await take(agent, relay, first=b"") == (HEADER, Answer.ACCEPTED)
        self._other.add(agent.stream, waiting=True)
        return self.add(relay.stream)

    def add(self, socket_stream: trio.SocketStream, *, waiting: bool = False) -> DirectStream:
        """Keep a stream, to be closed at the end."""
        stream = DirectStream(socket_stream, len(self._streams))
        self._streams.append(stream)
        if waiting:
            self._waiting.append(stream)
        return stream

    async def accept_stream(self) -> Stream:
        await trio.lowlevel.checkpoint()
        return self._waiting.pop(0)

    @property
    def transport(self) -> str:
        return "direct"

    @property
    def peer(self) -> Peer:
        return conformance.AGENT

    @property
    def closed(self) -> SessionClosed | None:
        return None

    @property
    def last_heard(self) -> float:
        return trio.current_time()

    @property
    def unanswered_since(self) -> float | None:
        return None

    def statistics(self) -> SessionStatistics:
        number = sum(stream.is_open for stream in self._streams)
        return SessionStatistics(streams_open=number, unread=0, unsent=0, bytes_received=0, bytes_sent=0)

    def abort(self, reason: str, *, code: ErrorCode = ErrorCode.CANCEL, retryable: bool = True) -> None:
        for stream in self._streams:
            stream.reset(code)

    def go_away(self, code: ErrorCode = ErrorCode.NO_ERROR) -> None:
        raise NotImplementedError(LEFT_OUT[conformance.going_away_lets_old_streams_finish])

    async def wait_closed(self) -> SessionClosed:
        raise NotImplementedError(LEFT_OUT[conformance.a_lost_session_breaks_every_stream])


@asynccontextmanager
async def direct_over_sockets() -> AsyncIterator[tuple[Session, Session]]:
    """Both ends of a listener on loopback."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        agent = DirectSession(listener, None)
        relay = DirectSession(listener, agent)
        try:
            yield relay, agent
        finally:
            relay.abort("the test is over")
            agent.abort("the test is over")
