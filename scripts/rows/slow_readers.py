"""Rows about readers that stop: LOAD-14 on each transport, uploads and downloads.

Visitor and origin are in the row's process, so that what each has sent and
read is known at any moment; relay and agent are processes of their own, whose
memory is looked at all the while.  Each pair first carries a whole transfer:
what a program needs at work, stalled readers or not, is not the reader's cost.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass

import trio

from scripts.lab.pattern import Checker, block
from scripts.rows.lab import Agent, Lab, laboratory, rss_kib
from scripts.rows.registry import PACE, Outcome, row

MB = 1_000_000
SIZE = 200 * MB
PAUSE_AT = 20 * MB
WARM = 20 * MB
CHUNK = 65_536
GROWTH_KIB = 4 * 1024
AHEAD = 16 * MB
"""Bytes that may be on the way from a sender that blocks: two windows of a stream, and the kernel's buffers."""
LOOK = 0.05
BLOCKED = 2.0
"""Seconds before the end of a pause in which not a byte more may be taken from the sender."""
TIMEOUT = 100.0
"""Seconds for one transfer, its pause apart."""
UPLOAD, DOWNLOAD = b"U", b"D"


@dataclass
class Transfer:
    """One transfer: what is to happen, and what has."""

    size: int
    pause_at: int = 0
    pause: float = 0.0
    sent: int = 0
    taken: int = 0
    resumed: bool = True
    verdict: bytes = b""

    async def send(self, stream: trio.abc.SendStream) -> None:
        """Send all of it."""
        while self.sent < self.size:
            chunk = block(self.sent, min(CHUNK, self.size - self.sent))
            await stream.send_all(chunk)
            self.sent += len(chunk)

    async def take(self, stream: trio.abc.ReceiveStream) -> None:
        """Read all of it, but for one pause; *verdict* says whether it was exact."""
        checker = Checker()
        self.resumed = not self.pause
        while checker.received < self.size:
            chunk = await stream.receive_some(min(CHUNK, self.size - checker.received))
            if not chunk:
                break
            checker.feed(chunk)
            self.taken = checker.received
            if not self.resumed and checker.received >= self.pause_at:
                await trio.sleep(self.pause)
                self.resumed = True
        self.verdict = b"exact" if checker.exact(self.size) else b"wrong"


class Ends:
    """The origin, and its visitors."""

    def __init__(self, lab: Lab) -> None:
        self.lab = lab
        self.transfer = Transfer(0)

    async def serve(self, stream: trio.SocketStream) -> None:
        """Be the origin of one visitor."""
        with suppress(trio.BrokenResourceError):
            async with stream:
                if await stream.receive_some(1) == UPLOAD:
                    await self.transfer.take(stream)
                    await stream.send_all(self.transfer.verdict)
                else:
                    await self.transfer.send(stream)
                await stream.send_eof()

    async def start(self) -> int:
        """Start the origin; returns its port."""
        listeners = await trio.open_tcp_listeners(0, host="127.0.0.1")
        self.lab.nursery.start_soon(trio.serve_listeners, self.serve, listeners)
        return int(listeners[0].socket.getsockname()[1])

    async def visit(self, agent: Agent, kind: bytes, transfer: Transfer) -> bool:
        """Do *transfer* through the tunnel; whether all came, and came right."""
        self.transfer = transfer
        raw = await self.lab.connect()
        tls = trio.SSLStream(raw, agent.context(), server_hostname=agent.hostname, https_compatible=True)
        try:
            await tls.send_all(kind)
            if kind == UPLOAD:
                await transfer.send(tls)
                return await tls.receive_some(CHUNK) == b"exact"
            await transfer.take(tls)
            return transfer.verdict == b"exact"
        finally:
            await trio.aclose_forcefully(tls)


@dataclass
class Observed:
    """What was seen during one transfer."""

    relay_kib: int = 0
    agent_kib: int = 0
    ahead: int = 0
    late: int = 0
    """Bytes taken from the sender during the end of the pause."""


async def observe(lab: Lab, agent: Agent, transfer: Transfer) -> Observed:
    """Watch both processes until the pause is over."""
    seen = Observed()
    relay, agents = rss_kib(lab.relay.pid), rss_kib(agent.program.pid)
    while transfer.taken < transfer.pause_at:  # noqa: ASYNC110 - the processes are looked at all the while
        await trio.sleep(LOOK)
    over = trio.current_time() + transfer.pause
    settled: int | None = None
    while not transfer.resumed:
        seen.relay_kib = max(seen.relay_kib, rss_kib(lab.relay.pid) - relay)
        seen.agent_kib = max(seen.agent_kib, rss_kib(agent.program.pid) - agents)
        if settled is None and trio.current_time() > over - BLOCKED:
            settled = transfer.sent
        if settled is not None and trio.current_time() < over - LOOK:
            seen.ahead, seen.late = transfer.sent - transfer.taken, transfer.sent - settled
        await trio.sleep(LOOK)
    return seen


async def stalled(transport: str, kind: bytes, *, size: int, pause: float) -> tuple[bool, str]:
    """Let a reader stop; returns whether all limits held, and what was measured."""
    async with laboratory() as lab:
        await lab.start_relay()
        ends = Ends(lab)
        agent = await lab.start_agent(await ends.start(), "--transport", transport, "--data", "session")
        exact = await ends.visit(agent, kind, Transfer(WARM))
        await trio.sleep(1)
        transfer = Transfer(size, pause_at=PAUSE_AT, pause=pause, resumed=False)
        seen = Observed()

        async def watch() -> None:
            nonlocal seen
            seen = await observe(lab, agent, transfer)

        async with trio.open_nursery() as nursery:
            nursery.start_soon(watch)
            with trio.move_on_after(TIMEOUT + pause):
                exact &= await ends.visit(agent, kind, transfer)
            nursery.cancel_scope.deadline = trio.current_time() + 1
    whole = exact and transfer.taken == size
    figure = (
        f"{transport} {'up' if kind == UPLOAD else 'down'}: relay {seen.relay_kib / 1024:+.1f} MB, "
        f"agent {seen.agent_kib / 1024:+.1f} MB, {seen.ahead / MB:.1f} MB ahead of the reader, "
        f"{'exact' if whole else f'NOT exact ({transfer.taken} of {size})'}"
    )
    blocked = 0 < seen.ahead <= AHEAD and not seen.late
    return whole and blocked and max(seen.relay_kib, seen.agent_kib) <= GROWTH_KIB, figure


LIMIT = "reader stops after 20 MB: ≤ +4 MB in relay and in agent, the sender blocks, all exact afterwards"


async def slow_readers(transport: str, size: int) -> Outcome:
    """Both directions."""
    pause = PACE.either(60.0, 20.0)
    results = [await stalled(transport, kind, size=size, pause=pause) for kind in (UPLOAD, DOWNLOAD)]
    figure = f"{size // MB} MB, {pause:.0f} s: " + "; ".join(figure for _, figure in results)
    return Outcome(all(good for good, _ in results), figure)


def define(transport: str, size: Callable[[], int]) -> None:
    """Register the row of one transport."""

    @row(f"LOAD-14-{transport}", limit=LIMIT, timeout=4 * TIMEOUT)
    async def slow_reader() -> Outcome:
        return await slow_readers(transport, size())


define("h2", lambda: PACE.either(SIZE, SIZE // 2))
define("yamux", lambda: PACE.either(SIZE, SIZE // 2))
define("quic", lambda: PACE.either(SIZE, SIZE // 4))
