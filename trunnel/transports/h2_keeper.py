"""Keeps one HTTP/2 session alive and in bounds: pings, silence, pressure.

- Every `HEARTBEAT` a ping, unless one is still unanswered; its answer is the
  round trip that tunes the windows.
- A peer of which nothing came for `DEAD_AFTER` is gone: the session ends.
- When the bytes that lie unread take up the session's credit
  (`SESSION_PRESSURE`), streams whose consumer would need `STALLED_AFTER` or
  longer for what it has are reset, the fullest first, until the others can
  move again: a hundred visitors that only sip must not stop everybody else.
"""

from __future__ import annotations

from collections.abc import Collection, Mapping
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
            await self._watch_pressure(until=now + limits.HEARTBEAT)

    async def _watch_pressure(self, *, until: float) -> None:
        """Look every second until *until*, or until the peer is dead."""
        until = min(until, self.heard + limits.DEAD_AFTER)
        while trio.current_time() < until:
            taken = {stream: stream.taken for stream in self._session.open_streams()}
            await trio.sleep(min(limits.PRESSURE_LOOK, until - trio.current_time()))
            self._relieve(taken)

    def _relieve(self, taken: Mapping[H2Stream, int]) -> None:
        """Reset slow streams while unread bytes take up the session's credit.

        Args:
            taken: What each stream's consumer had taken `PRESSURE_LOOK` ago; a stream that is new is spared.
        """
        streams = self._session.open_streams()
        excess = sum(stream.unread for stream in streams) - limits.SESSION_PRESSURE
        if excess < 0:
            return
        patience = limits.STALLED_AFTER / limits.PRESSURE_LOOK
        slow = [s for s in streams if s in taken and s.unread > patience * (s.taken - taken[s])]
        for stream in sorted(slow, key=lambda stream: stream.unread, reverse=True):
            if excess < 0:
                return
            excess -= stream.unread
            stream.reset(ErrorCode.SLOW_CONSUMER)
