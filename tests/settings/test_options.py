"""The option table: complete, without doubles, and true to the settings objects."""

from __future__ import annotations

import typing
from pathlib import Path

import msgspec
import pytest

from trunnel.settings.agent import AgentSettings
from trunnel.settings.options import AGENT_OPTIONS, CONFIG, OUTPUT_OPTIONS, RELAY_OPTIONS, VARIABLES, Option
from trunnel.settings.output import OutputSettings
from trunnel.settings.relay import RelaySettings

TABLES = [(RELAY_OPTIONS, RelaySettings, set[str]()), (AGENT_OPTIONS, AgentSettings, {"vias"})]


def fields_of(settings: type[msgspec.Struct]) -> set[str]:
    """Return the names of the fields of *settings*."""
    return {field.name for field in msgspec.structs.fields(settings)}


@pytest.mark.parametrize(("table", "settings", "worked_out"), TABLES)
def test_every_field_has_an_option_and_every_option_a_field(
    table: tuple[Option, ...], settings: type[msgspec.Struct], worked_out: set[str]
) -> None:
    assert {option.field for option in table if option.field} | worked_out == fields_of(settings)


def test_output_settings_have_their_options() -> None:
    assert {option.field for option in OUTPUT_OPTIONS} == fields_of(OutputSettings)


@pytest.mark.parametrize("table", [RELAY_OPTIONS, AGENT_OPTIONS])
def test_names_are_unique_in_a_program(table: tuple[Option, ...]) -> None:
    names = [option.name for option in (*table, *OUTPUT_OPTIONS, CONFIG)]
    assert len(set(names)) == len(names)


def test_the_three_spellings_of_an_option() -> None:
    bind = next(option for option in RELAY_OPTIONS if option.name == "bind-addr")
    assert (bind.flag, bind.variable, bind.key) == ("--bind-addr", "TRUNNEL_BIND_ADDR", "bind_addr")
    assert bind.variable in VARIABLES


def test_flags_of_the_system_that_this_one_recreates_are_there() -> None:
    relay = {option.name for option in RELAY_OPTIONS}
    agent = {option.name for option in AGENT_OPTIONS}
    assert {"bind-addr", "api-port", "pub-port", "alpn-port", "domain-suffix", "tls-cert", "tls-key"} <= relay
    assert {"server", "local", "domain-suffix", "primary-key", "force-h2", "primary-cert-extension-hex"} <= agent


@pytest.mark.parametrize(("table", "settings", "worked_out"), TABLES)
def test_parsers_give_what_the_fields_hold(
    table: tuple[Option, ...], settings: type[msgspec.Struct], worked_out: set[str], tmp_path: Path
) -> None:
    """One valid text for each option parses to the type of its field."""
    del worked_out
    file = tmp_path / "file"
    file.touch()
    texts = {"SPKI": "ab" * 32, "FILE": str(file), "DIR": "/x", "HEX": "00", "TIME": "1s", "SIZE": "1MiB", "N": "1"}
    texts |= {
        "ADDR": "::1",
        "NAME": "name",
        "PROTOCOL": "h2",
        "": "yes",
        "HOST[:PORT]": "127.0.0.1:1",
        "TARGET": "1",
        "STRING": "s",
        "ADDRESS": "a@b.c",
        "URL": "https://a/b",
        "ID": "i",
        "KEY": "k",
    }
    hints = typing.get_type_hints(settings)
    for option in table:
        if option.field is None:
            continue
        parsed = option.parse(option.choices[0] if option.choices else texts[option.metavar])
        kinds = [kind for kind in (typing.get_args(hints[option.field]) or (hints[option.field],)) if kind is not ...]
        assert isinstance(parsed, tuple(kinds)), option.name
