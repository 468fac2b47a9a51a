"""The option table as flags: each `Option` becomes one typer parameter.

A command declares `flags: Mapping[str, Flag]` and its own arguments; the
decorator gives typer a signature with a parameter for each option and collects
their values, unparsed, by TOML key.  Parsing is the loader's, so that a flag, a
variable and a file are judged alike and all mistakes are told together.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, ParamSpec, Protocol, cast

import msgspec
import typer

from trunnel.settings.options import Flag, Option, Shape

Declared = ParamSpec("Declared")


class Command(Protocol):
    """What typer calls, with keyword arguments."""

    def __call__(self, **given: object) -> None:
        """Run the command."""


class Decorator(Protocol):
    """Turns a command that wants `flags` into one that typer can call."""

    def __call__(self, command: Callable[Declared, None], /) -> Command:
        """Return the command for typer."""
        raise NotImplementedError


def with_flags(*table: Option, defaults: type[msgspec.Struct]) -> Decorator:
    """Give a command the options of *table*, as its argument `flags`.

    Args:
        table: The options.
        defaults: The settings whose defaults the help shows.
    """

    def decorate(command: Callable[Declared, None], /) -> Command:
        def run(**given: object) -> None:
            flags = {option.key: cast("Flag", given.pop(option.key)) for option in table}
            cast("Command", command)(flags=flags, **given)

        shown = {field.name: _worded(field.default) for field in msgspec.structs.fields(defaults)}
        signature = inspect.signature(command, eval_str=True)
        own = [parameter for name, parameter in signature.parameters.items() if name != "flags"]
        run.__signature__ = signature.replace(  # type: ignore[attr-defined]  # typer reads it
            parameters=[
                *(one.replace(kind=inspect.Parameter.KEYWORD_ONLY) for one in own),
                *(_parameter(option, shown.get(option.field or "", "")) for option in table),
            ]
        )
        run.__annotations__ = {}  # the signature has them, evaluated
        run.__name__ = command.__name__
        run.__doc__ = command.__doc__
        return run

    return decorate


def _worded(default: object) -> str:
    """Return a default for the help; nothing where "absent" says it all."""
    match default:
        case bool() | bytes() | None | () | msgspec.NODEFAULT:
            return ""
        case float():
            return f" (default {default:g} s)"
        case tuple():
            return f" (default {', '.join(map(str, cast('tuple[object, ...]', default)))})"
        case _:
            return f" (default {default})"


def _parameter(option: Option, default: str) -> inspect.Parameter:
    spelling = f"{option.flag}/--no-{option.name}" if option.shape is Shape.SWITCH else option.flag
    kinds: dict[Shape, object] = {Shape.ONE: str | None, Shape.MANY: list[str] | None, Shape.SWITCH: bool | None}
    flag = typer.Option(
        spelling,
        help=(option.help.removesuffix(".") + default + ".").replace("[", r"\["),  # rich would take it for markup
        metavar=option.metavar,  # empty for a switch, or typer shows a type
        rich_help_panel=option.panel,
        show_default=False,
        autocompletion=_completion(option.choices) if option.choices else None,
    )
    return inspect.Parameter(
        option.key, inspect.Parameter.KEYWORD_ONLY, default=None, annotation=Annotated[kinds[option.shape], flag]
    )


def _completion(words: Sequence[str]) -> Callable[[str], list[str]]:
    def complete(incomplete: str) -> list[str]:
        return [word for word in words if word.startswith(incomplete)]

    return complete
