"""What an option is, in all its forms; the table of them is in `options`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from enum import Enum, auto
from typing import Final, final

from trunnel.settings import values

ENVIRONMENT_PREFIX: Final = "TRUNNEL_"
"""How the names of our environment variables begin."""


Flag = str | bool | Sequence[str] | None
"""What the command line gave for one option; None (or an empty list) when it was not there."""


@final
class Shape(Enum):
    """How often an option is given."""

    ONE = auto()
    """Once, with a value."""
    MANY = auto()
    """Repeatedly, or once with commas."""
    SWITCH = auto()
    """Without a value: `--open` or `--no-open`."""


@final
@dataclass(frozen=True, slots=True)
class Option:
    """One option in all its forms."""

    name: str
    """As in the flag, without the dashes."""
    help: str
    """One sentence for `--help` and the documentation."""
    parse: Callable[[str], object] = values.parse_switch
    """Turns the text of one value into a typed one; raises InvalidName."""
    metavar: str = ""
    """What stands for the value in the help; empty for switches."""
    shape: Shape = Shape.ONE
    field: str | None = None
    """Field of the settings object."""
    choices: tuple[str, ...] = ()
    """The words that are valid, for completion."""
    panel: str = "Options"
    """Group in the help."""
    secret: bool = False
    """Whether it may hold a password."""

    @property
    def flag(self) -> str:
        """As on the command line."""
        return f"--{self.name}"

    @property
    def key(self) -> str:
        """As in a TOML file."""
        return self.name.replace("-", "_")

    @property
    def variable(self) -> str:
        """As in the environment."""
        return ENVIRONMENT_PREFIX + self.key.upper()

    @property
    def file_variable(self) -> str:
        """The variable that names a file with the value; empty unless it is a secret."""
        return f"{self.variable}_FILE" if self.secret else ""


def switch(name: str, text: str, *, field: str | None = None, panel: str = "Options") -> Option:
    """Return an option without a value."""
    return Option(name, text, shape=Shape.SWITCH, field=field, panel=panel)


def choice(name: str, text: str, kind: type[values.Choice], *, panel: str = "Options") -> Option:
    """Return an option whose values are the words of *kind*."""
    words = tuple(str(word) for word in kind)
    field = name.replace("-", "_")
    return Option(name, text, values.parse_choice(kind), "|".join(words), field=field, choices=words, panel=panel)


def limit(name: str, text: str, parse: Callable[[str], object], metavar: str) -> Option:
    """Return an option of the panel of limits."""
    return Option(name, text, parse, metavar, field=name.replace("-", "_"), panel="Limits")
