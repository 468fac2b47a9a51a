"""The programs that are measured: started, listened to, stopped."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import UTC, datetime
from pathlib import Path

from trunnel.identity.certstore import LeafStore
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname

TIMEOUT = 300.0
TRANSPORTS = ("h2", "yamux", "quic")


def python(module: str, *arguments: object) -> list[str]:
    """Return the command that runs a module of this package."""
    return [sys.executable, "-m", f"scripts.bench.{module}", *map(str, arguments)]


@contextmanager
def background(command: list[str], *, log: bool = True) -> Iterator[subprocess.Popen[str]]:
    """Run a program until the end of the block; its standard error is shown, unless there is to be no *log*."""
    errors = None if log else subprocess.DEVNULL
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=errors, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            try:
                process.communicate(timeout=10)
            except subprocess.TimeoutExpired:
                process.kill()


def run(command: list[str]) -> str:
    """Run a program to its end and return what it printed."""
    return subprocess.run(command, check=True, capture_output=True, text=True, timeout=TIMEOUT).stdout


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the next line that a program prints."""
    if process.stdout is None:
        raise AssertionError("programs are started with a pipe")
    line = process.stdout.readline()
    if not line:
        raise SystemExit(f"{process.args!r} ended with {process.wait()}")
    return line


def event_of(process: subprocess.Popen[str], kind: str) -> dict[str, object]:
    """Return the next event of *kind*."""
    while True:
        event = json.loads(line_of(process))
        if event["event"] == kind:
            return dict(event)


class Tunnel:
    """A relay, an origin, and an agent for each transport, visitors in the session; else default settings, limits on.

    Beside them the same path over bare TLS (`bare_tls`).
    """

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        leaf = LeafStore(folder / "origin", IdentityKey.generate()).leaf([Hostname("origin")], now=datetime.now(UTC))
        trunnel = [sys.executable, "-m", "trunnel"]
        serve = ["serve", "--json", "--api-port", "0", "--pub-port", "0", "--state-dir", str(folder / "relay")]
        relay = stack.enter_context(background([*trunnel, *serve], log=False))
        listening = event_of(relay, "listening")
        agents, visitors = listening["agents"], listening["visitors"]
        if not isinstance(agents, list) or not isinstance(visitors, list):
            raise TypeError("addresses come as lists")
        self.port = int(visitors[0].rpartition(":")[2])
        origin = stack.enter_context(background(python("tls_origin", leaf.path, leaf.path.with_suffix(".key"))))
        origin_port = line_of(origin).strip()
        self.hosts: dict[str, str] = {}
        """The name to visit for each transport."""
        for transport in TRANSPORTS:
            where = ["--server", agents[0], "--state-dir", str(folder / transport), "--transport", transport]
            where += ["--data", "session"]
            expose = ["expose", origin_port, "--json", "--tls-passthrough", *where]
            agent = stack.enter_context(background([*trunnel, *expose], log=False))
            self.hosts[transport] = str(event_of(agent, "ready")["hostname"])
        bare = stack.enter_context(background(python("bare_tls", "relay")))
        agents_port, self.bare_port = line_of(bare).split()
        stack.enter_context(background(python("bare_tls", "agent", agents_port, origin_port)))
