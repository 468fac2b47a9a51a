"""The way into the program."""

from __future__ import annotations

import builtins
import sys

import pytest

from trunnel.__main__ import run


def test_an_interrupt_before_the_command_line_is_there_is_no_bug(monkeypatch: pytest.MonkeyPatch) -> None:
    """Importing takes long enough for a Ctrl-C to hit it."""
    monkeypatch.delitem(sys.modules, "trunnel.cli.main", raising=False)
    real = builtins.__import__

    def interrupted(name: str, *rest: object) -> object:
        if name == "trunnel.cli.main":
            raise KeyboardInterrupt
        return real(name, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(builtins, "__import__", interrupted)
    with pytest.raises(SystemExit) as ended:
        run()
    assert ended.value.code == 130
