"""A program as a process: signals, exit codes, the last event, errors without tracebacks."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Generator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import pytest

ROOT = Path(__file__).parents[2]
WAIT = 15
"""Seconds that no process here may take."""


@contextmanager
def program(*arguments: str, stdout: int = subprocess.PIPE) -> Generator[subprocess.Popen[str]]:
    """Start the fake program; it is gone when the block is left."""
    command = [sys.executable, "-m", "tests.cli.fake_program", *arguments]
    with subprocess.Popen(command, cwd=ROOT, stdout=stdout, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.kill()


def finish(process: subprocess.Popen[str]) -> tuple[int, list[dict[str, Any]], str]:
    """Wait for the end; returns exit code, events and standard error."""
    stdout, stderr = process.communicate(timeout=WAIT)
    return process.returncode, [json.loads(line) for line in stdout.splitlines()], stderr


def next_event(process: subprocess.Popen[str]) -> str:
    """Wait for the next event and return its name."""
    assert process.stdout is not None
    return str(json.loads(process.stdout.readline())["event"])


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_the_first_signal_drains_and_the_exit_code_is_0(number: signal.Signals) -> None:
    with program("drain", "--json") as process:
        assert next_event(process) == "listening"
        process.send_signal(number)
        code, events, stderr = finish(process)
    assert code == 0
    assert [event["event"] for event in events] == ["stopping", "stopped"]
    assert events[-1]["exit_code"] == 0
    assert "Traceback" not in stderr


@pytest.mark.parametrize(("number", "expected"), [(signal.SIGINT, 130), (signal.SIGTERM, 143)])
@pytest.mark.parametrize("mode", ["wait", "stuck"])
def test_the_second_signal_ends_it_at_once(mode: str, number: signal.Signals, expected: int) -> None:
    """Also under a service that is shielded from cancellation."""
    with program(mode, "--json") as process:
        assert next_event(process) == "listening"
        process.send_signal(number)
        assert next_event(process) == "stopping"
        process.send_signal(number)
        code, events, stderr = finish(process)
    assert code == expected
    assert events[-1]["event"] == "stopped"
    assert events[-1]["exit_code"] == expected
    assert "Traceback" not in stderr


@pytest.mark.parametrize(
    ("mode", "expected", "message"),
    [
        ("config", 2, "error: relay.port: not good\n  hint: do this\n"),
        ("identity", 3, "error: another key\n  look\n"),
        ("refuse", 4, "error: unknown agent\n"),
        ("connect", 1, "error: nobody there\n"),
    ],
)
def test_an_expected_error_is_one_line_and_its_exit_code(mode: str, expected: int, message: str) -> None:
    with program(mode, "--json") as process:
        code, events, stderr = finish(process)
    assert (code, stderr) == (expected, message)
    assert [event["event"] for event in events] == ["notice", "stopped"]
    assert events[-1]["exit_code"] == expected


def test_a_bug_is_named_and_its_traceback_is_in_the_log() -> None:
    with program("bug", "--json") as process:
        code, events, stderr = finish(process)
    assert code == 1
    assert "error: internal error: KeyError: 'gone'" in stderr
    assert "    Traceback" in stderr or "Traceback (most recent call last)" in stderr
    assert events[-1]["exit_code"] == 1


def test_a_service_that_returns_ends_the_program_with_0() -> None:
    with program("quick", "--json") as process:
        code, events, _ = finish(process)
    assert code == 0
    assert [event["event"] for event in events] == ["listening", "stopped"]


def test_a_reader_that_goes_away_does_not_end_the_program() -> None:
    with program("drain", "--json") as process:
        assert next_event(process) == "listening"
        assert process.stdout is not None
        process.stdout.close()
        process.send_signal(signal.SIGTERM)  # now `stopping` and `stopped` meet a broken pipe
        assert process.wait(WAIT) == 0
        assert process.stderr is not None
        assert "Traceback" not in process.stderr.read()


def test_a_reader_that_does_not_read_blocks_nothing() -> None:
    """4 MB of events go into a pipe that nobody reads: the program goes on, drops, and says so."""
    reading, writing = os.pipe()
    with program("chatty", "--json", stdout=writing) as process:
        os.close(writing)
        assert process.stderr is not None
        assert process.stderr.readline() == "said all\n"
        process.send_signal(signal.SIGTERM)
        with os.fdopen(reading) as pipe:
            lines = [json.loads(line) for line in pipe]
        assert process.wait(WAIT) == 0
    assert lines[0]["event"] == "listening"
    assert len(lines) < 20_000
    assert any(line.get("code") == "events-dropped" for line in lines)


def read_terminal(descriptor: int, until: bytes) -> bytes:
    """Read a terminal until *until* or the end (EIO on Linux)."""
    received = b""
    with suppress(OSError):
        while until not in received:
            received += os.read(descriptor, 65_536)
    return received


@pytest.mark.skipif("sys.platform == 'win32'", reason="pseudo-terminals are of POSIX")
def test_on_a_terminal_there_is_a_live_view_with_the_log_above_it() -> None:
    import pty

    ours, theirs = pty.openpty()
    command = [sys.executable, "-m", "tests.cli.fake_program", "agent"]
    environ = {**os.environ, "TERM": "xterm", "COLUMNS": "100", "LINES": "40"}
    with subprocess.Popen(command, cwd=ROOT, stdin=theirs, stdout=theirs, stderr=theirs, env=environ) as process:
        os.close(theirs)
        screen = read_terminal(ours, b"AA:BB")
        process.send_signal(signal.SIGINT)
        screen += read_terminal(ours, b"never printed")
        assert process.wait(WAIT) == 0
    os.close(ours)
    text = screen.decode()
    for part in ("a warning", "INFO    trunnel.cli.program URL: https://abc.localhost:8443", "--resolve", "so far"):
        assert part in text
    assert text.index("\x1b[?25l") < text.index("\x1b[?25h")
    assert text.rstrip().endswith("stopped")
    assert "Traceback" not in text


def test_id_and_url_are_also_logged_for_programs_that_look_there() -> None:
    with program("agent", "--json") as process:
        assert next_event(process) == "listening"
        process.send_signal(signal.SIGTERM)
        code, _, stderr = finish(process)
    assert code == 0
    assert "ID: " + "a" * 52 in stderr
    assert "URL: https://abc.localhost:8443" in stderr


def test_people_read_sentences() -> None:
    with program("quick") as process:
        stdout, stderr = process.communicate(timeout=WAIT)
    assert stdout.splitlines()[0] == "relay " + "a" * 52
    assert stdout.splitlines()[-1] == "stopped"
    assert stderr == ""
