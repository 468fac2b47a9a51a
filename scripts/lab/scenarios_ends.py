"""Rows about the ends of streams: half-close, visitors that break off by hundreds, readers that stop."""

from __future__ import annotations

import socket
import ssl
import statistics
import struct
import time
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path

import trio
from OpenSSL import SSL

from scripts.lab.cable import cable
from scripts.lab.hosts import network
from scripts.lab.programs import WAIT, Agent, Program, Stage, stage, until
from scripts.lab.roads import H2, QUIC
from scripts.lab.table import Case, Load, Outcome, row
from scripts.lab.transfer import Job
from scripts.lab.wire import Behaviour
from scripts.rows.lab import rss_kib
from scripts.rows.network import Script, all_heard, scripts
from trunnel.identity.certstore import LeafStore
from trunnel.identity.contexts import visitor_context
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname
from trunnel.streams.tls import TlsRole, TlsStream

MEGABYTE = 1_000_000
PATTERN = bytes(range(256))
ESTABLISHED = "01"
STORM_RATE = 500
CLOSED_LIMIT = 0.1
GROWTH_LIMIT_KIB = 4_096
Verdicts = trio.MemoryReceiveChannel[bool]


# --- NET-13 -----------------------------------------------------------------------------------


async def play(scene: Stage, agent: Agent, script: Script) -> bool:
    """Be a visitor that can half-close."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    name = Hostname(agent.where.hostname)
    tls = await TlsStream.handshake(await scene.connect(), context, role=TlsRole.CLIENT, server_name=name, timeout=WAIT)
    try:
        with trio.fail_after(WAIT):
            return await script(tls)
    except (trio.BrokenResourceError, trio.TooSlowError):
        return False
    finally:
        await tls.aclose()


async def origin_of(scene: Stage, play: dict[str, Script], context: SSL.Context | None) -> tuple[int, Verdicts]:
    """Run an origin on the agent's host that plays what stands in *play*; returns its port, and its verdicts."""
    told, heard = trio.open_memory_channel[bool](1)
    sock = scene.net.socket("agent")
    sock.bind(("127.0.0.1", 0))
    sock.listen()

    async def serve(stream: trio.SocketStream) -> None:
        ready: trio.abc.HalfCloseableStream = stream
        if context is not None:
            ready = await TlsStream.handshake(stream, context, role=TlsRole.SERVER, timeout=WAIT)
        await told.send(await play["now"](ready))
        await ready.aclose()

    scene.nursery.start_soon(trio.serve_listeners, serve, [trio.SocketListener(trio.socket.from_stdlib_socket(sock))])
    return int(sock.getsockname()[1]), heard


@row(
    "NET-13",
    limit="FIN carried each way in either order, exact both ways, TLS at the agent and passed through",
    takes=(30, 15),
)
async def half_close(case: Case) -> Outcome:
    """One end sends all and half-closes; the other hears it out, answers with as much, and half-closes: 20 ms away."""
    payload = PATTERN * (int(case.either(8, 1)) * MEGABYTE // len(PATTERN))
    results: dict[str, bool] = {}
    async with cable(Behaviour(delay=0.01)) as (net, _), stage(net) as scene:
        leaves = LeafStore(net.folder / "leaf", IdentityKey.generate())
        context = visitor_context(leaves.leaf([Hostname("origin")], now=datetime.now(UTC)), alpn=[])
        for passthrough in (False, True):
            playing: dict[str, Script] = {}
            port, heard = await origin_of(scene, playing, context if passthrough else None)
            flags = ["--tls-passthrough"] if passthrough else []
            agent = await scene.agent(case.road, *flags, name=f"agent{passthrough:d}", target=port)
            for order, (visitor, playing["now"]) in scripts(payload).items():
                label = f"{order}, {'passed through' if passthrough else 'TLS at the agent'}"
                results[label] = await play(scene, agent, visitor) and await all_heard(heard)
    lost = [label for label, good in results.items() if not good]
    return Outcome(
        not lost, f"{len(results) - len(lost)} of {len(results)} exact{': lost ' if lost else ''}{', '.join(lost)}"
    )


# --- NET-14 -----------------------------------------------------------------------------------


def client_hello(hostname: str) -> bytes:
    """Return the first flight of a TLS client that asks for *hostname*."""
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    with suppress(ssl.SSLWantReadError):
        context.wrap_bio(incoming, outgoing, server_hostname=hostname).do_handshake()
    return outgoing.read()


def connections(pid: int, port: int) -> int:
    """Return how many established connections a listening *port* has, on the host where *pid* runs."""
    lines = Path(f"/proc/{pid}/net/tcp").read_text().splitlines()[1:]
    fields = (line.split() for line in lines)
    return sum(words[1].endswith(f":{port:04X}") and words[3] == ESTABLISHED for words in fields)


async def break_off(scene: Stage, hello: bytes, until: trio.Event) -> None:
    """Be a visitor in the middle of a transfer; when told, be gone with an RST."""
    stream = await scene.connect()
    await stream.send_all(hello)
    await stream.receive_some(65_536)
    await until.wait()
    stream.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    stream.socket.close()


async def storm(scene: Stage, hello: bytes, visitors: int) -> tuple[int, float]:
    """Let *visitors* break off within a second; returns how many there were, and how long the last socket stayed."""
    port = scene.origin_port("raw")
    word = [trio.Event() for _ in range(visitors)]
    async with trio.open_nursery() as nursery:
        for event in word:
            nursery.start_soon(break_off, scene, hello, event)
            await trio.sleep(0.005)
        with trio.fail_after(WAIT):
            await until(lambda: connections(scene.origin.pid, port) >= visitors)
        begun = time.monotonic()
        for number, event in enumerate(word):
            event.set()
            await trio.sleep(max(0.0, begun + (number + 1) / STORM_RATE - time.monotonic()))
    broken = time.monotonic()
    with trio.fail_after(WAIT):
        await until(lambda: not connections(scene.origin.pid, port), look=0.005)
    return visitors, time.monotonic() - broken


@row(
    "NET-14",
    limit="RSTs from visitors, 500/s in mid-transfer: agent-side sockets closed ≤ 100 ms, 0 streams left",
    quick=(H2, QUIC),
    load=Load.BUSY,
    takes=(30, 10),
)
async def reset_storm(case: Case) -> Outcome:
    """Break off 500 transfers within a second, again and again (TLS passed through: only the tunnel works)."""
    rounds = int(case.either(5, 3))
    stays: list[float] = []
    async with network() as net, stage(net) as scene:
        agent = await scene.agent(case.road, "--tls-passthrough", target=scene.origin_port("raw"))
        hello = client_hello(agent.where.hostname)
        broken = 0
        for _ in range(rounds):
            visitors, stayed = await storm(scene, hello, int(case.either(500, 250)))
            broken += visitors
            stays.append(stayed)
        await trio.sleep(0.5)
        opened, closed = (len(agent.program.said(f"stream_{what}")) for what in ("opened", "closed"))
        lost = len(scene.losses())
    figure = f"{broken} broken off, the last socket closed {1000 * statistics.median(stays):.0f} ms later (median; "
    figure += f"worst {1000 * max(stays):.0f}); {opened - closed} streams left, {lost} carriers lost"
    judged = statistics.median(stays) if case.quick else max(stays)  # CI's machine may do something else during one
    return Outcome(judged <= CLOSED_LIMIT and opened >= broken and opened == closed and not lost, figure)


# --- LOAD-14 ----------------------------------------------------------------------------------


async def watch(program: Program, peaks: dict[int, int]) -> None:
    """Note the most memory that a program has."""
    while True:
        peaks[program.pid] = max(peaks.get(program.pid, 0), rss_kib(program.pid))
        await trio.sleep(0.1)


@row(
    "LOAD-14",
    limit="a reader stops after 20 MB: ≤ 4 MB more in either process, exact afterwards, either way",
    load=Load.BUSY,
    takes=(170, 10),
    quick=(H2, QUIC),
)
async def stopped_reader(case: Case) -> Outcome:
    """The visitor, then the origin, reads 20 MB and stops for a minute (quick: 5 MB, 3 s) before it reads on."""
    size, stop_at = (int(case.either(*pair)) * MEGABYTE for pair in ((200, 8), (20, 5)))
    pause = case.either(60, 3)
    patience = ("--first-byte-timeout", f"{3 * pause:.0f}s")  # the origin answers once it has read all
    figures: list[str] = []
    good = True
    async with network() as net, stage(net, *patience) as scene:
        agent = await scene.agent(case.road, *patience)
        programs = (scene.relay, agent.program)
        for upload in (False, True):
            await scene.move(agent, Job(stop_at, upload=upload))
            before = {program.pid: rss_kib(program.pid) for program in programs}
            peaks = dict(before)
            async with trio.open_nursery() as nursery:
                for program in programs:
                    nursery.start_soon(watch, program, peaks)
                job = Job(size, upload=upload, pause_at=stop_at, pause=pause, deadline=150.0)
                (moved,) = await scene.move(agent, job)
                nursery.cancel_scope.cancel()
            grown = [peaks[program.pid] - before[program.pid] for program in programs]
            good &= bool(moved.get("exact")) and moved["seconds"] >= pause and max(grown) <= GROWTH_LIMIT_KIB
            label = "origin" if upload else "visitor"
            ending = moved.get("error") or "exact"
            figures.append(
                f"{label} stops: relay +{grown[0] / 1024:.1f} MiB, agent +{grown[1] / 1024:.1f} MiB, {ending}"
            )
    return Outcome(good, ", ".join(figures))
