"""Events: JSON lines for programs, sentences for people."""

from __future__ import annotations

import io
import json
import shlex
from datetime import UTC, datetime, timedelta, timezone

import pytest

from trunnel import events
from trunnel.cli.lines import LineWriter
from trunnel.cli.output import JsonPrinter, PlainPrinter, dropped_event, event_line
from trunnel.cli.sentences import curl_command, describe, expose_command, size
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
    events.OriginState(state="down", cause=HOSTILE),
    events.StreamOpened(stream="s1", visitor=HOSTILE, hostname=HOSTILE),
    CLOSED,
    events.Disconnected(reason=HOSTILE, retry_in=1.0),
    events.RejectedByRelay(code="unauthorized", reason=HOSTILE, retry_in=None),
    events.Stopping(reason="SIGTERM"),
    events.Stopped(exit_code=0),
    events.Listening(agents=("127.0.0.1:1", "[::1]:1"), visitors=("127.0.0.1:2",), relay_id="r"),
    events.SessionOpened(agent_id="a", label=HOSTILE, peer="p", transport="h2"),
    events.SessionEnded(agent_id="a", reason=HOSTILE),
    events.AgentRefused(agent_id="a", peer="p", code="c", reason=HOSTILE, authorize="trunnel authorize a"),
    events.VisitorRefused(peer="p", verdict=HOSTILE),
    events.Draining(deadline="2026-08-01T12:00:30Z"),
]


def test_no_event_is_missing_here() -> None:
    assert {type(event).__name__ for event in EVERY_EVENT} == {kind.__name__ for kind in Event.__subclasses__()}


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


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda event: event.kind)
def test_sentences_never_carry_what_a_terminal_obeys(event: Event) -> None:
    assert all(line.isprintable() for line in describe(event))


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


def test_curl_is_told_the_address_of_a_localhost_name_and_the_certificate() -> None:
    assert shlex.split(curl_command(READY)) == [
        "curl",
        "--resolve",
        "abc.localhost:8443:127.0.0.1",
        "--cacert",
        "/state dir/leaf.pem",
        "https://abc.localhost:8443",
    ]


def test_curl_needs_nothing_for_a_public_name_with_a_certificate_of_its_own() -> None:
    public = events.Ready(
        url="https://a.example.com",
        hostname="a.example.com",
        port=443,
        agent_id="a",
        transport="h2",
        data_path="session",
    )
    assert curl_command(public) == "curl https://a.example.com"


@pytest.mark.parametrize(
    ("agents", "host", "server"),
    [
        ("127.0.0.1:4433", "", "127.0.0.1:4433"),
        ("[::1]:7", "", "[::1]:7"),
        ("[::]:443", "t.example.com", "t.example.com:443"),
    ],
)
def test_serve_prints_a_command_to_paste(agents: str, host: str, server: str) -> None:
    listening = events.Listening(agents=(agents,), visitors=(), relay_id="r" * 52)
    assert expose_command(listening, host=host) == f"trunnel expose 3000 --server {server} --relay-pin {'r' * 52}"


@pytest.mark.parametrize(
    ("count", "text"),
    [(0, "0 B"), (1023, "1023 B"), (1024, "1.0 KiB"), (3 << 20, "3.0 MiB"), (5 << 30, "5.0 GiB"), (2 << 40, "2.0 TiB")],
)
def test_sizes_are_readable(count: int, text: str) -> None:
    assert size(count) == text
