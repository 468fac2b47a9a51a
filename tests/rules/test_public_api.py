"""What customers import is a list, and it changes on purpose only.

The signatures below are the snapshot.  An addition is a line more and a
line in CHANGELOG.md; a change is a break.
"""

from __future__ import annotations

import inspect
import subprocess
import sys
import tomllib

import pytest

import trunnel
from tests.rules.sources import ROOT
from trunnel import errors
from trunnel.version import VERSION

FUNCTIONS = {
    "serve_relay": {"settings": "RelaySettings", "task_status": "trio.TaskStatus[BoundRelay]"},
    "open_tunnel": {"origin": "int | str | StreamHandler", "settings": "AgentSettings | None"},
}
"""Function -> its promised parameters; the first one is positional, the rest keyword-only with a default."""
CLASSES = {
    "AgentSettings": (),
    "RelaySettings": (),
    "Tunnel": ("agent_id", "transport", "url", "wait_closed"),
    "VisitorInfo": (),
}
"""Class -> the members that are promised."""
ERRORS = (
    "AuthError",
    "ConfigError",
    "ConnectError",
    "InvalidName",
    "Rejected",
    "RelayIdentityError",
    "SessionClosed",
    "TrunnelError",
)
HEAVY = ("OpenSSL", "h2", "cryptography", "typer", "rich")
"""What `import trunnel` leaves for later."""


@pytest.mark.parametrize("name", [*FUNCTIONS, *CLASSES, *ERRORS])
def test_public_name_is_exported(name: str) -> None:
    assert name in trunnel.__all__
    assert getattr(trunnel, name) is not None


def test_all_is_sorted_and_complete() -> None:
    assert sorted(trunnel.__all__) == sorted(set(trunnel.__all__))
    for name in trunnel.__all__:
        assert hasattr(trunnel, name), name


def test_absent_name_is_an_attribute_error() -> None:
    with pytest.raises(AttributeError):
        getattr(trunnel, "no_such_name")  # noqa: B009 - the type checkers would rightly refuse the plain form


@pytest.mark.parametrize(("name", "promised"), FUNCTIONS.items())
def test_function_keeps_its_promised_parameters(name: str, promised: dict[str, str]) -> None:
    """Parameters may be added, keyword-only and with a default; those promised stay as they are."""
    actual = inspect.signature(getattr(trunnel, name)).parameters
    assert {each: str(actual[each].annotation) for each in promised} == promised
    first, *rest = actual.values()
    assert first.kind is inspect.Parameter.POSITIONAL_OR_KEYWORD
    assert first.name == next(iter(promised))
    for each in rest:
        assert each.kind is inspect.Parameter.KEYWORD_ONLY, each.name
        assert each.default is not inspect.Parameter.empty, each.name


@pytest.mark.parametrize(("name", "members"), CLASSES.items())
def test_class_has_the_promised_members(name: str, members: tuple[str, ...]) -> None:
    cls = getattr(trunnel, name)
    fields = {*dir(cls), *inspect.get_annotations(cls)}
    assert [member for member in members if member not in fields] == []


@pytest.mark.parametrize("name", ERRORS)
def test_error_is_the_one_of_the_errors_module(name: str) -> None:
    assert getattr(trunnel, name) is getattr(errors, name)


def test_version_is_that_of_the_project_file() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["version"] == VERSION


def test_import_is_lean() -> None:
    """`import trunnel` loads none of the heavy libraries: they come with the first use."""
    program = f"import sys, trunnel; print([name for name in {HEAVY!r} if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert loaded.strip() == "[]"
