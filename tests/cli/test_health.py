"""`trunnel health`: a relay that answers, an agent that canaries come through to, and what says so."""

from __future__ import annotations

import os
import stat
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing

from trunnel import events
from trunnel.cli.failures import ExitCode
from trunnel.cli.health import (
    LISTENING_FILE,
    NOBODY,
    Places,
    canary_age,
    make_hello,
    noting_canaries,
    noting_places,
    probe,
    read_places,
    served_file,
)
from trunnel.cli.main import main
from trunnel.errors import ConfigError, ConnectError
from trunnel.events import Event
from trunnel.settings import limits
from trunnel.settings.agent import AgentSettings
from trunnel.settings.load import load_state_dir
from trunnel.settings.paths import Program
from trunnel.wire.alert import AlertDescription, plaintext_alert
from trunnel.wire.clienthello import ClientHelloParser, Verdict

ALERT = plaintext_alert(AlertDescription.UNRECOGNIZED_NAME)
LISTENING = events.Listening(agents=("0.0.0.0:4433", "[::]:4433"), visitors=("127.0.0.1:8443",), relay_id="r" * 52)
SERVED = events.Canary(ok=True, rtt_ms=1.0)
FAILED = events.Canary(ok=False, rtt_ms=None, failure="late")
PATIENCE = 10.0


@asynccontextmanager
async def answering(answer: bytes | None) -> AsyncIterator[str]:
    """Listen, and send *answer* to whoever has sent something (None: nothing); yields the address."""

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            await stream.receive_some()
            if answer is None:
                await stream.receive_some()
            else:
                await stream.send_all(answer)

    async with trio.open_nursery() as nursery:
        (listener,) = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
        yield "127.0.0.1:{1}".format(*listener.socket.getsockname())
        nursery.cancel_scope.cancel()


def places(*visitors: str) -> Places:
    """Return where a relay listens for visitors."""
    return Places(agents=(), visitors=visitors)


# --- the relay's ------------------------------------------------------------------------------


def test_the_hello_asks_for_a_name_that_no_agent_can_have() -> None:
    parser = ClientHelloParser()
    assert parser.feed_untrusted(make_hello(NOBODY)) is Verdict.ROUTE
    assert parser.hello is not None
    assert str(parser.hello.server_name) == "health.invalid"
    assert parser.hello.alpn == ()


@pytest.mark.parametrize("answer", [ALERT, b"\x16\x03\x03\x00\x02hi"])
async def test_a_relay_that_answers_with_a_record_is_healthy(answer: bytes) -> None:
    async with answering(answer) as address:
        assert await probe(places(address)) == [address]


@pytest.mark.parametrize(
    ("answer", "reason"), [(b"HTTP/1.1 400 Bad", "not answer in TLS"), (b"", "closed"), (b"\x15", "not answer in TLS")]
)
async def test_any_other_answer_is_none(answer: bytes, reason: str) -> None:
    async with answering(answer) as address:
        with pytest.raises(ConnectError, match=reason):
            await probe(places(address))


async def test_a_relay_that_accepts_and_is_stuck_is_not_healthy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "HEALTH_TIMEOUT", 0.05)
    async with answering(None) as address:
        with pytest.raises(ConnectError, match="no answer within"):
            await probe(places(address))


async def test_a_relay_that_is_gone_is_not_healthy() -> None:
    async with answering(ALERT) as address:
        pass
    with pytest.raises(ConnectError, match=r"not serving: 127\.0\.0\.1:\d+: Connection refused"):
        await probe(places(address))


async def test_every_port_must_answer_at_one_of_its_addresses() -> None:
    async with answering(ALERT) as well, answering(b"") as ill:
        port = well.rpartition(":")[2]
        assert await probe(places(f"127.0.0.2:{port}", well)) == [well]
        with pytest.raises(ConnectError):
            await probe(places(well, ill))


def test_a_wildcard_is_asked_by_loopback() -> None:
    found = Places(agents=LISTENING.agents, visitors=LISTENING.visitors).by_port
    assert found == {4433: ["127.0.0.1", "::1"], 8443: ["127.0.0.1"]}


def test_one_port_for_all_is_asked_once() -> None:
    assert Places(agents=("[::1]:443",), visitors=("[::1]:443",)).by_port == {443: ["::1"]}


def test_a_relay_notes_where_it_listens_and_every_event_goes_on(tmp_path: Path) -> None:
    passed: list[Event] = []
    sink = noting_places(passed.append, tmp_path)
    for event in (LISTENING, events.Draining(deadline="")):
        sink(event)
    assert passed == [LISTENING, events.Draining(deadline="")]
    noted = Places(agents=LISTENING.agents, visitors=LISTENING.visitors, relay_id=LISTENING.relay_id)
    assert read_places(tmp_path / LISTENING_FILE) == noted


def test_a_note_that_cannot_be_written_stops_nothing(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    passed: list[Event] = []
    noting_places(passed.append, tmp_path / "missing")(LISTENING)
    assert passed == [LISTENING]
    assert "no-health-file" in caplog.text


def test_a_note_that_is_broken_is_told(tmp_path: Path) -> None:
    (tmp_path / LISTENING_FILE).write_text("[]", "ascii")
    with pytest.raises(ConfigError):
        read_places(tmp_path / LISTENING_FILE)


# --- the agent's ------------------------------------------------------------------------------


async def test_an_agent_touches_its_file_for_each_canary_that_came_through(tmp_path: Path) -> None:
    served = tmp_path / "default.served"
    served.touch()
    passed: list[Event] = []
    async with noting_canaries(passed.append, served) as sink:
        assert not served.exists(), "what an agent before us left says nothing of us"
        sink(FAILED)
        await trio.testing.wait_all_tasks_blocked()
        assert not served.exists()
        sink(SERVED)
        with trio.fail_after(PATIENCE):
            while not served.exists():
                await trio.testing.wait_all_tasks_blocked(0.01)
        assert stat.S_IMODE(served.stat().st_mode) & 0o077 == 0
    assert not served.exists()
    assert passed == [FAILED, SERVED]


async def test_a_second_endpoint_does_not_make_the_first_one_well(tmp_path: Path) -> None:
    served = tmp_path / "default.served"
    async with noting_canaries(events.ignore_events, served) as sink:
        for agent_id in ("first", "second"):
            sink(events.Starting(agent_id=agent_id, target="localhost:3000"))
        sink(replace(SERVED, agent_id="second"))
        await trio.testing.wait_all_tasks_blocked(0.01)
        assert not served.exists()
        sink(replace(SERVED, agent_id="first"))
        with trio.fail_after(PATIENCE):
            while not served.exists():
                await trio.testing.wait_all_tasks_blocked(0.01)


async def test_a_folder_that_cannot_be_written_stops_nothing(tmp_path: Path) -> None:
    passed: list[Event] = []
    async with noting_canaries(passed.append, tmp_path / "missing" / "default.served") as sink:
        for _ in range(3):
            sink(SERVED)
            await trio.testing.wait_all_tasks_blocked()
    assert passed == [SERVED] * 3


async def test_the_program_s_own_error_comes_out_as_itself(tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        async with noting_canaries(events.ignore_events, tmp_path / "default.served"):
            raise ConfigError("", "wrong")


@pytest.mark.parametrize(
    ("seconds", "well"), [(0, True), (59, True), (61, False), (-30, True), (-61, False), (86_400, False)]
)
def test_a_canary_counts_for_a_minute(tmp_path: Path, seconds: int, well: bool) -> None:
    served = tmp_path / "default.served"
    served.touch()
    os.utime(served, (1_800_000_000, 1_800_000_000))
    now = datetime.fromtimestamp(1_800_000_000 + seconds, UTC)
    if well:
        assert canary_age(served, now=now) == max(seconds, 0)
    else:
        with pytest.raises(ConnectError, match="the last canary"):
            canary_age(served, now=now)


def test_an_agent_is_given_time_for_a_canary_that_failed() -> None:
    tries = limits.CANARY_INTERVAL + limits.CANARY_TIMEOUT + limits.CANARY_RETRY + limits.CANARY_TIMEOUT
    assert tries < limits.HEALTH_CANARY_AGE <= 2 * limits.CANARY_INTERVAL


def test_each_key_has_a_file_of_its_own(tmp_path: Path) -> None:
    settings = AgentSettings(state_dir=tmp_path, key_file=Path("elsewhere/web.key"))
    assert served_file(settings) == tmp_path / "web.served"
    assert served_file(AgentSettings(state_dir=tmp_path)) == tmp_path / "default.served"


# --- the command ------------------------------------------------------------------------------


def test_the_command_says_what_is_well(
    tmp_path: Path, bare_environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "default.served").touch()
    assert main(["health", "agent", "--state-dir", str(tmp_path)]) == ExitCode.OK
    assert capsys.readouterr().out.startswith("healthy: a canary came through ")


@pytest.mark.parametrize("program", ["relay", "agent"])
def test_the_command_fails_where_nothing_runs(tmp_path: Path, program: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", program, "--state-dir", str(tmp_path)]) == ExitCode.RUNTIME
    assert capsys.readouterr().err.startswith("error: not serving: no ")


def test_the_command_knows_two_programs(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["health", "origin"]) == ExitCode.USAGE
    assert "neither relay nor agent" in capsys.readouterr().err


def test_the_state_folder_is_found_as_the_program_finds_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What else a relay is told, or not told, does not matter to its health."""
    monkeypatch.setenv("TRUNNEL_BIND_ADDR", "0.0.0.0")
    monkeypatch.setenv("TRUNNEL_STATE_DIR", str(tmp_path / "here"))
    assert load_state_dir(Program.RELAY, {}) == tmp_path / "here"
    assert load_state_dir(Program.AGENT, {"state_dir": "there"}) == Path("there")


def test_the_only_agent_of_a_folder_is_the_one_that_is_meant(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A container's check does not know the words that its agent was started with."""
    (tmp_path / "web.served").touch()
    assert main(["health", "agent", "--state-dir", str(tmp_path)]) == ExitCode.OK
    (tmp_path / "shop.served").touch()
    assert main(["health", "agent", "--state-dir", str(tmp_path)]) == ExitCode.RUNTIME
    assert "default.served" in capsys.readouterr().err
    assert main(["health", "agent", "--state-dir", str(tmp_path), "--key-name", "shop"]) == ExitCode.OK
