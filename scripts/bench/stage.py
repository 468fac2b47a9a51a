"""Everything that one run of the benchmark starts once: origins, peers, and the visitors that disturb."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Mapping
from contextlib import ExitStack
from datetime import UTC, datetime
from enum import StrEnum
from functools import cached_property
from pathlib import Path

from scripts.bench.hello import client_hello
from scripts.bench.launch import CannotMeasureError, Program, find, folder_for_user, free_port, start, wait_for_port
from scripts.bench.peers import Peer, Place, fill
from scripts.bench.trunnel_peer import TrunnelPeer
from trunnel.identity.certstore import LeafStore
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname

ROOT = Path(__file__).parents[2]
PAGES = {"bulk": 256 << 20, "taste": 200_000}
"""Pages of nginx and their bytes; sparse files, so they are never read from a disk."""
TIMEOUT = 120.0


class Target(StrEnum):
    """What visitors speak, and who ends it."""

    PLAIN = "plain"
    """A canned hello, then plain bytes."""
    TLS = "tls"
    """TLS that the origin ends."""
    AGENT = "tls at the agent"
    """TLS that the agent ends; without a tunnel, the origin."""


class Stage:
    """Where peers are measured."""

    def __init__(self, stack: ExitStack, folder: Path) -> None:
        self.stack = stack
        self.folder = folder
        self.disturbed = ["0", "0"]
        """How many visitors stall, and how many have reset."""
        self.suites: dict[str, set[str]] = {}
        """Who ended visitors' TLS with which protocol and cipher."""
        folder.chmod(0o755)

    @cached_property
    def plain_origin(self) -> int:
        """The port of the plain origin."""
        return int(line_of(self.origin))

    @cached_property
    def origin(self) -> subprocess.Popen[str]:
        """The process of the plain origin."""
        process = self.python("origin")
        self.stack.callback(process.kill)
        return process

    @cached_property
    def nginx_origin(self) -> dict[str, object]:
        """The ports of nginx: `tls` and `plain`, the same pages."""
        if find("nginx") is None:
            raise CannotMeasureError("nginx is not installed")
        folder = folder_for_user(self.folder / "nginx-origin")
        (folder / "pages").mkdir()
        for name, size in PAGES.items():
            with (folder / "pages" / name).open("wb") as page:
                page.truncate(size)
        leaf = LeafStore(folder / "leaf", IdentityKey.generate()).leaf([Hostname("origin")], now=datetime.now(UTC))
        key = leaf.path.with_suffix(".key")
        for path in (folder / "leaf", key):
            path.chmod(0o755)
        values = {"tls": free_port(), "plain": free_port(), "certificate": leaf.path, "key": key, "folder": folder}
        fill("nginx-origin.cfg", folder / "origin.cfg", values)
        words = ["nginx", "-e", "stderr", "-p", folder, "-c", folder / "origin.cfg"]
        program = start(self.stack, "origin", words, folder)
        wait_for_port(program, int(str(values["tls"])))
        return {**values, "program": program}

    @cached_property
    def disturber(self) -> subprocess.Popen[str]:
        """The process of the visitors that nobody wants."""
        process = self.python("disturb")
        self.stack.callback(process.kill)
        return process

    def place(self, peer: Peer, target: Target) -> Place:
        """Return where *peer* is visited."""
        if target is Target.PLAIN:
            return peer.place(self.plain_origin)
        if target is Target.AGENT and isinstance(peer, TrunnelPeer):
            return peer.terminated(int(str(self.nginx_origin["plain"])))
        return peer.place(int(str(self.nginx_origin["tls"])))

    def disturb(self, place: Place | None, target: Target = Target.PLAIN) -> None:
        """Let one visitor stall at *place* and another reset again and again, or, with None, rest."""
        if place is None:
            self._say("rest")
            return
        hello = client_hello(place.host).hex() if target is Target.PLAIN else f"tls:{place.host}"
        self._say(f"beside {place.port} {hello}")

    def _say(self, line: str) -> None:
        stdin = self.disturber.stdin
        if stdin is None:
            raise AssertionError("started with a pipe")
        print(line, file=stdin, flush=True)
        self.disturbed = line_of(self.disturber).split()

    def load(self, place: Place, kind: str, *arguments: object) -> dict[str, float]:
        """Run the plain visitors to their end; raises when a stream failed."""
        words = self.command("load", kind, place.port, client_hello(place.host).hex(), *arguments)
        return checked(words)

    def encrypted(self, place: Place, amount: int, peer: str) -> dict[str, float]:
        """Fetch over TLS; raises when a stream failed."""
        figures = checked(self.command("encrypted", place.port, place.host, amount))
        self.suites.setdefault(str(figures.pop("suite")), set()).add(peer)
        return figures

    @staticmethod
    def command(module: str, *arguments: object) -> list[str]:
        """Return the words that run a module of this package."""
        return [sys.executable, "-m", f"scripts.bench.{module}", *map(str, arguments)]

    def python(self, module: str, *arguments: object) -> subprocess.Popen[str]:
        """Start a module of this package, with pipes to its input and output."""
        return subprocess.Popen(
            self.command(module, *arguments), stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
        )


def checked(words: list[str]) -> dict[str, float]:
    """Run a load; raises when it says that a stream failed."""
    done = subprocess.run(words, capture_output=True, text=True, timeout=TIMEOUT, cwd=ROOT, check=False)
    if done.returncode:
        raise CannotMeasureError((done.stderr.strip().splitlines() or ["the load ended"])[-1])
    figures: dict[str, float] = json.loads(done.stdout)
    return without_failures(figures)


def without_failures(figures: dict[str, float]) -> dict[str, float]:
    """Return *figures*; raises when a stream failed."""
    if figures["failed"]:
        raise CannotMeasureError(f"{figures['failed']:.0f} streams failed")
    return figures


def line_of(process: subprocess.Popen[str]) -> str:
    """Return the next line that a program prints."""
    line = process.stdout.readline() if process.stdout else ""
    if not line:
        raise CannotMeasureError(f"{process.args!r} ended with {process.wait()}")
    return line


def pids(programs: Mapping[str, Program]) -> dict[str, int]:
    """Return the main processes by role."""
    return {role: program.pid for role, program in programs.items()}
