"""Settings from four layers: flag, else environment, else TOML file, else default.

Each option is taken whole from the highest layer that has it (a repeated
option is replaced, never merged).  Every value goes through the same parser as
text, so a mistake reads the same wherever it was made.  Rules:

- An unknown TOML key is an error that names key, file and the nearest known key.
- An unknown `TRUNNEL_...` variable is a warning: other software may own it, but a
  typo must not be silent.  An empty variable counts as absent.
- All mistakes are told together, as one `ConfigError`.

This file and `settings.paths` are the only ones that read the environment.
"""

from __future__ import annotations

import difflib
import os
import tomllib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, cast, final

import msgspec

from trunnel.errors import ConfigError, InvalidName
from trunnel.names import ServerAddress, Target
from trunnel.settings import limits, options
from trunnel.settings.agent import LOOPBACK_RELAY, AgentSettings, TransportChoice
from trunnel.settings.domain import fields_of_domain
from trunnel.settings.joined import with_relay
from trunnel.settings.options import Flag, Option, Shape
from trunnel.settings.output import OutputSettings
from trunnel.settings.paths import Program, config_candidates, default_state_dir
from trunnel.settings.problems import raise_together
from trunnel.settings.relay import RelaySettings
from trunnel.settings.via import ViaAddress, via_from_environment

OF_THE_TESTS: Final = frozenset({"TRUNNEL_NO_SKIP", "TRUNNEL_CORPUS", "TRUNNEL_HYPOTHESIS"})
"""Variables of the project's own test suite, which runs these programs."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RelayConfig:
    """Everything `trunnel serve` was told."""

    settings: RelaySettings
    output: OutputSettings
    warnings: tuple[str, ...]


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentConfig:
    """Everything `trunnel expose` was told; `target` is None if nothing said it."""

    settings: AgentSettings
    target: Target | None
    output: OutputSettings
    warnings: tuple[str, ...]
    notice: str = ""
    """Which relay the agent goes to, where nobody said it, or not what was remembered; for people."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class _Given:
    """One option as the highest layer gave it."""

    option: Option
    texts: tuple[str, ...]
    source: str
    """The flag, the variable, or the key and file: for messages."""


@final
class _Layers:
    """The layers of one program; collects what is wrong with them."""

    def __init__(self, program: Program, known: Sequence[Option], flags: Mapping[str, Flag]) -> None:
        self.program = program
        self.flags = flags
        self.environ: Mapping[str, str] = os.environ  # noqa: TID251 - the one place that reads it
        self.problems: list[ConfigError] = []
        self.known = {option.key: option for option in known}
        self.file = self._find_file()
        self.table: Mapping[str, object] = {}
        if self.file is not None:
            try:
                self.table = self._accept(parse_config(read_config(self.file), origin=str(self.file)))
            except ConfigError as exc:
                self.problems.append(exc)

    def parse(self, wanted: Sequence[Option]) -> dict[str, object]:
        """Return the values of the options that some layer has, by option name."""
        found: dict[str, object] = {}
        for option in wanted:
            try:
                given = self._from_flag(option) or self._from_environment(option) or self._from_table(option)
                if given is not None:
                    found[option.name] = _typed(given)
            except InvalidName as exc:
                self.problems.append(ConfigError(f"{self.program}.{option.key}", str(exc)))
        return found

    def state_dir(self, parsed: Mapping[str, object]) -> Path:
        """Return the state folder that was given, or the default one."""
        return cast("Path | None", parsed.get("state-dir")) or default_state_dir(self.program, self.environ)

    def warnings(self) -> tuple[str, ...]:
        """Return a line for each variable that looks like ours and is not."""
        ours = (name for name in sorted(self.environ) if name.startswith(options.ENVIRONMENT_PREFIX))
        unknown = (name for name in ours if name not in options.VARIABLES | OF_THE_TESTS)
        return tuple(
            f"{name!a} in the environment is no option of trunnel{_nearest(name, options.VARIABLES)}"
            for name in unknown
        )

    def _find_file(self) -> Path | None:
        chosen = self.flags.get(options.CONFIG.key) or self.environ.get(options.CONFIG.variable)
        if chosen:
            return Path(str(chosen)).expanduser()
        return next((path for path in config_candidates(self.program, self.environ) if _is_there(path)), None)

    def _accept(self, table: Mapping[str, object]) -> Mapping[str, object]:
        """Return *table* with its keys in canonical form, without the unknown ones."""
        accepted: dict[str, object] = {}
        for written, value in table.items():
            key = written.replace("-", "_")
            if key not in self.known:
                reason = f"unknown key in {self.file}{_nearest(key, self.known)}"
                self.problems.append(ConfigError(f"{self.program}.{written}", reason))
            elif key in accepted:
                self.problems.append(ConfigError(f"{self.program}.{written}", f"given twice in {self.file}"))
            else:
                accepted[key] = value
        return accepted

    def _from_flag(self, option: Option) -> _Given | None:
        value = self.flags.get(option.key)
        if value is None or value == []:
            return None
        if isinstance(value, bool):
            return _Given(option=option, texts=(str(value),), source=option.flag)
        texts = (value,) if isinstance(value, str) else tuple(value)
        return _Given(option=option, texts=_split(option, texts), source=option.flag)

    def _from_environment(self, option: Option) -> _Given | None:
        value = self.environ.get(option.variable, "")
        if not value.strip() and self.environ.get(option.file_variable):
            return self._from_secret_file(option, Path(self.environ[option.file_variable]).expanduser())
        texts = _split(option, (value,)) if value.strip() else ()
        return _Given(option=option, texts=texts, source=option.variable) if texts else None

    def _from_secret_file(self, option: Option, path: Path) -> _Given | None:
        """Read the value of a secret from the first line of a file; raises InvalidName if it cannot be read."""
        try:
            lines = read_config(path).decode("utf-8", "replace").splitlines()
        except ConfigError as exc:
            raise InvalidName(f"{exc.reason} (from {option.file_variable})") from exc
        return _Given(option=option, texts=(lines[0].strip(),), source=option.file_variable) if lines else None

    def _from_table(self, option: Option) -> _Given | None:
        if option.key not in self.table:
            return None
        texts = _texts_of(option, self.table[option.key], file=str(self.file))
        return _Given(option=option, texts=texts, source=str(self.file))


def _is_there(path: Path) -> bool:
    """Whether *path* is a file; in a folder that this user may not search, it is not ours to read."""
    try:
        return path.is_file()
    except OSError:
        return False


def _split(option: Option, texts: Sequence[str]) -> tuple[str, ...]:
    """Split repeated options at commas; others stay as they are."""
    if option.shape is not Shape.MANY:
        return tuple(texts)
    return tuple(part.strip() for text in texts for part in text.split(",") if part.strip())


def _texts_of(option: Option, value: object, *, file: str) -> tuple[str, ...]:
    """Return the texts of a TOML value, if it has the option's shape; raises InvalidName."""
    match option.shape, value:
        case Shape.SWITCH, bool():
            return (str(value),)
        case Shape.MANY, list():
            parts = cast("list[object]", value)
        case Shape.ONE | Shape.MANY, _:
            parts = [value]
        case _:
            raise InvalidName(f"write true or false without quotes (in {file})")
    if not all(isinstance(part, str | int | float) and not isinstance(part, bool) for part in parts):
        wanted = "a text or number, or a list of them" if option.shape is Shape.MANY else "a text or number"
        raise InvalidName(f"needs {wanted} (in {file})")
    return tuple(str(part) for part in parts)


def _typed(given: _Given) -> object:
    """Parse what was given; raises InvalidName that names its source."""
    try:
        parsed = tuple(given.option.parse(text) for text in given.texts)
    except InvalidName as exc:
        raise InvalidName(f"{exc} (from {given.source})") from exc
    return parsed if given.option.shape is Shape.MANY else parsed[0]


def _nearest(word: str, known: Mapping[str, object] | frozenset[str]) -> str:
    found = difflib.get_close_matches(word, list(known), n=1)
    return f"; did you mean {found[0]}?" if found else ""


def read_config(path: Path) -> bytes:
    """Read a configuration file; raises ConfigError if it is unreadable or too large."""
    try:
        with path.open("rb") as file:
            content = file.read(limits.CONFIG_FILE_MAX + 1)
    except OSError as exc:
        raise ConfigError("config", f"{path}: {exc.strerror}") from exc
    if len(content) > limits.CONFIG_FILE_MAX:
        raise ConfigError("config", f"{path}: more than {limits.CONFIG_FILE_MAX} bytes")
    return content


def parse_config(content: bytes, *, origin: str) -> dict[str, object]:
    """Parse a TOML file that a person wrote; *origin* names it in messages.

    Raises:
        ConfigError: It is not TOML.
    """
    try:
        return tomllib.loads(content.decode("utf-8"))
    except (ValueError, RecursionError) as exc:  # decoding and TOML errors are ValueErrors
        raise ConfigError("config", f"{origin}: not TOML: {exc}") from exc


def _fields(table: Sequence[Option], parsed: Mapping[str, object]) -> dict[str, object]:
    return {option.field: parsed[option.name] for option in table if option.field and option.name in parsed}


def _output(parsed: Mapping[str, object]) -> OutputSettings:
    return msgspec.structs.replace(OutputSettings(), **_fields(options.OUTPUT_OPTIONS, parsed))


def load_relay(flags: Mapping[str, Flag]) -> RelayConfig:
    """Return the settings of `trunnel serve`; *flags* by TOML key.

    Raises:
        ConfigError: Something is wrong; the text has every mistake.
    """
    layers = _Layers(Program.RELAY, (*options.RELAY_OPTIONS, *options.OUTPUT_OPTIONS), flags)
    parsed = layers.parse(tuple(layers.known.values()))
    separate = [name for name in ("api-port", "pub-port") if name in parsed]
    if "port" in parsed and separate:
        reason = f"one port for everything, or separate ports ({', '.join(separate)}): choose"
        layers.problems.append(ConfigError("relay.port", reason))
    raise_together(layers.problems)
    fields = _fields(options.RELAY_OPTIONS, parsed)
    state_dir = layers.state_dir(parsed)
    fields.update(fields_of_domain(parsed))
    listed = RelaySettings(state_dir=state_dir).authorized_path
    if "authorized_agents" not in fields and not fields.get("open") and listed.is_file():
        fields["authorized_agents"] = listed
    settings = msgspec.structs.replace(RelaySettings(state_dir=state_dir), **fields)
    warnings = layers.warnings()
    if settings.acme_mentioned and settings.authority is None:
        warnings += ("options of ACME have no effect: no certificate is asked for (say --acme, or --acme-domain NAME)",)
    return RelayConfig(settings=settings, output=_output(parsed), warnings=warnings)


def load_authorized_path(flags: Mapping[str, Flag]) -> Path:
    """Return the authorised-agents file that `trunnel serve` would use, there or not.

    Raises:
        ConfigError: Something is wrong with the two options that say it, or with the file.
    """
    layers = _Layers(Program.RELAY, (*options.RELAY_OPTIONS, *options.OUTPUT_OPTIONS), flags)
    parsed = layers.parse((options.AUTHORIZED_AGENTS, options.STATE_DIR))
    raise_together(layers.problems)
    chosen = cast("Path | None", parsed.get(options.AUTHORIZED_AGENTS.name))
    return chosen or RelaySettings(state_dir=layers.state_dir(parsed)).authorized_path


def load_state_dir(program: Program, flags: Mapping[str, Flag]) -> Path:
    """Return the state folder that *program* would use, whatever else it is told.

    Raises:
        ConfigError: Something is wrong with the option that says it, or with the file.
    """
    table = options.RELAY_OPTIONS if program is Program.RELAY else options.AGENT_OPTIONS
    layers = _Layers(program, (*table, *options.OUTPUT_OPTIONS), flags)
    parsed = layers.parse((options.STATE_DIR,))
    raise_together(layers.problems)
    return layers.state_dir(parsed)


def load_agent(flags: Mapping[str, Flag]) -> AgentConfig:
    """Return the settings of `trunnel expose`; *flags* by TOML key.

    Raises:
        ConfigError: Something is wrong; the text has every mistake.
    """
    layers = _Layers(Program.AGENT, (*options.AGENT_OPTIONS, *options.OUTPUT_OPTIONS), flags)
    parsed = layers.parse(tuple(layers.known.values()))
    raise_together(layers.problems)
    given, notice = with_relay(_fields(options.AGENT_OPTIONS, parsed), state_dir=layers.state_dir(parsed))
    fields = dict(given)
    if parsed.get("acme") is False:
        fields = {name: value for name, value in fields.items() if not name.startswith("acme")}
    if _h2_forced(flags, parsed):
        fields["transport"] = TransportChoice.H2
    fields["vias"] = _vias(
        cast("tuple[ServerAddress, ...]", fields.get("servers", (LOOPBACK_RELAY,))),
        cast("ViaAddress | None", parsed.get("via")),
        {} if fields.get("transport") is TransportChoice.QUIC else layers.environ,  # it goes through no proxy
    )
    return AgentConfig(
        settings=msgspec.structs.replace(AgentSettings(state_dir=layers.state_dir(parsed)), **fields),
        target=cast("Target | None", parsed.get("local")),
        output=_output(parsed),
        warnings=layers.warnings(),
        notice=notice,
    )


def _h2_forced(flags: Mapping[str, Flag], parsed: Mapping[str, object]) -> bool:
    """Whether `force_h2` counts: not where a flag names another transport and the word came from elsewhere.

    Raises:
        ConfigError: Two flags contradict each other.
    """
    asked = bool(parsed.get("force-h2"))
    if not asked or not flags.get("transport") or parsed["transport"] is TransportChoice.H2:
        return asked
    if flags.get("force_h2"):
        raise ConfigError("agent.force_h2", "it is the same as --transport h2: choose one transport")
    return False


def _vias(
    servers: Sequence[ServerAddress], asked: ViaAddress | None, environ: Mapping[str, str]
) -> dict[ServerAddress, ViaAddress]:
    """Return the way to each relay that is not to be reached directly."""
    found = {server: asked or via_from_environment(environ, server) for server in servers}
    return {server: via for server, via in found.items() if via is not None}


def colour_wanted() -> bool:
    """Whether a terminal should get colours (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"  # noqa: TID251 - as above
