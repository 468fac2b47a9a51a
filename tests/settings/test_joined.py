"""The relay that a key has joined: used where nobody says otherwise."""

from __future__ import annotations

from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest

from trunnel.errors import ConfigError
from trunnel.names import Hostname, KeyId, ServerAddress
from trunnel.settings.agent import AgentSettings
from trunnel.settings.invitation import JoinString
from trunnel.settings.joined import Joined, joined_path
from trunnel.settings.load import AgentConfig, load_agent
from trunnel.settings.options import Flag

RELAY, OTHER = KeyId.of_spki(b"relay"), KeyId.of_spki(b"other")
SERVER = ServerAddress("t.example.com", 4433)
INVITATION = JoinString(
    server=SERVER,
    relay=RELAY,
    secret="s" * 43,
    expires=datetime(2027, 1, 31, tzinfo=UTC),
    names=(Hostname("shop"), Hostname("www")),
)


def load(folder: Path, **flags: Flag) -> AgentConfig:
    return load_agent({"state_dir": str(folder), **flags})


def remember(folder: Path, *, key_name: str = "default", key_file: Path | None = None) -> Path:
    path = joined_path(folder, key_name=key_name, key_file=key_file)
    path.parent.mkdir(exist_ok=True)
    path.write_bytes(msgspec.json.encode(Joined(server=str(SERVER), relay=RELAY.value, names=["shop"])))
    return path


def test_an_invitation_says_where_to_go_whom_to_trust_and_what_to_show(tmp_path: Path) -> None:
    settings = load(tmp_path, join=INVITATION.to_text()).settings
    assert settings.servers == (SERVER,)
    assert settings.relay_pin == RELAY
    assert settings.name == "shop"
    assert settings.invitation == INVITATION
    assert INVITATION.secret not in repr(settings)


def test_a_name_that_is_given_is_shown(tmp_path: Path) -> None:
    assert load(tmp_path, join=INVITATION.to_text(), name="www").settings.name == "www"


@pytest.mark.parametrize(
    "given",
    [{"server": ["elsewhere"]}, {"server": ["t.example.com:4433", "elsewhere"]}, {"relay_pin": OTHER.value}],
)
def test_an_invitation_and_another_relay_contradict_each_other(tmp_path: Path, given: dict[str, Flag]) -> None:
    with pytest.raises(ConfigError, match="the invitation is to"):
        load(tmp_path, join=INVITATION.to_text(), **given)


def test_an_invitation_and_a_ca_contradict_each_other(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    ca.touch()
    with pytest.raises(ConfigError, match="leave out --relay-ca"):
        load(tmp_path, join=INVITATION.to_text(), relay_ca=str(ca))


def test_the_same_relay_may_be_said_twice(tmp_path: Path) -> None:
    given: dict[str, Flag] = {"server": ["t.example.com:4433"], "relay_pin": RELAY.value}
    assert load(tmp_path, join=INVITATION.to_text(), **given).settings.servers == (SERVER,)


def test_a_damaged_invitation_is_told_without_repeating_it(tmp_path: Path) -> None:
    text = INVITATION.to_text()[:-3]
    with pytest.raises(ConfigError, match=r"agent\.join.*cut or altered") as refused:
        load(tmp_path, join=text)
    assert text not in str(refused.value)


def test_settings_never_have_the_secret_go_elsewhere(tmp_path: Path) -> None:
    """Also for a program that makes its settings itself."""
    good = {"state_dir": tmp_path, "join": INVITATION.to_text(), "servers": (SERVER,), "relay_pin": RELAY}
    AgentSettings(**good)  # type: ignore[arg-type]
    for change in ({"servers": ()}, {"servers": (SERVER, ServerAddress("b", 1))}, {"relay_pin": None}, {"join": "x"}):
        with pytest.raises(ConfigError, match=r"agent\.join"):
            AgentSettings(**{**good, **change})  # type: ignore[arg-type]


def test_a_relay_that_was_joined_is_found_again(tmp_path: Path) -> None:
    remember(tmp_path)
    config = load(tmp_path)
    assert (config.settings.servers, config.settings.relay_pin, config.settings.name) == ((SERVER,), RELAY, "shop")
    assert config.settings.join is None
    assert str(SERVER) in config.notice


def test_a_relay_that_was_joined_is_the_keys_own(tmp_path: Path) -> None:
    remember(tmp_path, key_name="work")
    elsewhere = tmp_path / "keys" / "a.key"
    remember(tmp_path, key_file=elsewhere)
    assert load(tmp_path).settings.servers == ()
    assert load(tmp_path, key_name="work").settings.servers == (SERVER,)
    assert load(tmp_path, primary_key=str(elsewhere)).settings.servers == (SERVER,)
    assert load(tmp_path, primary_key=str(tmp_path / "other" / "a.key")).settings.servers == ()


def test_another_server_that_is_given_wins_and_nothing_else_counts(tmp_path: Path) -> None:
    remember(tmp_path)
    config = load(tmp_path, server=["elsewhere"])
    assert config.settings.servers == (ServerAddress("elsewhere", 443),)
    assert config.settings.relay_pin is None
    assert config.settings.name is None
    assert f"has joined {SERVER}" in config.notice


def test_the_server_that_was_joined_keeps_its_pin_however_it_is_named(tmp_path: Path) -> None:
    remember(tmp_path)
    config = load(tmp_path, server=[str(SERVER)])
    assert config.settings.relay_pin == RELAY
    assert config.notice == ""


def test_a_pin_or_a_ca_that_is_given_wins(tmp_path: Path) -> None:
    remember(tmp_path)
    config = load(tmp_path, relay_pin=OTHER.value)
    assert (config.settings.servers, config.settings.relay_pin) == ((SERVER,), OTHER)
    assert "the pin or CA that was given" in config.notice
    (tmp_path / "ca.pem").touch()
    settings = load(tmp_path, relay_ca=str(tmp_path / "ca.pem")).settings
    assert (settings.servers, settings.relay_pin) == ((SERVER,), None)


def test_an_invitation_wins_over_what_is_remembered(tmp_path: Path) -> None:
    path = remember(tmp_path)
    path.write_bytes(msgspec.json.encode(Joined(server="old.example:443", relay=OTHER.value)))
    assert load(tmp_path, join=INVITATION.to_text()).settings.servers == (SERVER,)


@pytest.mark.parametrize(
    "content", [b"", b"{}", b"\xff", b'{"server":"a b","relay":"x"}', b'{"server":"a","relay":"x"}']
)
def test_a_broken_file_is_not_started_anew_from(tmp_path: Path, content: bytes) -> None:
    """To go on without it would be to trust whoever answers."""
    path = remember(tmp_path)
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="remove it") as refused:
        load(tmp_path)
    assert str(path) in str(refused.value)


def test_a_relay_that_was_joined_is_reached_through_the_proxy_of_the_environment(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HTTPS_PROXY", "http://proxy.example:3128")
    monkeypatch.delenv("NO_PROXY", raising=False)
    remember(tmp_path)
    assert set(load(tmp_path).settings.vias) == {SERVER}
