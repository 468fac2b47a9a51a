"""What worked, for each relay and network: the file behind `transports.selection`, and of data connections.

One JSON document in the state folder:

    {"outcomes":[{"server":"t.example.com:443","network":"3f…","transport":"quic",
                  "worked":false,"at":"2026-01-31T12:00:00Z","failures":2}]}

It saves time and decides nothing that matters: who the relay is stands
elsewhere (`identity.knownrelays`).  So, unlike there, a file that cannot be
read or understood is no error: it is told to the log, and things start afresh;
one that cannot be written is told to the log too.  Nothing here fails.

Bounded: `CHOICES_MAX` outcomes, the oldest go first; each is forgotten after
`CHOICE_LIFETIME`.  Several supervisors and several programs share the file:
`note` reads, changes and writes it under a lock.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Annotated, Final, Literal, final

import msgspec

from trunnel.errors import ConfigError
from trunnel.identity import files
from trunnel.identity.locking import exclusive
from trunnel.names import ServerAddress
from trunnel.settings import limits
from trunnel.transports.selection import Remembered, TransportKind, Trial

logger = logging.getLogger(__name__)

DIRECT: Final = "direct"
"""Data connections, in the place of a transport."""
Way = Literal["quic", "h2", "yamux", "direct"]
"""What is tried: the values of `TransportKind`, and `DIRECT`."""

_FAILURES_MAX: Final = 1_000
"""Failures in a row that are counted; the interval has long stopped growing."""


@final
class Outcome(msgspec.Struct, frozen=True, kw_only=True):
    """One line of memory; fields that are not known are passed over."""

    server: str
    """The relay as it is dialled, `HOST:PORT`."""
    network: str
    """`network.fingerprint` at that time."""
    transport: Way
    """What was tried."""
    worked: bool
    """Whether a session came of it."""
    at: Annotated[datetime, msgspec.Meta(tz=True)]
    """When."""
    failures: Annotated[int, msgspec.Meta(ge=0, le=_FAILURES_MAX)] = 0
    """Trials in a row that failed."""
    reason: str = ""
    """Why the last one failed, for people; empty if it did not, or nobody said."""

    @property
    def key(self) -> tuple[str, str, str]:
        """What there is one outcome of."""
        return (self.server, self.network, self.transport)


class _Document(msgspec.Struct, frozen=True):
    outcomes: list[Outcome]


@final
class Choices:
    """The file at `path`; each call reads it afresh.

    Methods block for as long as the disk takes (`note`: up to `LOCK_WAIT` if
    another program does not let go of the lock); call them in a thread.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def get(self, server: ServerAddress, network: str, now: datetime) -> Remembered:
        """Return what is known of each transport to *server* from *network*; empty if nothing is."""
        return {
            TransportKind(outcome.transport): Trial(worked=outcome.worked, at=outcome.at, failures=outcome.failures)
            for outcome in self._of(server, network, now)
            if outcome.transport != DIRECT
        }

    def direct(self, server: ServerAddress, network: str, now: datetime) -> Outcome | None:
        """Return what is known of data connections to *server* from *network*; None if nothing is."""
        found = (outcome for outcome in self._of(server, network, now) if outcome.transport == DIRECT)
        return next(found, None)

    def note(
        self,
        server: ServerAddress,
        network: str,
        transport: TransportKind | Literal["direct"],
        *,
        worked: bool,
        now: datetime,
        reason: str = "",
    ) -> None:
        """Remember that *transport* to *server* from *network* worked, or did not while another did."""
        try:
            with exclusive(self.path):
                outcomes = {outcome.key: outcome for outcome in current(self._read(), now)}
                key = (str(server), network, str(transport))
                failed_before = outcomes[key].failures if key in outcomes else 0
                outcomes[key] = Outcome(
                    server=str(server),
                    network=network,
                    transport=transport.value if isinstance(transport, TransportKind) else transport,
                    worked=worked,
                    at=now,
                    failures=0 if worked else min(failed_before + 1, _FAILURES_MAX),
                    reason=reason[: limits.CONTROL_TEXT_MAX],
                )
                files.atomic_write(self.path, content_of(outcomes.values()))
        except ConfigError as exc:
            logger.warning("choice_not_remembered", extra={"path": str(self.path), "reason": exc.reason})

    def _of(self, server: ServerAddress, network: str, now: datetime) -> list[Outcome]:
        wanted = (str(server), network)
        return [each for each in current(self._read(), now) if (each.server, each.network) == wanted]

    def _read(self) -> list[Outcome]:
        try:
            content = files.read_guarded(self.path, limit=limits.CHOICES_FILE_MAX, secret=False)
            return [] if content is None else outcomes_in(content)
        except ConfigError as exc:
            logger.warning("choices_forgotten", extra={"path": str(self.path), "reason": exc.reason})
            return []


def outcomes_in(content: bytes) -> list[Outcome]:
    """Parse the file; raises ConfigError if it is not what `content_of` returns."""
    try:
        return msgspec.json.decode(content, type=_Document).outcomes
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
        raise ConfigError("", f"not a file of outcomes: {exc}") from exc


def content_of(outcomes: Iterable[Outcome]) -> bytes:
    """Return the content of the file: the newest `CHOICES_MAX` of *outcomes*."""
    newest = sorted(outcomes, key=lambda outcome: outcome.at)[-limits.CHOICES_MAX :]
    return msgspec.json.encode(_Document(newest)) + b"\n"


def current(outcomes: Iterable[Outcome], now: datetime) -> list[Outcome]:
    """Leave out what is too old, or from a future that a wrong clock made."""
    return [outcome for outcome in outcomes if abs((now - outcome.at).total_seconds()) < limits.CHOICE_LIFETIME]
