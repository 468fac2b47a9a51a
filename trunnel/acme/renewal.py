"""When a certificate is renewed, when its state is an alarm, and how long to wait after a failure: pure.

    issued ──────────┬────────── 2/3 of its life = 1/3 left ──────────── end
                     │           │ still the old one, and tries fail: an alarm
                     └ renewal is due, a little earlier: done by then; or when the CA
                       says (RFC 9773), and `renew_days` before the end at the latest

Chance comes as a number from 0 to 1, time with its zone.  What a machine with a
wrong clock sees is named (`judge`), not guessed at: a certificate that starts in
the future is not thrown away for a new one, because then every set-back of the
clock would cost one of a week's few.

Source: RFC 9773 §4.2 (choosing a time in the window), §4.3.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta
from enum import StrEnum
from typing import Final, Protocol, final

from trunnel.settings.limits import (
    ALARM_LEFT,
    RENEW_AT,
    RENEW_EARLIEST,
    RENEW_EARLIEST_SHARE,
    RENEW_JITTER,
    RENEW_LATEST,
    RENEW_LEAD,
    RENEW_LEAD_SHARE,
    RENEW_RETRY_AFTER_MAX,
    RENEW_RETRY_BASE,
    RENEW_RETRY_CAP,
    RENEW_RETRY_LEFT,
    RENEW_RETRY_SHARE,
)

_DOUBLINGS_MAX: Final = 20
"""Beyond them the cap holds anyway."""


class Window(Protocol):
    """What the authority suggests (RFC 9773 §4.2)."""

    @property
    def start(self) -> datetime:
        """The first good moment."""
        ...

    @property
    def end(self) -> datetime:
        """The last."""
        ...


@final
class Validity(StrEnum):
    """What the clock makes of a certificate."""

    VALID = "valid"
    ENDED = "ended"
    NOT_YET = "not-yet"
    """It starts in the future: the clock was set back."""


@final
@dataclass(frozen=True, slots=True)
class Life:
    """A certificate's period."""

    start: datetime
    end: datetime

    @property
    def length(self) -> timedelta:
        """From its start to its end."""
        return self.end - self.start

    def judge(self, now: datetime) -> Validity:
        """Return what the clock makes of it."""
        if now < self.start:
            return Validity.NOT_YET
        return Validity.VALID if now < self.end else Validity.ENDED


def due_at(life: Life, *, renew_days: int | None, window: Window | None, chance: float) -> datetime:
    """Return when a certificate is to be renewed.

    Args:
        life: Its period.
        renew_days: So many days before the end at the latest; None: no such wish.
        window: What the authority suggests; it takes the place of the two thirds.  One that lies in the past
            means at once (it is about to revoke), but not again and again: a new certificate lasts
            `RENEW_EARLIEST` seconds at least.
        chance: 0 to 1, drawn once for the certificate: many agents do not come at one moment.
    """
    if window is not None and window.start < window.end:
        chosen = window.start + chance * (window.end - window.start)
        earliest = life.start + timedelta(seconds=earliest_after(life))
        due = max(earliest, min(chosen, life.end - RENEW_LATEST * life.length))
    else:
        lead = min(timedelta(seconds=RENEW_LEAD), RENEW_LEAD_SHARE * life.length)
        due = life.start + (RENEW_AT - RENEW_JITTER * chance) * life.length - lead
    if renew_days is None:
        return due
    latest = max(life.end - timedelta(days=renew_days), life.start + life.length / 2)  # not at once, for ever
    return min(due, latest)


def earliest_after(life: Life) -> float:
    """Return the seconds for which a new certificate is not renewed, whatever anybody says."""
    return min(RENEW_EARLIEST, RENEW_EARLIEST_SHARE * life.length.total_seconds())


def is_alarming(life: Life, now: datetime) -> bool:
    """Whether a certificate that should have been renewed has become a person's business."""
    return now >= life.end - ALARM_LEFT * life.length


def pause_after(
    failures: int, *, chance: float, life: Life | None, left: timedelta | None, retry_after: float | None
) -> float:
    """Return the seconds until the next try.

    Args:
        failures: How many tries in a row have failed, from 1.
        chance: 0 to 1.
        life: That of the certificate in use; one of minutes is tried for more often.
        left: What is left of it.
        retry_after: What the authority asks for, in seconds.  It is waited for, but not so long that the
            certificate in use ends before there were several more tries.
    """
    cap = RENEW_RETRY_CAP
    if life is not None:
        cap = min(cap, max(1.0, RENEW_RETRY_SHARE * life.length.total_seconds()))
    longest = min(cap, RENEW_RETRY_BASE * (1 << min(failures - 1, _DOUBLINGS_MAX)))
    asked = min(retry_after or 0.0, RENEW_RETRY_AFTER_MAX)
    if left is not None:
        asked = min(asked, max(0.0, RENEW_RETRY_LEFT * left.total_seconds()))
    return max(longest * (1 + chance) / 2, asked)
