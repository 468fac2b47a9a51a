"""Where files are looked for, and how the state folder is made."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from trunnel.errors import ConfigError
from trunnel.settings.paths import Program, config_candidates, default_state_dir, make_state_dir


def test_xdg_folders_come_first(tmp_path: Path) -> None:
    environ = {"XDG_CONFIG_HOME": str(tmp_path / "c"), "XDG_STATE_HOME": str(tmp_path / "s")}
    assert config_candidates(Program.AGENT, environ)[0] == tmp_path / "c" / "trunnel" / "agent.toml"
    assert default_state_dir(Program.RELAY, environ) == tmp_path / "s" / "trunnel" / "relay"


def test_a_relative_xdg_folder_is_ignored() -> None:
    environ = {"XDG_CONFIG_HOME": "c", "XDG_STATE_HOME": "s"}
    assert all(path.is_absolute() for path in config_candidates(Program.RELAY, environ))
    assert default_state_dir(Program.RELAY, environ).is_absolute()


@pytest.mark.skipif("os.name != 'posix'", reason="/etc is of POSIX")
def test_the_file_of_the_system_comes_last() -> None:
    assert config_candidates(Program.RELAY, {})[-1] == Path("/etc/trunnel/relay.toml")


def test_the_state_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "relay"
    make_state_dir(path)
    make_state_dir(path)
    assert stat.S_IMODE(path.stat().st_mode) == 0o700


def test_a_state_folder_that_anybody_may_write_to_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o777)
    with pytest.raises(ConfigError, match="chmod 700"):
        make_state_dir(tmp_path)


def test_a_file_is_no_state_folder(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(ConfigError, match="not a folder"):
        make_state_dir(tmp_path / "file")
    with pytest.raises(ConfigError, match="cannot be made"):
        make_state_dir(tmp_path / "file" / "below")
