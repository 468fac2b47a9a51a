"""What control messages are made of: the forms of their fields, and the values inside them.

Every form is checked when a message is decoded, and when one is made: see
`control`, which has the messages themselves.
"""

from __future__ import annotations

import re
from enum import StrEnum
from typing import Annotated, Final, final

import msgspec

from trunnel.names import PORT_MAX, Hostname
from trunnel.settings.limits import (
    CONTROL_ENDPOINTS_MAX,
    CONTROL_HOSTNAMES_MAX,
    CONTROL_SECONDS_MAX,
    CONTROL_SECONDS_MIN,
    CONTROL_TEXT_MAX,
    ISSUANCE_WAIT_MAX,
    QUIC_HEARTBEAT,
    STREAM_NAME_MAX,
)

_VERSION_MAX: Final = 255
_COUNT_MAX: Final = 2**53 - 1
"""The largest whole number that every JSON reader keeps exact (RFC 8259 §6)."""
_URL_MAX: Final = 300
"""Characters: a scheme, a host name of 253, a port."""
LABEL: Final = re.compile(r"[a-z0-9_-]{1,63}", re.ASCII)
"""One label of a host name."""
_URL: Final = re.compile(r"[a-z]+://[!-~]+", re.ASCII)

Text = Annotated[str, msgspec.Meta(max_length=CONTROL_TEXT_MAX)]
"""For people; printable."""
Word = Annotated[str, msgspec.Meta(pattern=r"\A[a-z0-9-]{1,32}\Z")]
Instance = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{32}\Z")]
Name = Annotated[str, msgspec.Meta(pattern=rf"\A[A-Za-z0-9_-]{{1,{STREAM_NAME_MAX}}}\Z")]
Version = Annotated[int, msgspec.Meta(ge=1, le=_VERSION_MAX)]
Port = Annotated[int, msgspec.Meta(ge=1, le=PORT_MAX)]
Count = Annotated[int, msgspec.Meta(ge=1, le=_COUNT_MAX)]
Period = Annotated[float, msgspec.Meta(ge=CONTROL_SECONDS_MIN, le=CONTROL_SECONDS_MAX)]
Grace = Annotated[float, msgspec.Meta(ge=0.0, le=CONTROL_SECONDS_MAX)]
PingId = Annotated[int, msgspec.Meta(ge=0, le=_COUNT_MAX)]
Secret = Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
Invitation = Annotated[str, msgspec.Meta(pattern=r"\A(?:[A-Za-z0-9_-]{43})?\Z")]
"""The secret of an invitation, 32 bytes in base64url, or nothing."""
Wait = Annotated[float, msgspec.Meta(ge=0.0, le=ISSUANCE_WAIT_MAX)]
Names = Annotated[list[str], msgspec.Meta(min_length=1, max_length=CONTROL_ENDPOINTS_MAX)]
"""Host names, at least one."""
OwnNames = Annotated[list[str], msgspec.Meta(max_length=CONTROL_HOSTNAMES_MAX)]
"""Host names of an agent's own."""


# --- rules that a form cannot say ------------------------------------------------------------------


def check(*, ok: bool, what: str) -> None:
    """Refuse a value: ValueError for our own, turned into a RemoteProtocolError for a peer's."""
    if not ok:
        raise ValueError(what)


def check_text(*texts: str) -> None:
    """Refuse a text for people that does not print."""
    check(ok=all(map(str.isprintable, texts)), what="text is not printable")


def check_hostname(name: str) -> None:
    """Refuse a host name in another form than the canonical one."""
    check(ok=Hostname.parse(name).value == name, what=f"{name!r} is not a host name in its canonical form")


@final
class Endpoint(msgspec.Struct, frozen=True):
    """A public address of an agent."""

    hostname: str
    """Canonical host name: what visitors put into SNI."""
    url: Annotated[str, msgspec.Meta(max_length=_URL_MAX)]
    """What a person opens, for example `https://NAME:8443`."""

    def __post_init__(self) -> None:
        check_hostname(self.hostname)
        check(ok=_URL.fullmatch(self.url) is not None, what="not a URL")


@final
class SessionLimits(msgspec.Struct, frozen=True, kw_only=True):
    """What the relay holds the session to."""

    streams: Count
    """Visitors' streams at a time."""
    heartbeat: Period
    """Seconds between two pings of one side."""
    dead_after: Period
    """Seconds without a byte after which the other side is dead."""
    first_byte_timeout: Period
    """Seconds that a visitor's stream may wait for the first byte back."""
    idle_timeout: Period
    """Seconds without a byte after which a visitor's stream ends."""
    quic_heartbeat: Period = QUIC_HEARTBEAT
    """Seconds between the pings of an agent on QUIC that nobody visits."""


@final
class DataPath(StrEnum):
    """A road that visitors' bytes take between relay and agent."""

    SESSION = "session"
    """A stream inside the session."""
    DIRECT = "direct"
    """A data connection of its own (`wire/direct.py`)."""


@final
class Direct(msgspec.Struct, frozen=True, kw_only=True):
    """What the agent needs for data connections."""

    secret: Secret
    """32 random bytes of this session, in hex: with them each data connection proves itself."""
    parked: Count
    """Data connections that may be parked at a time."""

    @property
    def key(self) -> bytes:
        """The secret's bytes."""
        return bytes.fromhex(self.secret)

    def __repr__(self) -> str:
        return f"Direct(secret='***', parked={self.parked})"

    def __rich_repr__(self) -> list[tuple[str, object]]:
        return [("secret", "***"), ("parked", self.parked)]


@final
class RefusedName(msgspec.Struct, frozen=True):
    """A name of the agent's own that the relay does not lead to it now."""

    hostname: str
    """Canonical host name."""
    reason: Text
    """A sentence for people."""

    def __post_init__(self) -> None:
        check_hostname(self.hostname)
        check_text(self.reason)
