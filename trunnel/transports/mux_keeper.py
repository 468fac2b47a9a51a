"""Keeps one multiplexer's session alive and in bounds: pings, silence, pressure.

- Every `HEARTBEAT` a ping, unless one is unanswered and nothing at all was
  heard since; its answer is the round trip that tunes the windows.
- A peer of which nothing came for `DEAD_AFTER` is gone: the session ends.
- Opening a stream is a question, too: its answer is due at once.  So a carrier
  that has gone silent is suspect `SUSPECT_AFTER` its first visitor, not its next ping.
- When the bytes that lie unread take up the session's credit, stalled streams
  are reset (`pressure`).  They are watched once a second while that could be,
  and not at all otherwise: an idle session sleeps from ping to ping.
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

    __slots__ = ("_asked", "_ping", "_ping_sent", "_pressed", "_session", "_unread_at_most", "heard")

    def __init__(self, session: KeptSession, ping: Callable[[], None]) -> None:
        """Begin to listen.

        Args:
            session: What is kept.
            ping: Queues a ping.
        """
        self._session = session
        self._ping = ping
        self._ping_sent: float | None = None
        self._asked: float | None = None  # when a stream was opened, nothing having been heard since
        self._unread_at_most = 0  # bytes unread at the last look, and all that have come since
        self._pressed = trio.Event()
        self.heard = trio.current_time()
        """When the last bytes of the peer came."""

    @property
    def unanswered_since(self) -> float | None:
        """When the ping or the new stream went out since which nothing at all was heard, or None."""
        ping = None if self._ping_sent is None or self.heard > self._ping_sent else self._ping_sent
        return ping if self._asked is None or (ping is not None and ping < self._asked) else self._asked

    def hear(self, now: float) -> None:
        """Note that bytes of the peer came."""
        self.heard = now
        self._asked = None

    def asked(self, now: float) -> None:
        """Note that a stream was opened."""
        if self._asked is None:
            self._asked = now

    def received(self, amount: int) -> None:
        """Count *amount* bytes that a consumer has to take."""
        self._unread_at_most += amount
        if self._unread_at_most >= limits.SESSION_PRESSURE:
            self._pressed.set()

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
            if self._ping_sent is None or self.heard > self._ping_sent:
                self._ping_sent = now
                self._ping()
                self._session.wake_writer()
            await self._watch_pressure(until=now + limits.HEARTBEAT)

    async def _watch_pressure(self, *, until: float) -> None:
        """Sleep until *until*, or until the peer is dead; while the session may be pressed, look every second."""
        with trio.move_on_at(min(until, self.heard + limits.DEAD_AFTER)):
            while True:
                await self._pressed.wait()
                taken = {stream: stream.taken for stream in self._session.open_streams()}
                await trio.sleep(limits.PRESSURE_LOOK)
                self._relieve(taken)
                self._unread_at_most = sum(stream.unread for stream in self._session.open_streams())
                if self._unread_at_most < limits.SESSION_PRESSURE:
                    self._pressed = trio.Event()

    def _relieve(self, taken: Mapping[MuxStream, int]) -> None:
        """Reset slow streams while unread bytes take up the session's credit.

        Args:
            taken: What each stream's consumer had taken `PRESSURE_LOOK` ago; a stream that is new is spared.
        """
        for stream in stalled_streams(self._session.open_streams(), taken):
            stream.reset(ErrorCode.SLOW_CONSUMER)
