"""The source rules: each check holds for each module it is meant for.

A breach is mended in the source.  Where a rule really does not fit, the
exception is listed here by name with its reason; an entry that is no longer
needed fails too.
"""

from __future__ import annotations

import ast
from collections.abc import Callable, Iterator

import pytest

from tests.rules import concurrency, shape
from tests.rules.sources import Module, modules, refuse

Check = Callable[[Module], Iterator[str]]

EVERYWHERE: tuple[Check, ...] = (
    shape.short_file,
    shape.short_functions,
    shape.module_docstring,
    shape.ascii_identifiers,
    concurrency.shields_have_deadlines,
)
IN_THE_PACKAGE: tuple[Check, ...] = (
    shape.plain_words,
    shape.few_public_methods,
    concurrency.bounded_channels,
    concurrency.no_async_generators,
    concurrency.no_yield_inside_scope,
)

TASK_BOUNDARIES = {
    ("trunnel/agent/forward.py", "forward_stream"): "one visitor, at the agent",
    ("trunnel/relay/ingress.py", "_serve_connection"): "one connection, at the relay",
    (
        "trunnel/relay/applicants.py",
        "_ask",
    ): "the embedding program's authorisation hook: what it raises is a refusal, and ends no other agent's session",
    ("trunnel/acme/keeper.py", "_contained"): "one certificate, at either end: what is in use stays in use",
    ("trunnel/relay/attached.py", "_run"): "one agent's session, at the relay, in the relay's nursery",
    ("trunnel/relay/quic.py", "serve"): "one agent's QUIC connection, at the relay",
    (
        "trunnel/transports/quic_guard.py",
        "contain",
    ): "a library's parser on a stranger's bytes: its connection ends, the others of the socket go on",
    ("trunnel/relay/visitors.py", "_serve"): "one visitor, at the relay, in its session's nursery",
    ("trunnel/cli/main.py", "main"): "a command that does its work at once",
    ("trunnel/cli/program.py", "run_program"): "a command that runs until stopped",
    (
        "trunnel/identity/contexts.py",
        "guarded",
    ): "a callback from C: the exception is kept, the handshake fails (SEC-04)",
}
"""(file, function) -> whose failure ends there, logged and counted: the only places of `except Exception`."""

SANS_IO_BANNED = frozenset({"trio", "ssl", "socket", "time", "random", "logging", "OpenSSL"})
"""Modules that codecs do without; the import contracts say it of indirect imports and of policies too."""

TYPE_IGNORES_MAX = 10
"""`type: ignore` comments in the package (and none in wire/)."""


@pytest.mark.parametrize("check", EVERYWHERE, ids=lambda check: check.__name__)
def test_rule_holds_in_every_module(check: Check) -> None:
    refuse(breaches(check, modules()))


@pytest.mark.parametrize("check", IN_THE_PACKAGE, ids=lambda check: check.__name__)
def test_rule_holds_in_the_package(check: Check) -> None:
    refuse(breaches(check, modules("trunnel")))


def test_exceptions_are_caught_by_kind_except_at_the_task_boundaries() -> None:
    found = {
        (module.path, function): f"{module.path}:{breach}"
        for module in modules("trunnel")
        for function, breach in concurrency.broad_excepts(module)
    }
    refuse([breach for place, breach in found.items() if place not in TASK_BOUNDARIES])
    assert [place for place in TASK_BOUNDARIES if place not in found] == [], "listed, but no longer there"


def test_codecs_import_nothing_that_waits_or_guesses() -> None:
    found = [
        f"{module.path}:{node.lineno}: {imported}"
        for module in modules("trunnel")
        if module.package == "trunnel/wire"
        for node in ast.walk(module.tree)
        if isinstance(node, ast.Import | ast.ImportFrom)
        for imported in _imported(node)
        if imported.partition(".")[0] in SANS_IO_BANNED
    ]
    refuse(found)


def test_type_checks_are_rarely_silenced() -> None:
    silenced = [
        f"{module.path}:{number}"
        for module in modules("trunnel")
        for number, line in enumerate(module.text.splitlines(), start=1)
        if "# type: ignore" in line or "# pyright: ignore" in line
    ]
    refuse([place for place in silenced if place.startswith("trunnel/wire/")])
    assert len(silenced) <= TYPE_IGNORES_MAX, silenced


def breaches(check: Check, among: tuple[Module, ...]) -> list[str]:
    """Run *check* on each module; breaches are prefixed with the path."""
    return [f"{module.path}:{breach}" for module in among for breach in check(module)]


def _imported(node: ast.Import | ast.ImportFrom) -> list[str]:
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    return [node.module or ""]
