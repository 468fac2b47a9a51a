"""Programs on the hosts of a network: started, watched, and stopped by their process ids.

Each event that a program prints is stamped with this machine's monotonic
clock when it arrives, so that what a relay said and what a canary saw can be
laid side by side.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager, suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from subprocess import PIPE, Popen
from typing import IO, Any

import trio

from scripts.lab.hosts import RELAY, LabError, Network
from scripts.lab.roads import Road
from scripts.lab.transfer import Job, command
from scripts.lab.visits import Where, fetch

ROOT = Path(__file__).parents[2]
WAIT = 30.0
"""Seconds for anything that should take one or two."""
STOP_WAIT = 5.0
"""Seconds from the request to stop until a program is killed."""
LOG_SHOWN = 30
"""Last lines of the programs' logs that are shown when a row breaks."""
AGENTS_PORT = 4433
VISITORS_PORT = 8443

STARTING = trio.CapacityLimiter(3)
"""Relays and agents that start at a time: rows that begin together must not judge each other's imports."""
RETIRED = "the peer closed the connection"
"""How a carrier ends that its agent did not need any more, while there are others."""

Record = dict[str, Any]


class Program:
    """One process that prints events, one JSON object a line."""

    def __init__(self, command: Sequence[str], log: IO[bytes]) -> None:
        environment = {name: value for name, value in os.environ.items() if not name.startswith("TRUNNEL_")}
        environment |= {"PYTHONUNBUFFERED": "1", "PYTHONPATH": str(ROOT)}
        command = ["setpriv", "--pdeathsig", "KILL", *command]  # it ends with the thread that starts it: the main one
        self._process = Popen(command, stdin=PIPE, stdout=PIPE, stderr=log, env=environment, cwd=ROOT)
        self._heard = trio.Event()
        self._ended = False
        self.events: list[Record] = []
        """All so far; `at` is when one came."""

    @property
    def pid(self) -> int:
        """The process id: what wraps the program executes it in place."""
        return self._process.pid

    @property
    def running(self) -> bool:
        """Whether it has not ended."""
        return self._process.poll() is None

    @property
    def threads(self) -> int:
        """How many threads it has."""
        return sum(1 for _ in Path(f"/proc/{self.pid}/task").iterdir())

    def tell(self, **fields: object) -> None:
        """Write one JSON line to its input."""
        if self._process.stdin is None:
            raise AssertionError("programs are started with a pipe")
        self._process.stdin.write(json.dumps(fields).encode() + b"\n")
        self._process.stdin.flush()

    def signal(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._process.send_signal(number)

    async def listen(self) -> None:
        """Collect events until the program closes its output."""
        if self._process.stdout is None:
            raise AssertionError("programs are started with a pipe")
        rest = b""
        async with trio.lowlevel.FdStream(os.dup(self._process.stdout.fileno())) as stream:
            while chunk := await stream.receive_some(65536):
                *lines, rest = (rest + chunk).split(b"\n")
                now = time.monotonic()
                self.events += [{**json.loads(line), "at": now} for line in lines]
                self._heard.set()
                self._heard = trio.Event()
        self._ended = True
        self._heard.set()

    async def event(self, *kinds: str, after: int = 0, wait: float = WAIT) -> Record:
        """Wait for the first event of one of *kinds* at index *after* or later."""
        with trio.fail_after(wait):
            while True:
                for event in self.events[after:]:
                    if event["event"] in kinds:
                        return event
                if self._ended:
                    raise LabError(f"a program ended before it said {' or '.join(kinds)}")
                await self._heard.wait()

    def said(self, *kinds: str, after: int = 0) -> list[Record]:
        """Return the events of *kinds* at index *after* or later that have come."""
        return [event for event in self.events[after:] if event["event"] in kinds]

    async def wait(self) -> int:
        """Wait for its end; returns its exit status."""
        await until(lambda: not self.running)
        return int(self._process.returncode)

    async def stop(self) -> None:
        """Ask it to stop, kill it if it does not."""
        if self.running:
            self._process.send_signal(signal.SIGCONT)
            self._process.terminate()
            with trio.move_on_after(STOP_WAIT):
                await self.wait()
            self._process.kill()  # does nothing to a process that has ended
        self._process.wait()
        for pipe in (self._process.stdin, self._process.stdout):
            if pipe is not None:
                pipe.close()


async def until(condition: Callable[[], bool], *, look: float = 0.02) -> None:
    """Wait until *condition* holds: of other processes, which set no event of ours."""
    while not condition():  # noqa: ASYNC110
        await trio.sleep(look)


class Canary:
    """What a canary has seen."""

    def __init__(self, program: Program) -> None:
        self._program = program

    def visits(self, since: float, until: float = float("inf")) -> list[Record]:
        """Return the visits that began in a time of the monotonic clock and have ended."""
        return [event for event in self._program.said("visit") if since <= event["begun"] < until]

    def success(self, since: float, until: float = float("inf")) -> float:
        """Return the share of them that worked."""
        visits = self.visits(since, until)
        return sum("error" not in visit for visit in visits) / len(visits) if visits else 0.0

    def slowest(self, since: float, until: float = float("inf")) -> float:
        """Return the longest of them that worked, in seconds."""
        return max((visit["seconds"] for visit in self.visits(since, until) if "error" not in visit), default=0.0)

    def served(self, since: float) -> float | None:
        """Return the seconds from *since* until a visit that began then had its answer."""
        ends = [visit["begun"] + visit["seconds"] for visit in self.visits(since) if "error" not in visit]
        return min(ends) - since if ends else None

    async def stop(self) -> None:
        """Visit no more."""
        await self._program.stop()

    async def serving(self, since: float, *, wait: float) -> float:
        """Wait until a visit that began after *since* worked; returns the seconds from *since*, or *wait*."""
        while time.monotonic() < since + wait:
            if (seconds := self.served(since)) is not None:
                return seconds
            await trio.sleep(0.02)
        return wait


@dataclass
class Agent:
    """A real agent, ready."""

    program: Program
    agent_id: str
    where: Where


class Stage:
    """A relay, an origin and agents on the hosts of a network."""

    def __init__(self, nursery: trio.Nursery, net: Network) -> None:
        self.net = net
        self.nursery = nursery
        self.relay: Program
        self.origin: Program
        self._relay_id = ""
        self._programs: list[Program] = []
        self._movers: dict[str, Program] = {}
        self._log = (net.folder / "log").open("wb")

    def start(self, host: str, *words: str) -> Program:
        """Start a program on *host*; it is stopped with the stage."""
        program = Program(self.net.inside(host, *words), self._log)
        self._programs.append(program)
        self.nursery.start_soon(program.listen)
        return program

    async def open(self, *relay_flags: str) -> None:
        """Start the relay and the origin."""
        state = str(self.net.folder / "relay")
        ports = ["--api-port", str(AGENTS_PORT), "--pub-port", str(VISITORS_PORT)]
        where = ["--bind-addr", RELAY, "--bind-addr", "127.0.0.1", *ports, "--open", "--state-dir", state]
        self.relay = self.start("relay", *trunnel("serve", *where, *relay_flags))
        self.origin = self.start("agent", sys.executable, "-m", "scripts.lab.origin")
        self._relay_id = str((await self.relay.event("listening"))["relay_id"])
        await self.origin.event("listening")

    def losses(self, after: int = 0) -> list[Record]:
        """Return the carriers and sessions that the relay has lost, without carriers that a pool did not need."""
        ended = self.relay.said("carrier_lost", "session_closed", after=after)
        return [event for event in ended if not (event.get("carriers") and event["reason"] == RETIRED)]

    def origin_port(self, kind: str = "port") -> int:
        """Return the origin's port of HTTP, or `raw`."""
        return int(self.origin.said("listening")[0][kind])

    def launch(self, road: Road, *flags: str, name: str = "agent", target: int | None = None) -> Program:
        """Start an agent without waiting for it."""
        server = [] if "--server" in flags else ["--server", f"{RELAY}:{AGENTS_PORT}"]
        state = ["--relay-pin", self._relay_id, "--state-dir", str(self.net.folder / name)]
        port = str(self.origin_port() if target is None else target)
        return self.start("agent", *trunnel("expose", port, *server, *state, *road.flags, *flags))

    async def agent(self, road: Road, *flags: str, name: str = "agent", target: int | None = None) -> Agent:
        """Start an agent and wait until visitors can come."""
        async with STARTING:
            return await self.ready(self.launch(road, *flags, name=name, target=target))

    async def ready(self, program: Program, *, wait: float = WAIT) -> Agent:
        """Wait until visitors can come to an agent that was launched."""
        ready = await program.event("ready", wait=wait)
        where = Where("127.0.0.1", VISITORS_PORT, str(ready["hostname"]), str(ready.get("certificate") or ""))
        return Agent(program, str(ready["agent_id"]), where)

    async def canary(self, agent: Agent) -> Canary:
        """Start a canary that visits *agent*, and wait for its first visit."""
        where = agent.where
        words = [where.host, str(where.port), where.hostname, where.certificate]
        program = self.start("relay", sys.executable, "-m", "scripts.lab.canary", *words)
        await program.event("visit")
        return Canary(program)

    async def connect(self) -> trio.SocketStream:
        """Connect to the visitors' port, on the relay's host."""
        sock = trio.socket.from_stdlib_socket(self.net.socket("relay"))
        try:
            await sock.connect(("127.0.0.1", VISITORS_PORT))
        except BaseException:
            sock.close()
            raise
        return trio.SocketStream(sock)

    async def visit(self, agent: Agent, path: str = "/") -> bytes:
        """Fetch a short *path* through the tunnel; returns the body."""
        return await fetch(await self.connect(), agent.where, agent.where.context(), path)

    async def serving(self, agent: Agent, since: float, *, wait: float) -> float:
        """Visit ten times a second until a visit works; returns the seconds from *since* (monotonic), or *wait*.

        No visit waits for another: one that hangs must not hide that the next would work.
        """

        async def attempt(scope: trio.CancelScope) -> None:
            with suppress(OSError, trio.BrokenResourceError):
                await self.visit(agent)
                scope.cancel()

        with trio.move_on_after(max(0.0, since + wait - time.monotonic())) as patience:
            async with trio.open_nursery() as nursery:
                while True:
                    nursery.start_soon(attempt, nursery.cancel_scope)
                    await trio.sleep(0.1)
        return wait if patience.cancelled_caught else time.monotonic() - since

    async def move(self, agent: Agent, job: Job) -> list[Record]:
        """Move known octets; returns what the visitor said of each stream, the slowest last."""
        program = self._movers.get(agent.agent_id)
        if program is None:
            program = self._movers[agent.agent_id] = self.start("relay", *command(agent.where))
        seen = len(program.events)
        program.tell(**asdict(job))
        await program.event("done", after=seen, wait=job.deadline + WAIT)
        return program.said("moved", after=seen)

    def mover(self, agent: Agent, job: Job) -> Program:
        """Start a visitor that moves known octets, and leave it to itself."""
        program = self.start("relay", *command(agent.where))
        program.tell(**asdict(job))
        return program

    def log(self) -> str:
        """Return what all programs have written to standard error."""
        return (self.net.folder / "log").read_text(errors="replace")

    async def close(self) -> None:
        """Stop every program: visitors before agents, agents before the relay."""
        async with trio.open_nursery() as nursery:
            for program in self._programs[2:]:
                nursery.start_soon(program.stop)
        for program in self._programs[:2]:
            await program.stop()
        self._log.close()


def trunnel(*words: str) -> list[str]:
    """Return a command line of ours."""
    return [sys.executable, "-m", "trunnel", *words, "--json", "--log-level", "info"]


@asynccontextmanager
async def stage(net: Network, *relay_flags: str) -> AsyncIterator[Stage]:
    """Open a stage with a relay and an origin; all in it is stopped at the end."""
    async with trio.open_nursery() as nursery:
        made = Stage(nursery, net)
        try:
            async with STARTING:
                await made.open(*relay_flags)
            yield made
        except Exception:
            print(*made.log().splitlines()[-LOG_SHOWN:], sep="\n", file=sys.stderr)
            raise
        finally:
            with trio.CancelScope(deadline=trio.current_time() + WAIT, shield=True):
                await made.close()
            nursery.cancel_scope.cancel()
