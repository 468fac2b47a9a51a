"""HOST-03: a relay that is killed and started again, twenty times, while visitors download.

One agent for each transport, and one that chooses.  Each session is let live
until it counts as stable: a relay that comes and goes every few seconds is
another thing, and agents are slow to return to it on purpose.
Whether tasks pile up cannot be seen from without; what they would hold can:
descriptors, threads and memory of the agents' processes.
"""

from __future__ import annotations

import statistics
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import trio

from scripts.rows.lab import WAIT, Agent, Lab, descriptors, laboratory, rss_kib
from scripts.rows.registry import PACE, Outcome, row
from trunnel.settings import limits

TRANSPORTS = ("auto", "h2", "yamux", "quic")
TIMES = 20
STABLE = limits.BACKOFF_RESET + 1
RETURN_TIMEOUT = 90.0
RETURN_LIMIT = 30.0
LISTEN_LIMIT = 2.0
MORE_DESCRIPTORS = 5
MORE_MEMORY = 1.2
PIECE = 1_000_000
"""Bytes of one download."""
PAUSE = 0.05
SETTLE = 5.0


@dataclass
class Held:
    """What a process holds."""

    descriptors: int
    threads: int
    rss_kib: int

    @classmethod
    def by(cls, pid: int) -> Held:
        """Look at a process."""
        threads = sum(1 for _ in Path(f"/proc/{pid}/task").iterdir())
        return cls(descriptors(pid), threads, rss_kib(pid))

    def within(self, before: Held) -> bool:
        """Whether this is no growth."""
        return (
            self.descriptors <= before.descriptors + MORE_DESCRIPTORS and self.rss_kib <= before.rss_kib * MORE_MEMORY
        )


@dataclass
class Customer:
    """A visitor who downloads from one agent all the time."""

    lab: Lab
    agent: Agent
    transport: str
    failures: int = 0
    downloads: int = 0
    began: float = 0.0
    """When the last download that worked began."""
    back: list[float] = field(default_factory=list)
    """Seconds from each kill until a download worked."""

    async def run(self) -> None:
        """Download for ever."""
        while True:
            begun = trio.current_time()
            with suppress(OSError, trio.BrokenResourceError, trio.TooSlowError):
                with trio.fail_after(WAIT):
                    body = await self.lab.visit(self.agent, path=f"/bytes/{PIECE}")
                self.downloads += len(body) == PIECE
                self.began = begun
            self.failures += self.began != begun
            await trio.sleep(PAUSE)

    async def until_served(self, since: float) -> None:
        """Wait for a download that began after *since*."""
        with trio.move_on_after(RETURN_TIMEOUT):
            while self.began <= since:  # noqa: ASYNC110 - a visit takes longer than the pause
                await trio.sleep(PAUSE)
            self.back.append(trio.current_time() - since)
            return
        self.back.append(float("inf"))


def departed(customer: Customer) -> str:
    """Say how an agent's process ended, if it has."""
    program = customer.agent.program
    status = program.process.poll()
    return "" if status is None else f"{customer.transport} with {status}: {program.events[-3:]}"


async def kill_and_restart(lab: Lab) -> tuple[float, float]:
    """SIGKILL the relay and start it again on its ports; returns when it was killed, and how long until it listens."""
    await lab.relay.kill()
    killed = trio.current_time()
    ports = ("--api-port", str(lab.agents_port), "--pub-port", str(lab.visitors_port))
    lab.relay = lab.spawn("serve", *ports, "--state-dir", str(lab.folder / "relay"))
    await lab.relay.event("listening")
    return killed, trio.current_time() - killed


@row(
    "HOST-03",
    limit=f"kill -9 under traffic: listening ≤ {LISTEN_LIMIT:.0f} s, every agent back each time, ≤ "
    f"{RETURN_LIMIT:.0f} s; then ≤ +{MORE_DESCRIPTORS} descriptors, RSS ≤ +{100 * (MORE_MEMORY - 1):.0f} %",
    timeout=TIMES * (STABLE + RETURN_TIMEOUT),
)
async def restarts() -> Outcome:
    """Kill and restart the relay under traffic, again and again."""
    times = PACE.either(TIMES, 3)
    listening: list[float] = []
    async with laboratory() as lab:
        await lab.start_relay()
        origin = await lab.start_origin()
        customers = [
            Customer(lab, await lab.start_agent(origin, "--transport", name, name=name), name) for name in TRANSPORTS
        ]
        async with trio.open_nursery() as visiting:
            for customer in customers:
                visiting.start_soon(customer.run)
            await trio.sleep(STABLE)
            before = [Held.by(customer.agent.program.pid) for customer in customers]
            for _ in range(times):
                killed, took = await kill_and_restart(lab)
                listening.append(took)
                async with trio.open_nursery() as returning:
                    for customer in customers:
                        returning.start_soon(customer.until_served, killed)
                await trio.sleep(STABLE)
            gone = [said for said in map(departed, customers) if said]
            after = [] if gone else [Held.by(customer.agent.program.pid) for customer in customers]
            visiting.cancel_scope.cancel()
        if gone:
            return Outcome(passed=False, figure=f"agents that ended: {'; '.join(gone)}")
    figures = [f"{times} restarts, listening after {statistics.median(listening):.1f} s (worst {max(listening):.1f})"]
    good = max(listening) <= LISTEN_LIMIT
    for customer, old, new in zip(customers, before, after, strict=True):
        worst = max(customer.back)
        good &= worst <= RETURN_LIMIT and new.within(old) and customer.downloads > times
        figures.append(
            f"{customer.transport} back {statistics.median(customer.back):.1f} s (worst {worst:.1f}), "
            f"descriptors {old.descriptors} → {new.descriptors}, threads {old.threads} → {new.threads}, "
            f"RSS {old.rss_kib / 1024:.1f} → {new.rss_kib / 1024:.1f} MB, {customer.downloads} downloads"
        )
    return Outcome(good, "; ".join(figures))
