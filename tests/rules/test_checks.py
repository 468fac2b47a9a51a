"""Each source rule finds what it is there to find, and leaves the right form alone."""

from __future__ import annotations

from collections.abc import Callable, Iterator

import pytest

from tests.rules import concurrency, shape
from tests.rules.sources import Module

Check = Callable[[Module], Iterator[str]]

WRONG: list[tuple[Check, str]] = [
    (shape.short_file, "x = 1\n" * 401),
    (shape.short_functions, "def long():\n" + "    x = 1\n" * 50),
    (shape.few_public_methods, "class Wide:\n" + "".join(f"    def m{n}(self): ...\n" for n in range(13))),
    (shape.module_docstring, "x = 1\n"),
    (shape.ascii_identifiers, "\u0440eer = 1\n"),
    (shape.ascii_identifiers, "import os as \u043es\n"),
    (shape.plain_words, "class StreamManager: ...\n"),
    (shape.plain_words, "def f(tls_helper): ...\n"),
    (shape.plain_words, "self.utils = 1\n"),
    (concurrency.bounded_channels, "trio.open_memory_channel(math.inf)\n"),
    (concurrency.bounded_channels, "trio.open_memory_channel[int](float('inf'))\n"),
    (concurrency.shields_have_deadlines, "with trio.CancelScope(shield=True): ...\n"),
    (concurrency.shields_have_deadlines, "with trio.CancelScope(deadline=math.inf, shield=True): ...\n"),
    (concurrency.shields_have_deadlines, "scope.shield = True\n"),
    (concurrency.no_async_generators, "async def numbers():\n    yield 1\n"),
    (concurrency.no_yield_inside_scope, "async def f():\n  async with trio.open_nursery() as n:\n    yield n\n"),
    (concurrency.no_yield_inside_scope, "def f():\n  with trio.move_on_after(1):\n    if x:\n      yield\n"),
]

RIGHT: list[tuple[Check, str]] = [
    (shape.short_file, "x = 1\n" * 400),
    (shape.short_functions, 'def documented():\n    """' + "words\n" * 60 + '    """\n    return 1\n'),
    (shape.module_docstring, '"""Theory."""\n'),
    (shape.module_docstring, ""),
    (shape.plain_words, "async def serve(handler): ...\n"),
    (shape.plain_words, "from contextlib import contextmanager\n@contextmanager\ndef f(): yield\n"),
    (shape.plain_words, "def commonly(): ...\n"),
    (concurrency.bounded_channels, "trio.open_memory_channel(0)\n"),
    (concurrency.shields_have_deadlines, "with trio.CancelScope(deadline=later, shield=True): ...\n"),
    (concurrency.shields_have_deadlines, "with trio.move_on_after(CLOSE_TIMEOUT, shield=True): ...\n"),
    (concurrency.no_async_generators, "@asynccontextmanager\nasync def f():\n    yield 1\n"),
    (concurrency.no_yield_inside_scope, "def f():\n  with open(path) as file:\n    yield file\n"),
]


@pytest.mark.parametrize(("check", "text"), WRONG, ids=lambda value: getattr(value, "__name__", ""))
def test_rule_finds_the_wrong_form(check: Check, text: str) -> None:
    assert list(check(Module.parse(text)))


@pytest.mark.parametrize(("check", "text"), RIGHT, ids=lambda value: getattr(value, "__name__", ""))
def test_rule_accepts_the_right_form(check: Check, text: str) -> None:
    assert list(check(Module.parse(text))) == []


@pytest.mark.parametrize("caught", ["Exception", "(ValueError, Exception)", "BaseException", "trio.Cancelled"])
def test_broad_except_is_found_with_its_function(caught: str) -> None:
    module = Module.parse(f"def f():\n    try:\n        g()\n    except {caught}:\n        pass\n")
    assert [name for name, _ in concurrency.broad_excepts(module)] == ["f"]


def test_bare_except_is_found() -> None:
    module = Module.parse("def f():\n    try:\n        g()\n    except:\n        pass\n")
    assert [name for name, _ in concurrency.broad_excepts(module)] == ["f"]


def test_undoing_and_raising_again_is_allowed() -> None:
    module = Module.parse("def f():\n    try:\n        g()\n    except BaseException:\n        undo()\n        raise\n")
    assert list(concurrency.broad_excepts(module)) == []
