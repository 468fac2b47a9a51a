"""Rules about how a module looks: size, words, letters.

A check takes a module and yields one sentence for each breach, beginning
with the line.  Docstrings of public names, argument counts and cyclomatic
complexity are ruff's (D1, PLR0913, C901).
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

import trio

from tests.rules.sources import Function, Module
from trunnel.transports.base import Session

FILE_LINES_MAX = 400
FUNCTION_LINES_MAX = 50
PUBLIC_METHODS_MAX = 12
INTERFACES = (trio.abc.HalfCloseableStream, Session)
ASKED_FOR = frozenset(name for interface in INTERFACES for name in dir(interface) if name[0] != "_")
"""Methods that an interface asks for: what implements it has not chosen to have them."""
BANNED_WORDS = frozenset({"manager", "util", "utils", "helper", "helpers", "common", "handler", "handlers"})
"""Words that say nothing of what a thing does."""
ALLOWED_NAMES = frozenset({"handler", "StreamHandler", "_COMMON_NAME"})
"""The callable that a caller gives is a handler, nothing of ours is; a common name is X.509's word."""

_WORDS = re.compile(r"[A-Z]+(?![a-z])|[A-Z]?[a-z]+")


def short_file(module: Module) -> Iterator[str]:
    """A file has at most 400 lines."""
    if (lines := module.text.count("\n")) > FILE_LINES_MAX:
        yield f"1: {lines} lines"


def short_functions(module: Module) -> Iterator[str]:
    """A function has at most 50 lines, its docstring not counted."""
    for function in module.functions():
        first = function.body[0]
        documented = ast.get_docstring(function, clean=False) is not None
        docstring = (first.end_lineno or 0) - first.lineno + 1 if documented else 0
        lines = (function.end_lineno or 0) - function.lineno + 1 - docstring
        if lines > FUNCTION_LINES_MAX:
            yield f"{function.lineno}: {function.name} has {lines} lines"


def few_public_methods(module: Module) -> Iterator[str]:
    """A class has at most 12 public methods of its own; properties and what our interfaces ask for do not count."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.ClassDef):
            public = [
                part
                for part in node.body
                if isinstance(part, Function)
                and part.name[0] != "_"
                and part.name not in ASKED_FOR
                and not part.decorator_list
            ]
            if len(public) > PUBLIC_METHODS_MAX:
                yield f"{node.lineno}: {node.name} has {len(public)} public methods"


def module_docstring(module: Module) -> Iterator[str]:
    """A module begins with its theory; an empty `__init__.py` has none."""
    if module.text.strip() and not ast.get_docstring(module.tree):
        yield "1: no docstring"


def ascii_identifiers(module: Module) -> Iterator[str]:
    """Identifiers are ASCII: two that look alike must be one."""
    for line, name in _names(module.tree):
        if not name.isascii():
            yield f"{line}: {name!r}"


def plain_words(module: Module) -> Iterator[str]:
    """No module, class, function, argument or variable is named by a word of `BANNED_WORDS`."""
    stem = module.path.rpartition("/")[2].removesuffix(".py")
    for line, name in [(1, stem), *_definitions(module.tree)]:
        banned = BANNED_WORDS.intersection(word.lower() for word in _WORDS.findall(name))
        if banned and name not in ALLOWED_NAMES:
            yield f"{line}: {name} says {', '.join(sorted(banned))}"


def _definitions(tree: ast.Module) -> Iterator[tuple[int, str]]:
    for node in ast.walk(tree):
        match node:
            case ast.FunctionDef(name=name) | ast.AsyncFunctionDef(name=name) | ast.ClassDef(name=name):
                yield node.lineno, name
            case ast.arg(arg=name) | ast.Name(id=name, ctx=ast.Store()) | ast.Attribute(attr=name, ctx=ast.Store()):
                yield node.lineno, name


def _names(tree: ast.Module) -> Iterator[tuple[int, str]]:
    yield from _definitions(tree)
    for node in ast.walk(tree):
        match node:
            case ast.Name(id=name) | ast.Attribute(attr=name):
                yield node.lineno, name
            case ast.alias(name=name, asname=other):
                yield node.lineno, other or name
