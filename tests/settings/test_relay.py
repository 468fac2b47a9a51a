"""A relay's settings: no unsafe relay can be described, whoever makes them."""

from __future__ import annotations

from pathlib import Path

import pytest

from trunnel.errors import ConfigError
from trunnel.names import Hostname
from trunnel.settings.domain import EVERY_ADDRESS
from trunnel.settings.relay import RelaySettings

STATE = Path("state")


def test_the_defaults_are_valid_and_stay_on_this_machine() -> None:
    settings = RelaySettings(state_dir=STATE)
    assert settings.domain_suffixes == (Hostname("localhost"),)
    assert not settings.beyond_loopback


def test_a_relay_has_a_suffix() -> None:
    with pytest.raises(ConfigError, match=r"relay\.domain_suffix: at least one"):
        RelaySettings(state_dir=STATE, domain_suffixes=())


def test_a_relay_has_an_address() -> None:
    with pytest.raises(ConfigError, match=r"relay\.bind_addr: at least one"):
        RelaySettings(state_dir=STATE, bind_addrs=())


def test_an_address_is_no_name() -> None:
    """A wrong address is the one mistake told, though it is unknown whether it would be exposed."""
    with pytest.raises(ConfigError) as caught:
        RelaySettings(state_dir=STATE, bind_addrs=("127.0.0.1", "localhost"))
    assert str(caught.value) == "relay.bind_addr: 'localhost' is not an IP address"


def test_agents_and_visitors_share_a_port_by_port_alone() -> None:
    with pytest.raises(ConfigError, match=r"relay\.pub_port: agents and visitors both on 4433"):
        RelaySettings(state_dir=STATE, api_port=4433, pub_port=4433)


@pytest.mark.parametrize(("port", "both"), [(None, 0), (443, 4433)])
def test_equal_ports_are_valid_when_any_port_or_not_used(port: int | None, both: int) -> None:
    settings = RelaySettings(state_dir=STATE, port=port, api_port=both, pub_port=both)
    assert (settings.port, settings.api_port, settings.pub_port) == (port, both, both)


def test_a_list_and_open_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match=r"relay\.open: choose"):
        RelaySettings(state_dir=STATE, authorized_agents=Path("list"), open=True)


@pytest.mark.parametrize("given", ["tls_cert", "tls_key"])
def test_a_certificate_and_its_key_go_together(given: str) -> None:
    with pytest.raises(ConfigError, match=r"relay\.tls_cert: tls_cert and tls_key go together"):
        RelaySettings(state_dir=STATE, **{given: Path("file.pem")})  # type: ignore[arg-type]


@pytest.mark.parametrize("addresses", [EVERY_ADDRESS, ("192.0.2.1",), ("127.0.0.1", "::"), ("fe80::1",)])
def test_beyond_loopback_it_is_said_who_may_connect(addresses: tuple[str, ...]) -> None:
    with pytest.raises(
        ConfigError, match=r"relay\.authorized_agents: refusing to listen beyond this machine"
    ) as caught:
        RelaySettings(state_dir=STATE, bind_addrs=addresses)
    assert f"({', '.join(addresses)})" in str(caught.value)
    assert RelaySettings(state_dir=STATE, bind_addrs=addresses, open=True).beyond_loopback
    assert RelaySettings(state_dir=STATE, bind_addrs=addresses, authorized_agents=Path("list")).beyond_loopback


@pytest.mark.parametrize("address", ["127.0.0.1", "127.9.9.9", "::1"])
def test_all_of_loopback_is_this_machine(address: str) -> None:
    assert not RelaySettings(state_dir=STATE, bind_addrs=(address,)).beyond_loopback


def test_all_mistakes_are_told_together() -> None:
    with pytest.raises(ConfigError, match="3 settings are wrong") as caught:
        RelaySettings(state_dir=STATE, domain_suffixes=(), bind_addrs=EVERY_ADDRESS, tls_key=Path("key.pem"))
    for part in ("domain_suffix", "tls_cert", "authorized_agents"):
        assert part in str(caught.value)


def test_the_key_is_in_the_state_folder() -> None:
    assert RelaySettings(state_dir=STATE).key_path == STATE / "relay.key"
