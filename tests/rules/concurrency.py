"""Rules of structured concurrency that no linter here knows.

They are what trio cannot check: each breach works in the small and hangs,
leaks or swallows a cancellation in the large.  A check takes a module and
yields one sentence for each breach, beginning with the line.
"""

from __future__ import annotations

import ast
from collections.abc import Iterator

from tests.rules.sources import Function, Module, name_of, nodes_of

SCOPES = frozenset({"open_nursery", "CancelScope", "move_on_after", "move_on_at", "fail_after", "fail_at"})
"""Calls that open a nursery or a cancel scope."""
TIMED_SCOPES = frozenset({"move_on_after", "move_on_at", "fail_after", "fail_at"})
"""Those that always have a deadline."""


def bounded_channels(module: Module) -> Iterator[str]:
    """A memory channel has a finite size: a queue without a bound is a leak with a delay."""
    for call in _calls(module.tree):
        if name_of(call) == "open_memory_channel" and "inf" in "".join(map(ast.unparse, call.args)):
            yield f"{call.lineno}: an unbounded memory channel"


def shields_have_deadlines(module: Module) -> Iterator[str]:
    """A shield stands in the call that also sets a deadline: else a peer decides when we stop."""
    for node in ast.walk(module.tree):
        match node:
            case ast.Call(keywords=keywords) if any(k.arg == "shield" and not _is_false(k.value) for k in keywords):
                deadline = [ast.unparse(k.value) for k in keywords if k.arg in ("deadline", "relative_deadline")]
                if name_of(node) not in TIMED_SCOPES and (not deadline or "inf" in deadline[0]):
                    yield f"{node.lineno}: a shield without a deadline"
            case ast.Assign(targets=[ast.Attribute(attr="shield")]):
                yield f"{node.lineno}: a shield set later; give it to the call that opens the scope"


def no_async_generators(module: Module) -> Iterator[str]:
    """An `async def` with `yield` is the body of an @asynccontextmanager and nothing else."""
    for function in module.functions():
        if isinstance(function, ast.AsyncFunctionDef) and _yields(function) and not _is_context(function):
            yield f"{function.lineno}: {function.name} is an async generator"


def no_yield_inside_scope(module: Module) -> Iterator[str]:
    """A generator does not yield while it holds a nursery or a cancel scope open."""
    for function in module.functions():
        if _is_context(function):
            continue
        for node in nodes_of(function):
            if not isinstance(node, ast.With | ast.AsyncWith):
                continue
            opens = any(name_of(item.context_expr) in SCOPES for item in node.items)
            if opens and any(isinstance(inner, ast.Yield | ast.YieldFrom) for inner in ast.walk(node)):
                yield f"{node.lineno}: {function.name} yields inside a scope"


def broad_excepts(module: Module) -> Iterator[tuple[str, str]]:
    """Yield (function, breach) for each handler of Exception, or of BaseException that does not re-raise."""
    for function in [*module.functions(), module.tree]:
        nodes = nodes_of(function) if isinstance(function, Function) else iter(function.body)
        for node in nodes:
            if not isinstance(node, ast.ExceptHandler):
                continue
            caught = _caught(node)
            reraises = isinstance(node.body[-1], ast.Raise) and node.body[-1].exc is None
            if "Exception" in caught or (caught & {"BaseException", "Cancelled", "everything"} and not reraises):
                name = function.name if isinstance(function, Function) else "<module>"
                yield name, f"{node.lineno}: {name} catches {', '.join(sorted(caught))}"


def _caught(handler: ast.ExceptHandler) -> set[str]:
    match handler.type:
        case None:
            return {"everything"}
        case ast.Tuple(elts=types):
            return {name_of(each) for each in types}
        case one:
            return {name_of(one)}


def _calls(tree: ast.AST) -> Iterator[ast.Call]:
    return (node for node in ast.walk(tree) if isinstance(node, ast.Call))


def _is_false(node: ast.expr) -> bool:
    return isinstance(node, ast.Constant) and node.value is False


def _yields(function: Function) -> bool:
    return any(isinstance(node, ast.Yield | ast.YieldFrom) for node in nodes_of(function))


def _is_context(function: Function) -> bool:
    names = {name_of(each) for each in function.decorator_list}
    return bool(names & {"asynccontextmanager", "contextmanager"})
