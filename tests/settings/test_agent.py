"""An agent's settings: what they refuse whoever makes them, and what follows from them."""

from __future__ import annotations

from contextlib import nullcontext
from pathlib import Path

import pytest

from trunnel.errors import ConfigError
from trunnel.names import KeyId, ServerAddress
from trunnel.settings import limits
from trunnel.settings.agent import LOOPBACK_RELAY, AgentSettings, TransportChoice
from trunnel.settings.via import ViaAddress

STATE = Path("state")
PIN = KeyId.of_spki(b"relay")


def test_the_defaults_are_valid() -> None:
    assert AgentSettings(state_dir=STATE).alpn == ("http/1.1",)


def test_a_pin_and_a_ca_exclude_each_other() -> None:
    with pytest.raises(ConfigError, match=r"agent\.relay_pin: choose: a pin"):
        AgentSettings(state_dir=STATE, relay_pin=PIN, relay_ca=Path("ca.pem"))


@pytest.mark.parametrize("trust", [{"relay_pin": PIN}, {"relay_ca": Path("ca.pem")}])
def test_a_pin_or_a_ca_alone_is_valid(trust: dict[str, KeyId | Path]) -> None:
    settings = AgentSettings(state_dir=STATE, **trust)  # type: ignore[arg-type]
    assert (settings.relay_pin, settings.relay_ca) == (trust.get("relay_pin"), trust.get("relay_ca"))


def test_trust_on_first_use_cannot_be_both_widened_and_forbidden() -> None:
    with pytest.raises(ConfigError, match="relay_tofu and relay_strict contradict"):
        AgentSettings(state_dir=STATE, relay_tofu=True, relay_strict=True)


def test_an_agent_has_a_protocol_to_agree_on() -> None:
    with pytest.raises(ConfigError, match=r"agent\.alpn: at least one protocol"):
        AgentSettings(state_dir=STATE, alpn=())


def test_all_mistakes_are_told_together() -> None:
    with pytest.raises(ConfigError) as caught:
        AgentSettings(
            state_dir=STATE, relay_pin=PIN, relay_ca=Path("ca.pem"), relay_tofu=True, relay_strict=True, alpn=()
        )
    for part in ("3 settings are wrong", "relay_pin", "relay_tofu", "alpn"):
        assert part in str(caught.value)


def test_the_key_is_in_the_state_folder_unless_it_is_a_file_elsewhere() -> None:
    assert AgentSettings(state_dir=STATE).key_path == STATE / "default.key"
    assert AgentSettings(state_dir=STATE, key_name="blog").key_path == STATE / "blog.key"
    assert AgentSettings(state_dir=STATE, key_name="blog", key_file=Path("my.pem")).key_path == Path("my.pem")


def test_without_a_server_the_relay_of_this_machine_is_dialled() -> None:
    elsewhere = ServerAddress("relay.example", 443)
    assert AgentSettings(state_dir=STATE).relay_addresses == (LOOPBACK_RELAY,)
    assert AgentSettings(state_dir=STATE, servers=(elsewhere,)).relay_addresses == (elsewhere,)


def test_each_relay_is_named_once() -> None:
    twice = (ServerAddress("relay.example", 443), ServerAddress("relay.example", 443))
    with pytest.raises(ConfigError, match=r"agent\.server: the same relay is named twice"):
        AgentSettings(state_dir=STATE, servers=twice)
    AgentSettings(state_dir=STATE, servers=(ServerAddress("relay.example", 443), ServerAddress("relay.example", 444)))


@pytest.mark.parametrize(
    ("count", "is_valid"), [(0, False), (1, True), (limits.POOL_SIZE_MAX, True), (limits.POOL_SIZE_MAX + 1, False)]
)
def test_a_session_has_at_least_one_carrier_and_not_too_many(count: int, *, is_valid: bool) -> None:
    with nullcontext() if is_valid else pytest.raises(ConfigError, match=r"agent\.pool_size: 1 to 8"):
        AgentSettings(state_dir=STATE, pool_size=count)


@pytest.mark.parametrize("transport", list(TransportChoice))
def test_quic_alone_does_not_go_through_a_proxy(transport: TransportChoice) -> None:
    """With `auto` it is TCP then."""
    relay = ServerAddress("relay.example", 443)
    refused = pytest.raises(ConfigError, match=r"agent\.via: QUIC does not go through it")
    with refused if transport is TransportChoice.QUIC else nullcontext():
        AgentSettings(
            state_dir=STATE,
            servers=(relay,),
            transport=transport,
            vias={relay: ViaAddress.parse("http://proxy.example:3128")},
        )


def test_settings_do_not_change() -> None:
    settings = AgentSettings(state_dir=STATE)
    with pytest.raises(AttributeError):
        settings.share = True  # type: ignore[misc]
