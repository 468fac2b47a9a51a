"""The authorised file: which agents may attach, and which names they have.

    # the shop's machines
    <52-character id> shop www      # Ada's laptop, until May

One agent a line: `ID [NAME…] [# label]`.  Blank lines, and lines that begin
with `#`, are for people.  NAME gives the agent `NAME.<suffix>` beside its
`<id>.<suffix>`, under each suffix of the relay, so it is one label; it must not
look like an id, which is somebody else's address.  An empty file is fine:
nobody may attach.

The file is read as a whole or refused as a whole, with the lines to mend:
half a list of who may attach is no list.  An id stands in one line only, a
name with one agent only.

Edits (`with_agent`, `without_agent`) are functions of the text that change
one line and keep every other byte.  `authorize` and `revoke` apply them to a
file: under a lock, written whole, with its mode.
"""

from __future__ import annotations

import stat
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import Final, final

from trunnel.errors import ConfigError, InvalidName
from trunnel.identity.files import atomic_write, read_guarded
from trunnel.identity.locking import exclusive
from trunnel.names import Hostname, KeyId
from trunnel.settings.limits import AUTHORIZED_FILE_MAX, AUTHORIZED_LABEL_MAX, AUTHORIZED_NAMES_MAX

KEY: Final = "authorized_agents"
"""The setting that errors name."""
_NEW_FILE_MODE: Final = 0o644
"""Ids are public; the relay may run as another user than the one who edits."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AuthorizedAgent:
    """One line of the file."""

    key_id: KeyId
    """Who."""
    names: tuple[Hostname, ...] = ()
    """Single labels that it owns under each suffix, in the order of the line."""
    label: str = ""
    """What people call it."""

    def __str__(self) -> str:
        names = "".join(f" {name}" for name in self.names)
        return f"{self.key_id}{names}" + (f"  # {self.label}" if self.label else "")


@final
@dataclass(frozen=True, slots=True)
class AuthorizedAgents:
    """The whole list."""

    agents: Mapping[KeyId, AuthorizedAgent] = field(default_factory=lambda: MappingProxyType({}))

    def __contains__(self, key_id: KeyId) -> bool:
        return key_id in self.agents

    def __len__(self) -> int:
        return len(self.agents)

    def get(self, key_id: KeyId) -> AuthorizedAgent | None:
        """Return the entry of *key_id*, or None: it may not attach."""
        return self.agents.get(key_id)

    def taken(self, names: Iterable[Hostname], *, by_others_than: KeyId | None = None) -> Hostname | None:
        """Return the first of *names* that an agent has, *by_others_than* left out; None if all are free."""
        owners = {name: agent.key_id for agent in self.agents.values() for name in agent.names}
        return next((name for name in names if owners.get(name, by_others_than) != by_others_than), None)


# --- reading ----------------------------------------------------------------------------------


def parse_authorized(text: str) -> AuthorizedAgents:
    """Parse the content of an authorised file.

    Raises:
        ConfigError: A line is wrong, or contradicts another; the text names the lines.
    """
    agents: dict[KeyId, AuthorizedAgent] = {}
    lines: dict[KeyId | Hostname, int] = {}
    for number, line in enumerate(text.splitlines(), start=1):
        try:
            agent = _parse_line(line)
        except InvalidName as exc:
            raise ConfigError(KEY, f"line {number}: {exc}") from exc
        if agent is None:
            continue
        taken: tuple[KeyId | Hostname, ...] = (agent.key_id, *agent.names)
        for owned in taken:
            if owned in lines:
                raise ConfigError(KEY, f"{owned} is in line {lines[owned]} and in line {number}: keep one of them")
            lines[owned] = number
        agents[agent.key_id] = agent
    return AuthorizedAgents(MappingProxyType(agents))


def load_authorized(path: Path) -> AuthorizedAgents:
    """Read an authorised file; a symbolic link is followed.

    Raises:
        ConfigError: It is missing, unreadable, open to other writers, or wrong.
    """
    text = _read(path)
    if text is None:
        raise ConfigError(KEY, f"there is no file {path} (an empty one is fine: `touch {path}`)")
    try:
        return parse_authorized(text)
    except ConfigError as exc:
        raise ConfigError(KEY, f"{path}: {exc.reason}") from exc


def load_if_there(path: Path) -> AuthorizedAgents:
    """Read an authorised file; an empty list if there is none.  Raises as `load_authorized`."""
    return load_authorized(path) if path.exists() else AuthorizedAgents()


def parse_name(text: str) -> Hostname:
    """Parse a NAME.

    Raises:
        InvalidName: It is not one label, or looks like an id.
    """
    name = Hostname.parse(text)
    if "." in name.value or text.endswith("."):
        raise InvalidName(f"{text!r} is more than one label; the relay adds its own suffix")
    if _is_id(name.value):
        raise InvalidName(f"{text!r} looks like an agent's id and would take that agent's address")
    return name


def _parse_line(line: str) -> AuthorizedAgent | None:
    """Return the agent of one line, None for a blank one or a comment; raises InvalidName."""
    entry, _, label = line.partition("#")
    words = entry.split()
    if not words:
        return None
    key_id = KeyId.parse(words[0])
    names = tuple(parse_name(word) for word in words[1:])
    return AuthorizedAgent(key_id=key_id, names=_checked_names(names), label=_checked_label(label))


def _checked_names(names: tuple[Hostname, ...]) -> tuple[Hostname, ...]:
    if len(names) > AUTHORIZED_NAMES_MAX:
        raise InvalidName(f"{len(names)} names for one agent; at most {AUTHORIZED_NAMES_MAX}")
    return names


def _checked_label(label: str) -> str:
    label = label.strip()
    if len(label) > AUTHORIZED_LABEL_MAX:
        raise InvalidName(f"a label of {len(label)} characters; at most {AUTHORIZED_LABEL_MAX}")
    if not label.isprintable():
        raise InvalidName(f"the label {label!a} has characters that do not print")
    return label


def _is_id(text: str) -> bool:
    try:
        KeyId.parse(text)
    except InvalidName:
        return False
    return True


def _read(path: Path) -> str | None:
    """Return the text of *path*, None if there is no such file; raises ConfigError."""
    content = read_guarded(path.resolve(), limit=AUTHORIZED_FILE_MAX, secret=False)
    try:
        return None if content is None else content.decode("utf-8-sig")
    except UnicodeDecodeError as exc:
        raise ConfigError(KEY, f"{path} is not UTF-8 text (byte {exc.start})") from exc


# --- editing ----------------------------------------------------------------------------------


def with_agent(text: str, key_id: KeyId, *, names: Iterable[Hostname] = (), label: str | None = None) -> str:
    """Return *text* with *key_id* in it.

    Args:
        text: The content of a file.
        key_id: The agent; a line that it has already is changed in place.
        names: Names it gets in addition to those it has.
        label: Its label; None keeps the one it has.

    Raises:
        ConfigError: *text* is wrong, or a name belongs to another agent.
        InvalidName: The label does not fit on a line.
    """
    before = parse_authorized(text).get(key_id) or AuthorizedAgent(key_id=key_id)
    after = AuthorizedAgent(
        key_id=key_id,
        names=_checked_names(tuple(dict.fromkeys((*before.names, *names)))),
        label=before.label if label is None else _checked_label(label),
    )
    lines = text.splitlines(keepends=True)
    at = _line_of(lines, key_id)
    if at is None:
        if lines and not lines[-1].endswith("\n"):
            lines[-1] += "\n"
        lines.append(f"{after}\n")
    elif after != before:
        lines[at] = f"{after}\n"
    changed = "".join(lines)
    parse_authorized(changed)
    return changed


def without_agent(text: str, key_id: KeyId) -> str:
    """Return *text* without the line of *key_id*; unchanged if it has none.

    Raises:
        ConfigError: *text* is wrong.
    """
    parse_authorized(text)
    lines = text.splitlines(keepends=True)
    at = _line_of(lines, key_id)
    if at is not None:
        del lines[at]
    return "".join(lines)


def authorize(path: Path, key_id: KeyId, *, names: Iterable[Hostname] = (), label: str | None = None) -> bool:
    """Put *key_id* into the file *path*, which is made if it is missing; see `with_agent`.

    Returns:
        Whether the file changed.
    """
    return _edit(path, lambda text: with_agent(text, key_id, names=names, label=label))


def revoke(path: Path, key_id: KeyId) -> bool:
    """Take *key_id* out of the file *path*; see `without_agent`.

    Returns:
        Whether the file changed.
    """
    return _edit(path, lambda text: without_agent(text, key_id))


def _line_of(lines: list[str], key_id: KeyId) -> int | None:
    """Return the index of the line of *key_id* in the lines of a valid text."""
    for at, line in enumerate(lines):
        agent = _parse_line(line)
        if agent is not None and agent.key_id == key_id:
            return at
    return None


def _edit(path: Path, change: Callable[[str], str]) -> bool:
    target = path.resolve()  # a link stays a link, the file that it names is replaced
    with exclusive(target):
        before = _read(target)
        after = change(before or "")
        if after == before:
            return False
        mode = _NEW_FILE_MODE if before is None else stat.S_IMODE(target.stat().st_mode)
        atomic_write(target, after.encode(), mode=mode)
    return True
