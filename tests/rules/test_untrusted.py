"""Every function that takes a stranger's bytes is known here, fails in one way, and is tried with arbitrary bytes.

Such functions end in `_untrusted`.  One is tried if a fuzz target names it (a
method: its class), or if one that is tried calls it.
"""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator

from tests.rules.sources import Function, Module, modules, name_of, refuse

SUFFIX = "_untrusted"
MAY_RAISE = frozenset({"RemoteProtocolError", "LocalProtocolError"})
"""What peers cause, and what only a wrong call of ours causes."""
PARSER_VERBS = ("parse_", "decode", "feed", "receive_bytes")
"""Beginnings of names that, in wire/, mean "takes bytes of a peer"."""


def untrusted(module: Module) -> Iterator[tuple[str, Function]]:
    """Yield (name to look for in tests, function) for each `*_untrusted` of *module*."""
    for node in ast.walk(module.tree):
        if isinstance(node, ast.Module | ast.ClassDef):
            for part in node.body:
                if isinstance(part, Function) and part.name.endswith(SUFFIX):
                    yield (node.name if isinstance(node, ast.ClassDef) else part.name), part


FOUND = [(module.path, name, function) for module in modules("trunnel") for name, function in untrusted(module)]


def _bodies() -> Iterator[tuple[str, str, str]]:
    for module in modules("trunnel"):
        names = {name for name, _ in untrusted(module)}
        for node in module.tree.body:
            declared_only = isinstance(node, ast.ClassDef) and any(name_of(base) == "Protocol" for base in node.bases)
            if isinstance(node, Function | ast.ClassDef) and node.name in names and not declared_only:
                yield module.path, node.name, ast.unparse(node)


BODIES = list(_bodies())
"""(path, name, source) of each function or class that takes a stranger's bytes."""


def test_there_are_untrusted_functions() -> None:
    assert FOUND


def test_untrusted_functions_raise_only_protocol_errors() -> None:
    refuse(
        [
            f"{path}:{node.lineno}: {function.name} raises {name_of(node.exc)}"
            for path, _, function in FOUND
            for node in ast.walk(function)
            if isinstance(node, ast.Raise) and node.exc is not None
            if name_of(node.exc)[:1].isupper() and name_of(node.exc) not in MAY_RAISE
        ]
    )


def test_untrusted_functions_are_fuzzed() -> None:
    """Named by a fuzz target, or called by one that is."""
    reached = " ".join(module.text for module in modules("fuzz") if module.path.endswith("_targets.py"))
    waiting = {name: owner for _, name, owner in BODIES}
    while found := [name for name in waiting if re.search(rf"\b{name}\b", reached)]:
        reached = " ".join([reached, *(waiting.pop(name) for name in found)])
    refuse([f"{path}: {name}: no fuzz target reaches it" for path, name, _ in BODIES if name in waiting])


def test_parsers_of_peers_bytes_say_so() -> None:
    refuse(
        [
            f"{module.path}:{function.lineno}: {function.name} takes bytes: does it end in {SUFFIX}?"
            for module in modules("trunnel")
            if module.package == "trunnel/wire"
            for function in module.functions()
            if function.name.startswith(PARSER_VERBS) and not function.name.endswith(SUFFIX)
            if any("bytes" in ast.unparse(arg.annotation) for arg in function.args.args if arg.annotation)
        ]
    )
