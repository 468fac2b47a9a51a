"""Visitors of a running relay on data connections: served, refused, fallen back, and ended with their session."""

from __future__ import annotations

from collections.abc import AsyncIterator
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.relay.datapath import DirectAgent, attached, read_exactly
from tests.relay.house import offering
from tests.relay.yard import has_ended
from tests.tunnels import PATIENCE, House, house, until
from trunnel import capabilities
from trunnel.errors import ConnectError
from trunnel.events import CarrierLost, SessionEnded, SessionOpened, StreamClosed, VisitorRefused
from trunnel.identity.keys import IdentityKey
from trunnel.pump import PumpResult, Way, Workers, pump
from trunnel.relay import visitors
from trunnel.settings import limits
from trunnel.settings.agent import DataChoice
from trunnel.streams.copy import CopyLimits, Counter
from trunnel.wire import control
from trunnel.wire.alert import AlertDescription, plaintext_alert
from trunnel.wire.direct import Answer
from trunnel.wire.proxyprotocol import StreamKind


@pytest.fixture
async def home(tmp_path: Path) -> AsyncIterator[House]:
    async with house(tmp_path) as built:
        yield built


async def serve(agent: DirectAgent) -> tuple[trio.SocketStream, trio.SocketStream]:
    """Have a visitor on a data connection; returns its two ends."""
    (link,) = await agent.park()
    visitor = await agent.visitor()
    return visitor, await agent.accept(link)


async def exchange(visitor: trio.abc.Stream, stream: trio.abc.Stream, word: bytes = b"ping") -> None:
    """See that bytes go both ways."""
    for source, sink in ((visitor, stream), (stream, visitor)):
        await source.send_all(word)
        assert await read_exactly(sink, len(word)) == word


# --- served -----------------------------------------------------------------------------------


async def test_a_visitor_goes_over_a_parked_connection(home: House) -> None:
    """Header, hello and every byte of both sides arrive; FIN becomes FIN; the record says the road."""
    async with attached(home) as agent:
        visitor, stream = await serve(agent)
        (preface,) = agent.prefaces
        assert preface.kind is StreamKind.VISITOR
        assert str(preface.endpoint) == str(preface.authority) == agent.name
        assert preface.visitor is not None
        assert (preface.visitor.host, preface.visitor.port) == visitor.socket.getsockname()
        await exchange(visitor, stream)
        await visitor.send_eof()
        assert await stream.receive_some() == b""
        await stream.send_all(b"!")
        await stream.aclose()
        assert await read_exactly(visitor, 1) == b"!"
        assert await visitor.receive_some() == b""
        closed = await home.log.wait(StreamClosed)
        assert closed.data_path == "direct"
        assert (closed.bytes_in, closed.bytes_out) == (len(agent.hello) + 4, 5)
        assert (closed.visitor_end, closed.origin_end) == ("fin", "fin")
        assert preface.stream == closed.stream


@pytest.mark.may_skip(reason="workers need splice")
@pytest.mark.skipif(not capabilities.HAS_PUMP, reason="no splice here")
async def test_workers_move_the_bytes(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of visitors on data connections, and of no others."""
    ways: list[tuple[str, Way]] = []

    async def noting(
        left: trio.abc.Stream, right: trio.abc.Stream, bounds: CopyLimits, *, counter: Counter, workers: Workers
    ) -> PumpResult:
        result = await pump(left, right, bounds, counter=counter, workers=workers)
        ways.append((type(right).__name__, result.way))
        return result

    monkeypatch.setattr(visitors, "pump", noting)
    async with attached(home) as agent:
        for end in await serve(agent):
            await end.aclose()
        await (await agent.visitor()).aclose()
        await (await agent.accept_in_session()).aclose()
        await home.log.wait(StreamClosed, 2)
    assert ("SocketStream", Way.SPLICE) in ways
    assert [way for kind, way in ways if kind != "SocketStream"] == [Way.COPY]


async def test_a_visitor_that_resets_is_a_reset_for_the_agent(home: House) -> None:
    """Truncation never looks like an end."""
    async with attached(home) as agent:
        visitor, stream = await serve(agent)
        await exchange(visitor, stream)
        visitor.socket.setsockopt(trio.socket.SOL_SOCKET, trio.socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        await visitor.aclose()
        with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert (await home.log.wait(StreamClosed)).visitor_end == "reset"


async def test_without_a_parked_connection_the_session_carries_the_visitor(home: House) -> None:
    async with attached(home) as agent:
        visitor = await agent.visitor()
        stream = await agent.accept_in_session()
        await exchange(visitor, stream)
        await stream.aclose()
        await visitor.aclose()
        assert (await home.log.wait(StreamClosed)).data_path == "session"


async def test_a_challenge_goes_in_the_session(home: House) -> None:
    """And leaves what is parked alone, even where visitors go no other way."""
    async with attached(home, DataChoice.DIRECT) as agent:
        (link,) = await agent.park()
        opening = offering(b"acme-tls/1", name=agent.name.encode())
        async with await trio.open_tcp_stream("127.0.0.1", home.relay.visitors_port) as challenger:
            await challenger.send_all(opening)
            stream = await agent.caller.visitor(opening)
            await exchange(challenger, stream)
        assert link.is_alive()


@pytest.mark.parametrize("switched_off", ["by the agent", "by the relay"])
async def test_who_wants_no_data_connections_is_offered_none(switched_off: str, tmp_path: Path) -> None:
    by_agent = switched_off == "by the agent"
    async with (
        house(tmp_path, direct=by_agent) as home,
        attached(home, DataChoice.SESSION if by_agent else DataChoice.AUTO) as agent,
    ):
        assert agent.welcome.direct is None


# --- connections that do not answer, or say no ------------------------------------------------


async def test_with_twenty_parked_connections_blackholed_no_visitor_fails(home: House) -> None:
    """Each has an agent within two answers' time; later ones within none."""
    async with attached(home) as agent, trio.open_nursery() as nursery:
        links = await agent.park(20)
        begun = trio.current_time()
        visitors = [await agent.visitor() for _ in range(12)]
        streams = [await agent.accept_in_session() for _ in visitors]
        assert trio.current_time() - begun < 2 * limits.DIRECT_ANSWER_MIN + 1
        for stream in streams:
            nursery.start_soon(stream.send_all, b"in")
        for visitor in visitors:
            assert await read_exactly(visitor, 2) == b"in"
        links += await agent.park(1)
        begun = trio.current_time()
        await agent.visitor()
        await agent.accept_in_session()
        assert trio.current_time() - begun < limits.DIRECT_ANSWER_MIN
        assert home.log.of(VisitorRefused) == []


@pytest.mark.parametrize(
    ("said", "alert"),
    [
        (Answer.UNKNOWN_ENDPOINT, AlertDescription.UNRECOGNIZED_NAME),
        (Answer.DRAINING, AlertDescription.INTERNAL_ERROR),
        (Answer.FAILED, AlertDescription.INTERNAL_ERROR),
    ],
    ids=lambda value: value.name,
)
async def test_an_agents_refusal_ends_the_visitor(said: Answer, alert: AlertDescription, home: House) -> None:
    """There is no second try: it would be the same agent."""
    async with attached(home) as agent:
        kept, link = await agent.park(2)
        visitor = await agent.visitor()
        with trio.fail_after(PATIENCE):
            await agent.accept(link, said)
        assert await read_exactly(visitor, 7) == plaintext_alert(alert)
        assert await visitor.receive_some() == b""
        assert [event.verdict for event in home.log.of(VisitorRefused)] == ["agent-refused"]
        assert kept.is_alive()
        assert home.log.of(StreamClosed) == []


async def test_an_agent_with_data_connections_only_is_waited_for(home: House) -> None:
    async with attached(home, DataChoice.DIRECT) as agent:
        visitor = await agent.visitor()
        await trio.testing.wait_all_tasks_blocked(0.05)
        (link,) = await agent.park()
        await exchange(visitor, await agent.accept(link))


async def test_and_its_visitors_never_go_in_the_session(home: House, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "DIRECT_WAIT", 0.1)
    async with attached(home, DataChoice.DIRECT) as agent:
        visitor = await agent.visitor()
        assert await read_exactly(visitor, 7) == plaintext_alert(AlertDescription.INTERNAL_ERROR)
        assert [event.verdict for event in home.log.of(VisitorRefused)] == ["agent-lost"]
        assert agent.caller.link.statistics().streams_open == 1, "the control stream"


# --- carriers come and go ---------------------------------------------------------------------


async def test_visitors_outlive_the_carrier_and_new_ones_need_none(home: House) -> None:
    """The session is adopted by its agent's next carrier, which is told the same secret."""
    key = IdentityKey.generate()
    async with attached(home, key=key) as agent:
        visitor, stream = await serve(agent)
        (spare,) = await agent.park()
        agent.cut()
        assert (await home.log.wait(CarrierLost)).carriers == 0
        await exchange(visitor, stream, b"without a carrier")
        later = await agent.visitor()
        await exchange(later, await agent.accept(spare), b"later")
        last = await agent.park()
        async with attached(home, key=key, session=agent.welcome.session) as again:
            assert again.welcome.session == agent.welcome.session
            assert again.terms == agent.terms
            await exchange(visitor, stream, b"adopted")
            newest = await agent.visitor()
            await exchange(newest, await agent.accept(last[0]), b"parked before")
            assert home.log.of(SessionEnded) == []
            assert len(home.log.of(SessionOpened)) == 1


async def test_a_session_that_nobody_adopts_ends_with_all_its_connections(
    home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "ADOPTION_TIMEOUT", 0.3)
    async with attached(home) as agent:
        visitor, stream = await serve(agent)
        (spare,) = await agent.park()
        agent.cut()
        await home.log.wait(SessionEnded)
        for end in (visitor, stream):
            with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
                await end.receive_some()
        assert await has_ended(spare.stream)
        assert (await home.log.wait(StreamClosed)).data_path == "direct"
        with pytest.raises(ConnectError, match="does not know the session"):
            await agent.park()


# --- the end of a session ---------------------------------------------------------------------


async def test_a_relay_that_drains_lets_visitors_finish(tmp_path: Path) -> None:
    """What is parked ends at once."""
    async with house(tmp_path, drain_grace=PATIENCE) as home, attached(home) as agent:
        visitor, stream = await serve(agent)
        (spare,) = await agent.park()
        home.relay.drain("a test")
        assert await has_ended(spare.stream)
        await exchange(visitor, stream)
        assert home.log.of(SessionEnded) == []
        await stream.aclose()
        await visitor.aclose()
        assert (await home.log.wait(StreamClosed)).origin_end == "fin"
        await home.log.wait(SessionEnded)


async def test_a_relay_that_drains_ends_visitors_that_stay(tmp_path: Path) -> None:
    async with house(tmp_path, drain_grace=0.2) as home, attached(home) as agent:
        visitor, stream = await serve(agent)
        home.relay.drain("a test")
        for end in (visitor, stream):
            with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
                await end.receive_some()


@pytest.mark.parametrize("how", ["revoked", "replaced"])
async def test_visitors_of_an_agent_that_is_sent_away_have_a_moment(
    how: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "AUTHORIZED_POLL", 0.05)
    key, listed = IdentityKey.generate(), tmp_path / "agents"
    listed.write_text(f"{key.key_id}\n")
    async with (
        house(tmp_path, authorized_agents=listed) as home,
        attached(home, key=key) as agent,
    ):
        visitor, stream = await serve(agent)
        (spare,) = await agent.park()
        if how == "revoked":
            listed.write_text("# nobody\n")
        else:
            home.nursery.start_soon(attach_and_stay, home, key)
        assert await has_ended(spare.stream)
        await exchange(visitor, stream)
        for end in (visitor, stream):
            with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
                await end.receive_some()
        assert (await home.log.wait(SessionEnded)).reason.startswith(how)
        assert (await home.log.wait(StreamClosed)).data_path == "direct"


async def attach_and_stay(home: House, key: IdentityKey) -> None:
    """Be another agent with the same key."""
    async with attached(home, key=key, instance=1):
        await trio.sleep_forever()


# --- the canary -------------------------------------------------------------------------------


async def echo(agent: DirectAgent, change: bytes = b"") -> None:
    """Answer a canary."""
    stream = await agent.accept((await agent.park())[0])
    heard = b""
    while chunk := await stream.receive_some():
        heard += chunk
    await stream.send_all(heard + change)
    await stream.aclose()


async def test_a_canary_takes_the_road_of_visitors(home: House) -> None:
    """Both roads can be asked for at a time."""
    async with attached(home) as agent, trio.open_nursery() as nursery:
        nursery.start_soon(echo, agent)
        await until(lambda: agent.prefaces or len(agent.streams) == 1)
        await agent.caller.channel.send(control.Probe(7))
        assert await agent.caller.say(control.Probe(8, control.DataPath.DIRECT)) == control.Probed(8)
        (preface,) = agent.prefaces
        assert (preface.kind, preface.endpoint, preface.visitor) == (StreamKind.CANARY, None, None)
        assert home.log.of(StreamClosed) == [], "it is no visitor"


@pytest.mark.parametrize("how", ["changed", "refused", "nothing parked", "not offered"])
async def test_a_canary_that_does_not_come_back_has_failed(
    how: str, home: House, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(limits, "DIRECT_WAIT", 0.1)
    async with (
        attached(home, DataChoice.SESSION if how == "not offered" else DataChoice.AUTO) as agent,
        trio.open_nursery() as nursery,
    ):
        if how == "changed":
            nursery.start_soon(echo, agent, b"!")
            await until(lambda: len(agent.streams) == 1)
        elif how == "refused":
            nursery.start_soon(agent.accept, (await agent.park())[0], Answer.FAILED)
        told = await agent.caller.say(control.Probe(1, control.DataPath.DIRECT))
        assert isinstance(told, control.Probed)
        assert (
            told.failure
            == {
                "changed": "the canary stream came back changed",
                "refused": "the agent refused the canary: FAILED",
                "nothing parked": "no data connection was there, or none answered",
                "not offered": "the session has no data connections",
            }[how]
        )
