"""The live view: what stands on the screen after which event."""

from __future__ import annotations

import io
import os
from collections.abc import Callable
from dataclasses import replace

import pytest
import trio
from rich.console import Console

from tests.cli import test_output
from tests.cli.test_output import CLOSED, EVERY_EVENT, HOSTILE
from trunnel import events
from trunnel.cli.lines import LineWriter
from trunnel.cli.live import LivePrinter, TerminalFile
from trunnel.cli.logs import dropped_line
from trunnel.clock import boottime
from trunnel.settings import limits

READY = replace(test_output.READY, agent_id="")
"""Of an agent that does not say which of two it is."""


class Terminal(io.StringIO):
    """A buffer that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def live_view(
    stdout: io.StringIO, stderr: io.StringIO | None = None, *, now: Callable[[], float] = boottime
) -> LivePrinter:
    """Return a live view that draws into *stdout*, 100 columns wide."""
    writer = LineWriter(stdout, dropped=dropped_line)
    console = Console(file=TerminalFile(writer), width=100, height=40, force_terminal=True)  # type: ignore[arg-type]
    return LivePrinter(writer, LineWriter(stderr or io.StringIO(), dropped=dropped_line), console=console, now=now)


OPENED = events.StreamOpened(stream="s1", visitor="192.0.2.1:1000", hostname="abc.localhost")


def shown(view: LivePrinter) -> str:
    """Return the picture as text."""
    console = Console(file=io.StringIO(), width=200)
    console.print(view.picture())
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_picture_has_what_a_person_wants_to_know() -> None:
    view = live_view(io.StringIO())
    for event in (
        events.Starting(agent_id="abcdefgh" + "i" * 44, target="localhost:3000"),
        READY,
        OPENED,
        OPENED,
        OPENED,
    ):
        view(event)
    for closed in (CLOSED, CLOSED):
        view(closed)
    view(events.OriginState(state="down", cause="connection refused"))
    picture = shown(view)
    view.close()
    for part in (
        "https://abc.localhost:8443",
        "abcdefgh",
        "h2, session",
        "1 now, 2 so far, 20 B in, 5.7 MiB out",
        "--cacert '/state dir/leaf.pem'",
        "AA:BB",
        "down  connection refused",
    ):
        assert part in picture


def rows(view: LivePrinter, name: str) -> list[str]:
    """Return what stands beside *name*."""
    return [line.removeprefix(name).strip() for line in shown(view).splitlines() if line.startswith(f"{name} ")]


def ready(name: str, relay: str) -> events.Ready:
    return replace(READY, url=f"https://{name}", hostname=name, relay=relay)


def test_each_relay_has_a_row_and_each_address_too() -> None:
    view = live_view(io.StringIO())
    for event in (
        events.Connecting(relay="near:443", transport="QUIC or TCP", attempt=1),
        events.Connecting(relay="far:443", transport="QUIC or TCP", attempt=1),
        events.Connected(relay="near:443", relay_id="r", session="s", transport="quic", why="QUIC over UDP"),
        ready("a.example", "near:443"),
        ready("b.example", "near:443"),
    ):
        view(event)
    assert rows(view, "Relay") == [
        "near:443  connected over quic (QUIC over UDP)",
        "far:443  connecting over QUIC or TCP",
    ]
    assert rows(view, "URL") == ["https://a.example", "https://b.example"]
    view(events.Disconnected(reason="lost\nhint", retry_in=2.0, relay="near:443"))
    view(events.RejectedByRelay(code="unauthorized", reason="unknown", retry_in=None, relay="far:443"))
    assert rows(view, "Relay") == ["near:443  lost; trying again in 2 s", "far:443  unknown; not trying again"]
    view.close()


def test_only_so_many_addresses_are_shown() -> None:
    view = live_view(io.StringIO())
    for number in range(2 * limits.LIVE_URLS):
        view(ready(f"{number}.example", "r"))
    assert rows(view, "URL") == [f"https://{number}.example" for number in range(limits.LIVE_URLS)]
    view.close()


def test_the_data_path_follows_the_transport_of_its_relay() -> None:
    """QUIC went silent, TCP took over: no new address is reported for that."""
    view = live_view(io.StringIO())
    view(ready("a.example", "near:443"))
    view(events.Connected(relay="far:443", relay_id="r", session="s", transport="quic", why=""))
    assert rows(view, "Data path") == ["h2, session"]
    view(events.Connected(relay="near:443", relay_id="r", session="s", transport="yamux", why=""))
    assert rows(view, "Data path") == ["yamux, session"]
    view.close()


def test_the_road_of_visitors_bytes_is_shown_with_its_reason() -> None:
    view = live_view(io.StringIO())
    view(ready("a.example", "near:443"))
    view(ready("b.example", "far:443"))
    view(events.DataPath(path="session", why=f"connection refused {HOSTILE}", relay="near:443"))
    assert rows(view, "Data path")[0].startswith("h2, session (connection refused x")
    view(events.DataPath(path="direct", why="each on its own", relay="near:443"))
    assert rows(view, "Data path") == ["h2, direct"]
    view.close()


def test_whether_visitors_are_served_directly_is_shown_beside_the_session() -> None:
    view = live_view(io.StringIO(), now=lambda: 0.0)
    view(events.Canary(ok=True, rtt_ms=12.4, relay="near:443"))
    view(events.Canary(ok=True, rtt_ms=7, relay="near:443", path="direct"))
    assert (rows(view, "Served"), rows(view, "Directly")) == (["yes, 12 ms, 0 s ago"], ["yes, 7 ms, 0 s ago"])
    view(events.DataPath(path="session", why="nothing came back", relay="near:443"))
    assert (rows(view, "Served"), rows(view, "Directly")) == (["yes, 12 ms, 0 s ago"], [])
    view.close()


def test_whether_visitors_are_served_is_shown_with_its_age() -> None:
    times = [100.0]
    view = live_view(io.StringIO(), now=lambda: times[0])
    assert rows(view, "Served") == []
    view(events.Canary(ok=True, rtt_ms=12.4))
    times[0] += 7
    assert rows(view, "Served") == ["yes, 12 ms, 7 s ago"]
    view(events.Canary(ok=False, rtt_ms=None, failure=HOSTILE))
    assert rows(view, "Served")[0].startswith("no: x")
    view(events.Disconnected(reason="lost", retry_in=2.0))
    assert rows(view, "Served") == []
    view.close()


def test_each_relay_says_whether_it_serves() -> None:
    """One of two that does not serve is not hidden by the other's canaries."""
    times = [100.0]
    view = live_view(io.StringIO(), now=lambda: times[0])
    for relay in ("near:443", "far:443"):
        view(events.Connecting(relay=relay, transport="auto", attempt=1))
    view(events.Canary(ok=True, rtt_ms=12.4, relay="near:443"))
    times[0] += 7
    view(events.Canary(ok=False, rtt_ms=None, failure="black hole", relay="far:443"))
    view(events.Canary(ok=True, rtt_ms=3.0, relay="near:443"))
    assert rows(view, "Served") == ["yes, 3 ms, 0 s ago by near:443", "no: black hole, 0 s ago by far:443"]
    view(events.Disconnected(reason="lost", retry_in=2.0, relay="far:443"))
    assert rows(view, "Served") == ["yes, 3 ms, 0 s ago by near:443"]
    view.close()


async def test_the_age_of_a_canary_is_redrawn_each_second(autojump_clock: trio.testing.MockClock) -> None:
    stdout = io.StringIO()
    view = live_view(stdout, now=trio.current_time)
    view(events.Canary(ok=True, rtt_ms=1))
    with trio.move_on_after(5.5):
        await view.keep_fresh()
    assert [age for age in range(7) if f"{age} s ago" in stdout.getvalue()] == [0, 1, 2, 3, 4, 5]
    view.close()


def test_the_last_picture_is_drawn_when_trio_has_ended() -> None:
    """As `cli.program` does, with a canary's age in it."""
    stdout = io.StringIO()
    writer = LineWriter(stdout, dropped=dropped_line)
    view = LivePrinter(writer, writer, console=Console(file=stdout, width=100, force_terminal=True))

    async def run() -> None:
        view(events.Canary(ok=True, rtt_ms=1))

    trio.run(run)
    view.close()
    assert "yes, 1 ms, 0 s ago" in stdout.getvalue()


def test_any_event_leaves_a_printable_picture() -> None:
    view = live_view(io.StringIO())
    for event in EVERY_EVENT:
        view(event)
        assert all(line.isprintable() for line in shown(view).splitlines())
    view.close()


def test_only_the_last_visitors_are_kept() -> None:
    view = live_view(io.StringIO())
    for _ in range(3 * limits.LIVE_VISITORS):
        view(CLOSED)
    assert shown(view).count("fin/") == limits.LIVE_VISITORS
    view.close()


def test_log_lines_go_above_the_picture_while_it_stands() -> None:
    stdout, stderr = io.StringIO(), Terminal()
    writer = LineWriter(stderr, dropped=dropped_line)
    view = LivePrinter(
        LineWriter(stdout, dropped=dropped_line),
        writer,
        console=Console(file=stdout, width=100, force_terminal=True),
    )
    writer.write("a log line")
    view.close()
    writer.write("a later line")
    assert "a log line" in stdout.getvalue()
    assert stderr.getvalue() == "a later line\n"


def test_once_closed_events_are_plain_lines_and_the_cursor_is_back() -> None:
    stdout = io.StringIO()
    view = live_view(stdout)
    assert "\x1b[?25l" in stdout.getvalue()
    view.close()
    view.close()
    assert "\x1b[?25h" in stdout.getvalue()
    view(events.Stopped(exit_code=0))
    assert stdout.getvalue().endswith("stopped\n")


async def test_only_what_changed_is_redrawn(autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    stdout = io.StringIO()
    view = live_view(stdout)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(view.keep_fresh)
        await trio.sleep(10 * limits.LIVE_REFRESH)
        quiet = len(stdout.getvalue())
        await trio.sleep(10 * limits.LIVE_REFRESH)
        assert len(stdout.getvalue()) == quiet
        view(READY)
        await trio.sleep(2 * limits.LIVE_REFRESH)
        assert "https://abc.localhost:8443" in stdout.getvalue()[quiet:]
        nursery.cancel_scope.cancel()
    view.close()


async def test_a_terminal_that_takes_nothing_stops_the_picture_only(autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    reading, writing = os.pipe()
    with os.fdopen(writing, "w") as file:
        writer = LineWriter(file, dropped=dropped_line)
        while not writer.blocked:
            writer.write("x" * limits.OUTPUT_CHUNK)
        console = Console(file=TerminalFile(writer), width=80, force_terminal=True)  # type: ignore[arg-type]
        view = LivePrinter(writer, LineWriter(None, dropped=dropped_line), console=console)
        with trio.move_on_after(1):
            await view.keep_fresh()
        view(events.Notice(code="c", text=HOSTILE))
        view.close()
        os.close(reading)


@pytest.mark.parametrize("name", ["write", "isatty", "writable"])
def test_rich_finds_the_methods_of_a_file(name: str) -> None:
    file = TerminalFile(LineWriter(None, dropped=dropped_line))
    assert callable(getattr(file, name))
    assert file.isatty()
    assert file.writable()
    assert file.encoding == "utf-8"


def test_two_endpoints_at_one_relay_are_told_apart() -> None:
    """Each with its id, its relay's state, and the address to show first."""
    first, second = "a" * 52, "b" * 52
    view = live_view(io.StringIO())
    for agent, target in ((first, "localhost:3000"), (second, "localhost:4000")):
        view(events.Starting(agent_id=agent, target=target))
        view(events.Connected(relay="r:1", relay_id="r", session="s", transport="h2", why="", agent_id=agent))
        for name in ("one", "two"):
            hostname = f"{name}.{agent[:8]}.example"
            view(replace(READY, url=f"https://{hostname}", hostname=hostname, agent_id=agent, relay="r:1"))
        view(events.Canary(ok=True, rtt_ms=5.0, relay="r:1", agent_id=agent))
    view(events.Disconnected(reason="lost", retry_in=2.0, relay="r:1", agent_id=second))
    assert rows(view, "Service") == ["localhost:3000", "localhost:4000"]
    assert rows(view, "Agent") == ["aaaaaaaa", "bbbbbbbb"]
    assert rows(view, "Relay") == [
        "r:1 for aaaaaaaa  connected over h2",
        "r:1 for bbbbbbbb  lost; trying again in 2 s",
    ]
    assert [row.removeprefix("https://") for row in rows(view, "URL")] == [
        "one.aaaaaaaa.example",
        "one.bbbbbbbb.example",
        "two.aaaaaaaa.example",
        "two.bbbbbbbb.example",
    ]
    assert len(rows(view, "Try")) == len(rows(view, "SHA-256")) == 2
    assert [row.rpartition(" by ")[2] for row in rows(view, "Served")] == ["r:1 for aaaaaaaa"]
    view.close()


def test_certificates_and_what_a_visit_from_outside_found_stand_there() -> None:
    """A certificate stays with its end while the next one has to wait."""
    view = live_view(io.StringIO())
    end = "2027-02-01T10:00:00+00:00"
    mine = events.Certificate(hostnames=("a.example", "b.example"), state="issued", not_after=end, issuer="CA")
    view(mine)
    assert rows(view, "Certificate") == ["a.example, b.example  CA, until 2027-02-01"]
    view(replace(mine, state="failed", reason="the CA is down\nfor long", retry_in=60.0))
    assert rows(view, "Certificate") == ["a.example, b.example  until 2027-02-01; the CA is down; trying again in 60 s"]
    view(events.Certificate(hostnames=("c.example",), state="waiting", reason="50 of 50", retry_in=9.0))
    assert rows(view, "Certificate")[1:] == ["c.example  none yet; 50 of 50; trying again in 9 s"]
    view(events.Verified(hostname="a.example", ok=True))
    view(events.Verified(hostname="b.example", ok=None, reason="no address"))
    view(events.NameRefused(hostname="c.example", reason="no record\nset one"))
    assert rows(view, "Name") == [
        "a.example  shows our key",
        "b.example  not reached: no address",
        "c.example  refused: no record",
    ]
    view.close()


def test_an_alarm_stands_until_it_is_over() -> None:
    """And is printed above, whole."""
    printed = io.StringIO()
    view = live_view(printed)
    view(events.Alarm(code="leaf-mismatch", hostname="a.example", text="a.example: somebody else\ncheck it"))
    view(events.Alarm(code="certificate-expiring", hostname="a.example", text="ends soon"))
    assert rows(view, "ALARM") == ["a.example: somebody else", "ends soon"]
    assert "ALARM: check it" in printed.getvalue()
    view(events.Verified(hostname="a.example", ok=True))
    assert rows(view, "ALARM") == ["ends soon"]
    view(events.Certificate(hostnames=("a.example",), state="renewed", issuer="CA"))
    assert rows(view, "ALARM") == []
    view.close()


def test_no_list_grows_for_ever() -> None:
    view = live_view(io.StringIO())
    for number in range(2 * limits.LIVE_ROWS):
        view(events.Alarm(code="leaf-mismatch", hostname=f"{number}.example", text=f"{number}"))
    assert rows(view, "ALARM") == [str(number) for number in range(limits.LIVE_ROWS, 2 * limits.LIVE_ROWS)]
    view.close()
