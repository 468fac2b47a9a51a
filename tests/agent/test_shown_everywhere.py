"""Many leaves, in workers and here: the name chooses, and a renewal costs nobody a handshake (HOST-07)."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest
import trio

from tests.agent.leaves import issued_leaf
from tests.agent.offloading import Offloading, agents_end, both_ways
from tests.agent.stage import NAME, echo, origin_of, visit_over
from tests.streams.bench import read_to_end
from tests.tunnels import until
from trunnel.agent.served import Served
from trunnel.events import ignore_events
from trunnel.identity.certstore import LeafStore
from trunnel.identity.keys import IdentityKey
from trunnel.identity.leaf import Leaf
from trunnel.names import Hostname, ServerAddress
from trunnel.pump import Workers, open_workers
from trunnel.pump.leaf import encode_leaves
from trunnel.pump.orders import ORDER_MAX
from trunnel.settings.agent import AgentSettings
from trunnel.streams.copy import End
from trunnel.streams.tls import TlsStream

RELAY = ServerAddress("relay.example", 443)
SITES = [Hostname(f"site{number}.example") for number in range(20)]
MANY = 150
"""Visitors during a renewal."""


@dataclass
class House:
    """What an agent serves, and its end of data connections."""

    served: Served
    play: Offloading

    async def visit(self, name: Hostname) -> TlsStream:
        """Be a visitor of *name*, whose handshake is done."""
        return await visit_over(await self.play.take(), name, b"http/1.1")

    async def is_shown(self, name: Hostname, leaf: Leaf) -> bool:
        """Whether a visitor of *name* is shown all of *leaf*, and served."""
        visitor = await self.visit(name)
        await visitor.send_all(b"served?")
        await visitor.send_eof()
        assert await read_to_end(visitor) == (b"served?", End.FIN)
        await visitor.aclose()
        return visitor.peer_certificates == leaf.chain


@asynccontextmanager
async def hired(way: str) -> AsyncIterator[Workers | None]:
    """One worker; none if *way* is "here"."""
    if way == "here":
        yield None
        return
    async with open_workers(1, ends_tls=True) as workers:
        yield workers


@asynccontextmanager
async def house(folder: Path, way: str) -> AsyncIterator[House]:
    """An agent that serves `NAME` and `SITES`."""
    async with hired(way) as workers, origin_of(echo) as origin:
        leaves = LeafStore(folder / "leaf", IdentityKey.generate())
        served = Served(AgentSettings(state_dir=folder), leaves, origin=origin, on_event=ignore_events)
        served.workers = workers
        await served.prepare(RELAY, [NAME, *SITES])
        async with agents_end(origin, workers, terminator=served.terminator) as play:
            yield House(served, play)
            if workers is not None:
                await until(lambda: play.load == 0)


@both_ways
@pytest.mark.parametrize("kind", ["P-256", "RSA"])
async def test_twenty_leaves_with_chains_of_three_are_shown_each_for_its_name(
    way: str, kind: str, tmp_path: Path
) -> None:
    """More than one packet holds; the self-signed one is for the rest."""
    leaves = [issued_leaf(name, kind=kind) for name in SITES]
    padded = [issued_leaf(name, *(f"{'x' * 60}{number}.example" for number in range(40)), kind=kind) for name in SITES]
    assert len(encode_leaves(padded, [b"http/1.1"])) > ORDER_MAX
    async with house(tmp_path, way) as agent:
        for leaf in (*leaves, *padded):
            agent.served.show_issued(leaf)
        assert agent.served.terminator is not None
        assert len(agent.served.terminator.leaves) == len(SITES) + 1
        for name, leaf in list(zip(SITES, padded, strict=True))[::6]:
            assert await agent.is_shown(name, leaf)
        own = agent.served.leaf
        assert own is not None
        assert await agent.is_shown(NAME, own)
        if way == "worker":
            (worker,) = agent.play.workers.employed
            assert not worker.dead


@both_ways
async def test_a_worker_that_is_hired_later_shows_all_of_them(way: str, tmp_path: Path) -> None:
    leaves = [issued_leaf(name) for name in SITES]
    async with house(tmp_path, way) as agent:
        for leaf in leaves:
            agent.served.show_issued(leaf)
        if way == "worker":
            (worker,) = agent.play.workers.employed
            worker.process.kill()
            await until(lambda: worker.dead and bool(agent.play.workers.employed))
        assert await agent.is_shown(SITES[-1], leaves[-1])


@both_ways
async def test_a_renewal_under_traffic_fails_no_handshake_and_drops_nobody(way: str, tmp_path: Path) -> None:
    """HOST-07: each visitor is shown the old or the new one, whole, and later ones the new one only."""
    name = SITES[0]
    old, new = issued_leaf(name), issued_leaf(name)
    seen: list[Leaf | None] = []
    async with house(tmp_path, way) as agent:
        agent.served.show_issued(old)
        lasting = await agent.visit(name)
        room, a_third = trio.CapacityLimiter(8), trio.Event()

        async def visit() -> None:
            async with room:
                visitor = await agent.visit(name)
                seen.append(next((leaf for leaf in (old, new) if leaf.chain == visitor.peer_certificates), None))
                if len(seen) == MANY // 3:
                    a_third.set()
                await visitor.send_all(b"?")
                assert await visitor.receive_some() == b"?"
                await visitor.send_eof()
                await read_to_end(visitor)
                await visitor.aclose()

        async with trio.open_nursery() as nursery:
            for _ in range(MANY):
                nursery.start_soon(visit)
            await a_third.wait()
            agent.served.show_issued(new)
            nursery.start_soon(agent.served.prepare, ServerAddress("far.example", 443), [Hostname("c.far.example")])
        assert len(seen) == MANY
        assert None not in seen
        assert {leaf.fingerprint for leaf in seen if leaf is not None} == {old.fingerprint, new.fingerprint}
        assert await agent.is_shown(name, new)
        await lasting.send_all(b"still here")
        await lasting.send_eof()
        assert await read_to_end(lasting) == (b"still here", End.FIN)
        assert lasting.peer_certificates == old.chain
        await lasting.aclose()


@both_ways
async def test_a_handshake_that_runs_ends_with_what_it_began_with(way: str, tmp_path: Path) -> None:
    """The visitor has its ServerHello, and is slow, when another certificate comes."""
    name = SITES[0]
    old, new = issued_leaf(name), issued_leaf(name)
    async with house(tmp_path, way) as agent:
        agent.served.show_issued(old)
        slow = Slow(await agent.play.take())
        async with trio.open_nursery() as nursery:

            async def visit() -> None:
                visitor = await visit_over(slow, name, b"http/1.1")
                assert visitor.peer_certificates == old.chain
                await visitor.send_all(b"?")
                await visitor.send_eof()
                assert await read_to_end(visitor) == (b"?", End.FIN)
                await visitor.aclose()

            nursery.start_soon(visit)
            await slow.answered.wait()
            agent.served.show_issued(new)
            assert await agent.is_shown(name, new)
            slow.go_on.set()


class Slow(trio.abc.HalfCloseableStream):
    """A visitor's end that reads the answer to its hello and waits."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream, self.answered, self.go_on = stream, trio.Event(), trio.Event()

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self.stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        chunk = await self.stream.receive_some(max_bytes)
        self.answered.set()
        await self.go_on.wait()
        return bytes(chunk)

    async def aclose(self) -> None:
        await self.stream.aclose()
