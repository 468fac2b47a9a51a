"""Rows about liveness: a peer that cannot be heard, NATs that forget, sleep, killed connections, a full line."""

from __future__ import annotations

import random
import signal
import statistics
import time
from contextlib import suppress

import trio

from scripts.lab import faults
from scripts.lab.hosts import network
from scripts.lab.programs import AGENTS_PORT, Agent, Program, Record, Stage, stage, until
from scripts.lab.roads import H2, H2_TWO, QUIC, YAMUX, YAMUX_TWO
from scripts.lab.table import Case, Load, Outcome, row
from scripts.lab.transfer import Job

OFFLINE_LIMIT = 20.0
BACK_LIMIT = 25.0
SLACK = 0.5
"""Seconds that a look at the clock may be late on a busy machine."""
IN_FLIGHT = 3


async def offline(relay: Program, after: int) -> float:
    """Wait until the relay has no carrier of its one agent; returns when (monotonic)."""
    while True:
        lost = await relay.event("carrier_lost", "session_closed", after=after, wait=60)
        if not lost.get("carriers"):
            return float(lost["at"])
        after = relay.events.index(lost) + 1


@row(
    "NET-03",
    limit="offline ≤ 20 s after the drop, visitors closed ≤ 1 s after the mark, back ≤ 25 s after heal",
    quick=(H2, QUIC),
    load=Load.WAITING,
    takes=(45, 45),
)
async def half_open(case: Case) -> Outcome:
    """Drop everything both ways, no FIN; then heal."""
    ends: list[float] = []
    async with network() as net, stage(net) as scene:
        agent = await scene.agent(case.road)

        async def wait_long() -> None:
            with suppress(OSError, trio.BrokenResourceError):
                await scene.visit(agent, "/slow/120")
            ends.append(time.monotonic())

        async with trio.open_nursery() as nursery:
            for _ in range(IN_FLIGHT):
                nursery.start_soon(wait_long)
            await trio.sleep(1.0)
            seen = len(scene.relay.events)
            cut = time.monotonic()
            await faults.blackhole(net)
            marked = await offline(scene.relay, seen)
            with trio.move_on_after(10):
                await until(lambda: len(ends) == IN_FLIGHT)
            nursery.cancel_scope.cancel()
        healed = time.monotonic()
        await faults.heal(net)
        back = await scene.serving(agent, healed, wait=2 * BACK_LIMIT)
    late = max(0.0, max(ends) - marked) if len(ends) == IN_FLIGHT else float("inf")
    figure = (
        f"offline after {marked - cut:.1f} s, visitors closed {1000 * late:.0f} ms later, back {back:.1f} s after heal"
    )
    return Outcome(marked - cut <= OFFLINE_LIMIT + SLACK and late <= 1.0 and back <= BACK_LIMIT, figure)


@row(
    "NET-04",
    limit="idle 10 min behind a NAT that forgets UDP in 30 s, TCP in 60 s: first byte ≤ 1 RTT + 100 ms",
    quick=(QUIC, YAMUX),
    load=Load.WAITING,
    takes=(625, 40),
)
async def forgetful_nat(case: Case) -> Outcome:
    """Leave a tunnel idle behind a NAT; the quick lab's forgets UDP after 5 s, TCP after 15 s, and waits 26 s."""
    udp, tcp, idle = (5, 15, 26.0) if case.quick else (30, 60, 600.0)
    async with network() as net, stage(net) as scene:
        await net.sysctl(
            "net",
            net__netfilter__nf_conntrack_udp_timeout=udp,
            net__netfilter__nf_conntrack_udp_timeout_stream=udp,
            net__netfilter__nf_conntrack_tcp_timeout_established=tcp,
            net__netfilter__nf_conntrack_tcp_loose=0,
        )
        await faults.masquerade(net)
        agent = await scene.agent(case.road)
        await scene.visit(agent)
        await trio.sleep(idle)
        first, *others = [await visit_time(scene, agent) for _ in range(4)]
        lost = len(scene.losses())
        natted = not str(scene.relay.said("session_opened")[0]["peer"]).startswith("10.81.1.")
    usual = statistics.median(others)
    figure = f"served in {1000 * first:.0f} ms after {idle:.0f} s idle, then in {1000 * usual:.0f} ms, TLS included; "
    figure += f"{lost} carriers lost"
    return Outcome(natted and first <= 0.1 + SLACK * case.quick and not lost, figure)


async def visit_time(scene: Stage, agent: Agent) -> float:
    """Visit, and return the seconds that it took."""
    begun = time.monotonic()
    await scene.visit(agent)
    return time.monotonic() - begun


@row(
    "NET-06",
    limit="serving ≤ 5 s after the agent wakes from 5 min of sleep",
    quick=(H2, QUIC),
    load=Load.WAITING,
    takes=(325, 40),
)
async def sleeping_agent(case: Case) -> Outcome:
    """SIGSTOP the agent until the relay has forgotten it (quick: 25 s), then SIGCONT."""
    asleep = case.either(300, 25)
    async with network() as net, stage(net) as scene:
        agent = await scene.agent(case.road)
        agent.program.signal(signal.SIGSTOP)
        seen = len(scene.relay.events)
        await trio.sleep(asleep)
        forgotten = bool(scene.relay.said("carrier_lost", "session_closed", after=seen))
        woken = time.monotonic()
        agent.program.signal(signal.SIGCONT)
        back = await scene.serving(agent, woken, wait=30.0)
    figure = f"serving {back:.1f} s after {asleep:.0f} s asleep; {'' if forgotten else 'NOT '}forgotten meanwhile"
    return Outcome(forgotten and back <= 5.0, figure)


Span = tuple[float, float]
"""Beginning and end, monotonic."""


async def kill_one(scene: Stage, chance: random.Random) -> tuple[int, Span]:
    """Abort one of the agent's connections to the relay, by chance; returns how many there were, and when it was."""
    listed = await scene.net.run("agent", "ss", "-Htn", "state", "established", f"dport = :{AGENTS_PORT}")
    locals_ = [line.split()[2].rpartition(":")[2] for line in listed.splitlines()]
    begun = time.monotonic()
    if locals_:
        port = chance.choice(locals_)
        words = ("ss", "-K", "-Htn", f"sport = :{port} and dport = :{AGENTS_PORT}")
        await scene.net.run("agent", *words)
    return len(locals_), (begun, time.monotonic())


def share_besides(visits: list[Record], kills: list[Span]) -> float:
    """Return the share that worked of the visits that were not under way while a connection was killed."""
    besides = [
        visit
        for visit in visits
        if not any(visit["begun"] <= ended and visit["begun"] + visit["seconds"] >= begun for begun, ended in kills)
    ]
    return sum("error" not in visit for visit in besides) / len(besides) if besides else 0.0


def replacements(relay: Program) -> list[float]:
    """Return the seconds from each loss of a carrier until there was another one."""
    opened = [float(event["at"]) for event in relay.said("carrier_opened")]
    lost = [float(event["at"]) for event in relay.said("carrier_lost")]
    waits = (next((at - since for at in opened if at > since), None) for since in lost)
    return [wait for wait in waits if wait is not None]


async def hold(scene: Stage, agent: Agent) -> None:
    """Be a visitor that stays, and comes again when it was cut off: a pool grows for those."""
    while True:
        with suppress(OSError, trio.BrokenResourceError):
            await scene.visit(agent, "/slow/600")
        await trio.sleep(0.2)


@row(
    "NET-10",
    limit="a canary ≥ 99 % while one agent connection a second is killed (quick: of visits not under way then)",
    roads=(H2_TWO, YAMUX_TWO),
    quick=(H2_TWO,),
    load=Load.BUSY,
    takes=(310, 20),
)
async def killed_connections(case: Case) -> Outcome:
    """`ss -K` one of two connections, by chance, every second for 5 min (quick: 12 s), with eight visitors held.

    A visit that is under way on the connection is lost with it: one in a hundred, when
    visits take 20 ms.  So the quick lab, with 240 of them on any machine, judges the others.
    """
    duration = case.either(300, 12)
    chance = random.Random(10)
    counts: list[int] = []
    kills: list[Span] = []
    async with network() as net, stage(net) as scene:
        agent = await scene.agent(case.road)
        async with trio.open_nursery() as nursery:
            for _ in range(8):
                nursery.start_soon(hold, scene, agent)
            await trio.sleep(2)
            canary = await scene.canary(agent)
            begun = time.monotonic()
            with trio.move_on_after(duration):
                while True:
                    count, span = await kill_one(scene, chance)
                    counts.append(count)
                    kills.append(span)
                    await trio.sleep(1)
            until = time.monotonic()
            await trio.sleep(2)
            nursery.cancel_scope.cancel()
        visits = canary.visits(begun, until)
        replaced = replacements(scene.relay)
    success, besides = canary.success(begun, until), share_besides(visits, kills)
    killed = sum(count > 0 for count in counts)
    figure = f"canary {100 * success:.2f} % of {len(visits)} ({100 * besides:.2f} % of those not under way at a kill), "
    figure += f"slowest {canary.slowest(begun, until):.2f} s; {killed} killed, {sum(counts) / len(counts):.1f} held, "
    figure += f"replaced after {statistics.median(replaced or [0.0]):.2f} s (worst {max(replaced, default=0.0):.2f})"
    enough = killed >= 0.8 * len(counts) and len(visits) >= 10 * duration
    return Outcome(enough and besides >= 0.99 and success >= case.either(0.99, 0.95), figure)


@row(
    "NET-11",
    limit="0 false offline marks in 10 min of bulk over 1 Mbit/s behind a queue of 400 ms",
    load=Load.WAITING,
    takes=(615, 40),
)
async def full_line(case: Case) -> Outcome:
    """Bulk both ways over a line of 1 Mbit/s whose queue holds 400 ms."""
    duration = case.either(600, 30)
    async with network() as net, stage(net) as scene:
        agent = await scene.agent(case.road)
        for device in ("agent0", "relay0"):
            await faults.rate(net, device, "1mbit")
        seen = len(scene.relay.events), len(agent.program.events)
        before = await carried(scene)
        for upload in (False, True):
            scene.mover(agent, Job(1 << 30, upload=upload, deadline=duration + 30))
        await trio.sleep(duration)
        moved = [after - then for after, then in zip(await carried(scene), before, strict=True)]
        marks = scene.losses(after=seen[0])
        marks += agent.program.said("disconnected", after=seen[1])
    rates = [8 * count / duration / 1e6 for count in moved]
    reasons = ", ".join(sorted({str(mark.get("reason")) for mark in marks}))
    figure = f"{len(marks)} marks{': ' if reasons else ''}{reasons}; {rates[0]:.2f} Mbit/s down, {rates[1]:.2f} up"
    return Outcome(not marks and min(rates) > 0.5, figure)


async def carried(scene: Stage) -> list[int]:
    """Return the bytes that have left towards the relay, and towards the agent."""
    read = "cat /sys/class/net/relay0/statistics/tx_bytes /sys/class/net/agent0/statistics/tx_bytes"
    return [int(word) for word in (await scene.net.run("net", "sh", "-c", read)).split()]
