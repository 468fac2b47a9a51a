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

    def __init__(self, stdout: LineWriter, stderr: LineWriter, *, console: Console | None = None) -> None:
        self._stdout = stdout
        self._stderr = stderr
        self._plain = PlainPrinter(stdout)
        self._console = console or Console(file=cast("IO[str]", TerminalFile(stdout)), highlight=False)
        self._facts: dict[str, str] = {}
        self._relays: dict[str, str] = {}  # what is known of each relay
        self._ready: dict[str, events.Ready] = {}  # public addresses, the one to show first
        self._visitors: deque[str] = deque(maxlen=limits.LIVE_VISITORS)
        self._open = self._count = self._bytes_in = self._bytes_out = 0
        self._canary: events.Canary | None = None
        self._canary_at = 0.0
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
            aged = self._canary is not None and now - drawn >= 1  # its age is shown in seconds
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
        if self._canary is not None:
            facts.add_row("Served", Text(self._served(self._canary), style="" if self._canary.ok else "bold red"))
        counts = f"{self._open} now, {self._count} so far, {size(self._bytes_in)} in, {size(self._bytes_out)} out"
        facts.add_row("Visitors", counts)
        return Group(facts, *(Text(f"  {line}", style="dim", overflow="ellipsis") for line in self._visitors))

    def _addresses(self) -> list[tuple[str, str]]:
        """Return the rows on relays and public addresses."""
        rows = [("Relay", printable(f"{relay}  {state}")) for relay, state in self._relays.items()]
        shown = list(self._ready.values())[: limits.LIVE_URLS]
        rows += [("URL", printable(ready.url)) for ready in shown]
        for ready in shown[:1]:
            rows += [("Data path", f"{ready.transport}, {ready.data_path}"), ("Try", printable(curl_command(ready)))]
            if ready.fingerprint is not None:
                rows.append(("SHA-256", ready.fingerprint))
        return rows

    def _served(self, canary: events.Canary) -> str:
        """Word the last canary: its round trip, and how long ago."""
        age = f"{max(0.0, trio.current_time() - self._canary_at):.0f} s ago"
        return f"yes, {canary.rtt_ms:.0f} ms, {age}" if canary.ok else f"no: {printable(canary.failure)}, {age}"

    def _note(self, event: Event) -> None:
        facts = self._facts
        match event:
            case events.Starting():
                facts["Service"] = printable(event.target)
                facts["Agent"] = event.agent_id[:8]
            case events.Connecting():
                self._relays[event.relay] = f"connecting over {event.transport}"
            case events.Connected():
                self._relays[event.relay] = f"connected over {event.transport} ({event.why})"
            case events.Ready():
                self._ready[event.url] = event
            case events.Canary():
                self._canary, self._canary_at = event, trio.current_time()
            case events.OriginState():
                facts["Service is"] = printable(f"{event.state}  {event.cause}")
            case events.StreamOpened() | events.StreamClosed():
                self._note_visitor(event)
            case events.Disconnected() | events.RejectedByRelay():
                self._canary = None
                self._relays[event.relay] = f"{first_line(event.reason)}; {retry_text(event.retry_in)}"
            case events.Stopping():
                facts["Stopping"] = "finishing what is open; Ctrl-C again stops at once"
            case events.Notice():
                self.print_above("\n".join(printable(line) for line in event.text.splitlines()))
            case _:
                pass

    def _note_visitor(self, event: events.StreamOpened | events.StreamClosed) -> None:
        if isinstance(event, events.StreamOpened):
            self._open += 1
            return
        self._open -= 1
        self._count += 1
        self._bytes_in += event.bytes_in
        self._bytes_out += event.bytes_out
        self._visitors.append(visit(event))
