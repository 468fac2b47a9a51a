"""What a peer may make us do for free: counting cheap frames, pure.

Every frame that costs us work and the peer nothing is counted in windows of
`FLOOD_WINDOW` seconds, each beginning at zero; past the bound the connection
ends with ENHANCE_YOUR_CALM.  What is counted, and what it answers:

- resets without work: a stream that the peer opened and aborted without a byte
  of payload, or that its frames made *us* abort (CVE-2023-44487 rapid reset,
  CVE-2025-8671 MadeYouReset).  A stream that carried payload both ways and
  ended in order clears the count.
  Streams with payload are not counted: an honest relay aborts those whenever
  visitors do, and a visitor must not be able to end an agent's session.
- control frames (PING, SETTINGS, PRIORITY, WINDOW_UPDATE, empty DATA, unknown
  types; CVE-2019-9512, -9515, -9518).  WINDOW_UPDATE is what a downloading
  peer owes us, so each 4 KiB that we send allows one frame more.  Frames that
  cross the end of a stream are nobody's fault, and visitors decide when streams
  end: each stream that carried payload allows `FRAMES_PER_STREAM` more.

`now` is an argument; nothing here sleeps or reads a clock.
"""

from __future__ import annotations

from typing import Final, final

from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.settings import limits

BYTES_PER_FRAME_EARNED: Final = 4 * limits.KIB
"""Bytes we send that entitle the peer to one control frame more."""
FRAMES_PER_STREAM: Final = 4
"""Frames that may cross a stream's end: window updates, a reset, an end."""


@final
class FloodGuard:
    """Counters of one carrier; raises when the peer floods."""

    __slots__ = ("_control", "_earned", "_resets", "_window_start")

    def __init__(self, *, now: float) -> None:
        self._window_start = now
        self._control = 0
        self._resets = 0
        self._earned = 0

    def _roll(self, now: float) -> None:
        if now - self._window_start >= limits.FLOOD_WINDOW:
            self._window_start = now
            self._control = 0
            self._resets = 0
            self._earned = 0

    def sent(self, amount: int) -> None:
        """Count payload bytes that we sent."""
        self._earned += amount

    def worked(self) -> None:
        """Note that a stream did what it was opened for."""
        self._resets = 0

    def ended(self) -> None:
        """Note the end of a stream that carried payload."""
        self._earned += FRAMES_PER_STREAM * BYTES_PER_FRAME_EARNED

    def control_frame(self, *, now: float) -> None:
        """Count one cheap frame of the peer.

        Raises:
            RemoteProtocolError: Code ENHANCE_YOUR_CALM: too many.
        """
        self._roll(now)
        self._control += 1
        if self._control > limits.CONTROL_FRAMES_MAX + self._earned // BYTES_PER_FRAME_EARNED:
            raise RemoteProtocolError(
                f"more than {limits.CONTROL_FRAMES_MAX} control frames in {limits.FLOOD_WINDOW:.0f} s",
                code=ErrorCode.ENHANCE_YOUR_CALM,
            )

    def reset_without_work(self, *, now: float) -> None:
        """Count one stream that was opened and aborted for nothing.

        Raises:
            RemoteProtocolError: Code ENHANCE_YOUR_CALM: too many.
        """
        self._roll(now)
        self._resets += 1
        if self._resets >= limits.RESETS_MAX:
            raise RemoteProtocolError(
                f"{limits.RESETS_MAX} streams reset without work in {limits.FLOOD_WINDOW:.0f} s",
                code=ErrorCode.ENHANCE_YOUR_CALM,
            )
