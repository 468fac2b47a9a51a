"""What is remembered of a relay that was joined is what is put to use at the next start."""

from __future__ import annotations

import stat
from datetime import UTC, datetime
from pathlib import Path

import pytest

from trunnel import capabilities
from trunnel.agent.joined import remember_joined
from trunnel.errors import ConfigError
from trunnel.names import Hostname, KeyId, ServerAddress
from trunnel.settings.agent import AgentSettings
from trunnel.settings.invitation import JoinString
from trunnel.settings.joined import FOLDER, with_relay

INVITATION = JoinString(
    server=ServerAddress("t.example.com", 4433),
    relay=KeyId.of_spki(b"relay"),
    secret="s" * 43,
    expires=datetime(2027, 1, 31, tzinfo=UTC),
    names=(Hostname("shop"), Hostname("www")),
)


@pytest.mark.parametrize("fields", [{}, {"key_name": "work"}, {"key_file": Path("keys") / "a.key"}])
def test_what_is_written_is_read(tmp_path: Path, fields: dict[str, object]) -> None:
    remember_joined(AgentSettings(state_dir=tmp_path, **fields), INVITATION)  # type: ignore[arg-type]
    found, _ = with_relay(fields, state_dir=tmp_path)
    assert found["servers"] == (INVITATION.server,)
    assert found["relay_pin"] == INVITATION.relay
    assert found["name"] == "shop"


def test_nothing_secret_is_kept_and_nobody_else_may_change_it(tmp_path: Path) -> None:
    remember_joined(AgentSettings(state_dir=tmp_path), INVITATION)
    path = tmp_path / FOLDER / "default.json"
    assert INVITATION.secret not in path.read_text()
    if capabilities.HAS_POSIX_MODES:
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700


def test_where_it_cannot_be_written_the_reason_is_told(tmp_path: Path) -> None:
    (tmp_path / FOLDER).touch()
    with pytest.raises(ConfigError):
        remember_joined(AgentSettings(state_dir=tmp_path), INVITATION)
