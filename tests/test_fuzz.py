"""Every fuzz target holds on its corpus, and on as many inputs as the hypothesis profile asks."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings

from fuzz import run
from fuzz.inputs import inputs_for
from fuzz.targets import CORPUS, TARGETS, corpus_of


@pytest.mark.parametrize("name", TARGETS)
def test_target_holds_on_its_corpus(name: str) -> None:
    for path in corpus_of(name):
        TARGETS[name](path.read_bytes())


@pytest.mark.parametrize("name", TARGETS)
def test_target_holds_on_tried_inputs(name: str) -> None:
    target = TARGETS[name]

    @settings(suppress_health_check=[HealthCheck.too_slow, HealthCheck.data_too_large])
    @given(inputs_for([path.read_bytes() for path in corpus_of(name)]))
    def hold(octets: bytes) -> None:
        target(octets)

    hold()


def test_each_corpus_folder_belongs_to_a_target() -> None:
    assert sorted(path.name for path in CORPUS.glob("*") if path.is_dir() and path.name not in TARGETS) == []


# --- the runner itself -----------------------------------------------------------------------


@pytest.fixture
def found_in(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """Give the runner two targets, one with a bug for inputs that hold a zero byte; return its corpus."""

    def fuzz_buggy(data: bytes) -> None:
        assert 0 not in data

    def fuzz_sound(data: bytes) -> None:
        assert len(data) >= 0

    corpus = tmp_path / "fuzz" / "corpus"
    monkeypatch.setattr(run, "TARGETS", {"buggy": fuzz_buggy, "sound": fuzz_sound})
    monkeypatch.setattr(run, "CORPUS", corpus)
    return corpus


def test_runner_reports_a_finding_and_saves_the_smallest_input(
    found_in: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run.main(["--seconds", "0", "--target", "buggy"]) == 1
    assert "FAIL" in capsys.readouterr().out
    (saved,) = (found_in / "buggy").iterdir()
    assert saved.read_bytes() == b"\0"


@pytest.mark.usefixtures("found_in")
def test_runner_counts_examples_of_a_target_that_holds(capsys: pytest.CaptureFixture[str]) -> None:
    assert run.main(["--seconds", "0", "--target", "sound"]) == 0
    assert "ok" in capsys.readouterr().out
