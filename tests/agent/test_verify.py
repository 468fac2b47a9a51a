"""The agent visits itself: its own key is fine, another one is an alarm, nobody there proves nothing."""

from __future__ import annotations

import itertools
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from OpenSSL import SSL

from tests.tunnels import until
from trunnel.agent.verify import Verifier
from trunnel.clock import utc_now
from trunnel.errors import ConnectError
from trunnel.events import Event, Ready, Verified, ignore_events
from trunnel.identity.certstore import LeafStore
from trunnel.identity.contexts import visitor_context
from trunnel.identity.keys import IdentityKey, spki_of
from trunnel.identity.leaf import Leaf
from trunnel.names import Hostname, KeyId
from trunnel.streams.tls import TlsRole, TlsStream

NAME = Hostname("agent.localhost")


def a_leaf(folder: Path) -> Leaf:
    """Make a leaf for the name."""
    return LeafStore(folder, IdentityKey.generate()).leaf([NAME], now=utc_now())


def key_of(leaf: Leaf) -> KeyId:
    """Return the id of a leaf's key."""
    return KeyId.of_spki(spki_of(leaf.chain[0]))


class Shown:
    """A place where TLS is ended, and what became of the handshakes."""

    def __init__(self, leaf: Leaf, *, version: int = SSL.TLS1_3_VERSION) -> None:
        self.context = visitor_context(leaf, alpn=[b"http/1.1"])
        self.context.set_max_proto_version(version)
        self.completed = 0
        self.failed = 0

    async def serve(self, stream: trio.SocketStream) -> None:
        """Shake hands with one visitor."""
        try:
            await TlsStream.handshake(stream, self.context, role=TlsRole.SERVER, timeout=5)
            self.completed += 1
        except ConnectError:
            self.failed += 1
        await trio.aclose_forcefully(stream)


async def listen(nursery: trio.Nursery, serve: Callable[[trio.SocketStream], Awaitable[None]]) -> int:
    """Serve on a free port of loopback; return it."""
    listeners = await nursery.start(partial(trio.serve_tcp, serve, 0, host="127.0.0.1"))
    port: int = listeners[0].socket.getsockname()[1]
    return port


@asynccontextmanager
async def serving(shown: Shown) -> AsyncIterator[int]:
    """Listen on a free port; yields it."""
    async with trio.open_nursery() as nursery:
        yield await listen(nursery, shown.serve)
        nursery.cancel_scope.cancel()


def verifier(events: list[Event], *keys: KeyId, port: int = 1, every: float = 60.0) -> Verifier:
    """Make one that expects *keys*."""
    address = Ready(url="", hostname=NAME.value, port=port, agent_id="a", transport="h2", data_path="direct")
    return Verifier(
        lambda: [address], lambda _: frozenset(keys), every=every, alpn=[b"http/1.1"], on_event=events.append
    )


async def test_our_own_key_is_fine_and_the_origin_hears_nothing(tmp_path: Path) -> None:
    """The handshake is never finished, so nobody is dialled for it."""
    leaf = a_leaf(tmp_path)
    events: list[Event] = []
    async with serving(shown := Shown(leaf)) as port:
        found = await verifier(events, key_of(leaf)).visit(NAME, port)
        await until(lambda: shown.failed == 1)
    assert found.ok is True
    assert events == [found]
    assert shown.completed == 0


async def test_another_key_is_an_alarm(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    leaf, theirs = a_leaf(tmp_path / "ours"), a_leaf(tmp_path / "theirs")
    async with serving(Shown(theirs)) as port:
        found = await verifier([], key_of(leaf)).visit(NAME, port)
    assert found.ok is False
    assert key_of(theirs).value in found.reason
    assert key_of(leaf).value in found.reason
    assert [record.levelname for record in caplog.records if record.message == "leaf_mismatch"] == ["CRITICAL"]


async def test_who_ends_tls_with_an_old_version_is_found_out_too(tmp_path: Path) -> None:
    leaf, theirs = a_leaf(tmp_path / "ours"), a_leaf(tmp_path / "theirs")
    async with serving(Shown(theirs, version=SSL.TLS1_2_VERSION)) as port:
        found = await verifier([], key_of(leaf)).visit(NAME, port)
    assert found.ok is False


async def test_a_renewal_in_between_is_no_alarm(tmp_path: Path) -> None:
    """The key may change between the moment of asking and the handshake: either is ours."""
    before, after = a_leaf(tmp_path / "before"), a_leaf(tmp_path / "after")
    ours = iter([frozenset({key_of(before)}), frozenset({key_of(after)})])
    async with serving(Shown(after)) as port:
        judge = Verifier(list, lambda _: next(ours), every=60.0, alpn=[], on_event=ignore_events)
        assert (await judge.visit(NAME, port)).ok is True


@pytest.mark.parametrize("answer", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"\x15\x03\x03\x00\x02\x02\x70"])
async def test_who_cannot_be_visited_proves_nothing(answer: bytes) -> None:
    async def refuse(stream: trio.SocketStream) -> None:
        await stream.receive_some()
        if answer:
            await stream.send_all(answer)
        await stream.aclose()

    async with trio.open_nursery() as nursery:
        found = await verifier([]).visit(NAME, await listen(nursery, refuse))
        nursery.cancel_scope.cancel()
    assert found.ok is None
    assert found.reason


async def test_it_goes_on_for_ever_at_moments_of_its_own(autojump_clock: trio.testing.MockClock) -> None:
    del autojump_clock
    events: list[Event] = []
    times: list[float] = []

    async def visit(name: Hostname, port: int) -> Verified:
        times.append(trio.current_time())
        return Verified(hostname=name.value, ok=True)

    judge = verifier(events, every=100.0)
    judge.visit = visit  # type: ignore[method-assign]
    with trio.move_on_after(1000):
        await judge.run()
    pauses = [later - earlier for earlier, later in itertools.pairwise(times)]
    assert len(times) > 5
    assert times[0] <= 10
    assert all(50 <= pause <= 150 for pause in pauses)
    assert len({round(pause) for pause in pauses}) > 1
