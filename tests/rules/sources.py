"""The project's files as the rules see them: a list of paths, and parsed Python modules."""

from __future__ import annotations

import ast
import gc
import shutil
import subprocess
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from pathlib import Path

ROOT = Path(__file__).parents[2]
"""The folder of pyproject.toml."""
PYTHON_FOLDERS = ("trunnel", "tests", "fuzz", "scripts")
"""Folders whose modules are ours."""
GENERATED = frozenset({".venv", ".git", "build", "dist", "__pycache__", ".hypothesis"})
"""Folders to pass over where there is no git to ask."""

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Module:
    """One parsed file."""

    path: str
    """Relative to ROOT, with slashes."""
    text: str
    tree: ast.Module

    @classmethod
    def parse(cls, text: str, path: str = "trunnel/example.py") -> Module:
        """Parse *text* as if it stood in *path*."""
        return cls(path, text, ast.parse(text))

    @property
    def package(self) -> str:
        """`trunnel/wire/alert.py` -> `trunnel/wire`."""
        return self.path.rpartition("/")[0]

    def functions(self) -> Iterator[Function]:
        """Every function and method, nested ones too."""
        return (node for node in ast.walk(self.tree) if isinstance(node, Function))


@cache
def modules(*folders: str) -> tuple[Module, ...]:
    """Parse all modules of *folders* (default: all of ours), in order of path.

    The trees are kept, and there is no garbage among them: the collector would walk them again and again.
    """
    gc.disable()
    try:
        return tuple(
            Module.parse((ROOT / path).read_text(encoding="utf-8"), path)
            for path in project_files()
            if path.endswith(".py") and path.partition("/")[0] in (folders or PYTHON_FOLDERS)
        )
    finally:
        gc.freeze()
        gc.enable()


@cache
def project_files() -> tuple[str, ...]:
    """Return every file of the project that git tracks or would track, relative to ROOT."""
    git = shutil.which("git")
    if git is not None and (ROOT / ".git").exists():
        listing = subprocess.run(
            [git, "ls-files", "-z", "--cached", "--others", "--exclude-standard"],
            cwd=ROOT,
            check=True,
            capture_output=True,
        ).stdout
        found = listing.decode().split("\0")
    else:
        found = [path.relative_to(ROOT).as_posix() for path in ROOT.rglob("*") if not GENERATED & {*path.parts}]
    return tuple(sorted(path for path in found if path and (ROOT / path).is_file()))


def nodes_of(function: Function) -> Iterator[ast.AST]:
    """Walk a function's own statements, not those of functions and classes inside it."""
    waiting: list[ast.AST] = list(function.body)
    while waiting:
        node = waiting.pop()
        yield node
        if not isinstance(node, Function | ast.ClassDef | ast.Lambda):
            waiting.extend(ast.iter_child_nodes(node))


def name_of(node: ast.expr) -> str:
    """Return the last word of a call, a dotted name or a subscript: `trio.open_nursery()` -> `open_nursery`."""
    match node:
        case ast.Call(func=inner) | ast.Subscript(value=inner):
            return name_of(inner)
        case ast.Attribute(attr=word) | ast.Name(id=word):
            return word
        case _:
            return ""


def refuse(breaches: list[str]) -> None:
    """Fail with one breach a line; an empty list passes."""
    assert not breaches, "\n".join(["", *breaches])
