"""Keeps one QUIC session alive and in bounds: pings, silence, pressure.

- The agent pings every `QUIC_HEARTBEAT`: it has to know within seconds that
  its network drops UDP, and it keeps the NAT's binding.  The relay asks only a
  peer of which it has heard nothing for `HEARTBEAT`.  A ping is a frame, so no
  bulk holds it up; each is sent anew, however far aioquic's own probes (PTO,
  RFC 9002 §6.2) have backed off.
- A peer of which nothing came for `DEAD_AFTER` is gone.
- Unread bytes are watched once a second while they take up the session's
  credit (`pressure`), and not at all otherwise.
"""

from __future__ import annotations

from collections.abc import Collection
from typing import Final, Protocol, final

import trio

from trunnel.errors import ErrorCode
from trunnel.settings import limits
from trunnel.transports.pressure import stalled_streams
from trunnel.transports.quic_link import QuicLink
from trunnel.transports.quic_stream import QuicStream

_HALF: Final = limits.HEARTBEAT / 2
"""Seconds between the relay's pings to an agent that is silent."""


class KeptSession(Protocol):
    """What the keeper asks of its session."""

    @property
    def unread(self) -> int:
        """Bytes received and not consumed, all streams."""
        ...

    def open_streams(self) -> Collection[QuicStream]:
        """Return the streams whose owner has not let go of them."""
        ...

    def abort(self, reason: str, *, code: ErrorCode) -> None:
        """End the session."""
        ...


@final
class Keeper:
    """See the module's head; `run` is one task of the session."""

    __slots__ = ("_link", "_pings", "_pressed", "_session")

    def __init__(self, session: KeptSession, link: QuicLink) -> None:
        self._session = session
        self._link = link
        self._pings = 0
        self._pressed = trio.Event()

    def note_unread(self) -> None:
        """Look whether the session runs out of buffer: bytes came."""
        if self._session.unread >= limits.SESSION_PRESSURE:
            self._pressed.set()

    async def run(self) -> None:
        """Keep the session until its peer is dead; returns when it is."""
        link = self._link
        asks_always = link.connection.configuration.is_client
        while True:
            now = trio.current_time()
            if now - link.heard >= limits.DEAD_AFTER:
                self._session.abort(f"nothing heard for {limits.DEAD_AFTER:.0f} s", code=ErrorCode.DEADLINE)
                return
            if asks_always or now - link.heard >= limits.HEARTBEAT:
                self._pings += 1
                link.connection.send_ping(self._pings)
                link.touch()
            next_ping = now + limits.QUIC_HEARTBEAT if asks_always else max(link.heard, now - _HALF) + limits.HEARTBEAT
            await self._watch_pressure(until=min(next_ping, link.heard + limits.DEAD_AFTER))

    async def _watch_pressure(self, *, until: float) -> None:
        """Sleep until *until*; while the session is pressed, look every second."""
        with trio.move_on_at(until):
            while True:
                await self._pressed.wait()
                self._pressed = trio.Event()
                while self._session.unread >= limits.SESSION_PRESSURE:
                    taken = {stream: stream.taken for stream in self._session.open_streams()}
                    await trio.sleep(limits.PRESSURE_LOOK)
                    for stream in stalled_streams(self._session.open_streams(), taken):
                        stream.reset(ErrorCode.SLOW_CONSUMER)
