"""Control messages: what agent and relay say to each other on a session's first stream.

A message is a JSON object (RFC 8259) that `kind` names; its framing is in
`control_codec`.  Normative text and test vectors: PROTOCOL.md.  What holds here:

* Unknown fields are ignored (that is how minor changes are made); an unknown
  kind is refused (what cannot be ignored needs a new version).  Of a field
  that comes twice the last one counts.
* Every text and list is capped, every number bounded and finite; names, ids
  and addresses have their one form; text for people is printable, so that no
  escape sequence of a peer reaches a terminal.  The same rules hold for what
  we send: breaking them there is a `LocalProtocolError`.
* Which message may come when is one table, `TRANSITIONS`.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, final

import msgspec

from trunnel import errors
from trunnel.errors import RejectCode, RemoteProtocolError
from trunnel.names import PORT_MAX, Hostname, KeyId
from trunnel.settings.agent import DataChoice
from trunnel.settings.limits import (
    CONTROL_ENDPOINTS_MAX,
    CONTROL_LIST_MAX,
    CONTROL_SECONDS_MAX,
    CONTROL_SECONDS_MIN,
    CONTROL_TEXT_MAX,
    QUIC_HEARTBEAT,
    RETRY_HINT_MAX,
    STREAM_NAME_MAX,
)

PROTOCOL_VERSION: Final = 1
"""The version that this code speaks."""
VERSIONS: Final = (PROTOCOL_VERSION,)
"""Every version that it can speak."""

_VERSION_MAX: Final = 255
_COUNT_MAX: Final = 2**53 - 1
"""The largest whole number that every JSON reader keeps exact (RFC 8259 §6)."""
_URL_MAX: Final = 300
"""Characters: a scheme, a host name of 253, a port."""
_UNPRINTABLE: Final = "\N{REPLACEMENT CHARACTER}"
_LABEL: Final = re.compile(r"[a-z0-9_-]{1,63}", re.ASCII)
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


# --- messages ---------------------------------------------------------------------------------


def _check(*, ok: bool, what: str) -> None:
    """Refuse a value: ValueError for our own, turned into a RemoteProtocolError for a peer's."""
    if not ok:
        raise ValueError(what)


def _check_text(*texts: str) -> None:
    _check(ok=all(map(str.isprintable, texts)), what="text is not printable")


def _check_hostname(name: str) -> None:
    _check(ok=Hostname.parse(name).value == name, what=f"{name!r} is not a host name in its canonical form")


@final
class Endpoint(msgspec.Struct, frozen=True):
    """A public address of an agent."""

    hostname: str
    """Canonical host name: what visitors put into SNI."""
    url: Annotated[str, msgspec.Meta(max_length=_URL_MAX)]
    """What a person opens, for example `https://NAME:8443`."""

    def __post_init__(self) -> None:
        _check_hostname(self.hostname)
        _check(ok=_URL.fullmatch(self.url) is not None, what="not a URL")


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
class Hello(msgspec.Struct, frozen=True, kw_only=True, tag="hello", tag_field="kind"):
    """The agent's first message, once."""

    versions: Annotated[list[Version], msgspec.Meta(min_length=1, max_length=CONTROL_LIST_MAX)]
    """Protocol versions that the agent speaks."""
    instance: Instance
    """Random name of this running agent, 32 hex digits: tells a reconnection from a second agent."""
    agent: Text
    """Version of the agent's software."""
    share: bool = False
    """Whether visitors may be spread over this agent and others with its key."""
    name: str | None = None
    """The label of which the agent would like to show the address."""
    where: Text = ""
    """Host name of the agent's machine, for messages to people."""
    session: Name | None = None
    """The session of this instance that the carrier is to join; a new one if the relay has it no longer."""
    alone: bool = False
    """Whether every other carrier of that session is lost to the agent; the relay lets go of them, too."""
    data: DataChoice = DataChoice.SESSION
    """Whether the agent would use data connections: `session` is never, `direct` is nothing else."""

    def __post_init__(self) -> None:
        _check_text(self.agent, self.where)
        _check(ok=self.name is None or _LABEL.fullmatch(self.name) is not None, what="name is not a label")


@final
class Welcome(msgspec.Struct, frozen=True, kw_only=True, tag="welcome", tag_field="kind"):
    """The relay's answer when it takes the agent; visitors may follow at once."""

    version: Version
    """The protocol version from here on."""
    session: Name
    """Id of the session in both programs' events and logs."""
    relay: str
    """The relay's key id; equals the key that TLS proved."""
    label: Text = ""
    """What the relay's operator calls the agent."""
    suffixes: Annotated[list[str], msgspec.Meta(max_length=CONTROL_LIST_MAX)]
    """Domain suffixes of the relay; the first is the one to show."""
    public_port: Port
    """The port that visitors use."""
    endpoints: Annotated[list[Endpoint], msgspec.Meta(max_length=CONTROL_ENDPOINTS_MAX)]
    """The agent's public addresses; the first is the one to show."""
    limits: SessionLimits
    """What the relay holds the session to."""
    direct: Direct | None = None
    """How to make data connections; None if there are to be none."""

    def __post_init__(self) -> None:
        _check_text(self.label)
        _check(ok=KeyId.parse(self.relay).value == self.relay, what="relay is not a key id in its canonical form")
        for suffix in self.suffixes:
            _check_hostname(suffix)


@final
class Rejected(msgspec.Struct, frozen=True, tag="rejected", tag_field="kind"):
    """The relay's answer when it does not take the agent, or takes it no longer; its last message."""

    code: Word
    """A `RejectCode`; later versions may have others."""
    reason: Text
    """A sentence for people."""
    retry_after: Annotated[float, msgspec.Meta(ge=0.0)] | None = None
    """Seconds that the relay asks the agent to wait."""

    def __post_init__(self) -> None:
        _check_text(self.reason)

    def to_error(self) -> errors.Rejected:
        """Return the error to raise: an unknown code counts as PROTOCOL, the hint is cut to `RETRY_HINT_MAX`."""
        known = self.code in RejectCode.__members__.values()
        hint = self.retry_after if self.retry_after is None else min(self.retry_after, RETRY_HINT_MAX)
        return errors.Rejected(RejectCode(self.code) if known else RejectCode.PROTOCOL, self.reason, retry_after=hint)


@final
class Ping(msgspec.Struct, frozen=True, tag="ping", tag_field="kind"):
    """Are you there?  Either side, at any time."""

    id: PingId
    """Comes back in the pong."""


@final
class Pong(msgspec.Struct, frozen=True, tag="pong", tag_field="kind"):
    """The answer to a ping, at once."""

    id: PingId
    """The ping's."""


@final
class Drain(msgspec.Struct, frozen=True, tag="drain", tag_field="kind"):
    """The sender is about to stop: no new visitors, those that are there may finish."""

    grace: Grace
    """Seconds until it stops."""
    reason: Text = ""
    """A sentence for people."""

    def __post_init__(self) -> None:
        _check_text(self.reason)


@final
class Probe(msgspec.Struct, frozen=True, tag="probe", tag_field="kind"):
    """The agent's: send a canary stream the way that visitors' streams go."""

    id: PingId
    """Comes back in the answer."""
    path: DataPath = DataPath.SESSION
    """The road that the canary is to take."""


@final
class Probed(msgspec.Struct, frozen=True, tag="probed", tag_field="kind"):
    """The relay's answer to a probe, once the canary stream has come back or failed."""

    id: PingId
    """The probe's."""
    failure: Text = ""
    """Why no visitor could be served now; empty if one could."""

    def __post_init__(self) -> None:
        _check_text(self.failure)


@final
class Endpoints(msgspec.Struct, frozen=True, tag="endpoints", tag_field="kind"):
    """The agent's public addresses have changed; the list replaces the one before."""

    endpoints: Annotated[list[Endpoint], msgspec.Meta(max_length=CONTROL_ENDPOINTS_MAX)]
    """All of them, the one to show first."""


Message = Hello | Welcome | Rejected | Ping | Pong | Probe | Probed | Drain | Endpoints
"""Everything that is said on a control stream."""


# --- order ------------------------------------------------------------------------------------


@final
class Phase(StrEnum):
    """How far the conversation is, as seen by the side that reads."""

    EXPECT_HELLO = "expect-hello"
    """The relay, before the agent has spoken."""
    EXPECT_ANSWER = "expect-answer"
    """The agent, before the relay has answered."""
    RELAY_OPEN = "relay-open"
    """The relay, after its welcome."""
    AGENT_OPEN = "agent-open"
    """The agent, after the relay's welcome."""
    ENDED = "ended"
    """Nothing may follow."""


TRANSITIONS: Final[Mapping[tuple[Phase, type[Message]], Phase]] = {
    (Phase.EXPECT_HELLO, Hello): Phase.RELAY_OPEN,
    (Phase.RELAY_OPEN, Ping): Phase.RELAY_OPEN,
    (Phase.RELAY_OPEN, Pong): Phase.RELAY_OPEN,
    (Phase.RELAY_OPEN, Probe): Phase.RELAY_OPEN,
    (Phase.RELAY_OPEN, Drain): Phase.RELAY_OPEN,
    (Phase.EXPECT_ANSWER, Welcome): Phase.AGENT_OPEN,
    (Phase.EXPECT_ANSWER, Rejected): Phase.ENDED,
    (Phase.AGENT_OPEN, Ping): Phase.AGENT_OPEN,
    (Phase.AGENT_OPEN, Pong): Phase.AGENT_OPEN,
    (Phase.AGENT_OPEN, Probed): Phase.AGENT_OPEN,
    (Phase.AGENT_OPEN, Drain): Phase.AGENT_OPEN,
    (Phase.AGENT_OPEN, Endpoints): Phase.AGENT_OPEN,
    (Phase.AGENT_OPEN, Rejected): Phase.ENDED,
}
"""What may be received when, and what it leads to; everything else is refused."""


def kind_of(message: Message) -> str:
    """Return the word that names *message* on the wire."""
    return str(message.__struct_config__.tag)


def advance_untrusted(phase: Phase, message: Message) -> Phase:
    """Return the phase that the received *message* leads to.

    Raises:
        RemoteProtocolError: It may not come in this phase.
    """
    following = TRANSITIONS.get((phase, type(message)))
    if following is None:
        raise RemoteProtocolError(f"control: {kind_of(message)} in phase {phase}")
    return following


def pick_version(offered: list[int]) -> int | None:
    """Return the highest version that both sides speak, or None."""
    return max(set(offered).intersection(VERSIONS), default=None)


def printable(text: str) -> str:
    """Return *text* as a message may carry it: cut to size, what cannot be printed replaced.

    For text that is not ours: a machine's name, an error of the system, a label from a file.
    """
    cut = text if len(text) <= CONTROL_TEXT_MAX else text[: CONTROL_TEXT_MAX - 1] + "…"
    return "".join(character if character.isprintable() else _UNPRINTABLE for character in cut)
