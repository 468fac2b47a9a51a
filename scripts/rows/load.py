"""Rows about too many connections: LOAD-01, LOAD-02, LOAD-05."""

from __future__ import annotations

import resource
import statistics
from contextlib import suppress

import trio

from scripts.rows.lab import Agent, KeptAlive, Lab, descriptors, laboratory, rss_kib
from scripts.rows.registry import Outcome, row

DRIBBLERS = 3_000
SOURCES = 15
HELLO_TIMEOUT = 10.0
HELLO_SLACK = 0.5
DRIBBLE_EVERY = 2.0
RSS_GROWTH_KIB = 75 * 1024
CANARY_SLACK = 0.05
"""Seconds that an attack may add to the canary's p99."""
BASELINE = 2.0
"""Seconds in which the canary shows what is normal."""
HOLD = 60.0
"""Seconds for which the relay is kept out of descriptors."""
HELLO_HEAD = bytes.fromhex("16030100c8010000c40303") + bytes(64)
"""The beginning of a ClientHello of 200 bytes that never ends."""


def raise_descriptor_limit(wanted: int) -> None:
    """Let this process open *wanted* sockets."""
    _soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(wanted, hard) if hard > 0 else wanted, hard))


async def dribble(lab: Lab, number: int, lifetimes: list[float]) -> None:
    """Send a hello byte by byte until the relay hangs up; adds the seconds that it took to *lifetimes*."""
    stream = await lab.connect(source=f"127.0.1.{number % SOURCES + 1}")
    accepted = trio.current_time()
    async with stream:
        with trio.move_on_after(2 * HELLO_TIMEOUT), suppress(trio.BrokenResourceError):
            for byte in HELLO_HEAD:
                await stream.send_all(bytes([byte]))
                with trio.move_on_after(DRIBBLE_EVERY) as pause:
                    await stream.receive_some(1)
                if not pause.cancelled_caught:
                    break
        lifetimes.append(trio.current_time() - accepted)


async def slow_hellos(lab: Lab) -> tuple[list[float], int]:
    """Let every dribbler loose; returns how long each was kept, and the growth of the relay's RSS in KiB."""
    before, peak = rss_kib(lab.relay.pid), 0
    lifetimes: list[float] = []
    async with trio.open_nursery() as nursery:
        for number in range(DRIBBLERS):
            nursery.start_soon(dribble, lab, number, lifetimes)
            if number % 50 == 0:
                await trio.sleep(0.01)
        while len(lifetimes) < DRIBBLERS // 2:
            peak = max(peak, rss_kib(lab.relay.pid))
            await trio.sleep(0.2)
    return lifetimes, peak - before


@row(
    "LOAD-01",
    limit=f"closed {HELLO_TIMEOUT:.0f} s ± {HELLO_SLACK} after accept; RSS ≤ +75 MB; canary ≥ 99.9 %, "
    f"its p99 ≤ idle + {1000 * CANARY_SLACK:.0f} ms",
)
async def slowloris() -> Outcome:
    """3,000 connections from 15 addresses that send a byte of a hello every 2 s."""
    raise_descriptor_limit(2 * DRIBBLERS)
    async with laboratory() as lab:
        await lab.start_relay(nofile=2 * DRIBBLERS)
        canary = await lab.start_canary(await lab.start_agent(await lab.start_origin()))
        await trio.sleep(BASELINE)
        idle = canary.p99
        canary.reset()
        lifetimes, grown = await slow_hellos(lab)
        early, late = min(lifetimes), max(lifetimes)
        figure = (
            f"{early:.2f} to {late:.2f} s (median {statistics.median(lifetimes):.2f}), RSS +{grown / 1024:.1f} MB, "
            f"canary {100 * canary.success:.2f} % p99 {1000 * canary.p99:.0f} ms (idle {1000 * idle:.0f})"
        )
        in_time = early >= HELLO_TIMEOUT - HELLO_SLACK and late <= HELLO_TIMEOUT + HELLO_SLACK
        unharmed = canary.success >= 0.999 and canary.p99 <= idle + CANARY_SLACK
        return Outcome(in_time and grown <= RSS_GROWTH_KIB and unharmed, figure)


async def hold_silently(lab: Lab, kept: list[trio.SocketStream], refusals: list[float]) -> None:
    """Connect and say nothing: the connection goes to *kept*, or the seconds until it was reset to *refusals*."""
    begun = trio.current_time()
    with suppress(OSError, trio.BrokenResourceError):
        stream = await lab.connect(source="127.0.2.1")
        with trio.move_on_after(5) as wait:
            if await stream.receive_some(1):
                raise AssertionError("the relay spoke first")
        if wait.cancelled_caught:
            kept.append(stream)
            return
        await stream.aclose()
    refusals.append(trio.current_time() - begun)


@row("LOAD-02", limit="256 kept, the rest reset within 100 ms; canary of another address unharmed")
async def connect_and_hold() -> Outcome:
    """3,000 silent connections from one address."""
    raise_descriptor_limit(2 * DRIBBLERS)
    async with laboratory() as lab:
        await lab.start_relay(nofile=2 * DRIBBLERS)
        canary = await lab.start_canary(await lab.start_agent(await lab.start_origin()))
        await trio.sleep(BASELINE)
        idle = canary.p99
        canary.reset()
        kept: list[trio.SocketStream] = []
        refusals: list[float] = []
        async with trio.open_nursery() as nursery:
            for number in range(DRIBBLERS):
                nursery.start_soon(hold_silently, lab, kept, refusals)
                if number % 20 == 0:
                    await trio.sleep(0.01)
        for stream in kept:
            await stream.aclose()
        ordered = sorted(refusals)
        slow = ordered[int(len(ordered) * 0.99)]
        figure = (
            f"{len(kept)} kept, {len(refusals)} reset, p99 {1000 * slow:.0f} ms, "
            f"canary {100 * canary.success:.2f} % p99 {1000 * canary.p99:.0f} ms (idle {1000 * idle:.0f})"
        )
        unharmed = canary.success >= 0.999 and canary.p99 <= idle + CANARY_SLACK
        return Outcome(len(kept) == 256 and slow <= 0.1 and unharmed, figure)


async def crowd_out(lab: Lab, alive: KeptAlive) -> tuple[int, int]:
    """Hold 1,000 connections for a while, then let go; returns how often *alive* was answered, and asked."""
    held: list[trio.SocketStream] = []

    async def hold(number: int) -> None:
        with suppress(OSError):
            held.append(await lab.connect(source=f"127.0.3.{number % SOURCES + 1}"))

    answered = asked = 0
    with trio.move_on_after(HOLD):
        async with trio.open_nursery() as nursery:
            for number in range(1_000):
                nursery.start_soon(hold, number)
            while True:
                asked += 1
                answered += await alive.ask()
                await trio.sleep(0.05)
    for stream in held:
        await stream.aclose()
    return answered, asked


async def until_served(lab: Lab, agent: Agent) -> float:
    """Visit until it works; returns the seconds until then."""
    begun = trio.current_time()
    with trio.fail_after(30):
        while True:
            with suppress(OSError, trio.BrokenResourceError, trio.TooSlowError):
                with trio.fail_after(1):
                    await lab.visit(agent)
                return trio.current_time() - begun
            await trio.sleep(0.02)


@row("LOAD-05", limit="no crash, ≤ 1 log line/s, agent kept, accepts ≤ 1 s after release, kept-alive canary 100 %")
async def out_of_descriptors() -> Outcome:
    """512 descriptors, 1,000 visitors that hold on."""
    raise_descriptor_limit(2 * DRIBBLERS)
    async with laboratory() as lab:
        await lab.start_relay("--half-open-per-address", "2000", nofile=512)
        agent = await lab.start_agent(await lab.start_origin())
        before = descriptors(lab.relay.pid)
        logged = lab.log_lines()
        lost = lab.relay.count("carrier_lost")
        alive = await KeptAlive.open(lab, agent)
        answered, asked = await crowd_out(lab, alive)
        resumed = await until_served(lab, agent)
        lines = lab.log_lines() - logged
        lost = lab.relay.count("carrier_lost") - lost
        await alive.close()
        figure = (
            f"{lines / (HOLD + resumed):.2f} lines/s, {lost} carriers lost, accepts after {resumed:.2f} s, "
            f"kept-alive {answered}/{asked}, descriptors {before} → {descriptors(lab.relay.pid)}"
        )
        crashed = lab.relay.process.poll() is not None
        good = not crashed and lines <= HOLD + resumed + 1 and not lost and resumed <= 1.0 and answered >= asked - 1
        return Outcome(good, figure)
