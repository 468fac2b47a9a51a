"""`trunnel health`: whether the relay or the agent on this machine serves; for supervisors of containers.

A relay is healthy if it answers: each port that it listens on is sent a
ClientHello and must return a TLS record.  The name asked for is one that no
agent can have (RFC 6761 §6.4), so the answer is an alert, and it has come all
the way: accepted, read, parsed, looked up.  A relay writes where it listens to
`listening` in its state folder, so that the check needs no flags of `serve`
and follows a port of the system's choice.  A file of a relay that was killed
stays; nobody answers there.

An agent is healthy if visitors are served: a canary (`relay.canary`: a visitor
that the relay makes itself, over the road that visitors take) has come through
within `HEALTH_CANARY_AGE` seconds.  With each the running agent touches
`KEY.served` in its state folder, and takes it away at start and end.  Through
any relay will do.  Agents that share both key and folder (`--share`) share the
file too.  An agent whose origin is down is healthy: it is the origin that is not.

The age is by the clock that also stamps files.  Where that clock is set back or
forth, the check may err until the next canary.
"""

from __future__ import annotations

import logging
import os
import ssl
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager, suppress
from datetime import datetime
from pathlib import Path
from typing import Final

import msgspec
import trio
import typer
from trio import socket as tsocket

from trunnel.clock import utc_now
from trunnel.errors import ConfigError, ConnectError
from trunnel.events import Canary, Event, EventSink, Listening, Starting
from trunnel.identity.files import atomic_write, read_guarded
from trunnel.settings import limits
from trunnel.settings.agent import AgentSettings
from trunnel.settings.options import Flag
from trunnel.settings.paths import Program
from trunnel.streams.nursery import bare_nursery

logger = logging.getLogger(__name__)

LISTENING_FILE: Final = "listening"
"""Where a relay listens, in its state folder."""
NOBODY: Final = "health.invalid"
"""The name asked for; seen in the relay's log as one without an owner."""
_WILDCARDS: Final = {"0.0.0.0": "127.0.0.1", "::": "::1"}  # noqa: S104 - nothing is bound here
_RECORD_TYPES: Final = frozenset({21, 22})  # alert and handshake (RFC 8446 §5.1)
_RECORD_MAJOR: Final = 3  # the first byte of every record's version, SSL 3.0 to TLS 1.3


class Places(msgspec.Struct, frozen=True, kw_only=True):
    """What is in the relay's file; more fields may come."""

    agents: tuple[str, ...]
    """Addresses for agents, `HOST:PORT`."""
    visitors: tuple[str, ...]
    """Addresses for visitors, `HOST:PORT`."""
    relay_id: str = ""
    """The key that agents are shown."""

    @property
    def by_port(self) -> dict[int, list[str]]:
        """The hosts to connect to, by port."""
        found: dict[int, list[str]] = {}
        for place in dict.fromkeys((*self.agents, *self.visitors)):
            host, _, port = place.rpartition(":")
            bare = host.strip("[]")
            found.setdefault(int(port), []).append(_WILDCARDS.get(bare, bare))
        return found


# --- what the running programs leave -----------------------------------------------------------


def noting_places(on_event: EventSink, state_dir: Path) -> EventSink:
    """Return a sink that passes events on and writes where the relay listens, once it does.

    A file that cannot be written (a full disk) is said, and stops nothing.
    """

    def note(event: Event) -> None:
        if isinstance(event, Listening):
            content = msgspec.json.encode(Places(agents=event.agents, visitors=event.visitors, relay_id=event.relay_id))
            try:
                atomic_write(state_dir / LISTENING_FILE, content)
            except ConfigError as exc:
                logger.warning("no-health-file", extra={"reason": str(exc)})
        on_event(event)

    return note


def served_file(settings: AgentSettings) -> Path:
    """Return the file that an agent touches with each canary."""
    return settings.state_dir / f"{settings.key_path.stem}.served"


@asynccontextmanager
async def noting_canaries(on_event: EventSink, served: Path) -> AsyncIterator[EventSink]:
    """Yield a sink that passes events on and touches *served* for each canary that came through.

    Of two endpoints the first one's count: the file is that of its key.  The disk is touched in
    a thread: the sink never waits for it.

    Cancellation: *served* is gone, unless the disk hangs.
    """
    send, receive = trio.open_memory_channel[None](1)  # one touch says as much as two

    first: list[str] = []

    def note(event: Event) -> None:
        if isinstance(event, Starting):
            first.append(event.agent_id)
        if isinstance(event, Canary) and event.ok and event.agent_id in (*first[:1], ""):
            with suppress(trio.WouldBlock):
                send.send_nowait(None)
        on_event(event)

    async def touch_for_each() -> None:
        async for _ in receive:
            with suppress(OSError):  # it grows old, and the check says so
                await trio.to_thread.run_sync(_touch, served, abandon_on_cancel=True)

    _forget(served)
    try:
        async with bare_nursery() as nursery:
            nursery.start_soon(touch_for_each)
            yield note
            nursery.cancel_scope.cancel()
    finally:
        _forget(served)


def _touch(path: Path) -> None:
    path.touch(mode=0o600)


def _forget(path: Path) -> None:
    with suppress(OSError):
        path.unlink(missing_ok=True)


# --- the check ---------------------------------------------------------------------------------


def run_health(program: str, *, flags: Mapping[str, Flag]) -> None:
    """Say whether *program*, `relay` or `agent`, serves.

    Raises:
        ConfigError: The options are wrong, or nothing says where the relay listens.
        ConnectError: It does not serve; the text says why.
    """
    from trunnel.settings.load import load_agent, load_state_dir

    if Program(program) is Program.AGENT:
        age = canary_age(_served_here(load_agent(flags).settings), now=utc_now())
        typer.echo(f"healthy: a canary came through {age:.0f} s ago")
    else:
        places = read_places(load_state_dir(Program.RELAY, flags) / LISTENING_FILE)
        answered = trio.run(probe, places)
        typer.echo(f"healthy: answered at {', '.join(answered)}")


def _served_here(settings: AgentSettings) -> Path:
    """Return the file of the agent that is meant: if it is not said which, that of the only one that runs."""
    served = served_file(settings)
    running = [served] if served.exists() else list(served.parent.glob("*.served"))
    return running[0] if len(running) == 1 else served


def canary_age(served: Path, *, now: datetime) -> float:
    """Return the seconds since a canary came through, as the file *served* says.

    Raises:
        ConnectError: It is too long ago, or none has.
    """
    try:
        age = now.timestamp() - served.stat().st_mtime
    except OSError as exc:
        raise ConnectError(f"not serving: no canary has come through yet ({served}: {exc.strerror})") from exc
    if abs(age) > limits.HEALTH_CANARY_AGE:
        raise ConnectError(f"not serving: the last canary came through {age:.0f} s ago")
    return max(age, 0.0)


def read_places(path: Path) -> Places:
    """Return where the relay listens.

    Raises:
        ConnectError: No relay has listened with this state folder.
        ConfigError: The file cannot be used.
    """
    content = read_guarded(path, limit=limits.CONFIG_FILE_MAX, secret=False)
    if content is None:
        raise ConnectError(f"not serving: no relay has listened yet ({path} is missing)")
    try:
        return msgspec.json.decode(content, type=Places)
    except msgspec.DecodeError as exc:
        raise ConfigError("", f"{path}: {exc}") from exc


async def probe(places: Places) -> list[str]:
    """Ask every port of a relay; returns the addresses that answered.

    A port of which one address answers is well: a host may have lost its IPv6.

    Raises:
        ConnectError: A port does not answer within `HEALTH_TIMEOUT`, at none of its addresses.
    """
    hello = make_hello(NOBODY)
    answered: list[str] = []
    for port, hosts in places.by_port.items():
        failures: list[str] = []
        for host in hosts:
            failure = await _ask(host, port, hello)
            shown = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
            if failure:
                failures.append(f"{shown}: {failure}")
            else:
                answered.append(shown)
        if len(failures) == len(hosts):
            raise ConnectError(f"not serving: {'; '.join(failures)}")
    return answered


async def _ask(host: str, port: int, hello: bytes) -> str:
    """Return why a ClientHello was not answered, or an empty text."""
    family = tsocket.AF_INET6 if ":" in host else tsocket.AF_INET
    with trio.move_on_after(limits.HEALTH_TIMEOUT):
        try:
            with tsocket.socket(family) as sock:
                await sock.connect((host, port))
                stream = trio.SocketStream(sock)
                await stream.send_all(hello)
                answer = await stream.receive_some(2)
        except OSError as exc:
            return os.strerror(exc.errno) if exc.errno else str(exc)
        except trio.BrokenResourceError:
            return "the connection was reset"
        if len(answer) == 2 and answer[0] in _RECORD_TYPES and answer[1] == _RECORD_MAJOR:
            return ""
        return "it does not answer in TLS" if answer else "the connection was closed"
    return f"no answer within {limits.HEALTH_TIMEOUT:.0f} s"


def make_hello(name: str) -> bytes:
    """Return a ClientHello for *name*, as a record.

    The context verifies nothing because it never meets a certificate: all that
    is made with it is this hello.
    """
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=name).do_handshake()
    return outgoing.read()
