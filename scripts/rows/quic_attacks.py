"""LOAD-13 and LOAD-15: an agent on QUIC that attacks the relay, with real packets.

Agents open no streams: the relay grants them one, and opens the visitors'
itself.  So the sparse frames go to streams that visitors have caused, and the
floods to what an agent may name.
"""

from __future__ import annotations

import ssl
from collections.abc import Callable, Iterator
from dataclasses import dataclass

import trio

from scripts.rows.hostile_quic import CONTROL_STREAM, HostileAgent, frame, hostile_agent, stream_frame
from scripts.rows.lab import Agent, Lab, cpu_seconds, laboratory, rss_kib
from scripts.rows.registry import Outcome, row

SPARSE = 12
STREAMS = (1, 128)
SPARSE_KIB = 1024
FRAMES = 50_000
FLOOD_CPU = 1.0
FLOOD_KIB = 2 * 1024
SETTLE = 1.0
ENDING = 5.0
CHUNK = 2_000
"""Frames after which a flood pauses, so that the relay's socket does not lose the rest."""
PAUSE = 0.01
VISITOR = "127.0.4.2"


def hello_to(hostname: str) -> bytes:
    """Return a ClientHello for *hostname*."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = ssl.create_default_context().wrap_bio(incoming, outgoing, server_hostname=hostname)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake needs two")


async def ended(agent: HostileAgent) -> str:
    """Wait a moment for the end, and say how the relay ended the connection."""
    with trio.move_on_after(ENDING):
        await agent.until_ended()
    return "NOT ended" if agent.ended is None else f"ended {agent.ended.error_code:#x} {agent.ended.reason_phrase!r}"


async def sparse(lab: Lab, amount: int) -> tuple[bool, str]:
    """Send the sparse frames on *amount* streams of visitors, then one byte too many."""
    async with hostile_agent(lab) as (agent, welcome):
        hello = hello_to(welcome.endpoints[0].hostname)
        visitors = [await lab.connect(source=VISITOR) for _ in range(amount)]
        for visitor in visitors:
            await visitor.send_all(hello)
        await agent.until(1 + amount)
        await trio.sleep(SETTLE)
        granted = agent.credits(sorted(agent.streams - {CONTROL_STREAM}))
        lawful = {stream: credit - 1 for stream, credit in granted.items() if credit}
        before = peak = rss_kib(lab.relay.pid)
        for _ in range(SPARSE):
            await agent.forge([stream_frame(stream, offset, b"x") for stream, offset in lawful.items()])
            await trio.sleep(SETTLE / SPARSE)
            peak = max(peak, rss_kib(lab.relay.pid))
        kept = agent.ended is None
        stream, credit = next(iter(granted.items()))
        await agent.forge([stream_frame(stream, credit, b"x")])
        how = await ended(agent)
        for visitor in visitors:
            await trio.aclose_forcefully(visitor)
    grown = peak - before
    figure = f"{amount} streams: RSS {grown / 1024:+.2f} MB (credit {credit >> 10} KiB a stream), then {how}"
    return grown <= SPARSE_KIB and agent.ended is not None and kept, figure


@row("LOAD-13", limit="12 frames at limit-1 on 1 and on 128 streams: RSS ≤ +1 MB; one byte beyond: peer closed")
async def sparse_frames() -> Outcome:
    """Frames of one byte at the very end of the credit."""
    results: list[tuple[bool, str]] = []
    for amount in STREAMS:
        async with laboratory() as lab:
            await lab.start_relay()
            healthy = await lab.start_agent(await lab.start_origin(), "--transport", "quic", "--data", "session")
            await lab.visit(healthy)
            result = await sparse(lab, amount)
            results.append((result[0] and bool(await lab.visit(healthy)), result[1]))
    return Outcome(all(good for good, _ in results), "; ".join(figure for _, figure in results))


def ranges(number: int) -> bytes:
    """Return an ACK frame of 65 ranges."""
    return frame(0x02, 2_000 + number % 1_000, 0, 64, 0, *[0] * 128)


FLOODS: dict[str, Callable[[int], bytes]] = {
    "PATH_CHALLENGE": lambda number: frame(0x1A, tail=number.to_bytes(8, "big")),
    "NEW_CONNECTION_ID": lambda number: frame(
        0x18, number + 8, number + 8, tail=b"\x08" + number.to_bytes(8, "big") + bytes(16)
    ),
    "RETIRE_CONNECTION_ID": lambda number: frame(0x19, number % 8),
    "STOP_SENDING": lambda _: frame(0x05, CONTROL_STREAM, 0),
    "RESET_STREAM beyond the limit": lambda number: frame(0x04, 4 + 4 * number, 0, 1),
    "ACK ranges": ranges,
}


@dataclass
class Cost:
    """What a flood cost the relay."""

    name: str
    cpu: float
    grown_kib: int
    how: str
    served: bool

    @property
    def good(self) -> bool:
        """Whether that is within the limits."""
        return self.cpu <= FLOOD_CPU and self.grown_kib <= FLOOD_KIB and self.served

    def __str__(self) -> str:
        served = "" if self.served else ", VISITORS NOT SERVED"
        return f"{self.name}: {self.cpu:.2f} s, {self.grown_kib / 1024:+.1f} MB, {self.how}{served}"


def frames(make: Callable[[int], bytes]) -> Iterator[list[bytes]]:
    """Yield all frames of a flood, some at a time."""
    for start in range(0, FRAMES, CHUNK):
        yield [make(number) for number in range(start, start + CHUNK)]


async def flood(lab: Lab, healthy: Agent, name: str) -> Cost:
    """Send one flood on a connection of its own."""
    async with hostile_agent(lab) as (agent, _welcome):
        batches = list(frames(FLOODS[name]))
        lost = lab.relay.count("carrier_lost")
        await trio.sleep(SETTLE)
        used, before = cpu_seconds(lab.relay.pid), rss_kib(lab.relay.pid)
        peak = before
        for batch in batches:
            await agent.forge(batch)
            await trio.sleep(PAUSE)
            peak = max(peak, rss_kib(lab.relay.pid))
        await trio.sleep(SETTLE)
        cpu = cpu_seconds(lab.relay.pid) - used
        how = await ended(agent)
    if agent.ended is None and lab.relay.count("carrier_lost") > lost:
        how = "ended, which the attacker did not hear"  # it was told at a connection id of its own invention
    return Cost(name, cpu, max(peak, rss_kib(lab.relay.pid)) - before, how, bool(await lab.visit(healthy)))


@row("LOAD-15", limit=f"each of {len(FLOODS)} floods of {FRAMES} frames: CPU ≤ 1 s, RSS ≤ +2 MB, other agents served")
async def frame_floods() -> Outcome:
    """Frames that cost an agent nothing."""
    async with laboratory() as lab:
        await lab.start_relay()
        healthy = await lab.start_agent(await lab.start_origin(), "--transport", "quic", "--data", "session")
        async with hostile_agent(lab) as (agent, _welcome):
            await agent.forge([frame(0x01)])  # a first lawful one: what a connection needs is no flood's cost
        await lab.visit(healthy)
        costs = [await flood(lab, healthy, name) for name in FLOODS]
    return Outcome(all(cost.good for cost in costs), "; ".join(map(str, costs)))
