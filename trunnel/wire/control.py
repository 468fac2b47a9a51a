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

from collections.abc import Mapping
from enum import StrEnum
from typing import Annotated, Final, final

import msgspec

from trunnel import errors
from trunnel.errors import RejectCode, RemoteProtocolError
from trunnel.names import KeyId
from trunnel.settings.agent import DataChoice
from trunnel.settings.limits import (
    CONTROL_ENDPOINTS_MAX,
    CONTROL_LIST_MAX,
    CONTROL_TEXT_MAX,
    RETRY_HINT_MAX,
)
from trunnel.wire.control_fields import (
    LABEL,
    DataPath,
    Direct,
    Endpoint,
    Grace,
    Instance,
    Invitation,
    Name,
    Names,
    OwnNames,
    PingId,
    Port,
    RefusedName,
    SessionLimits,
    Text,
    Version,
    Wait,
    Word,
    check,
    check_hostname,
    check_text,
)

__all__ = ["DataPath", "Direct", "Endpoint", "RefusedName", "SessionLimits"]
__all__ += ["Drain", "Endpoints", "Hello", "Issuance", "IssueEnded", "MayIssue", "Message", "Ping", "Pong", "Probe"]
__all__ += ["Probed", "Rejected", "Welcome"]
__all__ += ["PROTOCOL_VERSION", "TRANSITIONS", "VERSIONS", "Phase", "advance_untrusted", "kind_of", "pick_version"]
__all__ += ["printable"]

PROTOCOL_VERSION: Final = 1
"""The version that this code speaks."""
VERSIONS: Final = (PROTOCOL_VERSION,)
"""Every version that it can speak."""

_UNPRINTABLE: Final = "\N{REPLACEMENT CHARACTER}"


# --- messages ---------------------------------------------------------------------------------


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
    hostnames: OwnNames = []
    """Names of its own that the agent would serve; DNS has to prove each."""
    invitation: Invitation = ""
    """The secret of the invitation with which an unknown key comes; said once the relay has proved its own key."""

    def __post_init__(self) -> None:
        check_text(self.agent, self.where)
        check(ok=self.name is None or LABEL.fullmatch(self.name) is not None, what="name is not a label")
        for hostname in self.hostnames:
            check_hostname(hostname)

    def __rich_repr__(self) -> list[tuple[str, object]]:
        shown = ((field, getattr(self, field)) for field in self.__struct_fields__)
        return [(field, "***" if field == "invitation" and value else value) for field, value in shown]

    def __repr__(self) -> str:
        return f"Hello({', '.join(f'{field}={value!r}' for field, value in self.__rich_repr__())})"


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
        check_text(self.label)
        check(ok=KeyId.parse(self.relay).value == self.relay, what="relay is not a key id in its canonical form")
        for suffix in self.suffixes:
            check_hostname(suffix)


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
        check_text(self.reason)

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
        check_text(self.reason)


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
        check_text(self.failure)


@final
class Endpoints(msgspec.Struct, frozen=True, tag="endpoints", tag_field="kind"):
    """The agent's public addresses have changed; the list replaces the one before."""

    endpoints: Annotated[list[Endpoint], msgspec.Meta(max_length=CONTROL_ENDPOINTS_MAX)]
    """All of them, the one to show first."""
    refused: Annotated[list[RefusedName], msgspec.Meta(max_length=CONTROL_ENDPOINTS_MAX)] = []
    """The names of its own that the agent asked for and does not have now."""


@final
class MayIssue(msgspec.Struct, frozen=True, kw_only=True, tag="may-issue", tag_field="kind"):
    """The agent's: may I ask a certificate authority for one certificate now?"""

    id: PingId
    """Comes back in the answer."""
    names: Names
    """What the certificate is to be for."""
    renewal: bool = False
    """Whether a certificate for exactly these names is in use."""

    def __post_init__(self) -> None:
        for name in self.names:
            check_hostname(name)


@final
class Issuance(msgspec.Struct, frozen=True, tag="issuance", tag_field="kind"):
    """The relay's answer to `may-issue`: now, and it is counted, or later."""

    id: PingId
    """That of the question."""
    wait: Wait = 0.0
    """Seconds after which to ask again; 0: go ahead."""
    reason: Text = ""
    """Why not now, for people."""

    def __post_init__(self) -> None:
        check_text(self.reason)


@final
class IssueEnded(msgspec.Struct, frozen=True, tag="issue-ended", tag_field="kind"):
    """The agent's, after an `issuance` that let it go ahead."""

    id: PingId
    """That of the question."""
    issued: bool
    """Whether a certificate came of it; if not, it is not counted."""


Message = (
    Hello | Welcome | Rejected | Ping | Pong | Probe | Probed | Drain | Endpoints | MayIssue | Issuance | IssueEnded
)
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
    (Phase.RELAY_OPEN, MayIssue): Phase.RELAY_OPEN,
    (Phase.RELAY_OPEN, IssueEnded): Phase.RELAY_OPEN,
    (Phase.EXPECT_ANSWER, Welcome): Phase.AGENT_OPEN,
    (Phase.EXPECT_ANSWER, Rejected): Phase.ENDED,
    (Phase.AGENT_OPEN, Ping): Phase.AGENT_OPEN,
    (Phase.AGENT_OPEN, Pong): Phase.AGENT_OPEN,
    (Phase.AGENT_OPEN, Probed): Phase.AGENT_OPEN,
    (Phase.AGENT_OPEN, Drain): Phase.AGENT_OPEN,
    (Phase.AGENT_OPEN, Endpoints): Phase.AGENT_OPEN,
    (Phase.AGENT_OPEN, Issuance): Phase.AGENT_OPEN,
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
