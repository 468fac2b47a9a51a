"""The laboratory of the rows: a real relay, real agents, an origin, and a canary that watches.

Everything is on loopback, on ports of the kernel's choice, with state in a
folder that goes away.  Each is a process of its own: ours, stopped by its
handle.  Only attackers run in the row's own process.
Attackers get source addresses of 127.0.0.0/8 other than the canary's, so that
limits per address can be told from harm to others.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import statistics
import sys
import tempfile
from collections.abc import AsyncIterator, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO

import trio

from scripts.rows.canary import SOURCE as CANARY_ADDRESS
from scripts.rows.origin import PAGE

WAIT = 30.0
"""Seconds for anything that should take one or two."""


def rss_kib(pid: int) -> int:
    """Return a process's resident memory in KiB."""
    for line in Path(f"/proc/{pid}/status").read_text().splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1])
    raise ProcessLookupError(pid)


def descriptors(pid: int) -> int:
    """Return how many descriptors a process has open."""
    return sum(1 for _ in Path(f"/proc/{pid}/fd").iterdir())


def cpu_seconds(pid: int) -> float:
    """Return the CPU time of a process, user and system."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def free_port() -> int:
    """Return a port on which nobody listens, for a moment at least."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        return int(server.getsockname()[1])


class Program:
    """One process that prints events, one JSON object a line."""

    def __init__(self, command: Sequence[str], log: IO[bytes]) -> None:
        self.process = Popen(command, stdout=PIPE, stderr=log)
        self.events: list[dict[str, object]] = []
        self._heard = trio.Event()

    @property
    def pid(self) -> int:
        """The process id (also under prlimit, which executes the program in place)."""
        return self.process.pid

    async def listen(self) -> None:
        """Collect events until the program closes its output."""
        if self.process.stdout is None:
            raise AssertionError("programs are started with a pipe")
        stream = trio.lowlevel.FdStream(os.dup(self.process.stdout.fileno()))
        rest = b""
        async with stream:
            while chunk := await stream.receive_some(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                self.events += [json.loads(line) for line in lines]
                self._heard.set()
                self._heard = trio.Event()

    async def event(self, kind: str, *, after: int = 0, **fields: object) -> dict[str, object]:
        """Wait for the first event of *kind* with these *fields* at index *after* or later."""
        with trio.fail_after(WAIT):
            while True:
                for event in self.events[after:]:
                    if event["event"] == kind and all(event.get(name) == value for name, value in fields.items()):
                        return event
                await self._heard.wait()

    def count(self, kind: str) -> int:
        """Return how many events of *kind* have come."""
        return sum(event["event"] == kind for event in self.events)

    async def wait(self) -> int:
        """Wait for its end; returns its exit status."""
        return await trio.to_thread.run_sync(self.process.wait, abandon_on_cancel=True)

    async def kill(self) -> None:
        """End it with SIGKILL, and wait for that."""
        self.process.kill()
        await self.wait()

    async def stop(self) -> int:
        """Ask it to stop, kill it if it does not; returns its exit status."""
        self.process.terminate()
        with trio.move_on_after(WAIT):
            await self.wait()
        self.process.kill()  # does nothing to a process that has ended
        status = self.process.wait()
        if self.process.stdout is not None:
            self.process.stdout.close()
        return status


class Canary:
    """What the visits of a canary have shown since the last look."""

    def __init__(self, program: Program) -> None:
        self._program = program
        self._since = 0
        self.reset()

    async def stop(self) -> None:
        """End its visits; what they have shown stays."""
        await self._program.kill()

    @property
    def latencies(self) -> list[float]:
        """Seconds of each visit that worked."""
        return [seconds for event in self._visits if isinstance(seconds := event.get("seconds"), float)]

    @property
    def failures(self) -> int:
        """Number of visits that did not."""
        return sum("error" in event for event in self._visits)

    @property
    def errors(self) -> str:
        """Why visits failed: each reason once."""
        return "".join(sorted({f", {event['error']}" for event in self._visits if "error" in event}))

    @property
    def p99(self) -> float:
        """Seconds."""
        ordered = sorted(self.latencies)
        return ordered[int(len(ordered) * 0.99)] if ordered else float("inf")

    @property
    def median(self) -> float:
        """Seconds."""
        latencies = self.latencies
        return statistics.median(latencies) if latencies else float("inf")

    @property
    def success(self) -> float:
        """Share of visits that worked."""
        visits = self._visits
        return len(self.latencies) / len(visits) if visits else 0.0

    def reset(self) -> None:
        """Forget what was measured."""
        self._since = len(self._program.events)

    @property
    def _visits(self) -> list[dict[str, object]]:
        return self._program.events[self._since :]


@dataclass
class Agent:
    """A real agent, ready."""

    program: Program
    hostname: str
    certificate: str
    agent_id: str
    state: Path

    def context(self) -> ssl.SSLContext:
        """Return the TLS context of its visitors."""
        return ssl.create_default_context(cafile=self.certificate)


class Lab:
    """A relay and what a row needs around it."""

    def __init__(self, nursery: trio.Nursery, folder: Path) -> None:
        self.nursery = nursery
        self.folder = folder
        self.relay: Program
        self.agents_port = 0
        self.visitors_port = 0
        self.relay_id = ""
        self.log = (folder / "log").open("wb")
        self._programs: list[Program] = []

    def spawn(self, *arguments: str, nofile: int | None = None) -> Program:
        """Start `trunnel … --json`; it is stopped with the lab."""
        limit = [] if nofile is None else ["prlimit", f"--nofile={nofile}:{nofile}"]
        return self.start([*limit, sys.executable, "-m", "trunnel", *arguments, "--json"])

    def start(self, command: Sequence[str]) -> Program:
        """Start a program that prints events; it is stopped with the lab."""
        program = Program(command, self.log)
        self._programs.append(program)
        self.nursery.start_soon(program.listen)
        return program

    async def start_origin(self) -> int:
        """Start an origin; returns its port."""
        listening = await self.start([sys.executable, "-m", "scripts.rows.origin"]).event("listening")
        return int(str(listening["port"]))

    async def start_canary(self, agent: Agent) -> Canary:
        """Start a canary that visits *agent*; its first visit, a cold one, does not count."""
        command = [sys.executable, "-m", "scripts.rows.canary", agent.hostname, str(self.visitors_port)]
        program = self.start([*command, agent.certificate])
        await program.event("visit")
        return Canary(program)

    async def start_relay(self, *flags: str, nofile: int | None = None) -> None:
        """Start the relay on ports of the kernel's choice (or those of *flags*)."""
        ports = [] if "--port" in flags else ["--api-port", "0", "--pub-port", "0"]
        state = ["--state-dir", str(self.folder / "relay")]
        self.relay = self.spawn("serve", *ports, *state, *flags, nofile=nofile)
        listening = await self.relay.event("listening")
        self.agents_port = _port(listening["agents"])
        self.visitors_port = _port(listening["visitors"])
        self.relay_id = str(listening["relay_id"])

    async def start_agent(self, target: int | str, *flags: str, name: str = "agent") -> Agent:
        """Start an agent and wait until visitors can come."""
        state = self.folder / name
        where = ["--server", f"127.0.0.1:{self.agents_port}", "--state-dir", str(state)]
        program = self.spawn("expose", str(target), *where, *flags)
        ready = await program.event("ready")
        certificate = str(ready.get("certificate") or "")
        return Agent(program, str(ready["hostname"]), certificate, str(ready["agent_id"]), state)

    async def connect(self, *, source: str = "127.0.0.1", port: int | None = None) -> trio.SocketStream:
        """Connect to the visitors' port from an address of 127.0.0.0/8."""
        sock = trio.socket.socket()
        await sock.bind((source, 0))
        await sock.connect(("127.0.0.1", self.visitors_port if port is None else port))
        return trio.SocketStream(sock)

    async def visit(self, agent: Agent, *, source: str = CANARY_ADDRESS, path: str = "/") -> bytes:
        """Fetch *path* through the tunnel over verified TLS; returns the body."""
        raw = await self.connect(source=source)
        tls = trio.SSLStream(raw, agent.context(), server_hostname=agent.hostname, https_compatible=True)
        async with tls:
            request = f"GET {path} HTTP/1.1\r\nHost: {agent.hostname}\r\nConnection: close\r\n\r\n"
            await tls.send_all(request.encode())
            answer = bytearray()
            while chunk := await tls.receive_some(65536):
                answer += chunk
        head, _, body = bytes(answer).partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(head[:80])
        return body

    def log_lines(self) -> int:
        """Return how many lines the programs have logged."""
        return len((self.folder / "log").read_bytes().splitlines())

    async def close(self) -> None:
        """Stop every program, the latest first: canaries before agents, agents before the relay."""
        for program in reversed(self._programs):
            await program.stop()
        self.log.close()


def _port(addresses: object) -> int:
    if not isinstance(addresses, list):
        raise TypeError("addresses come as a list")
    return int(str(addresses[0]).rpartition(":")[2])


@asynccontextmanager
async def laboratory() -> AsyncIterator[Lab]:
    """Open a lab; everything in it is stopped at the end."""
    with tempfile.TemporaryDirectory(prefix="trunnel-rows-") as folder:
        async with trio.open_nursery() as nursery:
            lab = Lab(nursery, Path(folder))
            try:
                yield lab
            finally:
                with trio.CancelScope(deadline=trio.current_time() + 2 * WAIT, shield=True):
                    await lab.close()
                nursery.cancel_scope.cancel()


class KeptAlive:
    """A visitor that asks again and again on one connection."""

    def __init__(self, tls: trio.SSLStream[trio.SocketStream], hostname: str) -> None:
        self._tls = tls
        self._request = f"GET / HTTP/1.1\r\nHost: {hostname}\r\n\r\n".encode()

    @classmethod
    async def open(cls, lab: Lab, agent: Agent) -> KeptAlive:
        """Connect and shake hands."""
        raw = await lab.connect(source=CANARY_ADDRESS)
        tls = trio.SSLStream(raw, agent.context(), server_hostname=agent.hostname, https_compatible=True)
        await tls.do_handshake()
        return cls(tls, agent.hostname)

    async def ask(self) -> bool:
        """Ask for the page; whether it came."""
        try:
            await self._tls.send_all(self._request)
            answer = bytearray()
            while not answer.endswith(PAGE):
                chunk = await self._tls.receive_some(65536)
                if not chunk:
                    return False
                answer += chunk
        except trio.BrokenResourceError:
            return False
        return True

    async def close(self) -> None:
        """Hang up."""
        await trio.aclose_forcefully(self._tls)
