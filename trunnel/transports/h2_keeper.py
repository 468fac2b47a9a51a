"""Keeps one HTTP/2 session alive and in bounds: pings, silence, pressure.

- Every `HEARTBEAT` a ping, unless one is still unanswered; its answer is the
  round trip that tunes the windows.
- A peer of which nothing came for `DEAD_AFTER` is gone: the session ends.
- When the bytes that lie unread take up the session's credit
  (`SESSION_PRESSURE`), streams whose consumer has stalled are reset, the
  fullest first, until the others can move again.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol, final

import trio

from trunnel.errors import ErrorCode
from trunnel.settings import limits
from trunnel.transports.h2_connection import H2Connection
from trunnel.transports.h2_frames import FrameType
from trunnel.transports.h2_stream import H2Stream

_PING: Final = b"trunnel\0"


class KeptSession(Protocol):
    """What the keeper asks of its session."""

    @property
    def h2(self) -> H2Connection:
        """The connection's state."""
        ...

    def open_streams(self) -> Collection[H2Stream]:
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

    __slots__ = ("_ping_sent", "_session", "heard")

    def __init__(self, session: KeptSession) -> None:
        self._session = session
        self._ping_sent: float | None = None
        self.heard = trio.current_time()
        """When the last bytes of the peer came."""

    def answered(self, now: float) -> None:
        """Take the answer to our ping; one that nobody asked for is ignored."""
        if self._ping_sent is not None:
            self._session.h2.round_trip = now - self._ping_sent
            self._ping_sent = None

    async def run(self) -> None:
        """Keep the session until its peer is dead; returns when it is."""
        while True:
            now = trio.current_time()
            if now - self.heard >= limits.DEAD_AFTER:
                self._session.abort(f"nothing heard for {limits.DEAD_AFTER:.0f} s", code=ErrorCode.DEADLINE)
                return
            if self._ping_sent is None:
                self._ping_sent = now
                self._session.h2.output.frame(FrameType.PING, 0, 0, _PING)
                self._session.wake_writer()
            for _ in range(int(limits.HEARTBEAT // limits.STALLED_AFTER)):
                self._relieve()
                dead_in = self.heard + limits.DEAD_AFTER - trio.current_time()
                await trio.sleep(min(limits.STALLED_AFTER, max(0.0, dead_in)))

    def _relieve(self) -> None:
        """Reset stalled streams while unread bytes take up the session's credit."""
        streams = self._session.open_streams()
        excess = sum(stream.unread for stream in streams) - limits.SESSION_PRESSURE
        stalled_since = trio.current_time() - limits.STALLED_AFTER
        stalled = [stream for stream in streams if stream.unread and stream.last_read <= stalled_since]
        for stream in sorted(stalled, key=lambda stream: stream.unread, reverse=True):
            if excess < 0:
                return
            excess -= stream.unread
            stream.reset(ErrorCode.SLOW_CONSUMER)
