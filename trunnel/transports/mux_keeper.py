"""Keeps one multiplexer's session alive and in bounds: pings, silence, pressure.

- Every `HEARTBEAT` a ping, unless one is unanswered and nothing at all was
  heard since; its answer is the round trip that tunes the windows.
- A peer of which nothing came for `DEAD_AFTER` is gone: the session ends.
- When the bytes that lie unread take up the session's credit, stalled streams
  are reset (`pressure`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Mapping
from typing import Protocol, final

import trio

from trunnel.errors import ErrorCode
from trunnel.settings import limits
from trunnel.transports.mux_connection import MuxConnection
from trunnel.transports.mux_stream import MuxStream
from trunnel.transports.pressure import stalled_streams


class KeptSession(Protocol):
    """What the keeper asks of its session."""

    @property
    def connection(self) -> MuxConnection:
        """The connection, which wants to know the round trip."""
        ...

    def open_streams(self) -> Collection[MuxStream]:
        """Return the streams whose owner has not let go of them."""
        ...

    def wake_writer(self) -> None:
        """Let the writer look for frames."""
        ...

    def abort(self, reason: str, *, code: ErrorCode) -> None:
        """End the session."""
        ...


@final
class Keeper:
    """See the module's head; `run` is one task of the session."""

    __slots__ = ("_ping", "_ping_sent", "_session", "heard")

    def __init__(self, session: KeptSession, ping: Callable[[], None]) -> None:
        """Begin to listen.

        Args:
            session: What is kept.
            ping: Queues a ping.
        """
        self._session = session
        self._ping = ping
        self._ping_sent: float | None = None
        self.heard = trio.current_time()
        """When the last bytes of the peer came."""

    @property
    def unanswered_since(self) -> float | None:
        """When the ping went out to which nothing at all was heard since, or None."""
        return None if self._ping_sent is None or self.heard > self._ping_sent else self._ping_sent

    def answered(self, now: float) -> None:
        """Take the answer to our ping; one that nobody asked for is ignored."""
        if self._ping_sent is not None:
            self._session.connection.round_trip = now - self._ping_sent
            self._ping_sent = None

    async def run(self) -> None:
        """Keep the session until its peer is dead; returns when it is."""
        while True:
            now = trio.current_time()
            if now - self.heard >= limits.DEAD_AFTER:
                self._session.abort(f"nothing heard for {limits.DEAD_AFTER:.0f} s", code=ErrorCode.DEADLINE)
                return
            if self.unanswered_since is None:
                self._ping_sent = now
                self._ping()
                self._session.wake_writer()
            await self._watch_pressure(until=now + limits.HEARTBEAT)

    async def _watch_pressure(self, *, until: float) -> None:
        """Look every second until *until*, or until the peer is dead."""
        until = min(until, self.heard + limits.DEAD_AFTER)
        while trio.current_time() < until:
            taken = {stream: stream.taken for stream in self._session.open_streams()}
            await trio.sleep(min(limits.PRESSURE_LOOK, until - trio.current_time()))
            self._relieve(taken)

    def _relieve(self, taken: Mapping[MuxStream, int]) -> None:
        """Reset slow streams while unread bytes take up the session's credit.

        Args:
            taken: What each stream's consumer had taken `PRESSURE_LOOK` ago; a stream that is new is spared.
        """
        for stream in stalled_streams(self._session.open_streams(), taken):
            stream.reset(ErrorCode.SLOW_CONSUMER)
