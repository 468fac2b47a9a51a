"""The flags of `trunnel.capabilities` are plain booleans that agree with this platform."""

from __future__ import annotations

import os
import sys

import pytest

from trunnel import capabilities

FLAGS = [name for name in vars(capabilities) if name.startswith("HAS_")]


@pytest.mark.parametrize("name", FLAGS)
def test_a_flag_is_a_boolean_that_a_test_can_switch(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    assert isinstance(getattr(capabilities, name), bool)
    monkeypatch.setattr(capabilities, name, not getattr(capabilities, name))


@pytest.mark.may_skip("only where the answer is known")
@pytest.mark.skipif(sys.platform != "linux", reason="not Linux")
def test_linux_can_do_everything_but_what_is_of_windows() -> None:
    windows_only = {"HAS_MSVCRT_LOCKING", "HAS_SYSTEM_CERTIFICATES"}
    assert {name for name in FLAGS if not getattr(capabilities, name)} <= windows_only
    assert os.name == "posix"
