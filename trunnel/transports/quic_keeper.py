"""Keeps one QUIC session alive and in bounds: pings, silence, pressure.

- The agent pings every `QUIC_HEARTBEAT`, or as seldom as a full relay asks: it has to know within seconds that
  its network drops UDP, and it keeps the NAT's binding.  While visitors come,
  it also pings when nothing was heard for `QUIC_BUSY_SILENCE`: a NAT that has
  moved the binding sends the relay's datagrams nowhere, and only one of ours
  shows it the new one (NET-05: a stall of 1 s).  The relay asks only a
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

_VISIT: Final = 512
"""Bytes of payload that are more than control messages and canaries are between two looks: a visitor."""
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

    __slots__ = ("_busy_until", "_in", "_link", "_pings", "_received", "heartbeat")

    def __init__(self, link: QuicLink, receiving: Receiving) -> None:
        self._link = link
        self._in = receiving
        self._pings = 0
        self._received = 0
        self.heartbeat = limits.QUIC_HEARTBEAT
        """Seconds between two pings of an agent."""
        self._busy_until = 0.0

    async def run(self, abort: Abort) -> None:
        """Keep the session until its peer is dead; *abort* it then, and return."""
        link = self._link
        is_agent = link.connection.configuration.is_client
        next_ping = trio.current_time()
        while True:
            now = trio.current_time()
            silence = now - link.heard
            if silence >= limits.DEAD_AFTER:
                abort(f"nothing heard for {limits.DEAD_AFTER:.0f} s", code=ErrorCode.DEADLINE)
                return
            busy = is_agent and self._is_busy(now)
            asked = busy and now >= link.heard + limits.QUIC_BUSY_SILENCE
            if asked or (now >= next_ping if is_agent else silence >= limits.HEARTBEAT):
                self._pings += 1
                link.connection.send_ping(self._pings)
                link.touch()
                next_ping = now + self.heartbeat
            if not is_agent:
                next_ping = max(link.heard, now - _HALF) + limits.HEARTBEAT
            look = min(next_ping, self._next_question(now)) if busy else next_ping
            await self._watch_pressure(until=min(look, link.heard + limits.DEAD_AFTER))

    def _is_busy(self, now: float) -> bool:
        """Return whether visitors have come within the last `QUIC_BUSY` seconds."""
        received, self._received = self._in.received - self._received, self._in.received
        if received >= _VISIT:
            self._busy_until = now + limits.QUIC_BUSY
        return now < self._busy_until

    def _next_question(self, now: float) -> float:
        """Return when the relay will have been silent for too long; when to ask again if it has been already."""
        silent_at = self._link.heard + limits.QUIC_BUSY_SILENCE
        return silent_at if silent_at > now else now + limits.QUIC_BUSY_SILENCE

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
