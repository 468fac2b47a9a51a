"""Who is measured: each peer leads from a plain port to a plain port, and so is one line of a table.

A peer has a name, the programs that it needs, and what to start, in order, so
that connections to $port arrive at $origin.  Words and configurations are
templates over $port, $origin, $control (the port between a tunnel's two
programs) and $folder.  trunnel is in `trunnel_peer`.
"""

from __future__ import annotations

import string
import subprocess
from collections.abc import Callable, Mapping
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Protocol

from scripts.bench.launch import Program, as_user, find, folder_for_user, free_port, start, wait_for_port

TEMPLATES = Path(__file__).parent
STREAM_MODULE = Path("/usr/lib/nginx/modules/ngx_stream_module.so")
"""Where Debian keeps it; elsewhere it is built in."""
PORT_NAME = "bench.localhost"
"""What visitors of peers that route by port ask for."""


@dataclass(frozen=True)
class Place:
    """Where visitors go."""

    port: int
    host: str = PORT_NAME


class Peer(Protocol):
    """Something between visitors and an origin."""

    @property
    def name(self) -> str:
        """As in the report."""

    @property
    def missing(self) -> list[str]:
        """Programs that are not installed."""

    @property
    def programs(self) -> Mapping[str, Program]:
        """What runs, by its role."""

    def place(self, origin: int) -> Place:
        """Return where visitors reach the origin at this port; starts what is needed the first time."""


@dataclass(frozen=True)
class Step:
    """One program of a peer."""

    role: str
    words: str
    templates: tuple[str, ...] = ()
    """Configurations that are written to $folder first."""
    listens: str = "port"
    """The port that it opens; the next step waits for it."""
    once: bool = False
    """Whether one serves all origins, because its port cannot be chosen."""


@dataclass(frozen=True)
class Recipe:
    """How to start a peer."""

    name: str
    steps: tuple[Step, ...]
    prepare: Callable[[Path], None] = lambda _folder: None


def make_ssh_keys(folder: Path) -> None:
    """Make throw-away keys."""
    for name in ("host", "user"):
        words = ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", str(folder / name)]
        subprocess.run([*as_user(), *words], check=True)


SSH = (
    "ssh -N -F none -i $folder/user -p $control -o BatchMode=yes -o StrictHostKeyChecking=no "
    "-o UserKnownHostsFile=/dev/null -o ExitOnForwardFailure=yes -o LogLevel=ERROR "
    "-R 127.0.0.1:$port:127.0.0.1:$origin 127.0.0.1"
)

RECIPES = (
    Recipe("haproxy", (Step("haproxy", "haproxy -db -f $folder/haproxy.cfg", ("haproxy.cfg",)),)),
    Recipe(
        "haproxy-splice",
        (Step("haproxy", "haproxy -db -f $folder/haproxy-splice.cfg", ("haproxy-splice.cfg",)),),
    ),
    Recipe(
        "nginx",
        (Step("nginx", "nginx -e stderr -p $folder -c $folder/nginx-preread.cfg", ("nginx-preread.cfg",)),),
    ),
    Recipe(
        "ssh",
        (
            Step("sshd", "sshd -D -e -f $folder/sshd.cfg", ("sshd.cfg",), "control"),
            Step("ssh", SSH),
        ),
        make_ssh_keys,
    ),
    Recipe(
        "frp",
        (
            Step("frps", "frps -c $folder/frps.cfg", ("frps.cfg",), "control"),
            Step("frpc", "frpc -c $folder/frpc.cfg", ("frpc.cfg",)),
        ),
    ),
    Recipe(
        "rathole",
        (
            Step("server", "rathole --server $folder/rathole-server.cfg", ("rathole-server.cfg",), "control"),
            Step("client", "rathole --client $folder/rathole-client.cfg", ("rathole-client.cfg",)),
        ),
    ),
    Recipe(
        "chisel",
        (
            Step("server", "chisel server --reverse --host 127.0.0.1 --port $control", listens="control"),
            Step("client", "chisel client 127.0.0.1:$control R:127.0.0.1:$port:127.0.0.1:$origin"),
        ),
    ),
    Recipe(
        "bore",
        (
            Step("server", "bore server --bind-addr 127.0.0.1", listens="control", once=True),
            Step("client", "bore local $origin --local-host 127.0.0.1 --to 127.0.0.1 --port $port"),
        ),
    ),
)
BORE_PORT = 7_835
"""The control port of bore, which cannot be chosen."""


class NoHop:
    """Visitors reach the origin itself."""

    name = "none"

    def __init__(self) -> None:
        self.missing: list[str] = []
        self.programs: dict[str, Program] = {}

    def place(self, origin: int) -> Place:
        """Return the origin's own port."""
        return Place(origin)


@dataclass
class RecipePeer:
    """A peer of the table: one set of its programs for each origin."""

    recipe: Recipe
    stack: ExitStack
    folder: Path
    programs: dict[str, Program] = field(default_factory=dict)
    places: dict[int, Place] = field(default_factory=dict)

    @property
    def name(self) -> str:
        """As in the report."""
        return self.recipe.name

    @cached_property
    def missing(self) -> list[str]:
        """Programs that are not installed."""
        needed = [step.words.split()[0] for step in self.recipe.steps]
        return [program for program in needed if find(program) is None]

    def place(self, origin: int) -> Place:
        """Return where visitors reach the origin at this port; starts what is needed the first time."""
        if origin not in self.places:
            self.places[origin] = self._start(origin)
        return self.places[origin]

    def _start(self, origin: int) -> Place:
        folder = folder_for_user(self.folder / f"{self.name}-{origin}-{len(self.programs)}")
        control = BORE_PORT if self.name == "bore" else free_port()
        values: dict[str, object] = {"origin": origin, "folder": folder, "port": free_port(), "control": control}
        values["load_stream"] = f"load_module {STREAM_MODULE};" if STREAM_MODULE.exists() else ""
        self.recipe.prepare(folder)
        for step in self.recipe.steps:
            if step.once and step.role in self.programs:
                continue
            for template in step.templates:
                fill(template, folder / template, values)
            role = step.role if not self.places else f"{step.role} {origin}"
            words = string.Template(step.words).substitute(values).split()
            program = start(self.stack, role, words, folder)
            self.programs[role] = program
            wait_for_port(program, int(str(values[step.listens])))
        return Place(int(str(values["port"])))


def fill(template: str, path: Path, values: Mapping[str, object]) -> None:
    """Write a configuration."""
    path.write_text(string.Template((TEMPLATES / template).read_text()).substitute(values))
