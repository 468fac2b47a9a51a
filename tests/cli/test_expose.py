"""`trunnel expose`: TARGET is another spelling of --local, and which view is chosen."""

from __future__ import annotations

import io
import sys
from pathlib import Path

import pytest

from trunnel.cli.expose import choose_view, run_expose, with_target
from trunnel.cli.lines import LineWriter
from trunnel.cli.live import LivePrinter
from trunnel.cli.logs import dropped_line
from trunnel.cli.output import PlainPrinter
from trunnel.errors import ConfigError, InvalidName
from trunnel.settings.options import Flag

FLAGS: dict[str, Flag] = {"local": None, "server": ["relay.example"]}


class Terminal(io.StringIO):
    """A buffer that says it is a terminal."""

    def isatty(self) -> bool:
        return True


def writer(stream: io.StringIO) -> LineWriter:
    """Return a writer to *stream*."""
    return LineWriter(stream, dropped=dropped_line)


def test_a_target_is_the_flag_local() -> None:
    assert with_target(FLAGS, "3000") == {**FLAGS, "local": "3000"}
    assert FLAGS["local"] is None


@pytest.mark.parametrize("local", [None, "4000"])
def test_without_a_target_the_flags_stay_as_they_are(local: str | None) -> None:
    flags: dict[str, Flag] = {**FLAGS, "local": local}
    assert with_target(flags, None) == flags


def test_both_spellings_may_agree_but_not_differ() -> None:
    assert with_target({"local": "3000"}, "3000") == {"local": "3000"}
    with pytest.raises(ConfigError, match="TARGET '3000' and --local '4000': choose one"):
        with_target({"local": "4000"}, "3000")


def test_a_target_that_does_not_parse_is_told_first() -> None:
    with pytest.raises(InvalidName):
        with_target({"local": "4000"}, "not a target")


@pytest.mark.parametrize(("terminal", "kind"), [(False, PlainPrinter), (True, LivePrinter)])
def test_the_live_view_is_for_terminals(
    monkeypatch: pytest.MonkeyPatch, terminal: bool, kind: type[PlainPrinter | LivePrinter]
) -> None:
    stdout = Terminal() if terminal else io.StringIO()
    monkeypatch.setattr(sys, "stdout", stdout)
    view = choose_view(writer(stdout), writer(io.StringIO()))
    view.close()
    assert isinstance(view, kind)


def test_without_a_target_nothing_is_made_and_the_fix_is_shown(
    bare_environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_expose(None, {}) == 2
    assert "for example: trunnel expose 3000" in capsys.readouterr().err
    assert not (bare_environment / "state").exists()
