"""Rows about packets that are lost, late, out of order, doubled or changed."""

from __future__ import annotations

import statistics
import time
from contextlib import suppress

import trio

from scripts.lab import faults
from scripts.lab.cable import cable
from scripts.lab.hosts import RELAY, Network, network
from scripts.lab.programs import Agent, Program, Record, Stage, stage, until
from scripts.lab.roads import H2, H2_FOUR, H2_ONE, QUIC, YAMUX, YAMUX_FOUR, YAMUX_ONE, Road
from scripts.lab.table import Case, Load, Outcome, row
from scripts.lab.transfer import Job
from scripts.lab.wire import Behaviour

MEGABYTE = 1_000_000
WINDOW = 1 << 20
"""Bytes of receive window in NET-02: 5.2 MB/s at 200 ms, which the wire and every transport can carry."""
LINE = 200e6
"""Bit/s of the goodput rows."""
BARE_PORT = 5001
NOTICING = 1.0
"""Seconds that the visitor may be late to notice an end: its FIN or RST has to cross the relay's host, too."""
WARM = 16
"""Visitors for which a pool of four has all its carriers: one for each `STREAMS_PER_CARRIER`, and one more."""
WARM_WAIT = 40.0


def shown(moved: Record) -> str:
    """Return how a stream ended."""
    if moved.get("error") == "given up":
        return f"given up after {moved['seconds']:.0f} s and {moved['received'] / MEGABYTE:.1f} MB"
    ending = moved.get("error") or ("exact" if moved["exact"] else "NOT EXACT")
    return f"{ending} in {moved['seconds']:.1f} s"


@row(
    "NET-01",
    limit="10 MB complete at 1 and 5 % loss; at 20 % complete or end with an error ≤ 60 s",
    quick=(H2, QUIC),
    takes=(100, 20),
)
async def lost_packets(case: Case) -> Outcome:
    """Lose 1, 5, 20 % of packets both ways."""
    figures: list[str] = []
    good = True
    async with network() as net, stage(net) as scene:
        agent = await scene.agent(case.road)
        for percent, few in ((1, 0.5), (5, 0.5), (20, 0.1)):
            size = int(case.either(10, few) * MEGABYTE)
            await faults.lose(net, percent)
            (moved,) = await scene.move(agent, Job(size, deadline=60.0 + NOTICING))
            lost = await faults.dropped(net)
            await faults.heal(net)
            ended = "error" in moved and moved["error"] != "given up"
            good &= lost > 0 and (bool(moved.get("exact")) or (percent > 5 and ended))
            figures.append(f"{percent} %: {shown(moved)}")
    return Outcome(good, ", ".join(figures))


@row(
    "NET-02",
    limit="20/200/800 ms round trip ± 50 %, reordered, doubled, corrupted: exact",
    quick=(QUIC, YAMUX),
    takes=(200, 25),
)
async def disordered_packets(case: Case) -> Outcome:
    """Delay 20, 200, 800 ms ± 50 %, 5 % reordered, 2 % doubled, 0.1 % corrupted; a transfer each way (quick: one)."""
    figures: list[str] = []
    good = True
    plan = {20: case.either(10, 1), 200: case.either(5, 0.3), 800: case.either(1, 0.1)}
    corrupt = case.either(0.001, 0.005)  # of 2,000 packets, too, some are to be changed
    async with cable(Behaviour()) as (net, wire), stage(net) as scene:
        agent = await scene.agent(case.road)
        for milliseconds, megabytes in plan.items():
            delay = milliseconds / 2000
            wire.behave(Behaviour(delay=delay, jitter=0.5, reorder=0.05, duplicate=0.02, corrupt=corrupt))
            for upload in (milliseconds == 200,) if case.quick else (False, True):
                (moved,) = await scene.move(agent, Job(int(megabytes * MEGABYTE), deadline=150.0, upload=upload))
                good &= bool(moved.get("exact"))
                figures.append(f"{milliseconds} ms {'up' if upload else 'down'} {shown(moved)}")
        report = await wire.report()
        good &= min(report["reordered"], report["duplicated"], report["corrupted"]) > 0
        figures.append(f"{report['corrupted']} of {report['packets']} packets corrupted")
    return Outcome(good, ", ".join(figures))


@row(
    "NET-02-RATE",
    limit="one stream at 200 ms ≥ 60 % of window/RTT, the window 1 MiB",
    quick=(QUIC,),
    load=Load.BUSY,
    takes=(25, 10),
)
async def window_filled(case: Case) -> Outcome:
    """Delay 200 ms (round trip) and nothing else.

    The rate is judged without the faults of NET-02: after one packet in 1,000
    is lost, no congestion control fills a window at 200 ms, whatever carries it.
    """
    flags = ("--stream-window", str(WINDOW))
    async with cable(Behaviour(delay=0.1)) as (net, _), stage(net, *flags) as scene:
        agent = await scene.agent(case.road, *flags)
        (moved,) = await scene.move(agent, Job(int(case.either(40, 12) * MEGABYTE)))
    share = moved.get("rate", 0.0) / (WINDOW / 0.2)
    return Outcome(share >= 0.6, f"{100 * share:.0f} % of window/RTT once it has grown, {shown(moved)}")


@row(
    "HEAD-OF-LINE",
    limit="ten 5 MB downloads at 50 ms and 2 % loss: all exact; quic's worst ≤ 1.5 times its median",
    roads=(QUIC, H2_ONE, H2_FOUR, YAMUX_ONE, YAMUX_FOUR),
    quick=(QUIC, H2_FOUR),
    takes=(300, 15),
)
async def head_of_line(case: Case) -> Outcome:
    """Ten downloads side by side, 50 ms round trip, 2 % of packets lost each way."""
    size = int(case.either(5, 0.1) * MEGABYTE)
    async with cable(Behaviour(delay=0.025)) as (net, _), stage(net) as scene:
        agent = await scene.agent(case.road)
        carriers = await warmed(scene, agent, case.road)
        await faults.lose(net, 2)
        moved = await scene.move(agent, Job(size, streams=10, deadline=850.0))
        lost = await faults.dropped(net)
    exact = [float(stream["seconds"]) for stream in moved if stream.get("exact")]
    if len(exact) < len(moved):
        return Outcome(passed=False, figure=f"{len(exact)} of {len(moved)} exact: {moved}")
    median, worst = statistics.median(exact), max(exact)
    near = case.road is not QUIC or worst <= 1.5 * median
    rate = len(exact) * size / worst / MEGABYTE
    figure = f"{size / MEGABYTE:g} MB on {carriers}: median {median:.1f} s, worst {worst:.1f} s, "
    figure += f"together {rate:.2f} MB/s"
    return Outcome(near and lost > 0 and carriers == case.road.carriers, figure)


async def warmed(scene: Stage, agent: Agent, road: Road) -> int:
    """Let a pool grow, with visitors that stay for a while; returns the carriers it has.

    A pool grows while it is used, and ten visitors who come at once all find the one carrier of an idle agent.
    """

    async def stay() -> None:
        with suppress(OSError, trio.BrokenResourceError):
            await scene.visit(agent, f"/slow/{WARM_WAIT:.0f}")

    relay = scene.relay
    async with trio.open_nursery() as nursery:
        for _ in range(WARM):
            nursery.start_soon(stay)
        with trio.move_on_after(WARM_WAIT):
            await until(lambda: carriers_of(relay) >= road.carriers)
        nursery.cancel_scope.cancel()
    return carriers_of(relay)


def carriers_of(relay: Program) -> int:
    """Return the carriers that the relay's one agent has."""
    return int(([{"carriers": 1}, *relay.said("carrier_opened", "carrier_lost")][-1])["carriers"])


async def bare_rate(net: Network, size: int) -> float:
    """Return the bytes a second of a bare TCP connection from agent to relay, over its second half."""
    listener = net.socket("relay")
    listener.bind((RELAY, BARE_PORT))
    listener.listen()
    near = trio.SocketStream(trio.socket.from_stdlib_socket(net.socket("agent")))
    accepting = trio.SocketListener(trio.socket.from_stdlib_socket(listener))
    await near.socket.connect((RELAY, BARE_PORT))
    far = await accepting.accept()
    chunk = bytes(1 << 18)

    async def send() -> None:
        for _ in range(size // len(chunk)):
            await near.send_all(chunk)
        await near.send_eof()

    async with accepting, near, far, trio.open_nursery() as nursery:
        nursery.start_soon(send)
        received, half_at, half = 0, 0.0, 0
        while received_now := len(await far.receive_some(len(chunk))):
            received += received_now
            if not half and received >= size // 2:
                half_at, half = time.monotonic(), received
        return (received - half) / (time.monotonic() - half_at)


@row(
    "GOODPUT",
    limit="one stream at 100 ms and 200 Mbit/s ≥ 85 % of the line",
    roads=(H2_ONE, YAMUX_ONE),
    load=Load.BUSY,
    takes=(40, 10),
    quick=(YAMUX_ONE,),
)
async def goodput(case: Case) -> Outcome:
    """One download from agent to relay over a line of 200 Mbit/s and 100 ms, once its windows have grown."""
    size = int(case.either(200, 60) * MEGABYTE)
    line = Behaviour(delay=0.05, rate=LINE, queue=int(LINE / 8 * 0.1))
    async with cable(line, segments=True) as (net, _), stage(net) as scene:
        bare = await bare_rate(net, size)
        agent = await scene.agent(case.road)
        (moved,) = await scene.move(agent, Job(size))
    share = moved.get("rate", 0.0) * 8 / LINE
    figure = f"{100 * share:.0f} % of the line, {shown(moved)}; bare TCP {100 * bare * 8 / LINE:.0f} %"
    return Outcome(share >= 0.85 and bool(moved.get("exact")), figure)
