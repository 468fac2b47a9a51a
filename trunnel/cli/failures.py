"""Errors as a person meets them: one line, hints, and the exit code of INTERFACES.

| code | why |
|---|---|
| 0 | asked to stop and drained |
| 1 | runtime failure |
| 2 | usage or configuration |
| 3 | the relay's identity |
| 4 | refused: not authorised, key in use, replaced, version |
| 130, 143 | stopped by a second signal |

This is the only place that looks into exception groups.  When several tasks
failed at once, the most telling error is shown: identity, then refusal, then
configuration, then the rest.  What is none of ours is a bug: it is said so, and
the traceback goes to the log.
"""

from __future__ import annotations

import errno
from collections.abc import Iterator
from dataclasses import dataclass
from enum import IntEnum
from typing import Final, cast, final

from trunnel.errors import AuthError, ConfigError, InvalidName, Rejected, RelayIdentityError, TrunnelError


@final
class ExitCode(IntEnum):
    """Exit codes that do not name a signal."""

    OK = 0
    RUNTIME = 1
    USAGE = 2
    RELAY_IDENTITY = 3
    REFUSED = 4
    INTERRUPTED = 130


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """What to print and how to exit."""

    status: ExitCode
    message: str
    hints: tuple[str, ...] = ()
    bug: bool = False
    """Whether the traceback belongs in the log."""


_CODES: Final[tuple[tuple[type[BaseException], ExitCode], ...]] = (
    (RelayIdentityError, ExitCode.RELAY_IDENTITY),
    (AuthError, ExitCode.REFUSED),
    (Rejected, ExitCode.REFUSED),
    (ConfigError, ExitCode.USAGE),
    (InvalidName, ExitCode.USAGE),
    (TrunnelError, ExitCode.RUNTIME),
    (OSError, ExitCode.RUNTIME),
    (KeyboardInterrupt, ExitCode.INTERRUPTED),
)
"""First match counts; the order is also that of telling errors."""

_OTHER_PORT: Final = "choose with --port N, or --api-port N and --pub-port N; 0 is any free one"
_SYSTEM_HINTS: Final[dict[int, tuple[str, ...]]] = {
    errno.EADDRINUSE: (_OTHER_PORT,),
    errno.EADDRNOTAVAIL: ("choose with --bind-addr; `ip address` lists what this machine has",),
    errno.EMFILE: ("too many open files for this process; raise it with: ulimit -n 65536",),
}
"""Hints for errors of the system that mean one thing only (EACCES may be a file or a port: the library says which)."""


def leaves_of(error: BaseException) -> Iterator[BaseException]:
    """Yield the single exceptions in *error*, whatever groups they are in."""
    if isinstance(error, BaseExceptionGroup):
        for member in cast("BaseExceptionGroup[BaseException]", error).exceptions:
            yield from leaves_of(member)
    else:
        yield error


def explain(error: BaseException) -> Failure:
    """Return what *error*, or the most telling error in it, means for a person.

    A leaf that no table entry fits is a bug, and outweighs the others.
    """
    ranked = [(_rank(leaf), leaf) for leaf in leaves_of(error)]
    unexpected = [leaf for rank, leaf in ranked if rank is None]
    if unexpected:
        message = f"internal error: {type(unexpected[0]).__name__}: {unexpected[0]}"
        hints = ("this is a bug in trunnel; the log has the traceback",)
        return Failure(status=ExitCode.RUNTIME, message=message, hints=hints, bug=True)
    rank, leaf = min(((rank, leaf) for rank, leaf in ranked if rank is not None), key=lambda pair: pair[0])
    status = _CODES[rank][1]
    if isinstance(leaf, OSError):
        return Failure(status=status, message=_system_message(leaf), hints=_SYSTEM_HINTS.get(leaf.errno or 0, ()))
    lines = str(leaf).splitlines() or [type(leaf).__name__]
    return Failure(status=status, message=lines[0], hints=(*lines[1:],) or _hints_of_cause(leaf))


def _hints_of_cause(leaf: BaseException) -> tuple[str, ...]:
    cause = leaf.__cause__
    return _SYSTEM_HINTS.get(cause.errno or 0, ()) if isinstance(cause, OSError) else ()


def _rank(leaf: BaseException) -> int | None:
    return next((rank for rank, (kind, _) in enumerate(_CODES) if isinstance(leaf, kind)), None)


def _system_message(error: OSError) -> str:
    reason = error.strerror or str(error) or type(error).__name__
    return f"{error.filename}: {reason}" if error.filename else reason
