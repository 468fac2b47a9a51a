"""Events as sentences: what people read for each kind, and the commands they can paste."""

from __future__ import annotations

import shlex
from dataclasses import replace

import pytest

from tests.cli.test_output import CLOSED, EVERY_EVENT, READY, kinds
from trunnel import events
from trunnel.cli.sentences import curl_command, describe, expose_command, first_line, retry_text, size, visit
from trunnel.events import Event

UNTOLD = (events.StreamOpened, events.VisitorRefused, events.Verified)
"""What a person need not know: the log has who was refused; a wrong key is an alarm, too."""
SENTENCES: list[tuple[Event, list[str]]] = [
    (events.Starting(agent_id="a", target="localhost:3000"), ["exposing localhost:3000", "ID: a"]),
    (events.Connecting(relay="r:1", transport="h2", attempt=1), ["connecting to r:1 over h2"]),
    (
        events.Connected(relay="r:1", relay_id="r", session="s", transport="h2", why="first choice"),
        ["connected to r:1 over h2 (first choice)"],
    ),
    (
        events.Connected(relay="r:1", relay_id="r", session="s", transport="h2", why=""),
        ["connected to r:1 over h2"],
    ),
    (events.Notice(code="c", text="one\ntwo"), ["note: one", "note: two"]),
    (events.Canary(ok=True, rtt_ms=1.5), []),
    (events.Canary(ok=False, rtt_ms=None, failure="no carrier"), ["visitors would not be served now: no carrier"]),
    (
        events.Canary(ok=False, rtt_ms=None, failure="none answered", path="direct"),
        ["visitors on data connections would not be served now: none answered"],
    ),
    (
        events.DataPath(path="direct", why="each on its own"),
        ["visitors' bytes go directly: each on its own"],
    ),
    (
        events.DataPath(path="session", why="connection refused\nhint"),
        ["visitors' bytes go through the session: connection refused"],
    ),
    (events.DataPath(path="none", why="refused"), ["visitors' bytes go nowhere: refused"]),
    (events.OriginState(state="down", cause="refused"), ["local service down: refused"]),
    (events.OriginState(state="up", cause=""), ["local service up"]),
    (events.Disconnected(reason="lost\nhint", retry_in=2.0), ["disconnected: lost; trying again in 2 s"]),
    (
        events.RejectedByRelay(code="unauthorized", reason="unknown\ndo this", retry_in=None),
        ["the relay refused (unauthorized): unknown; not trying again", "  do this"],
    ),
    (
        events.RejectedByRelay(code="busy", reason="", retry_in=60.0),
        ["the relay refused (busy): ; trying again in 60 s"],
    ),
    (
        events.NameRefused(hostname="www.example.org", reason="no record\nset one"),
        ["www.example.org is not served: no record", "  set one"],
    ),
    (
        events.Certificate(hostnames=("a", "b"), state="issued", not_after="2027-01-01", issuer="CA"),
        ["certificate issued for a, b (CA, valid until 2027-01-01)"],
    ),
    (
        events.Certificate(hostnames=("a",), state="waiting", reason="49 of 50", retry_in=60.0),
        ["certificate for a has to wait: 49 of 50; trying again in 60 s"],
    ),
    (
        events.Certificate(hostnames=("a",), state="failed", reason="no", retry_in=60.0, not_after="2027-01-01"),
        ["no new certificate for a: no; trying again in 60 s, valid until 2027-01-01"],
    ),
    (events.Alarm(code="c", text="one\ntwo"), ["ALARM: one", "ALARM: two"]),
    (
        events.AgentAuthorized(agent_id="a", names=("www",), label="l", invitation="0badcafe"),
        ["agent a came with invitation 0badcafe and may connect as www"],
    ),
    (events.TakenOver(pid=7), ["took over from process 7, which finishes what it has"]),
    (events.Stopping(reason="SIGTERM"), ["stopping: SIGTERM"]),
    (events.Stopped(exit_code=0), ["stopped"]),
    (
        events.Listening(agents=("127.0.0.1:1", "[::1]:1"), visitors=("127.0.0.1:2",), relay_id="r"),
        ["relay r", "agents connect to 127.0.0.1:1, [::1]:1", "visitors connect to 127.0.0.1:2"],
    ),
    (
        events.SessionOpened(agent_id="a", label="laptop", peer="p", transport="h2"),
        ["agent a (laptop) connected from p over h2"],
    ),
    (events.SessionOpened(agent_id="a", label="", peer="p", transport="h2"), ["agent a connected from p over h2"]),
    (events.CarrierOpened(agent_id="a", session="s", peer="p", transport="h2", carriers=1), []),
    (
        events.CarrierOpened(agent_id="a", session="s", peer="p", transport="quic", carriers=2),
        ["agent a has 2 connections, one more over quic"],
    ),
    (
        events.CarrierLost(agent_id="a", session="s", transport="h2", reason="cut", carriers=1),
        ["agent a lost a connection over h2 (1 left): cut"],
    ),
    (
        events.CarrierLost(agent_id="a", session="s", transport="quic", reason="silence", carriers=0),
        ["agent a lost a connection over quic (none left, waiting for its return): silence"],
    ),
    (events.SessionEnded(agent_id="a", reason="lost"), ["agent a gone: lost"]),
    (
        events.AgentRefused(agent_id="a", peer="p", code="c", reason="why", authorize="trunnel authorize a"),
        ["agent a from p refused (c): why", "  to let it in: trunnel authorize a"],
    ),
    (
        events.AgentRefused(agent_id="a", peer="p", code="c", reason="why", authorize=""),
        ["agent a from p refused (c): why"],
    ),
    (events.Draining(deadline="12:00"), ["draining until 12:00; signal again to stop at once"]),
]


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda event: event.kind)
def test_every_kind_of_event_has_a_sentence(event: Event) -> None:
    """Or is one of those that people are not told of."""
    assert bool(describe(event)) == (not isinstance(event, UNTOLD))


def test_no_sentence_is_missing_here() -> None:
    """Those of `ready` and `stream_closed` have tests of their own below."""
    judged = {event.kind for event, _ in SENTENCES} | {READY.kind, CLOSED.kind} | {kind.kind for kind in UNTOLD}
    assert judged == {kind.kind for kind in kinds()}


@pytest.mark.parametrize(("event", "lines"), SENTENCES, ids=lambda value: getattr(value, "kind", ""))
def test_the_sentences(event: Event, lines: list[str]) -> None:
    assert describe(event) == lines


def test_only_the_first_attempt_is_told() -> None:
    assert describe(events.Connecting(relay="r", transport="h2", attempt=2)) == []


def test_an_address_is_told_with_the_way_to_try_it() -> None:
    url, command, fingerprint = describe(READY)
    assert url == "URL: https://abc.localhost:8443"
    assert command == f"try: {curl_command(READY)}"
    assert fingerprint == "certificate SHA-256: AA:BB"
    assert len(describe(replace(READY, certificate=None, fingerprint=None))) == 2


def test_a_visit_is_one_line() -> None:
    closed = replace(CLOSED, visitor="192.0.2.1:5", origin_end="reset")
    assert visit(closed) == "192.0.2.1:5  10 B in, 2.9 MiB out, 1.2 s  (fin/reset)"
    assert describe(closed) == [visit(closed)]


def test_a_reason_without_lines_is_empty() -> None:
    assert first_line("") == ""


def test_when_the_next_attempt_comes_is_in_whole_seconds() -> None:
    assert [retry_text(seconds) for seconds in (None, 0.4, 61.6)] == [
        "not trying again",
        "trying again in 0 s",
        "trying again in 62 s",
    ]


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda event: event.kind)
def test_sentences_never_carry_what_a_terminal_obeys(event: Event) -> None:
    assert all(line.isprintable() for line in describe(event))


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
