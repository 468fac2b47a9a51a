"""The one place that reads the wall clock.

Certificates and events need it; deadlines never do (they are trio's).  Code
that judges a date takes `now` as an argument; composition roots pass `utc_now`.
"""

from __future__ import annotations

from datetime import UTC, datetime


def utc_now() -> datetime:
    """Return the time of day, with its zone."""
    return datetime.now(UTC)  # noqa: TID251 - the clock itself
