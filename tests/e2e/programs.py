"""The command line as real processes: started, watched, stopped, and never left behind.

A `Program` is one `trunnel` process with `--json`.  Its events and the lines
of its log are kept from the first to the last; `event` and `logged` wait for
one that is there or will come, so a test never sleeps.  Each program has its
own folders and an environment without anybody's configuration.

`open_programs` asks those that still run at the end to stop, agents before
relays, and insists on exit code 0: every test is also a test of stopping.
What each program said is printed there, for the report of a failed test.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, TypeVar, final

import trio

PATIENCE = 30.0
"""Seconds for anything that should take one."""
RECEIVE = 65_536
"""Bytes a read of a pipe."""

Record = dict[str, Any]
"""One event, as it was printed."""
T = TypeVar("T")


def clean_environment(folder: Path) -> dict[str, str]:
    """Return this process's environment without configuration: ours, the user's, a terminal's."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith("TRUNNEL_")}
    return {**kept, "HOME": str(folder), "XDG_CONFIG_HOME": str(folder / "config"), "PYTHONUNBUFFERED": "1"}


@final
class Program:
    """One running `trunnel` process."""

    def __init__(self, process: trio.Process, words: tuple[str, ...]) -> None:
        self.process = process
        self.words = words
        """The command line after `trunnel`."""
        self.events: list[Record] = []
        """All events so far."""
        self.log: list[str] = []
        """All lines of standard error so far."""
        self.status: int | None = None
        """The exit code, once the process has ended and everything it wrote is read."""
        self._returned: list[Record] = []
        self._changed = trio.Event()

    @property
    def pid(self) -> int:
        """Process id."""
        return self.process.pid

    async def watch(self) -> None:
        """Collect what the process says until it has ended."""
        async with trio.open_nursery() as nursery:
            nursery.start_soon(self._read, self.process.stdout, self._take_event)
            nursery.start_soon(self._read, self.process.stderr, self.log.append)
        self.status = await self.process.wait()
        self._notify()

    async def event(self, kind: str, **fields: object) -> Record:
        """Return the earliest event of *kind* with these *fields* that was not returned before."""

        def look() -> Record | None:
            for record in self.events:
                fits = record["event"] == kind and all(record.get(name) == value for name, value in fields.items())
                if fits and not any(record is other for other in self._returned):
                    self._returned.append(record)
                    return record
            return None

        return await self._until(look, f"event {kind} {fields or ''}")

    async def logged(self, text: str) -> str:
        """Return the first line of standard error that contains *text*."""
        return await self._until(lambda: next((line for line in self.log if text in line), None), f"log line {text!r}")

    async def ended(self) -> int:
        """Wait for the process to end by itself; returns the exit code."""
        return await self._until(lambda: self.status, "the end")

    async def stop(self) -> int:
        """Ask the process to stop as a service supervisor does; returns the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return await self.ended()

    def transcript(self) -> str:
        """Return everything the program said."""
        lines = [f"$ trunnel {' '.join(self.words)}   [exit code {self.status}]"]
        lines += [f"  {json.dumps(record)}" for record in self.events]
        return "\n".join([*lines, *(f"  | {line}" for line in self.log)])

    def memory(self) -> dict[str, float]:
        """Return its resident memory in MiB: `VmRSS` now, `VmHWM` at most so far."""
        status = Path(f"/proc/{self.pid}/status").read_text("ascii")
        fields = dict(line.split(":", 1) for line in status.splitlines())
        return {name: int(fields[name].split()[0]) / 1024 for name in ("VmRSS", "VmHWM")}

    async def _until(self, look: Callable[[], T | None], what: str) -> T:
        with trio.move_on_after(PATIENCE):
            while (found := look()) is None and self.status is None:
                self._changed = trio.Event()
                await self._changed.wait()
            if found is not None:
                return found
        raise AssertionError(f"no {what} from:\n{self.transcript()}")

    def _take_event(self, line: str) -> None:
        self.events.append(json.loads(line))

    async def _read(self, pipe: trio.abc.ReceiveStream | None, take: Callable[[str], object]) -> None:
        if pipe is None:
            raise AssertionError("programs are started with pipes")
        rest = b""
        async with pipe:
            async for chunk in pipe:
                *lines, rest = (rest + chunk).split(b"\n")
                for line in lines:
                    take(line.decode())
                self._notify()

    def _notify(self) -> None:
        self._changed.set()


@final
@dataclass(frozen=True, slots=True)
class Relay:
    """A relay that listens."""

    program: Program
    server: str
    """Where agents connect, `HOST:PORT`."""
    port: int
    """Where visitors connect."""
    relay_id: str


@final
@dataclass(frozen=True, slots=True)
class Site:
    """One public address, as a visitor needs to know it."""

    hostname: str
    port: int
    url: str
    certificate: str
    """Path of the certificate to trust; empty when TLS is passed through."""

    @classmethod
    def of(cls, ready: Record) -> Site:
        """Read it from a `ready` event."""
        return cls(ready["hostname"], ready["port"], ready["url"], ready["certificate"] or "")


@final
@dataclass(frozen=True, slots=True)
class Agent:
    """An agent that visitors can reach."""

    program: Program
    site: Site
    agent_id: str


@final
class Programs:
    """Starts programs in one nursery and one folder."""

    def __init__(self, nursery: trio.Nursery, folder: Path) -> None:
        self.folder = folder
        self.started: list[Program] = []
        self._nursery = nursery

    async def start(self, *words: str) -> Program:
        """Start `trunnel` with these words and `--json`, in a process group of its own."""
        process = await trio.lowlevel.open_process(
            [sys.executable, "-m", "trunnel", *words, "--json"],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            env=clean_environment(self.folder),
            process_group=0,
        )
        program = Program(process, words)
        self.started.append(program)
        self._nursery.start_soon(program.watch)
        return program

    async def serve(self, *flags: str) -> Relay:
        """Start a relay, on free ports unless *flags* name some, and wait until it listens."""
        ports = [] if {"--port", "--api-port"} & set(flags) else ["--api-port", "0", "--pub-port", "0"]
        program = await self.start("serve", *ports, "--state-dir", str(self.folder / "relay"), *flags)
        listening = await program.event("listening")
        port = int(listening["visitors"][0].rpartition(":")[2])
        return Relay(program, listening["agents"][0], port, listening["relay_id"])

    async def start_agent(self, target: object, relay: Relay | str, *flags: str, state: str = "agent") -> Program:
        """Start an agent whose state is in the folder *state*."""
        server = relay if isinstance(relay, str) else relay.server
        return await self.start(
            "expose", str(target), "--server", server, "--state-dir", str(self.folder / state), *flags
        )

    async def expose(self, target: object, relay: Relay, *flags: str, state: str = "agent") -> Agent:
        """Start an agent and wait until visitors can come."""
        program = await self.start_agent(target, relay, *flags, state=state)
        ready = await program.event("ready")
        return Agent(program, Site.of(ready), ready["agent_id"])

    async def run(self, *words: str) -> str:
        """Run a command that ends by itself, such as `authorize`; returns its output."""
        completed = await trio.run_process(
            [sys.executable, "-m", "trunnel", *words],
            capture_stdout=True,
            capture_stderr=True,
            env=clean_environment(self.folder),
        )
        return completed.stdout.decode()

    async def stop_all(self) -> None:
        """Ask those that still run to stop, last started first; they exit with 0."""
        for program in reversed(self.started):
            if program.status is None:
                status = await program.stop()
                assert status == 0, f"asked to stop, exited with {status}:\n{program.transcript()}"

    def kill_all(self) -> None:
        """End whatever is left, at once."""
        for program in self.started:
            sys.stdout.write(f"{program.transcript()}\n")
            if program.process.returncode is None:
                program.process.kill()


@asynccontextmanager
async def open_programs(folder: Path) -> AsyncIterator[Programs]:
    """Yield a place to start programs; afterwards none of them runs."""
    async with trio.open_nursery() as nursery:
        programs = Programs(nursery, folder)
        try:
            yield programs
            await programs.stop_all()
        finally:
            programs.kill_all()


async def run_command(*command: object, given: bytes = b"", check: bool = True) -> subprocess.CompletedProcess[bytes]:
    """Run another program to its end, with *given* as its standard input; both its outputs are captured."""
    run = partial(trio.run_process, [str(word) for word in command], stdin=given)
    with trio.fail_after(2 * PATIENCE):
        return await run(capture_stdout=True, capture_stderr=True, check=check)
