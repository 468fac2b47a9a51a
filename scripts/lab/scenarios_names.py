"""Rows about names: a relay whose name resolves badly, or differently than before."""

from __future__ import annotations

import sys
import time

import trio

from scripts.lab.hosts import CUBIC, GATEWAY, RELAY, network
from scripts.lab.programs import AGENTS_PORT, Agent, Program, Stage, stage
from scripts.lab.roads import H2
from scripts.lab.table import Case, Outcome, row

NAME = "relay.lab.test"
MOVED = "10.81.2.66"
"""The relay's address after its move."""
DEAD = "fd81:2::dead"
"""An address at which nobody answers."""
BACK_LIMIT = 5.0
READY_LIMIT = 5.0
THREADS_LIMIT = 16
TROUBLES = ("nxdomain", "servfail", "silent")


class Names:
    """The name server, and the agent that asks it."""

    def __init__(self, scene: Stage, server: Program) -> None:
        self.scene = scene
        self._server = server
        self.figures: list[str] = []
        self.good = True

    async def answer(self, mode: str, **records: list[str]) -> None:
        """Answer so from now on."""
        seen = len(self._server.events)
        self._server.tell(mode=mode, **records)
        await self._server.event("obeyed", after=seen)

    async def start(self, label: str, name: str) -> Agent:
        """Start an agent that knows the relay by name."""
        program = self.scene.launch(H2, "--server", f"{NAME}:{AGENTS_PORT}", name=name)
        begun = (await program.event("connecting"))["at"]
        agent = await self.scene.ready(program)
        self.judge(label, time.monotonic() - begun, READY_LIMIT)
        return agent

    async def reconnect(self, label: str, agent: Agent) -> None:
        """Kill the agent's connections, and wait until visitors are served again."""
        await self.scene.net.run("agent", "ss", "-K", "-Htn", f"dport = :{AGENTS_PORT}")
        begun = time.monotonic()
        await trio.sleep(0.3)
        back = await self.scene.serving(agent, begun, wait=30.0)
        self.judge(label, back, BACK_LIMIT)

    def judge(self, label: str, seconds: float, limit: float) -> None:
        """Note a figure."""
        self.good &= seconds <= limit
        self.figures.append(f"{label} {seconds:.1f} s")


@row(
    "NET-09",
    limit="ready ≤ 5 s with a dead AAAA or none; back ≤ 5 s with NXDOMAIN, SERVFAIL, no answer, a new IP; ≤ 16 threads",
    roads=(H2,),
    takes=(30, 30),
)
async def bad_names(case: Case) -> Outcome:
    """Reconnect while the relay's name does not resolve, or to another address than before."""
    del case
    async with network() as net:
        await net.ip("relay", f"addr add {MOVED}/24 dev eth0")
        await net.sysctl("relay", net__ipv4__conf__all__promote_secondaries=1)
        async with stage(net, "--bind-addr", MOVED) as scene:
            return await in_trouble(scene)


async def in_trouble(scene: Stage) -> Outcome:
    """Go through the troubles, one after another."""
    net = scene.net
    await net.resolver("agent", GATEWAY)
    server = scene.start("net", sys.executable, "-m", "scripts.lab.dns", GATEWAY, NAME)
    await server.event("listening")
    names = Names(scene, server)
    await names.answer("answer", a=[RELAY], aaaa=[DEAD])
    early = await names.start("ready with a dead AAAA", "early")
    await early.program.stop()
    await names.answer("answer", a=[RELAY])
    agent = await names.start("without AAAA", "agent")
    for trouble in TROUBLES:
        await names.answer(trouble)
        await names.reconnect(trouble, agent)
        await trio.sleep(1)
    threads = agent.program.threads
    await net.ip("relay", f"addr del {RELAY}/24 dev eth0")
    await net.ip("relay", f"route replace default via 10.81.2.1 {CUBIC}")
    await names.answer("answer", a=[MOVED])
    await names.reconnect("new IP", agent)
    return Outcome(names.good and threads <= THREADS_LIMIT, f"{', '.join(names.figures)}, {threads} threads")
