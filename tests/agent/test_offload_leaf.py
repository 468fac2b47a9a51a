"""What workers know of keys: the endpoints' leaf, always the newest, and nothing else."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import ec

from tests.agent.offloading import Offloading, agents_end, memory_of, with_workers
from tests.agent.stage import NAME, echo, origin_of
from tests.streams.bench import read_to_end
from tests.tunnels import until
from trunnel.agent.served import Served
from trunnel.events import ignore_events
from trunnel.identity.certstore import LeafStore
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname, ServerAddress
from trunnel.pump import Workers, open_workers
from trunnel.settings.agent import AgentSettings
from trunnel.streams.copy import End
from trunnel.streams.tls import TlsStream

NEAR, FAR = ServerAddress("near.example", 443), ServerAddress("far.example", 443)
OTHER = Hostname("other.localhost")


@asynccontextmanager
async def serving(
    folder: Path, workers: Workers, identity: IdentityKey | None = None
) -> AsyncIterator[tuple[Served, Offloading]]:
    """What an agent serves by *workers*, and its end of data connections; nothing is prepared yet but `NAME`."""
    async with origin_of(echo) as origin:
        settings = AgentSettings(state_dir=folder)
        leaves = LeafStore(folder / "leaf", identity or IdentityKey.generate())
        served = Served(settings, leaves, origin=origin, on_event=ignore_events)
        served.workers = workers
        await served.prepare(NEAR, [NAME])
        async with agents_end(origin, workers, terminator=served.terminator) as play:
            yield served, play


def shows(visitor: TlsStream, served: Served) -> bool:
    """Whether *visitor* was shown the present leaf."""
    return served.leaf is not None and visitor.peer_certificates == served.leaf.chain


async def leaves(*visitors: TlsStream) -> None:
    """Be served once more, and end in order."""
    for visitor in visitors:
        await visitor.send_all(b"still here")
        await visitor.send_eof()
        assert await read_to_end(visitor) == (b"still here", End.FIN)
        await visitor.aclose()


@with_workers
async def test_a_new_leaf_is_shown_from_the_next_visitor_on(tmp_path: Path) -> None:
    """Names that another relay gives change the leaf; streams that are open go on."""
    async with open_workers(1, ends_tls=True) as workers, serving(tmp_path, workers) as (served, play):
        before = await play.visit()
        assert shows(before, served)
        await served.prepare(FAR, [OTHER])
        after = await play.visit()
        assert not shows(before, served)
        assert shows(after, served)
        assert play.load == 2
        await leaves(before, after)


@with_workers
async def test_a_worker_that_is_hired_later_shows_the_newest_leaf(tmp_path: Path) -> None:
    """One that replaces a dead one, and one that started while the leaf was made."""
    async with open_workers(1, ends_tls=True, wait=False) as workers, serving(tmp_path, workers) as (served, play):
        for names in ([OTHER], [OTHER, NAME]):
            await served.prepare(FAR, names)
            await until(lambda: workers.employed)
            (worker,) = workers.employed
            visitor = await play.visit()
            assert shows(visitor, served)
            assert play.load == 1
            await leaves(visitor)
            worker.process.kill()
            await until(lambda: worker.dead)  # noqa: B023 - it is over within the turn


@with_workers
async def test_the_leaf_key_is_in_a_workers_memory_and_the_identity_key_is_not(tmp_path: Path) -> None:
    identity = IdentityKey.generate()
    async with open_workers(1, ends_tls=True) as workers, serving(tmp_path, workers, identity) as (served, play):
        visitor = await play.visit()
        assert served.leaf is not None
        (worker,) = workers.employed
        memory = memory_of(worker)
        assert has_key(memory, served.leaf.private_key)
        assert not has_key(memory, identity.private_key)
        await leaves(visitor)


def has_key(memory: bytes, key: object) -> bool:
    """Whether the secret number of *key* is somewhere in *memory*, in either order of bytes."""
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    secret = key.private_numbers().private_value
    return any(secret.to_bytes(key.key_size // 8, order) in memory for order in ("big", "little"))
