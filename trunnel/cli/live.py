"""`trunnel expose` on a terminal: what a person wants to see, redrawn in place.

URL, agent, relay and transport, counts, the curl line, the fingerprint that a
browser's warning page shows, and the last visitors.  rich draws; it writes
through a `LineWriter`, so a terminal under Ctrl-S stops the picture and not the
tunnel, and there is no drawing thread: one task redraws when something
changed.  Log lines appear above the picture while it stands.
"""

from __future__ import annotations

import io
from collections import deque
from collections.abc import Callable
from dataclasses import replace
from functools import singledispatchmethod
from typing import IO, cast, final

import trio
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trunnel import events
from trunnel.cli.lines import LineWriter, printable
from trunnel.cli.output import PlainPrinter
from trunnel.cli.sentences import curl_command, first_line, retry_text, size, visit
from trunnel.clock import boottime
from trunnel.events import Event
from trunnel.settings import limits


@final
class TerminalFile(io.TextIOBase):
    """What rich writes to: a terminal that cannot block."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def write(self, text: str, /) -> int:
        """Hand *text* on."""
        self._writer.write_text(text)
        return len(text)

    def isatty(self) -> bool:
        """It is one."""
        return True

    def writable(self) -> bool:
        """It is."""
        return True

    @property
    def encoding(self) -> str:  # type: ignore[override]  # a plain attribute in typeshed
        """As `LineWriter` encodes."""
        return "utf-8"


@final
class LivePrinter:
    """Draws the agent's state; becomes a plain printer when closed."""

    def __init__(
        self,
        stdout: LineWriter,
        stderr: LineWriter,
        *,
        console: Console | None = None,
        now: Callable[[], float] = boottime,
    ) -> None:
        """Draw an empty picture.

        Args:
            stdout: The terminal.
            stderr: Where the log goes, if it is the same terminal.
            console: What draws on it.
            now: Tells the time in seconds; not trio's, because the last picture is drawn when its run is over.
        """
        self._stdout = stdout
        self._stderr = stderr
        self._plain = PlainPrinter(stdout)
        self._console = console or Console(file=cast("IO[str]", TerminalFile(stdout)), highlight=False)
        self._facts: dict[str, str] = {}
        self._relays: dict[str, str] = {}  # what is known of each relay
        self._ready: dict[str, events.Ready] = {}  # public addresses, the one to show first
        self._visitors: deque[str] = deque(maxlen=limits.LIVE_VISITORS)
        self._open = self._count = self._bytes_in = self._bytes_out = 0
        self._canaries: dict[tuple[str, str], tuple[float, events.Canary]] = {}  # by relay and road; when it came
        self._roads: dict[str, str] = {}  # why visitors' bytes take the road that they take, by relay
        self._now = now
        self._changed = True
        self._live = Live(
            get_renderable=self.picture,
            console=self._console,
            auto_refresh=False,
            redirect_stdout=False,
            redirect_stderr=False,
        )
        self._live.start()
        if stderr.terminal:
            stderr.divert = self.print_above

    def __call__(self, event: Event) -> None:
        """Take *event* into the picture, or print it once the picture is closed."""
        if not self._live.is_started:
            self._plain(event)
            return
        self._note(event)
        self._changed = True

    def close(self) -> None:
        """Leave the last picture on the screen and give the terminal back."""
        if self._live.is_started:
            self._stderr.divert = None
            self._live.stop()

    async def keep_fresh(self) -> None:
        """Redraw what changed, at most every `limits.LIVE_REFRESH` seconds; runs until cancelled."""
        drawn = trio.current_time()
        while True:
            now = trio.current_time()
            aged = bool(self._canaries) and now - drawn >= 1  # its age is shown in seconds
            if (self._changed or aged) and not self._stdout.blocked:
                self._changed, drawn = False, now
                self._live.refresh()
            await trio.sleep(limits.LIVE_REFRESH)

    def print_above(self, line: str) -> None:
        """Print a line of the log above the picture."""
        self._console.print(Text(line), soft_wrap=True)

    def picture(self) -> Group:
        """Return what the screen should show now."""
        facts = Table.grid(padding=(0, 2))
        facts.add_column(style="bold", no_wrap=True)
        facts.add_column(overflow="fold")
        for name, text in (*self._facts.items(), *self._addresses()):
            facts.add_row(name, Text(text, style="bold green" if name == "URL" else ""))
        for (relay, path), (since, canary) in self._canaries.items():
            by = f" by {printable(relay)}" if len(self._relays) > 1 else ""
            name = "Served" if path == "session" else "Directly"
            facts.add_row(name, Text(self._served(canary, since) + by, style="" if canary.ok else "bold red"))
        counts = f"{self._open} now, {self._count} so far, {size(self._bytes_in)} in, {size(self._bytes_out)} out"
        facts.add_row("Visitors", counts)
        return Group(facts, *(Text(f"  {line}", style="dim", overflow="ellipsis") for line in self._visitors))

    def _addresses(self) -> list[tuple[str, str]]:
        """Return the rows on relays and public addresses."""
        rows = [("Relay", printable(f"{relay}  {state}")) for relay, state in self._relays.items()]
        shown = list(self._ready.values())[: limits.LIVE_URLS]
        rows += [("URL", printable(ready.url)) for ready in shown]
        for ready in shown[:1]:
            why = self._roads.get(ready.relay, "")
            road = f"{ready.transport}, {ready.data_path}" + (f" ({why})" if why else "")
            rows += [("Data path", printable(road)), ("Try", printable(curl_command(ready)))]
            if ready.fingerprint is not None:
                rows.append(("SHA-256", ready.fingerprint))
        return rows

    def _served(self, canary: events.Canary, since: float) -> str:
        """Word the last canary: its round trip, and how long ago."""
        age = f"{max(0.0, self._now() - since):.0f} s ago"
        return f"yes, {canary.rtt_ms:.0f} ms, {age}" if canary.ok else f"no: {printable(canary.failure)}, {age}"

    # --- what each event changes ----------------------------------------------------------------------

    @singledispatchmethod
    def _note(self, event: Event) -> None:
        """Take *event* into the picture; most say nothing that it shows."""

    @_note.register
    def _(self, event: events.Starting) -> None:
        self._facts["Service"] = printable(event.target)
        self._facts["Agent"] = event.agent_id[:8]

    @_note.register
    def _(self, event: events.Connecting) -> None:
        self._relays[event.relay] = "connecting" if event.transport == "auto" else f"connecting over {event.transport}"

    @_note.register
    def _(self, event: events.Connected) -> None:
        why = f" ({event.why})" if event.why else ""
        self._relays[event.relay] = f"connected over {event.transport}{why}"
        for url, ready in self._ready.items():
            if ready.relay == event.relay:
                self._ready[url] = replace(ready, transport=event.transport)

    @_note.register
    def _(self, event: events.Ready) -> None:
        self._ready[event.url] = event

    @_note.register
    def _(self, event: events.Canary) -> None:
        self._canaries[event.relay, event.path] = (self._now(), event)

    @_note.register
    def _(self, event: events.DataPath) -> None:
        self._roads[event.relay] = "" if event.path == "direct" else first_line(event.why)
        for url, ready in self._ready.items():
            if ready.relay == event.relay:
                self._ready[url] = replace(ready, data_path=event.path)
        if event.path != "direct":
            self._canaries.pop((event.relay, "direct"), None)

    @_note.register
    def _(self, event: events.OriginState) -> None:
        self._facts["Service is"] = printable(f"{event.state}  {event.cause}")

    @_note.register
    def _(self, event: events.StreamOpened) -> None:
        del event
        self._open += 1

    @_note.register
    def _(self, event: events.StreamClosed) -> None:
        self._open -= 1
        self._count += 1
        self._bytes_in += event.bytes_in
        self._bytes_out += event.bytes_out
        self._visitors.append(visit(event))

    @_note.register(events.Disconnected)
    @_note.register(events.RejectedByRelay)
    def _(self, event: events.Disconnected | events.RejectedByRelay) -> None:
        for key in [key for key in self._canaries if key[0] == event.relay]:
            del self._canaries[key]
        self._relays[event.relay] = f"{first_line(event.reason)}; {retry_text(event.retry_in)}"

    @_note.register
    def _(self, event: events.Stopping) -> None:
        del event
        self._facts["Stopping"] = "finishing what is open; Ctrl-C again stops at once"

    @_note.register
    def _(self, event: events.Notice) -> None:
        self.print_above("\n".join(printable(line) for line in event.text.splitlines()))
