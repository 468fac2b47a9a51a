"""Rows about the path: it changes its addresses, loses UDP or long packets; names that do not resolve."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import trio

from scripts.lab import faults
from scripts.lab.hosts import GATEWAY, RELAY, Network, network
from scripts.lab.programs import AGENTS_PORT, Agent, Program, Stage, stage
from scripts.lab.roads import AUTO, H2, QUIC, Road
from scripts.lab.table import Case, Outcome, row

MEGABYTE = 1_000_000
SECOND_ADDRESS = "10.81.2.77"
"""What the NAT, or the relay, is called later."""
NAME = "relay.lab.test"


@row("NET-05", limit="NAT rebinding, port and then address: 0 lost requests, stall ≤ 1 s, the session stays", roads=(QUIC,))
async def rebinding(case: Case) -> Outcome:
    """Let the NAT forget the mapping, then give it another address, under a canary and a download."""
    async with network() as net, stage(net) as scene:
        await net.ip("net", f"addr add {SECOND_ADDRESS}/24 dev relay0")
        await faults.masquerade(net, "snat to 10.81.2.1:20000-60000 random")
        agent = await scene.agent(case.road)
        canary = await scene.canary(agent)
        for bulk in (False, True):
            if bulk:
                mover = scene.mover(agent, int(case.either(60, 20)) * MEGABYTE)
            await trio.sleep(2)
            begun = time.monotonic()
            await faults.masquerade(net, f"snat to 10.81.2.1:20000-60000 random")
            await trio.sleep(4)
            await faults.masquerade(net, f"snat to {SECOND_ADDRESS}:20000-60000 random")
            await trio.sleep(4)
        return Outcome(False, "")


async def _unused(scene: Stage, agent: Agent, program: Program, road: Road, net: Network) -> None:
    Path(sys.executable)


__all__ = ["AGENTS_PORT", "AUTO", "GATEWAY", "H2", "NAME", "RELAY"]
