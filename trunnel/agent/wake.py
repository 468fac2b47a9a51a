"""Notices that time was lost: the machine slept, the process was stopped, or the clock was set.

Whoever slept for minutes has dead carriers and does not know it: the relay has
given them up, the NAT has forgotten them, and our own heartbeat would take
20 s to see it.  So three clocks are looked at every `CLOCK_TICK`:

- *boot*: never stands still (`trunnel.clock.boottime`);
- *loop*: trio's; on Linux and macOS it stands still while the machine sleeps;
- *wall*: the time of day; it may be set.

What they tell:

- SLEPT: boot went on while loop stood still.  Short naps add up: what they
  have parted since the last report counts, not one look alone.
- STALLED: both went on, but the look came late: the process was stopped
  (SIGSTOP, a debugger, a frozen container) or, where no clock stands still
  (Windows), the machine slept.
- SET: wall and boot parted between two looks.  Somebody set the clock, or a
  virtual machine was paused or restored, which no other clock in it shows.

Less than `CLOCK_JUMP` is not reported: a busy machine is late too.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from typing import final

import trio

from trunnel.clock import boottime, utc_now
from trunnel.settings import limits

logger = logging.getLogger(__name__)


@final
class JumpKind(StrEnum):
    """What happened to the time."""

    SLEPT = "slept"
    """The machine slept."""
    STALLED = "stalled"
    """This process did not run."""
    SET = "set"
    """The wall clock parted from the others."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Jump:
    """Time that was lost."""

    kind: JumpKind
    """How."""
    seconds: float
    """How much; for SET, negative if the clock was put back."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ClockSample:
    """One look at the clocks, in seconds since any moment of their own."""

    loop: float
    """trio's clock."""
    boot: float
    """The clock that never stands still."""
    wall: float
    """The time of day."""


@final
class ClockWatch:
    """Compares each sample with the one before; pure."""

    __slots__ = ("_before", "_napped", "_tick")

    def __init__(self, *, tick: float = limits.CLOCK_TICK) -> None:
        """Start without a sample.

        Args:
            tick: Seconds that should lie between two samples.
        """
        self._tick = tick
        self._before: ClockSample | None = None
        self._napped = 0.0

    def observe(self, sample: ClockSample) -> Jump | None:
        """Take the next sample; return what was lost since the one before, None if nothing was."""
        before, self._before = self._before, sample
        if before is None:
            return None
        passed = sample.boot - before.boot
        self._napped = max(0.0, self._napped + passed - (sample.loop - before.loop))
        late = passed - self._tick
        set_by = sample.wall - before.wall - passed
        if self._napped > limits.CLOCK_JUMP:
            return self._lost(JumpKind.SLEPT, self._napped)
        if late > limits.CLOCK_JUMP:
            return self._lost(JumpKind.STALLED, late)
        if abs(set_by) > limits.CLOCK_JUMP:
            return self._lost(JumpKind.SET, set_by)
        return None

    def _lost(self, kind: JumpKind, seconds: float) -> Jump:
        self._napped = 0.0
        return Jump(kind=kind, seconds=seconds)


def read_clocks() -> ClockSample:
    """Look at the clocks of this machine; must be called inside trio."""
    return ClockSample(loop=trio.current_time(), boot=boottime(), wall=utc_now().timestamp())


async def watch_clock(
    on_jump: Callable[[Jump], None],
    *,
    tick: float = limits.CLOCK_TICK,
    clocks: Callable[[], ClockSample] = read_clocks,
) -> None:
    """Look at the clocks for ever, and report what they lost.

    Args:
        on_jump: Told of each jump, at most one a look; must not block.
        tick: Seconds between looks.
        clocks: Where the time comes from.

    Cancellation: the way to end it.
    """
    watch = ClockWatch(tick=tick)
    watch.observe(clocks())
    while True:
        await trio.sleep(tick)
        jump = watch.observe(clocks())
        if jump is not None:
            logger.info("clock_jumped", extra={"kind": jump.kind.value, "seconds": round(jump.seconds, 1)})
            on_jump(jump)
