"""The commands as a person types them."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner, Result

from trunnel.cli.main import app, main
from trunnel.settings.options import AGENT_OPTIONS, OUTPUT_OPTIONS, RELAY_OPTIONS, Option

WAIT = 15
"""Seconds that no process here may take."""


def trunnel(*arguments: str) -> Result:
    """Run the command line in this process, up to its error boundary."""
    return CliRunner(env={"COLUMNS": "200", "NO_COLOR": "1"}).invoke(app, list(arguments))


def process(*arguments: str) -> subprocess.CompletedProcess[str]:
    """Run the command line as a process."""
    command = [sys.executable, "-m", "trunnel", *arguments]
    return subprocess.run(command, capture_output=True, text=True, timeout=WAIT, check=False)


# --- help and usage --------------------------------------------------------------------------


def test_without_a_command_the_help_is_shown() -> None:
    assert "Commands" in trunnel().output


@pytest.mark.parametrize(("command", "table"), [("serve", RELAY_OPTIONS), ("expose", AGENT_OPTIONS)])
def test_the_help_has_every_option_of_the_table(command: str, table: tuple[Option, ...]) -> None:
    text = trunnel(command, "--help").output
    for option in (*table, *OUTPUT_OPTIONS):
        assert re.search(rf"{option.flag}\b", text), option.name
    assert "TRUNNEL_BIND_ADDR" in text


@pytest.mark.parametrize(
    ("arguments", "suggestion"), [(("expse",), "expose"), (("expose", "3000", "--sever", "x"), "--server")]
)
def test_a_typo_gets_a_suggestion_and_exit_code_2(arguments: tuple[str, ...], suggestion: str) -> None:
    ended = process(*arguments)
    assert ended.returncode == 2
    assert suggestion in ended.stderr


@pytest.mark.parametrize("flag", ["--acme-domain", "--pool-sizes", "--issuances-per-week"])
def test_what_is_not_there_is_not_accepted_silently(flag: str) -> None:
    assert trunnel("expose", "3000", flag, "x").exit_code == 2


def test_completion_is_there_and_invents_no_variables() -> None:
    assert "--show-completion" in trunnel("--help").output
    assert "TRUNNEL_INSTALL_COMPLETION" not in trunnel("--help").output


def test_importing_the_command_line_imports_nothing_heavy() -> None:
    """`trunnel version` starts without trio, TLS or rich."""
    heavy = ("trio", "ssl", "OpenSSL", "h2", "rich", "cryptography", "tomllib")
    code = f"import sys, trunnel.cli.main; print([name for name in {heavy} if name in sys.modules])"
    ended = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, timeout=WAIT, check=True)
    assert ended.stdout.strip() == "[]"


# --- hello -----------------------------------------------------------------------------------


def test_hello_judges_files_and_exits_1_when_one_is_unreadable(tmp_path: Path) -> None:
    (tmp_path / "http").write_bytes(b"GET / HTTP/1.1\r\n\r\n")
    good = trunnel("hello", str(tmp_path / "http"))
    assert (good.exit_code, good.output) == (0, f"{tmp_path / 'http'}\tnot-tls\n")
    assert trunnel("hello", str(tmp_path / "absent")).exit_code == 1
    assert trunnel("hello").exit_code == 2


# --- errors ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "part"),
    [
        (("serve", "--domain", "t.example.com"), "  or let any agent connect: --open\n"),
        (("serve", "--port", "x"), "error: relay.port: 'x' is not a port"),
        (("expose", "3000", "--transport", "tcp"), "not one of: auto, quic, h2, yamux"),
        (("expose", "https://localhost"), "--tls-passthrough"),
        (("expose",), "trunnel expose 3000"),
        (("expose", "3000", "--local", "4000"), "choose one"),
        (("authorize", "nobody"), "error: 'nobody' is not a key id"),
        (("id", "--key-name", "../x"), "not a key name"),
    ],
)
def test_a_mistake_is_explained_without_a_traceback_and_exits_2(
    arguments: tuple[str, ...], part: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(list(arguments)) == 2
    captured = capsys.readouterr()
    assert captured.err.startswith("error: ")
    assert part in captured.err
    assert "Traceback" not in captured.err
    assert captured.out == ""


def test_a_program_that_cannot_start_still_ends_with_stopped(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["serve", "--domain", "t.example.com", "--json"]) == 2
    lines = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    assert [line["event"] for line in lines] == ["notice", "stopped"]
    assert lines[-1]["exit_code"] == 2


def test_a_reader_that_went_away_is_no_traceback(tmp_path: Path) -> None:
    """`trunnel version | true`, as it were."""
    command = f"{sys.executable} -m trunnel version 2>{tmp_path / 'err'} | true"
    subprocess.run(command, shell=True, timeout=WAIT, check=False)
    assert (tmp_path / "err").read_text() == ""
