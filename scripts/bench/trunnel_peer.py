"""trunnel as a peer: one relay for each transport and data path, one agent for each origin.

Everything is as installed: default settings, all limits on.  The agents'
events (`--json`, the interface of sidecars) go to a file; they tell when an
agent is ready, and over which path each visitor's bytes really went.
"""

from __future__ import annotations

import json
import re
import subprocess
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

from scripts.bench.launch import CannotMeasureError, Program, folder_for_user, free_port, start, wait_for_port
from scripts.bench.peers import Place

READY = 30.0
"""Seconds for an agent to be ready."""
SETTLE = 0.7
"""Seconds after that: the data path is chosen, connections are parked."""
PAUSE = 0.02


@dataclass(frozen=True)
class Variant:
    """How agents reach their relay, and over which path visitors' bytes go."""

    name: str
    transport: str = "auto"
    data: str = "auto"

    @property
    def options(self) -> list[str]:
        """For `trunnel expose`; what is a default is not said."""
        said = {"--transport": self.transport, "--data": self.data}
        return [word for option, value in said.items() if value != "auto" for word in (option, value)]


TRANSPORTS = ("quic", "h2", "yamux")
VARIANTS = (
    Variant("trunnel"),
    *(Variant(f"trunnel-{each}-{data}", each, data) for data in ("session", "direct") for each in TRANSPORTS),
)


@cache
def data_paths(command: Path) -> frozenset[str]:
    """Return what `--data` can be: a version without `direct` has no figures for it."""
    said = subprocess.run([command, "expose", "--help"], capture_output=True, text=True, check=True).stdout
    found = re.search(r"--data\s+(\S+)", said)
    return frozenset(found.group(1).split("|")) if found else frozenset()


@dataclass
class TrunnelPeer:
    """A relay and its agents."""

    variant: Variant
    command: Path
    stack: ExitStack
    folder: Path
    programs: dict[str, Program] = field(default_factory=dict)
    places: dict[str, Place] = field(default_factory=dict)
    agents_port: int = 0
    visitors_port: int = 0

    @property
    def name(self) -> str:
        """As in the report."""
        return self.variant.name

    @property
    def missing(self) -> list[str]:
        """Data paths that this version does not have."""
        there = data_paths(self.command)
        return [] if self.variant.data in there else [f"trunnel expose --data {self.variant.data}"]

    def place(self, origin: int) -> Place:
        """Return where visitors reach the origin at this port, their TLS passed through."""
        return self.agent(origin, "agent", "--tls-passthrough")

    def terminated(self, origin: int) -> Place:
        """Return where visitors reach the origin at this port, their TLS ended at the agent."""
        return self.agent(origin, "agent-tls")

    def agent(self, origin: int, kind: str, *options: str) -> Place:
        """Start an agent if there is none of this kind for this origin."""
        name = f"{kind} {origin}"
        if name not in self.places:
            self._start_relay()
            self.places[name] = self._start_agent(name, [origin, *options])
        return self.places[name]

    def _start_relay(self) -> None:
        if "relay" in self.programs:
            return
        folder = folder_for_user(self.folder / f"{self.name}-relay")
        self.agents_port, self.visitors_port = free_port(), free_port()
        ports = ["--api-port", self.agents_port, "--pub-port", self.visitors_port]
        words = [self.command, "serve", *ports, "--state-dir", folder / "state"]
        self.programs["relay"] = start(self.stack, "relay", words, folder, interpreted=True)
        wait_for_port(self.programs["relay"], self.visitors_port)

    def _start_agent(self, name: str, words: list[object]) -> Place:
        folder = folder_for_user(self.folder / f"{self.name}-{name}".replace(" ", "-"))
        where = ["--server", f"127.0.0.1:{self.agents_port}", "--state-dir", folder / "state"]
        command = [self.command, "expose", *words, "--json", *where, *self.variant.options]
        program = start(self.stack, name, command, folder, interpreted=True)
        self.programs[name] = program
        ready = wait_for_event(program, "ready")
        time.sleep(SETTLE)
        return Place(self.visitors_port, str(ready["hostname"]))

    def relay_id(self) -> str:
        """Return the relay's id, as an agent saw it."""
        agent = next(program for name, program in self.programs.items() if name.startswith("agent"))
        return str(wait_for_event(agent, "connected")["relay_id"])

    def paths_taken(self) -> Counter[str]:
        """Count visitors by the path that their bytes took, as the agents' closing records say."""
        agents = (program for name, program in self.programs.items() if name.startswith("agent"))
        ended = (event for agent in agents for event in events(agent) if event["event"] == "stream_closed")
        return Counter(str(event["data_path"]) for event in ended)


def events(program: Program) -> Iterator[dict[str, object]]:
    """Yield the events that a program has printed so far."""
    for line in program.output.read_text().splitlines(keepends=True):
        if line.endswith("\n"):
            yield json.loads(line)


def wait_for_event(program: Program, kind: str) -> dict[str, object]:
    """Return the first event of *kind*; raises when the program ends or is late."""
    deadline = time.monotonic() + READY
    while time.monotonic() < deadline:
        for event in events(program):
            if event["event"] == kind:
                return event
        if program.process.poll() is not None:
            raise program.complain(f"ended with {program.process.returncode}")
        time.sleep(PAUSE)
    raise CannotMeasureError(f"{program.name}: no event {kind!r} in {READY:.0f} s")
