"""`authorize`, `revoke` and `agents`: the relay's list, edited in place."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from trunnel.cli.main import main
from trunnel.names import KeyId

FIRST = KeyId.of_spki(b"first").value
SECOND = KeyId.of_spki(b"second").value


def test_an_agent_is_added_listed_and_taken_off(bare_environment: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["authorize", FIRST, "--name", "blog", "--name", "shop", "--label", "my laptop"]) == 0
    assert main(["authorize", SECOND]) == 0
    assert (bare_environment / "state" / "trunnel" / "relay" / "authorized").exists()
    capsys.readouterr()
    assert main(["agents", "--json"]) == 0
    listed = {entry["id"]: entry for entry in map(json.loads, capsys.readouterr().out.splitlines())}
    assert listed[FIRST] == {"id": FIRST, "names": ["blog", "shop"], "label": "my laptop"}
    assert set(listed) == {FIRST, SECOND}
    assert main(["revoke", FIRST]) == 0
    capsys.readouterr()
    assert main(["agents"]) == 0
    assert capsys.readouterr().out.strip() == SECOND


def test_taking_off_who_is_not_there_exits_1(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["revoke", FIRST]) == 1
    assert "was not in" in capsys.readouterr().err


def test_the_list_is_the_one_that_serve_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TRUNNEL_AUTHORIZED_AGENTS", str(tmp_path / "by-variable"))
    assert main(["authorize", FIRST]) == 0
    assert main(["authorize", FIRST, "--authorized-agents", str(tmp_path / "by-flag")]) == 0
    assert (tmp_path / "by-variable").exists()
    assert (tmp_path / "by-flag").exists()


def test_comments_of_people_stay(tmp_path: Path) -> None:
    path = tmp_path / "list"
    path.write_text(f"# ours\n{SECOND}  # mine\n")
    assert main(["authorize", FIRST, "--authorized-agents", str(path)]) == 0
    assert main(["revoke", FIRST, "--authorized-agents", str(path)]) == 0
    assert path.read_text().startswith(f"# ours\n{SECOND}")


@pytest.mark.parametrize(
    "arguments",
    [("authorize", FIRST, "--name", "a.b"), ("authorize", FIRST, "--label", "two\nlines"), ("authorize", FIRST[1:])],
)
def test_what_would_break_the_list_is_refused(
    arguments: tuple[str, ...], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([*arguments, "--authorized-agents", str(tmp_path / "list")]) == 2
    assert capsys.readouterr().err.startswith("error: ")
    assert not (tmp_path / "list").exists()


def test_a_broken_list_names_the_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "list").write_text(f"{FIRST}\nnonsense\n")
    assert main(["agents", "--authorized-agents", str(tmp_path / "list")]) == 2
    assert "2" in capsys.readouterr().err
