"""The file of known relays: which key each server had, and why it was trusted.

One relay a line, each a JSON object, so that a person can remove a line:

    {"server":"t.example.com:443","id":"…52 characters…","how":"public-ca","since":"2026-01-31T12:00:00Z"}

Unknown keys are tolerated, and lines that do not change are written back as
they were.  Anything else that cannot be understood is an error that names
file and line: to start anew because the file is broken would be to trust
whoever answers.

Only decisions that were taken without a flag are remembered: a pin or a CA
on the command line speaks for itself, each time.

Two programs may share the file.  `remember` reads, changes and writes under
a lock, and changes nothing if the entry is not the one that the decision was
based on.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from pathlib import Path
from typing import final

import msgspec

from trunnel.errors import ConfigError, InvalidName
from trunnel.identity import files
from trunnel.identity.locking import exclusive
from trunnel.names import KeyId, ServerAddress
from trunnel.settings import limits


@final
class TrustKind(StrEnum):
    """Why a relay is trusted."""

    PIN = "pin"
    """It has the key that `--relay-pin` names."""
    CA = "ca"
    """It has a certificate of `--relay-ca` for the dialled name."""
    PUBLIC_CA = "public-ca"
    """It has a certificate of a public CA for the dialled name."""
    FIRST_USE = "first-use"
    """It was met for the first time, and that was good enough."""
    KNOWN = "known"
    """It has the key that was remembered."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class KnownRelay:
    """What is remembered of a relay."""

    relay_id: KeyId
    """Its key."""
    how: TrustKind
    """PUBLIC_CA or FIRST_USE."""
    since: datetime
    """When it was first trusted so."""


class _Line(msgspec.Struct, frozen=True, kw_only=True):
    """One line of the file."""

    server: str
    id: str
    how: TrustKind
    since: datetime


@final
class KnownRelays:
    """The file at `path`; each call reads it afresh.

    Methods block for as long as the disk takes.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def lookup(self, server: ServerAddress) -> KnownRelay | None:
        """Return what is remembered of *server*; None if nothing is.

        Raises:
            ConfigError: The file cannot be read, or not be understood.
        """
        entry = self._read().get(server)
        return None if entry is None else entry[0]

    def remember(self, server: ServerAddress, relay: KnownRelay, *, replacing: KnownRelay | None) -> KnownRelay | None:
        """Write down *relay* as what *server* is.

        Args:
            server: Its address.
            relay: What to remember.
            replacing: What `lookup` returned when this was decided.

        Returns:
            What the file says now: `relay`; or, if another program changed the entry meanwhile,
            what that one left (None: nothing).  Then decide again.

        Raises:
            ConfigError: The file cannot be read, understood or written; it is unchanged.
        """
        with exclusive(self.path):
            entries = self._read()
            present = entries[server][0] if server in entries else None
            if present != replacing:
                return present
            lines = {address: line for address, (_, line) in entries.items()}
            lines[server] = _to_line(server, relay)
            content = b"".join(line + b"\n" for line in lines.values())
            if len(content) > limits.KNOWN_RELAYS_FILE_MAX:
                raise ConfigError("", f"{self.path} is full; remove lines that are no longer needed")
            files.atomic_write(self.path, content)
        return relay

    def _read(self) -> dict[ServerAddress, tuple[KnownRelay, bytes]]:
        """Return all entries with their lines as they stand."""
        content = files.read_guarded(self.path, limit=limits.KNOWN_RELAYS_FILE_MAX, secret=False) or b""
        entries: dict[ServerAddress, tuple[KnownRelay, bytes]] = {}
        for number, line in enumerate(content.splitlines(), start=1):
            if not line.strip():
                continue
            try:
                server, relay = _from_line(line)
            except (msgspec.DecodeError, InvalidName, UnicodeDecodeError) as exc:
                raise self._broken(number, str(exc)) from exc
            if server in entries:
                raise self._broken(number, f"{server} is there twice")
            entries[server] = (relay, line)
        return entries

    def _broken(self, line: int, reason: str) -> ConfigError:
        return ConfigError(
            "", f"{self.path}, line {line}: {reason}; mend the line or remove it: it says which relay to trust"
        )


def _from_line(line: bytes) -> tuple[ServerAddress, KnownRelay]:
    """Parse one line; raises msgspec.DecodeError, UnicodeDecodeError or InvalidName."""
    entry = msgspec.json.decode(line, type=_Line)
    if entry.how not in (TrustKind.PUBLIC_CA, TrustKind.FIRST_USE):
        raise InvalidName(f"{entry.how!r} is no reason that is remembered")
    return ServerAddress.parse(entry.server), KnownRelay(
        relay_id=KeyId.parse(entry.id), how=entry.how, since=entry.since
    )


def _to_line(server: ServerAddress, relay: KnownRelay) -> bytes:
    return msgspec.json.encode(_Line(server=str(server), id=relay.relay_id.value, how=relay.how, since=relay.since))
