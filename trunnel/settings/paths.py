"""Where files are looked for: configuration and state, by platform habit.

- Configuration: `$XDG_CONFIG_HOME/trunnel/{relay,agent}.toml`, else
  `/etc/trunnel/{relay,agent}.toml`; the first that exists, alone.
- State: `$XDG_STATE_HOME/trunnel/{relay,agent}/`, mode 0700.

Where the XDG variables are absent (or not absolute: the XDG base directory
specification says to ignore those), platformdirs names the platform's folder.
"""

from __future__ import annotations

import stat
from collections.abc import Mapping
from enum import StrEnum
from pathlib import Path
from typing import final

from trunnel import capabilities
from trunnel.errors import ConfigError


@final
class Program(StrEnum):
    """Which of the two programs is configured."""

    RELAY = "relay"
    AGENT = "agent"


def config_candidates(program: Program, environ: Mapping[str, str]) -> list[Path]:
    """Return the files that may hold *program*'s configuration, best first."""
    import platformdirs  # noqa: PLC0415 - only commands that read settings pay for it

    candidates: list[Path] = []
    home = environ.get("XDG_CONFIG_HOME", "")
    folder = Path(home) / "trunnel" if home else platformdirs.user_config_path("trunnel", appauthor=False)
    if folder.is_absolute():
        candidates.append(folder / f"{program}.toml")
    if capabilities.HAS_POSIX_MODES:
        candidates.append(Path("/etc/trunnel") / f"{program}.toml")
    return candidates


def default_state_dir(program: Program, environ: Mapping[str, str]) -> Path:
    """Return the folder for *program*'s keys and certificates.

    Raises:
        ConfigError: There is no home folder to put it in.
    """
    import platformdirs  # noqa: PLC0415 - only commands that read settings pay for it

    home = environ.get("XDG_STATE_HOME", "")
    if home and Path(home).is_absolute():
        return Path(home) / "trunnel" / program
    folder = platformdirs.user_state_path("trunnel", appauthor=False)
    if not folder.is_absolute():
        raise ConfigError(f"{program}.state_dir", "there is no home folder: give --state-dir DIR")
    return folder / program


def make_state_dir(path: Path) -> None:
    """Make the state folder, mode 0700, unless it is there.

    Raises:
        ConfigError: It cannot be made, is no folder, or anybody may write to it.
    """
    try:
        path.mkdir(mode=0o700, parents=True, exist_ok=True)
        mode = path.stat().st_mode
    except FileExistsError as exc:
        raise ConfigError("state_dir", f"{path} is not a folder") from exc
    except OSError as exc:
        raise ConfigError("state_dir", f"{path} cannot be made: {exc.strerror}\ngive --state-dir DIR") from exc
    if capabilities.HAS_POSIX_MODES and mode & stat.S_IWOTH and not mode & stat.S_ISVTX:
        raise ConfigError("state_dir", f"anybody may write to {path}, which keeps private keys\nrun: chmod 700 {path}")
