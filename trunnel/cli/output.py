"""Events on standard output: JSON lines for programs, sentences for people.

A printer is a callable that takes each event as it happens; it neither blocks
nor raises (`cli.lines`).  `JsonPrinter` is the interface for sidecars
(`--json`): one object a line with `event`, `time`, `v` and the event's fields.
`PlainPrinter` writes lines for people; `cli.live` is its richer sibling on a
terminal.  Text of strangers is escaped in all of them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from datetime import UTC, datetime
from typing import Final, Protocol, final

import trio

from trunnel import events
from trunnel.cli.lines import LineWriter
from trunnel.cli.sentences import describe
from trunnel.clock import utc_now
from trunnel.events import Event

EVENT_VERSION: Final = 1
"""`v` of every JSON event; changes when a field changes its meaning."""

Clock = Callable[[], datetime]
"""Returns the time, aware and in UTC."""


class Printer(Protocol):
    """Shows events."""

    def __call__(self, event: Event) -> None:
        """Show *event*; must not block and must not raise."""

    def close(self) -> None:
        """Leave the terminal as it was; more events may still come and are printed plainly."""

    async def keep_fresh(self) -> None:
        """Do what a display needs between events; runs until cancelled."""


@final
class JsonPrinter:
    """One JSON object a line, in ASCII."""

    def __init__(self, writer: LineWriter, *, now: Clock = utc_now) -> None:
        self._writer = writer
        self._now = now

    def __call__(self, event: Event) -> None:
        """Write *event* as a line."""
        self._writer.write(event_line(event, now=self._now()))

    def close(self) -> None:
        """Nothing is held."""

    async def keep_fresh(self) -> None:
        """Nothing to do between events."""
        await trio.sleep_forever()


def event_line(event: Event, *, now: datetime) -> str:
    """Return *event* as JSON: `event`, `time` (RFC 3339, milliseconds, UTC), `v`, then its fields."""
    time = now.astimezone(UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")
    return json.dumps({"event": event.kind, "time": time, "v": EVENT_VERSION, **event.payload()})


def dropped_event(count: int) -> str:
    """Word the event that stands for *count* events which nobody read in time."""
    notice = events.Notice(code="events-dropped", text=f"{count} events were dropped: nobody read standard output")
    return event_line(notice, now=utc_now())


@final
class PlainPrinter:
    """Lines for people, where standard output is no terminal (or the program is a relay)."""

    def __init__(self, writer: LineWriter) -> None:
        self._writer = writer

    def __call__(self, event: Event) -> None:
        """Write what *event* says to a person, if anything."""
        for line in describe(event):
            self._writer.write(line)

    def close(self) -> None:
        """Nothing is held."""

    async def keep_fresh(self) -> None:
        """Nothing to do between events."""
        await trio.sleep_forever()
