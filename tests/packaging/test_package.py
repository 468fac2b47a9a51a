"""`make package`: the wheel and the single file work where nothing else is; and what is said about them is so."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest

from scripts.package.single import find_pythons
from scripts.package.smoke import bare_environment
from tests.packaging.texts import AGENT_NAMES, PACKAGING, RELAY_NAMES
from tests.rules.sources import ROOT

HERE = f"{sys.version_info.major}.{sys.version_info.minor}"


def test_the_documentation_names_every_translated_variable() -> None:
    words = set((PACKAGING / "README.md").read_text("utf-8").replace("`", " ").split())
    assert {*RELAY_NAMES, *AGENT_NAMES} <= words


def test_nothing_of_ours_is_in_the_environment_of_a_trial(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PYTHONPATH", str(ROOT))
    monkeypatch.setenv("TRUNNEL_OPEN", "true")
    assert bare_environment(tmp_path).keys() == {"PATH", "HOME", "LANG"}


def test_a_python_that_is_found_is_what_it_is_taken_for() -> None:
    for version, python in find_pythons().items():
        said = subprocess.run([python, "--version"], capture_output=True, text=True, check=True).stdout
        assert said.startswith(f"Python {version}.")


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_what_is_shipped_is_built_and_works() -> None:
    pytest.importorskip("build", reason="pip install -c constraints.txt build")
    completed = subprocess.run(
        [sys.executable, "-m", "scripts.package", "--python", HERE],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert completed.returncode == 0, completed.stdout + completed.stderr
    assert completed.stdout.count("a visitor was served") == 2
