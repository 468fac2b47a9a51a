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
from typing import IO, Final, TypeVar, cast, final

import trio
from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from trunnel import events
from trunnel.cli.lines import LineWriter, printable
from trunnel.cli.output import PlainPrinter
from trunnel.cli.sentences import curl_command, describe, first_line, retry_text, size, visit
from trunnel.clock import boottime
from trunnel.events import Event
from trunnel.settings import limits

_Key = TypeVar("_Key")

_SHORT: Final = 8
"""Characters of an id, where people compare it with another one."""


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
        self._agents: dict[str, str] = {}  # the endpoints: what each exposes, by the agent's id
        self._facts: dict[str, str] = {}
        self._relays: dict[tuple[str, str], str] = {}  # what is known of each relay, by agent and relay
        self._ready: dict[str, events.Ready] = {}  # public addresses, the one to show first
        self._visitors: deque[str] = deque(maxlen=limits.LIVE_VISITORS)
        self._open = self._count = self._bytes_in = self._bytes_out = 0
        self._canaries: dict[tuple[str, str, str], tuple[float, events.Canary]] = {}  # by road, too; when it came
        self._roads: dict[tuple[str, str], str] = {}  # why visitors' bytes take the road that they take
        self._alarms: dict[tuple[str, str], str] = {}  # what a person must look at, by code and name
        self._certificates: dict[tuple[str, ...], str] = {}  # how it is with each, by the names in it
        self._names: dict[str, str] = {}  # the public names: what a visit from outside found, why one is refused
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
        for text in self._alarms.values():
            facts.add_row("ALARM", Text(text, style="bold red"))
        for name, text in (*self._services(), *self._facts.items(), *self._addresses(), *self._trust()):
            facts.add_row(name, Text(text, style="bold green" if name == "URL" else ""))
        for (agent, relay, path), (since, canary) in self._canaries.items():
            by = f" by {printable(self._relay_of(agent, relay))}" if len(self._relays) > 1 else ""
            name = "Served" if path == "session" else "Directly"
            facts.add_row(name, Text(self._served(canary, since) + by, style="" if canary.ok else "bold red"))
        counts = f"{self._open} now, {self._count} so far, {size(self._bytes_in)} in, {size(self._bytes_out)} out"
        facts.add_row("Visitors", counts)
        return Group(facts, *(Text(f"  {line}", style="dim", overflow="ellipsis") for line in self._visitors))

    def _services(self) -> list[tuple[str, str]]:
        """Return the rows on what is exposed, and as whom."""
        named = [(("Service", target), ("Agent", agent[:_SHORT])) for agent, target in self._agents.items()]
        return [row for rows in named for row in rows]

    def _relay_of(self, agent: str, relay: str) -> str:
        """Name a relay, and whose it is if there are two."""
        return f"{relay} for {agent[:_SHORT]}" if agent and len(self._agents) > 1 else relay

    def _addresses(self) -> list[tuple[str, str]]:
        """Return the rows on relays and public addresses; each endpoint's first address comes before all others."""
        rows = [("Relay", printable(f"{self._relay_of(*key)}  {state}")) for key, state in self._relays.items()]
        ready_by_agent = {ready.agent_id: ready for ready in reversed(self._ready.values())}
        firsts = [ready for ready in self._ready.values() if ready in ready_by_agent.values()]
        shown = [*firsts, *(ready for ready in self._ready.values() if ready not in firsts)][: limits.LIVE_URLS]
        rows += [("URL", printable(ready.url)) for ready in shown]
        if more := len(self._ready) - len(shown):
            rows.append(("", f"and {more} more"))
        for ready in firsts:
            why = self._roads.get((ready.agent_id, ready.relay), "")
            road = f"{ready.transport}, {ready.data_path}" + (f" ({why})" if why else "")
            rows += [("Data path", printable(road)), ("Try", printable(curl_command(ready)))]
            if ready.fingerprint is not None:
                rows.append(("SHA-256", ready.fingerprint))
        return rows

    def _trust(self) -> list[tuple[str, str]]:
        """Return the rows on certificates, and on names that were visited or refused."""
        rows = [("Certificate", printable(text)) for text in self._certificates.values()]
        return rows + [("Name", printable(f"{name}  {text}")) for name, text in self._names.items()]

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
        self._agents[event.agent_id] = printable(event.target)

    @_note.register
    def _(self, event: events.Connecting) -> None:
        over = "" if event.transport == "auto" else f" over {event.transport}"
        self._relays[_whose(event)] = f"connecting{over}"

    @_note.register
    def _(self, event: events.Connected) -> None:
        why = f" ({event.why})" if event.why else ""
        self._relays[_whose(event)] = f"connected over {event.transport}{why}"
        for url, ready in self._ready.items():
            if _whose(ready) == _whose(event):
                self._ready[url] = replace(ready, transport=event.transport)

    @_note.register
    def _(self, event: events.Ready) -> None:
        self._ready[event.url] = event

    @_note.register
    def _(self, event: events.Certificate) -> None:
        until = f"until {event.not_after[:10]}" if event.not_after else "none yet"
        match event.state:
            case "waiting" | "failed":
                again = "" if event.retry_in is None else f"; {retry_text(event.retry_in)}"
                state = f"{until}; {first_line(event.reason)}{again}"
            case _:
                state = f"{event.issuer}, {until}"
                for hostname in event.hostnames:
                    self._alarms.pop(("certificate-expiring", hostname), None)
        _keep(self._certificates, event.hostnames, f"{', '.join(event.hostnames)}  {state}")

    @_note.register
    def _(self, event: events.Alarm) -> None:
        _keep(self._alarms, (event.code, event.hostname), first_line(event.text))
        self.print_above("\n".join(describe(event)))

    @_note.register
    def _(self, event: events.Verified) -> None:
        if event.ok:
            self._alarms.pop(("leaf-mismatch", event.hostname), None)
        found = {True: "shows our key", False: "SHOWS ANOTHER KEY", None: f"not reached: {first_line(event.reason)}"}
        _keep(self._names, event.hostname, found[event.ok])

    @_note.register
    def _(self, event: events.NameRefused) -> None:
        _keep(self._names, event.hostname, f"refused: {first_line(event.reason)}")

    @_note.register
    def _(self, event: events.Canary) -> None:
        self._canaries[*_whose(event), event.path] = (self._now(), event)

    @_note.register
    def _(self, event: events.DataPath) -> None:
        self._roads[_whose(event)] = "" if event.path == "direct" else first_line(event.why)
        for url, ready in self._ready.items():
            if _whose(ready) == _whose(event):
                self._ready[url] = replace(ready, data_path=event.path)
        if event.path != "direct":
            self._canaries.pop((*_whose(event), "direct"), None)

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
        for key in [key for key in self._canaries if key[:2] == _whose(event)]:
            del self._canaries[key]
        self._relays[_whose(event)] = f"{first_line(event.reason)}; {retry_text(event.retry_in)}"

    @_note.register
    def _(self, event: events.Stopping) -> None:
        del event
        self._facts["Stopping"] = "finishing what is open; Ctrl-C again stops at once"

    @_note.register
    def _(self, event: events.Notice) -> None:
        self.print_above("\n".join(printable(line) for line in event.text.splitlines()))


def _keep(rows: dict[_Key, str], key: _Key, text: str) -> None:
    """Put a row in, and the oldest out when there are too many."""
    rows[key] = text
    if len(rows) > limits.LIVE_ROWS:
        del rows[next(iter(rows))]


def _whose(event: events.RelayEvent | events.Ready) -> tuple[str, str]:
    """Return which agent at which relay."""
    return event.agent_id, event.relay
