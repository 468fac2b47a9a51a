"""Events: JSON lines for programs, sentences for people."""

from __future__ import annotations

import io
import json
from datetime import UTC, datetime, timedelta, timezone

import pytest

from trunnel import events
from trunnel.cli.lines import LineWriter
from trunnel.cli.output import JsonPrinter, PlainPrinter, dropped_event, event_line
from trunnel.events import Event

NOW = datetime(2026, 8, 1, 12, 0, 0, 123_456, tzinfo=UTC)
HOSTILE = "x\x1b[2J\nevent: stopped"
READY = events.Ready(
    url="https://abc.localhost:8443",
    hostname="abc.localhost",
    port=8443,
    agent_id="abc",
    transport="h2",
    data_path="session",
    certificate="/state dir/leaf.pem",
    fingerprint="AA:BB",
)
CLOSED = events.StreamClosed(
    stream="s1",
    visitor=HOSTILE,
    bytes_in=10,
    bytes_out=3_000_000,
    seconds=1.25,
    visitor_end="fin",
    origin_end=HOSTILE,
    data_path="session",
)
EVERY_EVENT: list[Event] = [
    events.Starting(agent_id="a", target=HOSTILE),
    events.Connecting(relay=HOSTILE, transport="h2", attempt=1),
    events.Connected(relay=HOSTILE, relay_id="r", session="s", transport="h2", why=HOSTILE),
    events.Notice(code="c", text=HOSTILE),
    READY,
    events.Canary(ok=False, rtt_ms=None, failure=HOSTILE),
    events.DataPath(path=HOSTILE, why=HOSTILE, relay=HOSTILE),
    events.OriginState(state="down", cause=HOSTILE),
    events.NameRefused(hostname="a.example", reason=HOSTILE),
    events.Verified(hostname="a.example", ok=False, reason=HOSTILE),
    events.Certificate(hostnames=("a.example",), state="failed", reason=HOSTILE, issuer=HOSTILE),
    events.Alarm(code="leaf-mismatch", text=HOSTILE),
    events.AgentAuthorized(agent_id="a", names=("www",), label=HOSTILE, invitation="0badcafe"),
    events.TakenOver(pid=1),
    events.StreamOpened(stream="s1", visitor=HOSTILE, hostname=HOSTILE),
    CLOSED,
    events.Disconnected(reason=HOSTILE, retry_in=1.0),
    events.RejectedByRelay(code="unauthorized", reason=HOSTILE, retry_in=None),
    events.Stopping(reason="SIGTERM"),
    events.Stopped(exit_code=0),
    events.Listening(agents=("127.0.0.1:1", "[::1]:1"), visitors=("127.0.0.1:2",), relay_id="r"),
    events.SessionOpened(agent_id="a", label=HOSTILE, peer="p", transport="h2"),
    events.SessionEnded(agent_id="a", reason=HOSTILE),
    events.CarrierOpened(agent_id="a", session="s", peer="p", transport="h2", carriers=2),
    events.CarrierLost(agent_id="a", session="s", transport="h2", reason=HOSTILE, carriers=1),
    events.AgentRefused(agent_id="a", peer="p", code="c", reason=HOSTILE, authorize="trunnel authorize a"),
    events.VisitorRefused(peer="p", verdict=HOSTILE),
    events.Draining(deadline="2026-08-01T12:00:30Z"),
]


def kinds() -> list[type[Event]]:
    """Return every event that there is, but no base."""
    below = [*Event.__subclasses__(), *events.RelayEvent.__subclasses__()]
    return [kind for kind in below if "kind" in vars(kind)]


def test_no_event_is_missing_here() -> None:
    assert {type(event).__name__ for event in EVERY_EVENT} == {kind.__name__ for kind in kinds()}


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda event: event.kind)
def test_a_json_event_is_one_line_of_ascii_with_its_name_time_and_version(event: Event) -> None:
    line = event_line(event, now=NOW)
    assert line.isascii()
    assert line.isprintable()
    content = json.loads(line)
    assert list(content)[:3] == ["event", "time", "v"]
    assert (content["event"], content["time"], content["v"]) == (event.kind, "2026-08-01T12:00:00.123Z", 1)
    assert set(content) == {"event", "time", "v", *event.payload()}


def test_times_are_told_in_utc_whatever_the_clock_says() -> None:
    there = NOW.astimezone(timezone(timedelta(hours=5)))
    assert json.loads(event_line(READY, now=there))["time"] == "2026-08-01T12:00:00.123Z"


def test_people_get_id_url_curl_line_and_fingerprint() -> None:
    stdout = io.StringIO()
    printer = PlainPrinter(LineWriter(stdout, dropped=dropped_event))
    printer(events.Starting(agent_id="abc", target="localhost:3000"))
    printer(READY)
    lines = stdout.getvalue().splitlines()
    assert "ID: abc" in lines
    assert "URL: https://abc.localhost:8443" in lines
    assert "certificate SHA-256: AA:BB" in lines


def test_json_lines_are_written_as_they_happen() -> None:
    stdout = io.StringIO()
    JsonPrinter(LineWriter(stdout, dropped=dropped_event), now=lambda: NOW)(CLOSED)
    assert json.loads(stdout.getvalue())["bytes_out"] == 3_000_000
