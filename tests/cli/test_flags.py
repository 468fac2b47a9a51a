"""The option table as flags: every option has its flag, and the values come unparsed by key."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import msgspec
import pytest
import typer
from typer.core import TyperGroup
from typer.testing import CliRunner

from trunnel.cli.flags import with_flags
from trunnel.cli.main import app
from trunnel.settings import options
from trunnel.settings.agent import AgentSettings
from trunnel.settings.options import Flag, Option, Shape
from trunnel.settings.relay import RelaySettings

Tables = list[tuple[str, tuple[Option, ...]]]
COMMANDS: Tables = [
    ("serve", (*options.RELAY_OPTIONS, *options.OUTPUT_OPTIONS, options.CONFIG)),
    ("expose", (*options.AGENT_OPTIONS, *options.OUTPUT_OPTIONS, options.CONFIG)),
    ("id", (*options.KEY_OPTIONS, options.STATE_DIR, options.CONFIG)),
    ("authorize", (options.AUTHORIZED_AGENTS, options.STATE_DIR, options.CONFIG)),
]
SWITCH = Option("open", "Let in.", shape=Shape.SWITCH, field="open")
ONE = Option("port", "One [port].", str, "N", field="api_port")
MANY = Option("bind-addr", "Where.", str, "ADDR", Shape.MANY, field="bind_addrs")
CHOICE = Option("log-level", "How much.", str, "a|b", choices=("debug", "info"))


def given(*arguments: str) -> Mapping[str, Flag]:
    """Return the flags that a command gets from *arguments*."""
    caught: list[Mapping[str, Flag]] = []
    program = typer.Typer()

    @program.command()
    @with_flags(SWITCH, ONE, MANY, CHOICE, defaults=RelaySettings)
    def command(flags: Mapping[str, Flag], target: str | None = None) -> None:
        """Note what came."""
        assert target is None
        caught.append(flags)

    ended = CliRunner().invoke(program, list(arguments))
    assert ended.exit_code == 0, ended.output
    return caught[0]


def spellings(command: str) -> Sequence[str]:
    """Return every flag that a command of ours has."""
    found = typer.main.get_command(app)
    assert isinstance(found, TyperGroup)
    return [one for parameter in found.commands[command].params for one in (*parameter.opts, *parameter.secondary_opts)]


@pytest.mark.parametrize(("command", "table"), COMMANDS)
def test_every_option_of_the_table_is_a_flag_with_the_name_of_its_variable(
    command: str, table: tuple[Option, ...]
) -> None:
    flags = spellings(command)
    for option in table:
        assert flags.count(option.flag) == 1
        assert option.variable == "TRUNNEL_" + option.flag[2:].upper().replace("-", "_")
        assert (f"--no-{option.name}" in flags) == (option.shape is Shape.SWITCH)


def test_what_was_not_given_is_none_so_that_lower_layers_count() -> None:
    assert set(given()) == {"open", "port", "bind_addr", "log_level"}
    assert not any(given().values())
    assert given()["open"] is None


def test_values_come_unparsed_by_toml_key() -> None:
    flags = given("--port", "no port", "--bind-addr", "::1", "--bind-addr", "x", "--log-level", "loud")
    assert flags == {"open": None, "port": "no port", "bind_addr": ["::1", "x"], "log_level": "loud"}


@pytest.mark.parametrize(("flag", "value"), [("--open", True), ("--no-open", False)])
def test_a_switch_is_also_given_to_be_off(flag: str, value: bool) -> None:
    assert given(flag)["open"] is value


@pytest.mark.parametrize(
    ("command", "table", "defaults"),
    [("serve", options.RELAY_OPTIONS, RelaySettings), ("expose", options.AGENT_OPTIONS, AgentSettings)],
)
def test_the_help_of_a_limit_shows_its_default(
    command: str, table: tuple[Option, ...], defaults: type[RelaySettings | AgentSettings]
) -> None:
    text = " ".join(CliRunner(env={"COLUMNS": "300", "NO_COLOR": "1"}).invoke(app, [command, "--help"]).output.split())
    times = [option for option in table if option.metavar == "TIME"]
    assert times
    fields = {field.name: field.default for field in msgspec.structs.fields(defaults)}
    for option in times:
        assert option.field is not None
        assert f"{option.help.removesuffix('.')} (default {fields[option.field]:g} s)." in text


def test_choices_are_completed() -> None:
    found = typer.main.get_command(app)
    assert isinstance(found, TyperGroup)
    (level,) = [one for one in found.commands["serve"].params if "--log-level" in one.opts]
    context = typer.Context(found.commands["serve"])
    assert [item.value for item in level.shell_complete(context, "de")] == ["debug"]
