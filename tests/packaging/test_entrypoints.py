"""The entry points of the images translate names, and nothing else (SEC-01)."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.packaging.texts import AGENT_NAMES, DOCKER, RELAY_NAMES
from tests.peers import require_program
from trunnel.settings import options

STUB = '#!/bin/sh\nenv -0\nprintf "pid=%s\\0" "$$"\nfor word; do printf "word=%s\\0" "$word"; done\n'
"""A `trunnel` that says how it was started."""
NAMES = [*(("relay", name) for name in RELAY_NAMES), *(("agent", name) for name in AGENT_NAMES)]


def start(program: str, folder: Path, *words: str, **variables: str) -> dict[str, list[str]]:
    """Run an entry point under a plain shell with a stub on the PATH; returns what the stub was given."""
    stub = folder / "bin" / "trunnel"
    stub.parent.mkdir(exist_ok=True)
    stub.write_text(STUB, "ascii")
    stub.chmod(0o755)
    process = subprocess.Popen(
        [require_program("dash", "sh"), DOCKER / f"{program}-entrypoint.sh", *words],
        env={"PATH": f"{stub.parent}{os.pathsep}{os.defpath}", **variables},
        stdout=subprocess.PIPE,
    )
    output, _ = process.communicate(timeout=20)
    assert process.returncode == 0
    found: dict[str, list[str]] = {"shell": [str(process.pid)]}
    for entry in output.decode().split("\0")[:-1]:
        name, _, value = entry.partition("=")
        found.setdefault(name, []).append(value)
    return found


@pytest.mark.parametrize(("program", "name"), NAMES)
def test_a_documented_name_becomes_the_variable_of_an_option(tmp_path: Path, program: str, name: str) -> None:
    table = options.RELAY_OPTIONS if program == "relay" else options.AGENT_OPTIONS
    assert f"TRUNNEL_{name}" in {option.variable for option in table}
    assert start(program, tmp_path, **{name: "given"})[f"TRUNNEL_{name}"] == ["given"]


@pytest.mark.parametrize(("program", "names"), [("relay", RELAY_NAMES), ("agent", AGENT_NAMES)])
def test_no_other_name_is_translated(tmp_path: Path, program: str, names: tuple[str, ...]) -> None:
    script = (DOCKER / f"{program}-entrypoint.sh").read_text("ascii")
    listed = re.search(r"for name in (.*?); do", script, re.DOTALL)
    assert listed is not None
    assert sorted(listed[1].replace("\\\n", " ").split()) == sorted(names)
    assert "TRUNNEL_OPEN" not in start(program, tmp_path, OPEN="true")


@pytest.mark.parametrize(("program", "name"), [("relay", "API_PORT"), ("agent", "SERVER")])
def test_a_prefixed_variable_wins_and_an_empty_one_counts_as_none(tmp_path: Path, program: str, name: str) -> None:
    prefixed = f"TRUNNEL_{name}"
    assert start(program, tmp_path, **{name: "plain", prefixed: "ours"})[prefixed] == ["ours"]
    assert start(program, tmp_path, **{name: "plain", prefixed: ""})[prefixed] == ["plain"]
    assert prefixed not in start(program, tmp_path, **{name: ""})
    assert prefixed not in start(program, tmp_path)


@pytest.mark.parametrize("program", ["relay", "agent"])
def test_every_prefixed_variable_passes(tmp_path: Path, program: str) -> None:
    told = start(program, tmp_path, TRUNNEL_LOG_LEVEL="debug", TRUNNEL_VIA_FILE="/run/secrets/via")
    assert (told["TRUNNEL_LOG_LEVEL"], told["TRUNNEL_VIA_FILE"]) == (["debug"], ["/run/secrets/via"])


@pytest.mark.parametrize("value", ["two words", "$(exit 7)", "`exit 7`", '"; exit 7; "', "'", "a\nb", "*", "\\"])
def test_a_value_is_never_read_as_shell(tmp_path: Path, value: str) -> None:
    assert start("relay", tmp_path, TLS_CERT=value)["TRUNNEL_TLS_CERT"] == [value]


@pytest.mark.parametrize(("program", "command"), [("relay", "serve"), ("agent", "expose")])
def test_words_pass_behind_the_command(tmp_path: Path, program: str, command: str) -> None:
    told = start(program, tmp_path, "--json", "two words", "")
    assert told["word"] == [command, "--json", "two words", ""]


def test_the_agents_check_is_told_what_the_agent_was_told(tmp_path: Path) -> None:
    """It has no other way to learn which key is meant."""
    told = start("agent", tmp_path, "health", PRIMARY_KEY="/keys/web.key")
    assert (told["word"], told["TRUNNEL_PRIMARY_KEY"]) == (["health", "agent"], ["/keys/web.key"])


@pytest.mark.parametrize("program", ["relay", "agent"])
def test_the_program_replaces_the_shell_so_that_signals_reach_it(tmp_path: Path, program: str) -> None:
    told = start(program, tmp_path)
    assert told["pid"] == told["shell"]


def test_the_scripts_can_be_executed() -> None:
    for script in DOCKER.glob("*.sh"):
        assert os.access(script, os.X_OK), script.name
        assert script.read_text("ascii").startswith("#!/bin/sh\n")


@pytest.mark.e2e
@pytest.mark.parametrize("given", [{}, {"TRUNNEL_OPEN": ""}, {"TRUNNEL_OPEN": "false"}])
def test_a_relay_that_was_not_told_who_may_connect_does_not_start(tmp_path: Path, given: dict[str, str]) -> None:
    """SEC-01: the packaged relay has no open mode; the refusal is trunnel's own, word and exit code."""
    completed = subprocess.run(
        [require_program("dash", "sh"), DOCKER / "relay-entrypoint.sh"],
        env={
            "PATH": f"{Path(sys.executable).parent}{os.pathsep}{os.defpath}",
            "HOME": str(tmp_path),
            "TRUNNEL_STATE_DIR": str(tmp_path / "state"),
            "BIND_ADDR": "0.0.0.0,::",  # as the image says
            **given,
        },
        capture_output=True,
        text=True,
        check=False,
        timeout=20,
    )
    assert completed.returncode == 2
    assert "refusing to listen beyond this machine (0.0.0.0, ::)" in completed.stderr
    assert completed.stdout == ""
