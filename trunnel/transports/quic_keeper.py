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

from typing import Final, Protocol, final

import trio

from trunnel.errors import ErrorCode
from trunnel.settings import limits
from trunnel.transports.pressure import stalled_streams
from trunnel.transports.quic_link import QuicLink
from trunnel.transports.quic_receiving import Receiving

_HALF: Final = limits.HEARTBEAT / 2
"""Seconds between the relay's pings to an agent that is silent."""


class Abort(Protocol):
    """Ends the session; `Session.abort`."""

    def __call__(self, reason: str, *, code: ErrorCode) -> None:
        """End it."""
        ...


@final
class Keeper:
    """See the module's head; `run` is one task of the session."""

    __slots__ = ("_abort", "_in", "_link", "_pings")

    def __init__(self, link: QuicLink, receiving: Receiving, abort: Abort) -> None:
        self._link = link
        self._in = receiving
        self._abort = abort
        self._pings = 0

    async def run(self) -> None:
        """Keep the session until its peer is dead; returns when it is."""
        link = self._link
        asks_always = link.connection.configuration.is_client
        while True:
            now = trio.current_time()
            if now - link.heard >= limits.DEAD_AFTER:
                self._abort(f"nothing heard for {limits.DEAD_AFTER:.0f} s", code=ErrorCode.DEADLINE)
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
                while self._in.unread < limits.SESSION_PRESSURE:
                    self._in.pressed = trio.Event()
                    await self._in.pressed.wait()
                taken = {stream: stream.taken for stream in self._in.streams.values()}
                await trio.sleep(limits.PRESSURE_LOOK)
                for stream in stalled_streams(self._in.streams.values(), taken):
                    stream.reset(ErrorCode.SLOW_CONSUMER)
