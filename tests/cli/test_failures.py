"""Errors as a person meets them: exit code, one line, hints."""

from __future__ import annotations

import errno

import pytest

from trunnel.cli.failures import explain
from trunnel.errors import (
    AuthError,
    ConfigError,
    ConnectError,
    InvalidName,
    RejectCode,
    Rejected,
    RelayIdentityError,
    SessionClosed,
    TrunnelError,
)


@pytest.mark.parametrize(
    ("error", "status"),
    [
        (ConfigError("a", "b"), 2),
        (InvalidName("x"), 2),
        (RelayIdentityError("x"), 3),
        (AuthError("x"), 4),
        *((Rejected(code, "x"), 4) for code in RejectCode),
        (ConnectError("x"), 1),
        (SessionClosed("x"), 1),
        (OSError(errno.EIO, "x"), 1),
        (KeyboardInterrupt(), 130),
        (RuntimeError("x"), 1),
    ],
)
def test_exit_codes(error: BaseException, status: int) -> None:
    assert explain(error).status == status
    assert explain(BaseExceptionGroup("g", [BaseExceptionGroup("h", [error])])).status == status


def test_the_most_telling_error_of_a_group_is_shown() -> None:
    group = ExceptionGroup("g", [ConnectError("lost"), ExceptionGroup("h", [AuthError("in use"), SessionClosed("x")])])
    assert explain(group).message == "in use"


def test_a_bug_is_not_hidden_by_an_expected_error() -> None:
    failure = explain(ExceptionGroup("g", [AuthError("in use"), KeyError("k")]))
    assert failure.bug
    assert "KeyError" in failure.message


def test_hints_are_the_lines_after_the_first() -> None:
    failure = explain(RelayIdentityError("changed", hint="look\nhere"))
    assert (failure.message, failure.hints) == ("changed", ("look", "here"))


def test_every_error_of_ours_is_expected() -> None:
    def kinds(base: type[TrunnelError]) -> set[type[TrunnelError]]:
        return {base}.union(*(kinds(kind) for kind in base.__subclasses__()))

    for kind in kinds(TrunnelError):
        assert not explain(kind.__new__(kind)).bug


@pytest.mark.parametrize(
    ("code", "part"), [(errno.EADDRINUSE, "--port N"), (errno.EADDRNOTAVAIL, "--bind-addr"), (errno.EMFILE, "ulimit")]
)
def test_an_error_of_the_system_says_what_to_do(code: int, part: str) -> None:
    """As a bare OSError, and as the cause of an error of ours."""
    error = OSError(code, "no", "0.0.0.0:443")
    assert any(part in hint for hint in explain(error).hints)
    assert explain(error).message == "0.0.0.0:443: no"
    wrapped = ConfigError("relay.port", "cannot listen on 0.0.0.0:443")
    wrapped.__cause__ = error
    assert any(part in hint for hint in explain(wrapped).hints)
