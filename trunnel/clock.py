"""The one place that reads clocks other than trio's.

Certificates and events need the time of day; deadlines never do (they are
trio's).  Code that judges a date takes `now` as an argument; composition roots
pass `utc_now`.

`boottime` is for one question only: did this machine sleep (`agent.wake`)?
"""

from __future__ import annotations

import sys
import time
from datetime import UTC, datetime
from typing import Final

BOOT_CLOCK: Final[int | None] = getattr(time, "CLOCK_BOOTTIME", getattr(time, "CLOCK_MONOTONIC_RAW", None))
"""The clock of POSIX that goes on while the machine sleeps.

Linux has CLOCK_BOOTTIME for it; its other monotonic clocks stand still.  On
macOS, which has none of that name, CLOCK_MONOTONIC_RAW goes on and trio's
clock stands still.
"""


def utc_now() -> datetime:
    """Return the time of day, with its zone."""
    return datetime.now(UTC)  # noqa: TID251 - the clock itself


def boottime() -> float:
    """Return the seconds since an unknown moment, time asleep included.

    Where no clock is known to go on (BSDs) this is trio's, and a sleep shows
    by the wall clock alone; on Windows trio's own goes on.
    """
    if sys.platform == "win32" or BOOT_CLOCK is None:
        return time.perf_counter()
    return time.clock_gettime(BOOT_CLOCK)
