"""Rows about the path: it changes its addresses, loses UDP, or loses long packets."""

from __future__ import annotations

import time

import trio

from scripts.lab import faults
from scripts.lab.hosts import Network, network
from scripts.lab.programs import Agent, Canary, Program, Stage, stage
from scripts.lab.roads import AUTO, QUIC, TRANSPORTS, YAMUX, Road
from scripts.lab.table import Case, Load, Outcome, row
from scripts.lab.transfer import Job

MEGABYTE = 1_000_000
SECOND_ADDRESS = "10.81.2.77"
"""What the NAT is called later."""
UDP = "meta l4proto udp"
VISITED = 3.0
"""Seconds until an agent knows that it has visitors (it looks when it pings), and listens for the relay's silence."""
ON_QUIC_TRIALS = 4
QUIC_DEAD = 25.0
"""Seconds after which a QUIC carrier that nobody hears was given up by both ends (before, it may revive)."""
RETURN_MIN, RETURN_WAIT = 540.0, 720.0
"""Seconds until an agent that fell back is on QUIC again: it tries once in ten minutes (from the moment it gave up)."""
FALLBACK_LIMIT = 5.0
READY_LIMIT = 10.0
READY_TCP_LIMIT = 25.0


async def rebind(net: Network, canary: Canary, pause: float) -> tuple[int, float]:
    """Change the NAT's port for the agent, then its address; returns failed visits and the longest stall."""
    begun = time.monotonic()
    for address in ("10.81.2.1", SECOND_ADDRESS):
        await faults.masquerade(net, f"meta l4proto udp snat to {address}:20000-60000 random")
        await trio.sleep(pause)
    until = time.monotonic()
    await trio.sleep(1)
    failed = sum("error" in visit for visit in canary.visits(begun, until))
    return failed, canary.slowest(begun, until)


@row(
    "NET-05",
    limit="NAT rebinding, port and then address, idle and in bulk: 0 lost requests, stall ≤ 1 s, no carrier lost",
    roads=(QUIC,),
    load=Load.BUSY,
    takes=(45, 14),
)
async def rebinding(case: Case) -> Outcome:
    """Let a NAT forget its mapping, then give it another address, under a canary alone and beside a download."""
    figures: list[str] = []
    good = True
    async with network() as net, stage(net) as scene:
        await net.ip("net", f"addr add {SECOND_ADDRESS}/24 dev relay0")
        await faults.masquerade(net)
        agent = await scene.agent(case.road)
        canary = await scene.canary(agent)
        await trio.sleep(VISITED)
        for label in ("idle", "bulk"):
            movers = [scene.mover(agent, Job(1 << 30, deadline=30))] if label == "bulk" else []
            failed, stall = await rebind(net, canary, case.either(5, 1.5))
            good &= not failed and stall <= 1.0
            figures.append(f"{label}: {failed} lost, stall {stall:.2f} s")
            for mover in movers:
                good &= mover.running and not mover.said("moved")
                await mover.stop()
        lost = len(scene.losses())
        peers = len((await net.run("net", "conntrack", "-L", "-p", "udp")).splitlines())
    figures.append(f"{lost} carriers lost")
    return Outcome(good and not lost and peers > 0, ", ".join(figures))


@row(
    "NET-07",
    limit="address and link gone, others there: serving again ≤ 3 s over QUIC, ≤ 10 s over TCP",
    quick=(QUIC, YAMUX),
    takes=(15, 15),
)
async def roaming(case: Case) -> Outcome:
    """Delete the agent's address, take its link down; another link with another address and default route comes."""
    async with network() as net, stage(net) as scene:
        agent = await scene.agent(case.road)
        await scene.visit(agent)
        seen = len(scene.relay.events)
        left = time.monotonic()
        await net.roam()
        back = await scene.serving(agent, left, wait=30.0)
        kept = not scene.relay.said("carrier_opened", "carrier_lost", "session_closed", after=seen)
    limit = 3.0 if case.road.udp else 10.0
    return Outcome(back <= limit, f"serving after {back:.2f} s{' on the same carrier' if kept else ''}")


@row(
    "NET-08",
    limit="UDP dropped at the start, and in a session: serving over h2 ≤ 5 s; back on QUIC later",
    roads=(AUTO,),
    load=Load.WAITING,
    takes=(690, 30),
)
async def no_udp(case: Case) -> Outcome:
    """Drop UDP before an agent starts; then under a session; then let it pass again (not in the quick lab)."""
    async with network() as net, stage(net) as scene:
        await faults.drop(net, UDP)
        blocked = await scene.ready(scene.launch(case.road, name="blocked"))
        started = blocked.program.said("ready")[0]["at"] - blocked.program.said("connecting")[0]["at"]
        started += await scene.serving(blocked, time.monotonic(), wait=30.0)
        first = str(blocked.program.said("ready")[0]["transport"])
        await blocked.program.stop()
        await faults.heal(net)

        agent = await on_quic(scene, case.road)
        second = str(agent.program.said("ready")[0]["transport"])
        canary = await scene.canary(agent)
        await trio.sleep(3)
        cut = time.monotonic()
        await faults.drop(net, UDP)
        fell = await canary.serving(cut, wait=30.0)
        await trio.sleep(case.either(QUIC_DEAD, 5))
        settled = canary.success(cut + FALLBACK_LIMIT, time.monotonic() - 1)
        await canary.stop()
        healed = time.monotonic()
        await faults.heal(net)
        returned = "return not waited for" if case.quick else await returning(scene.relay, healed)
    figure = f"start: {first} serving {started:.1f} s after the first dial; {second}, then dropped: "
    figure += f"serving after {fell:.1f} s, canary {100 * settled:.1f} % from 5 s on; {returned}"
    good = (
        (first, second) == ("h2", "quic") and started <= FALLBACK_LIMIT and fell <= FALLBACK_LIMIT and settled >= 0.99
    )
    return Outcome(good and "never" not in returned, figure)


async def on_quic(scene: Stage, road: Road) -> Agent:
    """Start an agent that is on QUIC; one that found TCP quicker, on a busy machine, makes way for another."""
    number = 1
    agent = await scene.agent(road)
    while agent.program.said("ready")[0]["transport"] != "quic" and number < ON_QUIC_TRIALS:
        await agent.program.stop()
        number += 1
        agent = await scene.agent(road, name=f"agent{number}")
    return agent


async def returning(relay: Program, healed: float) -> str:
    """Wait for the agent's next QUIC carrier; returns how long it took, in words."""
    after = len(relay.events)
    with trio.move_on_after(RETURN_WAIT):
        while True:
            opened = await relay.event("carrier_opened", "session_opened", after=after, wait=RETURN_WAIT)
            if opened["transport"] == "quic":
                seconds = opened["at"] - healed
                return f"{'' if seconds >= RETURN_MIN else 'never so soon: '}back on QUIC after {seconds:.0f} s"
            after = relay.events.index(opened) + 1
    return "never back on QUIC"


@row(
    "NET-12",
    limit="over 1,300 bytes vanish: ready ≤ 10 s over QUIC and auto, ≤ 25 s over TCP, no tcp_mtu_probing; 1 MB exact",
    roads=(*TRANSPORTS, AUTO),
    quick=(AUTO,),
    takes=(20, 12),
)
async def short_packets_only(case: Case) -> Outcome:
    """Drop what is longer than 1,300 bytes, without a word, and move a megabyte each way.

    Linux does not look for such a path by itself (`tcp_mtu_probing` is 0 by
    default): over TCP the agent has to find out, by a handshake that times out.
    """
    wait = READY_TCP_LIMIT if case.road.transport in ("h2", "yamux") else READY_LIMIT
    async with network() as net, stage(net) as scene:
        for host in ("agent", "relay"):
            await net.sysctl(host, net__ipv4__tcp_mtu_probing=0)
        await faults.drop(net, "meta length > 1300")
        program = scene.launch(case.road)
        begun = (await program.event("connecting"))["at"]
        try:
            agent = await scene.ready(program, wait=wait)
        except trio.TooSlowError:
            said = [str(event.get("reason")) for event in program.said("disconnected")]
            return Outcome(passed=False, figure=f"not ready in {wait:.0f} s ({said[0] if said else 'it says nothing'})")
        ready = agent.program.said("ready")[0]
        figure = f"ready over {ready['transport']} in {ready['at'] - begun:.1f} s"
        good = await faults.dropped(net) > 0 or ready["transport"] == "quic"
        for upload in (False, True):
            (moved,) = await scene.move(agent, Job(MEGABYTE, upload=upload, deadline=20.0))
            good &= bool(moved.get("exact"))
            figure += f", {'up' if upload else 'down'} {moved.get('error') or 'exact'} in {moved['seconds']:.1f} s"
    return Outcome(good, figure)
