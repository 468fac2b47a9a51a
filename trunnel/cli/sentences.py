"""Events as sentences for people, and the commands that they can paste.

Pure: an event in, lines out.  What strangers sent is escaped here, so a printer
may write the lines as they are.
"""

from __future__ import annotations

import shlex
from functools import singledispatch
from typing import Final

from trunnel import events
from trunnel.cli.lines import printable
from trunnel.events import Event

_ROADS: Final = {"direct": "directly", "session": "through the session", "none": "nowhere"}
"""What the roads of visitors' bytes are called."""
KIB: Final = 1024
"""Bytes in the smallest unit that sizes are shown in."""


@singledispatch
def describe(event: Event) -> list[str]:
    """Return *event* as lines for people; none for what a person need not know."""
    del event
    return []


@describe.register
def _(event: events.Starting) -> list[str]:
    return [f"exposing {printable(event.target)}", f"ID: {event.agent_id}"]


@describe.register
def _(event: events.Connecting) -> list[str]:
    over = "" if event.transport == "auto" else f" over {event.transport}"
    return [printable(f"connecting to {event.relay}{over}")] if event.attempt == 1 else []


@describe.register
def _(event: events.Connected) -> list[str]:
    why = f" ({event.why})" if event.why else ""
    return [printable(f"connected to {event.relay} over {event.transport}{why}")]


@describe.register
def _(event: events.Notice) -> list[str]:
    return [f"note: {printable(line)}" for line in event.text.splitlines()]


@describe.register
def _(event: events.Ready) -> list[str]:
    lines = [f"URL: {printable(event.url)}", f"try: {printable(curl_command(event))}"]
    if event.fingerprint is not None:
        lines.append(f"certificate SHA-256: {printable(event.fingerprint)}")
    return lines


@describe.register
def _(event: events.Canary) -> list[str]:
    if event.ok:
        return []
    which = "visitors" if event.path == "session" else "visitors on data connections"
    return [printable(f"{which} would not be served now: {event.failure}")]


@describe.register
def _(event: events.DataPath) -> list[str]:
    return [printable(f"visitors' bytes go {_ROADS.get(event.path, event.path)}: {first_line(event.why)}")]


@describe.register
def _(event: events.OriginState) -> list[str]:
    cause = f": {event.cause}" if event.cause else ""
    return [printable(f"local service {event.state}{cause}")]


@describe.register
def _(event: events.StreamClosed) -> list[str]:
    return [visit(event)]


@describe.register
def _(event: events.Disconnected) -> list[str]:
    return [f"disconnected: {first_line(event.reason)}; {retry_text(event.retry_in)}"]


@describe.register
def _(event: events.RejectedByRelay) -> list[str]:
    first, *more = event.reason.splitlines() or [""]
    refusal = f"the relay refused ({printable(event.code)}): {printable(first)}; {retry_text(event.retry_in)}"
    return [refusal, *(f"  {printable(line)}" for line in more)]


@describe.register
def _(event: events.NameRefused) -> list[str]:
    first, *more = event.reason.splitlines() or [""]
    return [printable(f"{event.hostname} is not served: {first}"), *(f"  {printable(line)}" for line in more)]


@describe.register
def _(event: events.Certificate) -> list[str]:
    names = ", ".join(event.hostnames)
    until = f", valid until {event.not_after}" if event.not_after else ""
    match event.state:
        case "loaded" | "issued" | "renewed":
            return [printable(f"certificate {event.state} for {names} ({event.issuer}{until})")]
        case "waiting":
            return [
                printable(
                    f"certificate for {names} has to wait: {first_line(event.reason)}; {retry_text(event.retry_in)}"
                )
            ]
        case _:
            return [
                printable(f"no new certificate for {names}: {first_line(event.reason)}{_again(event.retry_in)}{until}")
            ]


def _again(retry_in: float | None) -> str:
    """Say when there is another try, where one is planned: a person's file is read again when it has changed."""
    return "" if retry_in is None else f"; {retry_text(retry_in)}"


@describe.register
def _(event: events.Alarm) -> list[str]:
    return [f"ALARM: {printable(line)}" for line in event.text.splitlines()]


@describe.register
def _(event: events.AgentAuthorized) -> list[str]:
    names = f" as {', '.join(event.names)}" if event.names else ""
    return [printable(f"agent {event.agent_id} came with invitation {event.invitation} and may connect{names}")]


@describe.register
def _(event: events.TakenOver) -> list[str]:
    return [f"took over from process {event.pid}, which finishes what it has"]


@describe.register
def _(event: events.Stopping) -> list[str]:
    return [f"stopping: {printable(event.reason)}"]


@describe.register
def _(event: events.Stopped) -> list[str]:
    del event
    return ["stopped"]


@describe.register
def _(event: events.Listening) -> list[str]:
    return [
        f"relay {event.relay_id}",
        f"agents connect to {', '.join(event.agents)}",
        f"visitors connect to {', '.join(event.visitors)}",
    ]


@describe.register
def _(event: events.SessionOpened) -> list[str]:
    label = f" ({event.label})" if event.label else ""
    return [printable(f"agent {event.agent_id}{label} connected from {event.peer} over {event.transport}")]


@describe.register
def _(event: events.SessionEnded) -> list[str]:
    return [printable(f"agent {event.agent_id} gone: {event.reason}")]


@describe.register
def _(event: events.CarrierOpened) -> list[str]:
    if event.carriers == 1:
        return []  # said with the session, or the return of an agent that was hardly away
    return [printable(f"agent {event.agent_id} has {event.carriers} connections, one more over {event.transport}")]


@describe.register
def _(event: events.CarrierLost) -> list[str]:
    left = f"{event.carriers} left" if event.carriers else "none left, waiting for its return"
    return [printable(f"agent {event.agent_id} lost a connection over {event.transport} ({left}): {event.reason}")]


@describe.register
def _(event: events.AgentRefused) -> list[str]:
    lines = [printable(f"agent {event.agent_id} from {event.peer} refused ({event.code}): {event.reason}")]
    if event.authorize:
        lines.append(f"  to let it in: {printable(event.authorize)}")
    return lines


@describe.register
def _(event: events.Draining) -> list[str]:
    return [f"draining until {event.deadline}; signal again to stop at once"]


def curl_command(ready: events.Ready) -> str:
    """Return a command that visits the endpoint and trusts exactly its certificate.

    Few resolvers know `*.localhost` (RFC 6761 §6.3 only says they should), so
    there curl is told the address.
    """
    words = ["curl"]
    if ready.hostname == "localhost" or ready.hostname.endswith(".localhost"):
        words += ["--resolve", f"{ready.hostname}:{ready.port}:127.0.0.1"]
    if ready.certificate is not None:
        words += ["--cacert", ready.certificate]
    return shlex.join([*words, ready.url])


def expose_command(listening: events.Listening, *, host: str) -> str:
    """Return the command that exposes port 3000 through this relay, ready to paste."""
    address, _, port = listening.agents[0].rpartition(":")
    return f"trunnel expose 3000 --server {host or address}:{port} --relay-pin {listening.relay_id}"


def size(count: int) -> str:
    """Return a number of bytes as people write it."""
    if count < KIB:
        return f"{count} B"
    amount = float(count)
    for unit in ("KiB", "MiB", "GiB"):
        amount /= KIB
        if amount < KIB:
            return f"{amount:.1f} {unit}"
    return f"{amount / KIB:.1f} TiB"


def visit(closed: events.StreamClosed) -> str:
    """Return one visitor's stream as a line."""
    moved = f"{size(closed.bytes_in)} in, {size(closed.bytes_out)} out, {closed.seconds:.1f} s"
    return printable(f"{closed.visitor}  {moved}  ({closed.visitor_end}/{closed.origin_end})")


def first_line(text: str) -> str:
    """Return the sentence of a reason without the hints that follow it, escaped."""
    return printable(next(iter(text.splitlines()), ""))


def retry_text(seconds: float | None) -> str:
    """Word when the next attempt comes."""
    return "not trying again" if seconds is None else f"trying again in {seconds:.0f} s"
