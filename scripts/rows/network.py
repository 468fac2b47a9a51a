"""Rows about the network: a peer that vanishes, half-close, one bad stream beside good ones."""

from __future__ import annotations

import hashlib
import signal
import ssl
from collections.abc import Awaitable, Callable
from contextlib import suppress
from datetime import UTC, datetime

import trio
from OpenSSL import SSL

from scripts.rows.lab import WAIT, Agent, Lab, free_port, laboratory
from scripts.rows.registry import Outcome, row
from trunnel.identity.certstore import LeafStore
from trunnel.identity.contexts import visitor_context
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname
from trunnel.streams.tls import TlsRole, TlsStream

OFFLINE_LIMIT = 20.0
BACK_LIMIT = 25.0
UPLOAD = 8 << 20


@row(
    "NET-03", limit="offline ≤ 20 s after the freeze, back ≤ 25 s after the thaw, visitors closed ≤ 1 s after the mark"
)
async def frozen_agent() -> Outcome:
    """SIGSTOP an agent: no FIN, no answer; then SIGCONT."""
    async with laboratory() as lab:
        await lab.start_relay()
        agent = await lab.start_agent(await lab.start_origin())
        closed = 0.0
        ended = trio.Event()

        async def visitor() -> None:
            nonlocal closed
            with suppress(OSError, trio.BrokenResourceError):
                await lab.visit(agent, path="/slow/120")
            closed = trio.current_time()
            ended.set()

        lab.nursery.start_soon(visitor)
        await trio.sleep(1.0)
        agent.program.process.send_signal(signal.SIGSTOP)
        frozen = trio.current_time()
        try:
            await lab.relay.event("carrier_lost", carriers=0)
            marked = trio.current_time()
            with trio.fail_after(WAIT):
                await ended.wait()
            again = len(lab.relay.events)
        finally:
            agent.program.process.send_signal(signal.SIGCONT)
        thawed = trio.current_time()
        await lab.relay.event("carrier_opened", after=again)  # of the same session, if it is still to be had
        body = await lab.visit(agent)
        back = trio.current_time() - thawed
        figure = (
            f"offline after {marked - frozen:.1f} s, visitor closed {1000 * (closed - marked):.0f} ms later, "
            f"serving again {back:.1f} s after the thaw"
        )
        in_time = marked - frozen <= OFFLINE_LIMIT + 0.5 and closed - marked <= 1.0 and back <= BACK_LIMIT
        return Outcome(in_time and bool(body), figure)


Script = Callable[[trio.abc.HalfCloseableStream], Awaitable[bool]]
"""What one end does; True if it got what it should."""


def scripts(payload: bytes) -> dict[str, tuple[Script, Script]]:
    """Return both orders of half-close, each as what the visitor and what the origin does."""
    wanted = hashlib.sha256(payload).digest()

    async def speak(stream: trio.abc.HalfCloseableStream, said: bytes) -> None:
        await stream.send_all(said)
        await stream.send_eof()

    async def hear(stream: trio.abc.HalfCloseableStream) -> bytes:
        digest = hashlib.sha256()
        while chunk := await stream.receive_some(65536):
            digest.update(chunk)
        return digest.digest()

    async def first(stream: trio.abc.HalfCloseableStream) -> bool:
        await speak(stream, payload)
        return await hear(stream) == wanted

    async def second(stream: trio.abc.HalfCloseableStream) -> bool:
        heard = await hear(stream)
        await speak(stream, payload)
        return heard == wanted

    return {"visitor first": (first, second), "origin first": (second, first)}


@row("NET-13", limit="FIN carried each way, 8 MiB exact both ways, either order, TLS at the agent and passed through")
async def half_close() -> Outcome:
    """One end sends all and half-closes; the other hears it to the end, answers with as much, and half-closes."""
    payload = bytes(range(256)) * (UPLOAD // 256)
    results: dict[str, bool] = {}
    async with laboratory() as lab:
        await lab.start_relay()
        leaf = LeafStore(lab.folder / "leaf", IdentityKey.generate()).leaf([Hostname("origin")], now=datetime.now(UTC))
        server_context = visitor_context(leaf, alpn=[])
        for passthrough in (False, True):
            for order, (visitor, origin) in scripts(payload).items():
                told, heard = trio.open_memory_channel[bool](1)

                async def serve(
                    stream: trio.SocketStream,
                    *,
                    end_tls: bool = passthrough,
                    play: Script = origin,
                    to: trio.MemorySendChannel[bool] = told,
                ) -> None:
                    ready: trio.abc.HalfCloseableStream = stream
                    if end_tls:
                        ready = await TlsStream.handshake(stream, server_context, role=TlsRole.SERVER, timeout=WAIT)
                    await to.send(await play(ready))
                    await ready.aclose()

                listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
                lab.nursery.start_soon(trio.serve_listeners, serve, listeners)
                flags = ["--tls-passthrough"] if passthrough else []
                name = f"agent-{passthrough}-{order}".replace(" ", "-").lower()
                agent = await lab.start_agent(listeners[0].socket.getsockname()[1], *flags, name=name)
                label = f"{order}, {'passed through' if passthrough else 'TLS at the agent'}"
                results[label] = await play_visitor(lab, agent, visitor) and await all_heard(heard)
    lost = [label for label, good in results.items() if not good]
    figure = f"{len(results) - len(lost)} of {len(results)} exact" + (f", lost: {', '.join(lost)}" if lost else "")
    return Outcome(not lost, figure)


async def play_visitor(lab: Lab, agent: Agent, script: Script) -> bool:
    """Be the visitor: TLS that can half-close."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    raw = await lab.connect()
    hostname = Hostname(agent.hostname)
    tls = await TlsStream.handshake(raw, context, role=TlsRole.CLIENT, server_name=hostname, timeout=WAIT)
    try:
        with trio.fail_after(WAIT):
            return await script(tls)
    except (trio.BrokenResourceError, trio.TooSlowError):
        return False
    finally:
        await tls.aclose()


async def all_heard(heard: trio.MemoryReceiveChannel[bool]) -> bool:
    """Wait for the origin's verdict."""
    with trio.move_on_after(WAIT):
        return await heard.receive()
    return False


@row("CANARY", limit="a canary's p99 beside a slow visitor, malformed hellos and a dead origin ≤ 3 times idle")
async def bad_neighbours() -> Outcome:
    """One visitor that reads nothing of 100 MB, malformed hellos, visits to a dead origin: the canary is unharmed."""
    async with laboratory() as lab:
        await lab.start_relay()
        agent = await lab.start_agent(await lab.start_origin())
        dead = await lab.start_agent(free_port(), name="dead")
        canary = await lab.start_canary(agent)
        await trio.sleep(5)
        idle = canary.p99
        canary.reset()

        async def slow() -> None:
            tls = trio.SSLStream(await lab.connect(), agent.context(), server_hostname=agent.hostname)
            await tls.send_all(b"GET /bytes/100000000 HTTP/1.1\r\nHost: a\r\n\r\n")
            await trio.sleep_forever()

        async def malformed() -> None:
            while True:
                stream = await lab.connect(source="127.0.6.1")
                with suppress(trio.BrokenResourceError):
                    await stream.send_all(b"\x16\x03\x01\x00\x10\x01\x00\x00\x0c" + bytes(12))
                    await stream.receive_some(64)
                await trio.aclose_forcefully(stream)
                await trio.sleep(0.05)

        async def to_dead_origin() -> None:
            while True:
                with suppress(OSError, ssl.SSLError, trio.BrokenResourceError):
                    await lab.visit(dead, source="127.0.6.2")
                await trio.sleep(0.1)

        async with trio.open_nursery() as nursery:
            for trouble in (slow, malformed, to_dead_origin):
                nursery.start_soon(trouble)
            await trio.sleep(10)
            nursery.cancel_scope.cancel()
        figure = (
            f"idle p99 {1000 * idle:.0f} ms, beside trouble {1000 * canary.p99:.0f} ms "
            f"(median {1000 * canary.median:.0f}), {100 * canary.success:.1f} %"
        )
        return Outcome(canary.p99 <= 3 * idle and canary.success >= 0.999, figure)
