"""The agent visits itself: its own key is fine, another one is an alarm, nobody there proves nothing."""

from __future__ import annotations

import itertools
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager, suppress
from functools import partial
from pathlib import Path

import pytest
import trio
import trio.testing
from cryptography import x509
from OpenSSL import SSL

from tests.agent.stage import closed_port, echo, origin_of
from tests.identity.certificates import of_no_version
from tests.tunnels import greet, house, until
from trunnel.agent.ownvisits import OwnVisits
from trunnel.agent.verify import Ours, Verifier, why_not
from trunnel.clock import utc_now
from trunnel.errors import ConnectError
from trunnel.events import Alarm, Event, Notice, Ready, StreamClosed, StreamOpened, Verified, ignore_events
from trunnel.identity.certstore import LeafStore, leaf_proves
from trunnel.identity.contexts import visitor_context
from trunnel.identity.keys import IdentityKey, spki_of
from trunnel.identity.leaf import Leaf
from trunnel.names import Hostname, KeyId
from trunnel.settings.agent import AgentSettings, DataChoice
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


def ours(*keys: KeyId, vouched: Callable[[x509.Certificate], bool] = lambda _: False) -> Ours:
    """Know of *keys*, whatever the name."""
    return Ours(keys=lambda _: frozenset(keys), vouched=vouched, visits=OwnVisits())


def verifier(events: list[Event], *keys: KeyId, port: int = 1, every: float = 60.0) -> Verifier:
    """Make one that expects *keys*."""
    address = Ready(url="", hostname=NAME.value, port=port, agent_id="a", transport="h2", data_path="direct")
    return Verifier(lambda: [address], ours(*keys), every=every, alpn=[b"http/1.1"], on_event=events.append)


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
    """As an event that nobody misses, and in the log."""
    leaf, theirs = a_leaf(tmp_path / "ours"), a_leaf(tmp_path / "theirs")
    events: list[Event] = []
    async with serving(Shown(theirs)) as port:
        found = await verifier(events, key_of(leaf)).visit(NAME, port)
    assert found.ok is False
    (alarm,) = [event for event in events if isinstance(event, Alarm)]
    assert (alarm.code, alarm.hostname) == ("leaf-mismatch", NAME.value)
    assert key_of(theirs).value in alarm.text
    assert key_of(theirs).value in found.reason
    assert key_of(leaf).value in found.reason
    assert [record.levelname for record in caplog.records if record.message == "leaf_mismatch"] == ["CRITICAL"]


async def test_a_certificate_that_cannot_be_read_is_not_ours(tmp_path: Path) -> None:
    """Whoever shows it ends visitors' TLS: an alarm, and the agent goes on."""
    leaf, theirs = a_leaf(tmp_path / "ours"), a_leaf(tmp_path / "theirs")
    odd = Shown(theirs)
    (tmp_path / "odd.pem").write_text(ssl.DER_cert_to_PEM_cert(of_no_version(theirs.chain[0])))
    odd.context = SSL.Context(SSL.TLS_SERVER_METHOD)
    odd.context.use_certificate_file(str(tmp_path / "odd.pem"))
    odd.context.use_privatekey_file(str(theirs.path.with_suffix(".key")))
    events: list[Event] = []
    async with serving(odd) as port:
        found = await verifier(events, key_of(leaf)).visit(NAME, port)
    assert found.ok is False
    assert "cannot be read" in found.reason
    assert [event.code for event in events if isinstance(event, Alarm)] == ["leaf-mismatch"]


async def test_who_ends_tls_with_an_old_version_is_found_out_too(tmp_path: Path) -> None:
    leaf, theirs = a_leaf(tmp_path / "ours"), a_leaf(tmp_path / "theirs")
    async with serving(Shown(theirs, version=SSL.TLS1_2_VERSION)) as port:
        found = await verifier([], key_of(leaf)).visit(NAME, port)
    assert found.ok is False


async def test_a_renewal_in_between_is_no_alarm(tmp_path: Path) -> None:
    """The key may change between the moment of asking and the handshake: either is ours."""
    before, after = a_leaf(tmp_path / "before"), a_leaf(tmp_path / "after")
    keys = iter([frozenset({key_of(before)}), frozenset({key_of(after)})])
    known = Ours(keys=lambda _: next(keys), vouched=lambda _: False, visits=OwnVisits())
    async with serving(Shown(after)) as port:
        judge = Verifier(list, known, every=60.0, alpn=[], on_event=ignore_events)
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


async def test_nobody_listening_is_no_alarm(tmp_path: Path) -> None:
    """Nor is a name that DNS does not know: what was not seen proves nothing."""
    events: list[Event] = []
    judge = verifier(events, key_of(a_leaf(tmp_path)))
    await judge.visit(NAME, await closed_port())
    await judge.visit(Hostname("agent.invalid"), 443)
    assert [event.kind for event in events] == ["verified", "verified"]
    assert all(isinstance(event, Verified) and event.ok is None and event.reason for event in events)


async def test_who_never_answers_is_given_up(tmp_path: Path, autojump_clock: trio.testing.MockClock) -> None:
    events: list[Event] = []

    async def hold(stream: trio.SocketStream) -> None:
        await trio.sleep_forever()

    async with trio.open_nursery() as nursery:
        found = await verifier(events, key_of(a_leaf(tmp_path))).visit(NAME, await listen(nursery, hold))
        nursery.cancel_scope.cancel()
    assert (found.ok, found.reason) == (None, "it took too long")
    assert events == [found]


async def test_a_handshake_that_comes_in_pieces_is_one_all_the_same(tmp_path: Path) -> None:
    """Long chains do: in between, there is nothing to send."""
    leaf = a_leaf(tmp_path)
    context = visitor_context(leaf, alpn=[b"http/1.1"])

    async def crumble(stream: trio.SocketStream) -> None:
        near, far = trio.testing.memory_stream_pair()
        async with trio.open_nursery() as nursery:

            async def shake() -> None:
                with suppress(ConnectError):
                    await TlsStream.handshake(far, context, role=TlsRole.SERVER, timeout=5)

            async def forth() -> None:
                while chunk := await near.receive_some():
                    for start in range(0, len(chunk), 100):
                        await stream.send_all(chunk[start : start + 100])
                        await trio.testing.wait_all_tasks_blocked()

            nursery.start_soon(shake)
            nursery.start_soon(forth)
            with suppress(trio.BrokenResourceError):
                while chunk := await stream.receive_some():
                    await near.send_all(chunk)
            nursery.cancel_scope.cancel()

    async with trio.open_nursery() as nursery:
        port = await listen(nursery, crumble)
        assert (await verifier([], key_of(leaf)).visit(NAME, port)).ok is True
        nursery.cancel_scope.cancel()


async def test_a_key_that_our_identity_has_vouched_for_is_ours(tmp_path: Path) -> None:
    """Another agent that shares the key has answered; what another identity has vouched for is not ours."""
    identity, stranger = IdentityKey.generate(), IdentityKey.generate()
    events: list[Event] = []
    for key, ok in ((identity, True), (stranger, False)):
        shown = LeafStore(tmp_path / key.key_id.short, key).leaf([NAME], now=utc_now())
        known = ours(vouched=partial(leaf_proves, key_id=identity.key_id, spki=identity.spki))
        async with serving(Shown(shown)) as port:
            judge = Verifier(list, known, every=60.0, alpn=[], on_event=events.append)
            assert (await judge.visit(NAME, port)).ok is ok


@pytest.mark.parametrize(
    ("options", "reason"),
    [
        ({}, ""),
        ({"share": True}, ""),
        ({"cert_pem": Path("pair.pem")}, ""),
        ({"acme": True}, ""),
        ({"tls_passthrough": True}, "--tls-passthrough"),
        ({"share": True, "cert_pem": Path("pair.pem")}, "--share"),
    ],
)
def test_it_does_not_look_where_it_cannot_know_what_should_be_shown(
    options: dict[str, object], reason: str, tmp_path: Path
) -> None:
    found = why_not(AgentSettings(state_dir=tmp_path, **options))  # type: ignore[arg-type]
    assert reason in found
    assert bool(found) is bool(reason)


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


# --- at a running relay -----------------------------------------------------------------------------

SOON = 0.05
"""Seconds between two visits: the first comes at once."""


async def test_a_relay_that_ends_tls_itself_is_an_alarm(tmp_path: Path) -> None:
    """It answers for the public name with a certificate of its own, valid or not."""
    theirs = a_leaf(tmp_path / "theirs")
    async with serving(Shown(theirs)) as port, house(tmp_path, public_port=port) as home:
        _, log = await home.expose(greet, verify_every=SOON)
        alarm = await log.wait(Alarm)
        assert (alarm.code, key_of(theirs).value in alarm.text) == ("leaf-mismatch", True)
        assert log.of(Verified)[0].ok is False


@pytest.mark.parametrize("data", [DataChoice.SESSION, DataChoice.DIRECT])
async def test_a_visit_of_ours_is_nobody_who_came(data: DataChoice, tmp_path: Path) -> None:
    """Not in the events, not among those who are waited for; a visitor who comes meanwhile is."""
    async with origin_of(echo) as origin, house(tmp_path) as home:
        agent, log = await home.expose(origin.target, verify_every=SOON, data=data)
        for count in range(1, 6):
            assert (await log.wait(Verified, count)).ok is True
        assert log.of(StreamOpened) + log.of(StreamClosed) + log.of(Alarm) == []
        assert await home.ask(f"{agent.key.key_id}.localhost") == b"hi"
        assert len(log.of(StreamOpened)) == 1


async def test_where_it_does_not_look_it_says_why_once(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        _, log = await home.expose(greet, verify_every=SOON, tls_passthrough=True)
        await until(lambda: any(event.code == "not-verified" for event in log.of(Notice)))
        assert [event for event in log.events if isinstance(event, Verified)] == []
        (told,) = [event.text for event in log.of(Notice) if event.code == "not-verified"]
        assert "--tls-passthrough" in told
