"""LOAD-16: strangers who begin handshakes and never go on."""

from __future__ import annotations

import sys
import time

import trio

from scripts.rows.lab import cpu_seconds, laboratory, rss_kib
from scripts.rows.registry import PACE, Outcome, row
from trunnel.settings import limits

RATE = 5_000
RSS_KIB = 10 * 1024
CPU_SHARE = 0.6
AMPLIFICATION = 3.0
FLIGHT = 12
"""Datagrams that one handshake without Retry may be answered with: its flight, and that again on each timer."""
LOOK = 0.2


@row(
    "LOAD-16",
    limit=f"{RATE} Initials/s: Retry from {limits.QUIC_HALF_OPEN_RETRY} half-open on, RSS ≤ +10 MB, CPU ≤ "
    f"{100 * CPU_SHARE:.0f} % of a core, agents keep their sessions, for any address bytes out ≤ "
    f"{AMPLIFICATION:.0f} times those in",
)
async def initial_flood() -> Outcome:
    """5,000 forged Initials a second for 30 s, beside agents on QUIC and HTTP/2 that serve a canary."""
    seconds = PACE.either(30.0, 10.0)
    async with laboratory() as lab:
        await lab.start_relay()
        origin = await lab.start_origin()
        agents = [
            await lab.start_agent(origin, "--transport", name, "--data", "session", name=name)
            for name in ("quic", "h2")
        ]
        for agent in agents:
            await lab.visit(agent)
        attack = lab.start(
            [sys.executable, "-m", "scripts.rows.initials", str(lab.agents_port), str(RATE), str(seconds)]
        )
        await attack.event("begun")
        used, before, begun = cpu_seconds(lab.relay.pid), rss_kib(lab.relay.pid), time.monotonic()
        peak, visits = before, 0
        while time.monotonic() < begun + seconds:
            peak = max(peak, rss_kib(lab.relay.pid))
            visits += bool(await lab.visit(agents[visits % len(agents)]))
            await trio.sleep(LOOK)
        share = (cpu_seconds(lab.relay.pid) - used) / (time.monotonic() - begun)
        done = await attack.event("done")
        lost = lab.relay.count("session_closed") + lab.relay.count("carrier_lost")
    rate = int(str(done["datagrams"])) / seconds
    retries, others, worst = int(str(done["retries"])), int(str(done["others"])), float(str(done["worst"]))
    rounds = 1 + seconds / limits.HANDSHAKE_TIMEOUT
    figure = (
        f"{rate:.0f}/s for {seconds:.0f} s: {retries} Retries, {others} other answers, RSS "
        f"{(peak - before) / 1024:+.1f} MB, CPU {100 * share:.0f} %, {lost} carriers lost, {visits} visits served, "
        f"bytes out ≤ {worst:.2f} times those in"
    )
    good = rate >= RATE * 0.95 and peak - before <= RSS_KIB and share <= CPU_SHARE and not lost and visits > seconds
    proved = retries > 0 and others <= rounds * limits.QUIC_HALF_OPEN_RETRY * FLIGHT
    return Outcome(good and proved and worst <= AMPLIFICATION, figure)
