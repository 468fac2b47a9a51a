"""What happens, as values: the events that a relay and an agent report.

The library reports through one callable given to `serve_relay` and
`open_tunnel`; the command line prints them (`--json` writes them as in
`Report.to_json`).  `stream` is one id in both programs: the unique id that
the relay puts into the PROXY header of each stream.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import ClassVar, cast, final

Json = str | int | float | bool | None | list["Json"] | dict[str, "Json"]


@dataclass(frozen=True, slots=True, kw_only=True)
class Event:
    """Base of all events; `kind` is the word in `--json`."""

    kind: ClassVar[str]

    def payload(self) -> dict[str, Json]:
        """Return the event's fields; the writer adds `event`, `time` and `v`."""
        found: dict[str, Json] = {}
        for field in fields(self):
            value = getattr(self, field.name)
            found[field.name] = list(cast("tuple[Json, ...]", value)) if isinstance(value, tuple) else value
        return found


EventSink = Callable[[Event], None]
"""Takes each event as it happens; must not block and must not raise."""


def ignore_events(event: Event) -> None:
    """Drop *event*: the sink of callers who do not ask for any."""


# --- the agent's ------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True, kw_only=True)
class RelayEvent(Event):
    """Base of what an agent says of one of its relays."""

    relay: str = ""
    """The relay, as it was named."""
    agent_id: str = ""
    """Which agent's: a program may have a second endpoint."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Starting(Event):
    """The agent has its key and is about to dial."""

    kind: ClassVar[str] = "starting"
    agent_id: str
    target: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Connecting(RelayEvent):
    """An attempt begins; `attempt` counts from 1 since the last stable session."""

    kind: ClassVar[str] = "connecting"
    transport: str
    attempt: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Connected(RelayEvent):
    """The relay is who it should be and has welcomed us."""

    kind: ClassVar[str] = "connected"
    relay_id: str
    session: str
    transport: str
    why: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Notice(Event):
    """Something a person should read once, for example trust on first use."""

    kind: ClassVar[str] = "notice"
    code: str
    text: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Ready(Event):
    """Visitors can come; one event for each public address."""

    kind: ClassVar[str] = "ready"
    url: str
    hostname: str
    port: int
    agent_id: str
    transport: str
    data_path: str
    certificate: str | None = None
    """Path of the endpoint's certificate (PEM), None when TLS is passed through."""
    fingerprint: str | None = None
    """SHA-256 of that certificate, as browsers show it."""
    relay: str = ""
    """The relay, as it was named."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Canary(RelayEvent):
    """A canary stream came back, or did not; its age is that of the event."""

    kind: ClassVar[str] = "canary"
    ok: bool
    rtt_ms: float | None
    """From asking for it to its return."""
    failure: str = ""
    path: str = "session"
    """The road that it took: `session` or `direct`."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class DataPath(RelayEvent):
    """The road of visitors' bytes is another one now, or for another reason."""

    kind: ClassVar[str] = "data_path"
    path: str
    """`direct`: a TCP connection for each visitor; `session`: streams inside the session; `none`."""
    why: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class OriginState(Event):
    """The origin was found up or down."""

    kind: ClassVar[str] = "origin"
    state: str
    cause: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StreamOpened(Event):
    """A visitor has come to the agent."""

    kind: ClassVar[str] = "stream_opened"
    stream: str
    visitor: str
    hostname: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class StreamClosed(Event):
    """One visitor's stream ended; `bytes_in` is what came from the visitor."""

    kind: ClassVar[str] = "stream_closed"
    stream: str
    visitor: str
    bytes_in: int
    bytes_out: int
    seconds: float
    visitor_end: str
    origin_end: str
    data_path: str
    hostname: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Disconnected(RelayEvent):
    """The session ended; the next attempt is `retry_in` seconds away (None: never)."""

    kind: ClassVar[str] = "disconnected"
    reason: str
    retry_in: float | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RejectedByRelay(RelayEvent):
    """The relay said no; `retry_in` None means that trying again is pointless."""

    kind: ClassVar[str] = "rejected"
    code: str
    reason: str
    retry_in: float | None


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NameRefused(Event):
    """A name of the agent's own is not led to it now; `reason` says which DNS record to set."""

    kind: ClassVar[str] = "name_refused"
    hostname: str
    reason: str
    relay: str = ""
    """The relay, as it was named."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Verified(Event):
    """The agent has visited its own public address from outside, and compared the key that it was shown."""

    kind: ClassVar[str] = "verified"
    hostname: str
    ok: bool | None
    """Whether it was ours; None: it could not be visited."""
    reason: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Stopping(Event):
    """The program was asked to stop and drains."""

    kind: ClassVar[str] = "stopping"
    reason: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Stopped(Event):
    """The last event of either program."""

    kind: ClassVar[str] = "stopped"
    exit_code: int


# --- both programs' ----------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Certificate(Event):
    """A certificate from an authority, and how it is with it."""

    kind: ClassVar[str] = "certificate"
    hostnames: tuple[str, ...]
    state: str
    """`loaded`, `issued`, `renewed`, `waiting` (for permission), or `failed`."""
    not_after: str = ""
    """Its end (RFC 3339), of the one in use; empty if there is none."""
    issuer: str = ""
    reason: str = ""
    """Why it waits or failed."""
    retry_in: float | None = None
    """Seconds until the next try."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Alarm(Event):
    """Something that a person must look at: a certificate that ends, a wrong key, a full disk; `code` says which."""

    kind: ClassVar[str] = "alarm"
    code: str
    text: str
    hostname: str = ""


# --- the relay's ------------------------------------------------------------------------------


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentAuthorized(Event):
    """A key has come with an invitation, and is on the list now."""

    kind: ClassVar[str] = "agent_authorized"
    agent_id: str
    names: tuple[str, ...]
    label: str
    invitation: str
    """The invitation's public id."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class TakenOver(Event):
    """The listening sockets came from the relay that ran before; it drains."""

    kind: ClassVar[str] = "taken_over"
    pid: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Listening(Event):
    """Every listener is bound; addresses are `HOST:PORT`."""

    kind: ClassVar[str] = "listening"
    agents: tuple[str, ...]
    visitors: tuple[str, ...]
    relay_id: str


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SessionOpened(Event):
    """An agent was welcomed."""

    kind: ClassVar[str] = "session_opened"
    agent_id: str
    label: str
    peer: str
    transport: str
    session: str = ""
    extension: str = ""
    """Bytes of extension 1.3.6.1.4.1.65535.1 of its certificate, in hex."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class SessionEnded(Event):
    """An agent's session ended."""

    kind: ClassVar[str] = "session_closed"
    agent_id: str
    reason: str
    session: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CarrierOpened(Event):
    """A session has one carrier more; `carriers` are there now."""

    kind: ClassVar[str] = "carrier_opened"
    agent_id: str
    session: str
    peer: str
    transport: str
    carriers: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class CarrierLost(Event):
    """A carrier of a session ended; with `carriers` 0 the agent is offline until its next one."""

    kind: ClassVar[str] = "carrier_lost"
    agent_id: str
    session: str
    transport: str
    reason: str
    carriers: int


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class AgentRefused(Event):
    """An agent was refused; `authorize` is the command that would let it in."""

    kind: ClassVar[str] = "agent_refused"
    agent_id: str
    peer: str
    code: str
    reason: str
    authorize: str
    extension: str = ""
    """As in `session_opened`."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class VisitorRefused(Event):
    """A visitor was turned away; `verdict` as in `trunnel hello`, or for example `unknown-name`, `timeout`."""

    kind: ClassVar[str] = "visitor_refused"
    peer: str
    verdict: str
    stream: str = ""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Draining(Event):
    """The relay stopped accepting; streams have until `deadline` (RFC 3339)."""

    kind: ClassVar[str] = "draining"
    deadline: str
