"""Rows about HTTP/2 floods: a hostile relay against an agent, a hostile agent against the relay."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import islice

import trio

from scripts.rows.hostile import REQUEST, Wire, headers, hostile_agent, hostile_relay, reset
from scripts.rows.lab import Canary, Lab, cpu_seconds, laboratory, rss_kib
from scripts.rows.registry import Outcome, row
from trunnel.errors import ErrorCode
from trunnel.transports import h2_frames as frames
from trunnel.transports.h2_connection import H2Connection, Role
from trunnel.transports.h2_frames import FrameType
from trunnel.transports.h2_receive import H2Receiver

CALM = int(ErrorCode.ENHANCE_YOUR_CALM)
PAIRS = 20_000
CPU_LIMIT = 0.2
STALL_LIMIT = 0.020
CHUNK = 100
"""Frames (or pairs) handed to TLS at once."""
SETTLE = 1.0


def batches(parts: Sequence[bytes], size: int = CHUNK) -> list[bytes]:
    """Join *parts* by *size*."""
    rest = iter(parts)
    return [b"".join(batch) for batch in iter(lambda: list(islice(rest, size)), [])]


def slowest_feed(flood: bytes, *, role: Role, read: int = 65_536) -> float:
    """Return the longest time, in seconds, that one read's worth of *flood* keeps the parser busy."""
    h2 = H2Connection(role, now=trio.current_time())
    receiver = H2Receiver(h2)
    opening = frames.encode_settings({})
    receiver.feed_untrusted((frames.PREFACE if role is Role.SERVER else b"") + opening, now=trio.current_time())
    slowest = 0.0
    for at in range(0, len(flood), read):
        begun = trio.current_time()
        try:
            receiver.feed_untrusted(flood[at : at + read], now=begun)
        except Exception as exc:
            if not hasattr(exc, "code"):
                raise
            return max(slowest, trio.current_time() - begun)
        slowest = max(slowest, trio.current_time() - begun)
    return slowest


async def attack_agent(lab: Lab, parts: Sequence[bytes], *, deaf: bool = False) -> tuple[Wire, float, int]:
    """Flood a real agent; returns the wire, the CPU it took, and the growth of its RSS in KiB."""
    origin = await lab.start_origin()
    async with hostile_relay(lab, origin) as (wire, agent):
        await trio.sleep(SETTLE)
        cpu, memory = cpu_seconds(agent.pid), rss_kib(agent.pid)
        await (wire.flood_deaf if deaf else wire.flood)(batches(parts))
        used, grown = cpu_seconds(agent.pid) - cpu, rss_kib(agent.pid) - memory
        return wire, used, grown


async def attack_relay(lab: Lab, parts: Sequence[bytes], *, deaf: bool = False) -> tuple[Wire, float, int, Canary]:
    """Flood a real relay that serves a canary meanwhile."""
    await lab.start_relay()
    good = await lab.start_agent(await lab.start_origin())
    canary = await lab.start_canary(good)
    await trio.sleep(SETTLE)
    async with hostile_agent(lab) as (wire, _welcome):
        cpu, memory = cpu_seconds(lab.relay.pid), rss_kib(lab.relay.pid)
        await (wire.flood_deaf if deaf else wire.flood)(batches(parts))
        used, grown = cpu_seconds(lab.relay.pid) - cpu, rss_kib(lab.relay.pid) - memory
    await trio.sleep(SETTLE)
    return wire, used, grown, canary


def describe(wire: Wire, used: float, grown: int) -> str:
    """Say how a flood ended."""
    ended = "no GOAWAY" if wire.goaway is None else ErrorCode.from_wire(wire.goaway).name
    return f"{ended}, CPU {used:.2f} s, RSS {grown / 1024:+.1f} MB"


@row("LOAD-07", limit=f"ENHANCE_YOUR_CALM after ≤ 100 resets; CPU ≤ {CPU_LIMIT} s; stall ≤ {1000 * STALL_LIMIT:.0f} ms")
async def rapid_reset() -> Outcome:
    """A relay that opens and resets 20,000 streams."""
    pairs = [headers(number) + reset(number) for number in range(3, 3 + 2 * PAIRS, 2)]
    stall = min(slowest_feed(b"".join(pairs), role=Role.SERVER) for _ in range(3))
    async with laboratory() as lab:
        wire, used, grown = await attack_agent(lab, pairs)
    figure = f"{describe(wire, used, grown)}, stall {1000 * stall:.1f} ms"
    return Outcome(wire.goaway == CALM and used <= CPU_LIMIT and stall <= STALL_LIMIT, figure)


@row("LOAD-08", limit="the limiter counts resets that we send: ENHANCE_YOUR_CALM on both sides; canary unharmed")
async def made_you_reset() -> Outcome:
    """10,000 provoked resets: WINDOW_UPDATE of 0 at the agent, and at the relay on streams of visitors."""
    zero = bytes(4)
    provoking = [
        headers(number) + frames.encode_frame(FrameType.WINDOW_UPDATE, 0, number, zero)
        for number in range(3, 20_003, 2)
    ]
    async with laboratory() as lab:
        wire, used, grown = await attack_agent(lab, provoking)
    priority = [frames.encode_frame(FrameType.PRIORITY, 0, 1, (1).to_bytes(4, "big") + b"\x00") for _ in range(10_000)]
    async with laboratory() as lab:
        relay_wire, relay_used, relay_grown, canary = await attack_relay(lab, priority)
    figure = (
        f"agent: {describe(wire, used, grown)}; relay: {describe(relay_wire, relay_used, relay_grown)}, "
        f"canary {100 * canary.success:.1f} %"
    )
    good = wire.goaway == CALM and relay_wire.goaway is not None and canary.success >= 0.999
    return Outcome(good and used <= 2 * CPU_LIMIT and relay_used <= 5 * CPU_LIMIT, figure)


@row("LOAD-09", limit="closed at ≤ 64 CONTINUATION frames, and at ≤ 64 KiB")
async def continuation_flood() -> Outcome:
    """10,000 CONTINUATION frames without END_HEADERS; then 65 of 16 KiB."""
    opening = headers(3, REQUEST, flags=0)
    small = [opening] + [frames.encode_frame(FrameType.CONTINUATION, 0, 3, b"\x00") for _ in range(10_000)]
    large = [opening] + [frames.encode_frame(FrameType.CONTINUATION, 0, 3, bytes(16_384)) for _ in range(65)]
    figures: list[str] = []
    good = True
    for parts in (small, large):
        async with laboratory() as lab:
            wire, used, grown = await attack_agent(lab, parts)
        figures.append(describe(wire, used, grown))
        good &= wire.goaway == CALM and used <= CPU_LIMIT and grown < 2048
    return Outcome(good, "; ".join(figures))


FLOODS = {
    "PING": frames.encode_frame(FrameType.PING, 0, 0, bytes(8)),
    "SETTINGS": frames.encode_settings({}),
    "PRIORITY": frames.encode_frame(FrameType.PRIORITY, 0, 1, bytes(5)),
    "WINDOW_UPDATE": frames.encode_frame(FrameType.WINDOW_UPDATE, 0, 0, (1).to_bytes(4, "big")),
    "unknown": frames.encode_frame(0xEE, 0, 0, b"x"),
    "empty DATA": frames.encode_frame(FrameType.DATA, 0, 1),
}


@row("LOAD-10", limit="each of 6 floods of 50,000 against agent and relay: closed, RSS ≤ +2 MB")
async def control_floods() -> Outcome:
    """PING, SETTINGS, PRIORITY, WINDOW_UPDATE, unknown types, empty DATA; the flooder is deaf until it is done."""
    figures: list[str] = []
    good = True
    for kind, frame in FLOODS.items():
        parts = [frame] * 50_000
        async with laboratory() as lab:
            wire, used, grown = await attack_agent(lab, parts, deaf=True)
        async with laboratory() as lab:
            relay_wire, relay_used, relay_grown, canary = await attack_relay(lab, parts, deaf=True)
        figures.append(f"{kind} {used:.2f}/{relay_used:.2f} s {grown / 1024:+.1f}/{relay_grown / 1024:+.1f} MB")
        good &= wire.goaway == CALM and relay_wire.goaway == CALM and canary.success >= 0.999
        good &= grown <= 2048 and relay_grown <= 2048
    return Outcome(good, "agent/relay " + ", ".join(figures))


@row("LOAD-11", limit="an HPACK bomb and 64 KiB header lists on 100 streams are refused; RSS ≤ +8 MB")
async def header_bombs() -> Outcome:
    """A dynamic-table entry of 4 KiB repeated 4,000 times; and long header lists."""
    entry = b"\x40\x01a\x7f\xa1\x1e" + b"b" * 4_000  # literal with indexing, value of 4,000 bytes
    bomb = [headers(3, REQUEST + entry + b"\xbe" * 4_000)]
    long_list = b"".join(b"\x00\x01a\x7f\x89\x07" + b"c" * 1_032 for _ in range(15))
    lists = [headers(number, REQUEST + long_list) for number in range(3, 203, 2)]
    figures: list[str] = []
    good = True
    for parts in (bomb, lists):
        async with laboratory() as lab:
            wire, used, grown = await attack_agent(lab, parts)
        figures.append(describe(wire, used, grown))
        good &= wire.goaway is not None and grown <= 8 * 1024
    return Outcome(good, "; ".join(figures))
