"""Agents at a running relay's door, spoken to message by message: hello, refusals, welcome, farewell."""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path

import msgspec
import pytest
import trio
import trio.testing
from trio.testing import MockClock

import trunnel
from tests.relay.house import offering
from tests.tunnels import PATIENCE, Gate, House, house, read_to_end
from trunnel.errors import RejectCode, SessionClosed
from trunnel.events import AgentRefused, CarrierLost, CarrierOpened, Draining, SessionEnded, SessionOpened, StreamClosed
from trunnel.identity.contexts import link_client_context
from trunnel.identity.keys import IdentityKey, link_certificate
from trunnel.settings import limits
from trunnel.streams.tls import TlsRole, TlsStream
from trunnel.transports import h2_frames as frames
from trunnel.transports.alpn import LINK_ALPN_H2, LINK_ALPN_YAMUX
from trunnel.transports.base import Peer, Session, Stream
from trunnel.transports.control_stream import ControlStream
from trunnel.transports.h2 import open_h2_session
from trunnel.transports.h2_connection import Role
from trunnel.transports.yamux import open_yamux_session
from trunnel.wire import control
from trunnel.wire.proxyprotocol import ProxyParser

HELLO = control.Hello(versions=[1], instance="0" * 32, agent="test", where="box")
TICK = 0.1
"""Virtual seconds that pass at once."""


@dataclass
class Caller:
    """An agent that says what a test wants."""

    link: Session
    channel: ControlStream
    carrier: TlsStream

    async def say(self, message: control.Message) -> control.Message:
        """Send *message* and return what is answered."""
        with trio.fail_after(PATIENCE):
            await self.channel.send(message)
            return await self.channel.receive()

    async def hung_up(self) -> None:
        """Wait for the relay to end the control stream, as it does behind a refusal."""
        with trio.fail_after(PATIENCE), pytest.raises(SessionClosed):
            await self.channel.receive()

    async def visitor(self, opening: bytes) -> Stream:
        """Accept a visitor; returns its stream behind the preface and its *opening*."""
        with trio.fail_after(PATIENCE):
            stream = await self.link.accept_stream()
            parser = ProxyParser(versions=(2,))
            while parser.feed_untrusted(await stream.receive_some(parser.needed)) is None:
                pass
            heard = b""
            while len(heard) < len(opening):
                heard += await stream.receive_some()
        assert heard == opening
        return stream


@dataclass
class Passing:
    """Virtual time that passes in small steps while real sockets are worked on."""

    clock: MockClock
    started: float = field(default_factory=trio.current_time)

    async def until(self, event: trio.Event) -> float:
        """Let time pass until *event*; returns the seconds that it took."""
        while not event.is_set():
            self.clock.jump(TICK)
            await trio.testing.wait_all_tasks_blocked(0.005)
        return trio.current_time() - self.started


async def shake_hands(home: House, key: IdentityKey, *, alpn: bytes = LINK_ALPN_H2) -> TlsStream:
    """Connect to the agents' port and prove *key*."""
    context = link_client_context(key, link_certificate(key, now=datetime.now(UTC)), alpn=[alpn])
    stream = await trio.open_tcp_stream("127.0.0.1", home.relay.agents_port)
    return await TlsStream.handshake(stream, context, role=TlsRole.CLIENT, timeout=PATIENCE)


@asynccontextmanager
async def caller(home: House, key: IdentityKey | None = None, *, alpn: bytes = LINK_ALPN_H2) -> AsyncIterator[Caller]:
    """Connect as an agent that has not said hello."""
    carrier = await shake_hands(home, key or IdentityKey.generate(), alpn=alpn)
    peer = Peer(key_id=home.relay.relay_id, address="test")
    multiplex = open_yamux_session if alpn == LINK_ALPN_YAMUX else open_h2_session
    async with multiplex(carrier, Role.SERVER, peer) as link:
        with trio.fail_after(PATIENCE):
            opened = await link.accept_stream()
        yield Caller(link, ControlStream(link, opened, control.Phase.EXPECT_ANSWER), carrier)


# --- refusals ---------------------------------------------------------------------------------


async def test_an_agent_of_another_version_is_told_which_ones_are_spoken(tmp_path: Path) -> None:
    key = IdentityKey.generate()
    async with house(tmp_path) as home, caller(home, key) as agent:
        answer = await agent.say(control.Hello(versions=[2, 99], instance="0" * 32, agent="test"))
        assert isinstance(answer, control.Rejected)
        assert (answer.code, answer.retry_after) == (RejectCode.VERSION, None)
        assert "version 1 only" in answer.reason
        await agent.hung_up()
        (refused,) = home.log.of(AgentRefused)
        assert (refused.agent_id, refused.code, refused.authorize) == (key.key_id.value, "version", "")
        assert home.log.of(SessionOpened) == []


async def test_a_relay_that_drains_asks_agents_to_come_back(tmp_path: Path) -> None:
    """Also those that had connected, but had not said hello, when it began to."""
    gate = Gate()
    async with house(tmp_path) as home:
        busy, _ = await home.expose(gate.serve)
        visitor = await home.visit(f"{busy.key.key_id}.localhost")
        await gate.entered.wait()
        async with caller(home) as late:
            home.relay.drain("maintenance")
            await home.log.wait(Draining)
            answer = await late.say(HELLO)
            assert isinstance(answer, control.Rejected)
            assert (answer.code, answer.retry_after) == (RejectCode.DRAINING, limits.BACKOFF_BASE)
            await late.hung_up()
        assert [event.code for event in home.log.of(AgentRefused)] == ["draining"]
        gate.opened.set()
        assert await read_to_end(visitor) == b"inout"


async def test_an_agent_that_is_not_on_the_list_is_refused_with_the_line_that_adds_it(tmp_path: Path) -> None:
    (tmp_path / "agents").write_text("")
    key = IdentityKey.generate()
    line = f"trunnel authorize {key.key_id}"
    async with house(tmp_path, authorized_agents=tmp_path / "agents") as home, caller(home, key) as agent:
        answer = await agent.say(HELLO)
        assert isinstance(answer, control.Rejected)
        assert answer.code == RejectCode.UNAUTHORIZED
        assert answer.reason.endswith(line)
        await agent.hung_up()
        (refused,) = home.log.of(AgentRefused)
        assert (refused.agent_id, refused.code, refused.authorize) == (key.key_id.value, "unauthorized", line)
        assert refused.reason == answer.reason
        assert home.log.of(SessionOpened) == []


# --- agents that keep us waiting --------------------------------------------------------------


async def test_an_agent_that_says_no_hello_is_dropped_in_time(tmp_path: Path, mock_clock: MockClock) -> None:
    async with house(tmp_path) as home, caller(home) as mute:
        await trio.testing.wait_all_tasks_blocked()
        closed, passing = trio.Event(), Passing(mock_clock)

        async def watch() -> None:
            await mute.link.wait_closed()
            closed.set()

        home.nursery.start_soon(watch)
        took = await passing.until(closed)
        assert limits.HANDSHAKE_TIMEOUT - TICK <= took <= limits.HANDSHAKE_TIMEOUT + 2 * limits.CLOSE_TIMEOUT
        assert home.log.of(SessionOpened) == []


async def test_an_agent_that_allows_no_stream_is_dropped_in_time(tmp_path: Path, mock_clock: MockClock) -> None:
    """It speaks lawful HTTP/2, but leaves no way to say hello."""
    async with house(tmp_path) as home:
        carrier = await shake_hands(home, IdentityKey.generate())
        await carrier.send_all(frames.encode_settings({frames.Setting.MAX_CONCURRENT_STREAMS: 0}))
        closed, passing = trio.Event(), Passing(mock_clock)

        async def watch() -> None:
            try:
                await read_to_end(carrier)
            except trio.BrokenResourceError:
                carrier.abort()
            closed.set()

        home.nursery.start_soon(watch)
        took = await passing.until(closed)
        assert limits.HANDSHAKE_TIMEOUT - TICK <= took <= limits.HANDSHAKE_TIMEOUT + 3 * limits.CLOSE_TIMEOUT
        assert home.log.of(SessionOpened) == []


# --- attached agents --------------------------------------------------------------------------


async def test_the_welcome_says_what_is_served_where_and_within_which_limits(tmp_path: Path) -> None:
    """Times are cut to what a welcome can carry."""
    key = IdentityKey.generate()
    (tmp_path / "agents").write_text(f"{key.key_id} app # laptop\n")
    suffixes = (trunnel.Hostname("one.localhost"), trunnel.Hostname("two.localhost"))
    options = {"domain_suffixes": suffixes, "public_port": 8443, "authorized_agents": tmp_path / "agents"}
    times = {"first_byte_timeout": 7.0, "idle_timeout": 10 * limits.CONTROL_SECONDS_MAX}
    async with house(tmp_path, streams_per_session=3, **options, **times) as home, caller(home, key) as agent:
        answer = await agent.say(HELLO)
        assert isinstance(answer, control.Welcome)
        assert (answer.version, answer.relay, answer.label) == (1, home.relay.relay_id.value, "laptop")
        assert (answer.suffixes, answer.public_port) == (["one.localhost", "two.localhost"], 8443)
        assert answer.limits == control.SessionLimits(
            streams=3,
            heartbeat=limits.HEARTBEAT,
            dead_after=limits.DEAD_AFTER,
            first_byte_timeout=7.0,
            idle_timeout=limits.CONTROL_SECONDS_MAX,
        )
        names = {f"{label}.{suffix}" for label in (key.key_id, "app") for suffix in suffixes}
        assert {(each.hostname, each.url) for each in answer.endpoints} == {
            (name, f"https://{name}:8443") for name in names
        }


async def test_pings_are_answered_and_a_second_hello_ends_the_carrier(tmp_path: Path) -> None:
    async with house(tmp_path) as home, caller(home) as agent:
        assert isinstance(await agent.say(HELLO), control.Welcome)
        assert await agent.say(control.Ping(7)) == control.Pong(7)
        await agent.channel.send(HELLO)
        await agent.hung_up()
        lost = await home.log.wait(CarrierLost)
        assert "hello in phase" in lost.reason
        assert lost.carriers == 0


async def test_revoking_an_agent_that_drains_ends_it(tmp_path: Path, mock_clock: MockClock) -> None:
    """Its own grace, an hour, counts no more; it is told why, and so is the log."""
    key = IdentityKey.generate()
    listed = tmp_path / "agents"
    listed.write_text(f"{key.key_id}\n")
    opening = offering(b"http/1.1", name=f"{key.key_id}.localhost".encode())
    async with house(tmp_path, authorized_agents=listed) as home, caller(home, key) as agent:
        assert isinstance(await agent.say(HELLO), control.Welcome)
        async with await trio.open_tcp_stream("127.0.0.1", home.relay.visitors_port) as visitor:
            await visitor.send_all(opening)
            await agent.visitor(opening)
            await agent.channel.send(control.Drain(3600.0))
            assert await agent.say(control.Ping(1)) == control.Pong(1)  # the drain was read
            mock_clock.jump(limits.HEARTBEAT / 2)
            assert await agent.say(control.Ping(2)) == control.Pong(2)
            assert home.log.of(SessionEnded) == [], "its visitor may finish"
            listed.write_text("")
            told: list[control.Message] = []
            heard, passing = trio.Event(), Passing(mock_clock)

            async def listen() -> None:
                told.append(await agent.channel.receive())
                heard.set()

            home.nursery.start_soon(listen)
            took = await passing.until(heard)
            (rejected,) = told
            assert isinstance(rejected, control.Rejected)
            assert rejected.code == RejectCode.REVOKED
            seen = limits.AUTHORIZED_POLL + limits.AUTHORIZED_SETTLE * limits.AUTHORIZED_SETTLE_LOOKS
            assert took <= 2 * (seen + limits.RETIRE_GRACE)
            agent.link.abort("told to go")
            assert (await home.log.wait(SessionEnded)).reason == "revoked"
            with pytest.raises(trio.BrokenResourceError):
                await visitor.receive_some()


async def test_visitors_of_a_lost_carrier_get_what_had_arrived_and_then_a_reset(tmp_path: Path) -> None:
    """What came through is whole; that it was cut off is not hidden."""
    key = IdentityKey.generate()
    opening = offering(b"http/1.1", name=f"{key.key_id}.localhost".encode())
    answer = bytes(range(256)) * 40
    async with house(tmp_path) as home, caller(home, key) as agent:
        assert isinstance(await agent.say(HELLO), control.Welcome)
        async with await trio.open_tcp_stream("127.0.0.1", home.relay.visitors_port) as visitor:
            await visitor.send_all(opening)
            stream = await agent.visitor(opening)
            await stream.send_all(answer)
            with trio.fail_after(PATIENCE):
                while len(await visitor.socket.recv(len(answer), socket.MSG_PEEK)) < len(answer):
                    await trio.testing.wait_all_tasks_blocked(0.001)
            agent.carrier.abort()
            record = await home.log.wait(StreamClosed)
            assert (record.bytes_out, record.origin_end) == (len(answer), "reset")
            await home.log.wait(CarrierLost)
            heard = b""
            with trio.fail_after(PATIENCE), pytest.raises(trio.BrokenResourceError):
                while chunk := await visitor.receive_some():
                    heard += chunk
            assert heard == answer


async def test_a_visitor_that_comes_between_two_carriers_is_served_by_the_next_one(tmp_path: Path) -> None:
    """Over another multiplexer, too: what carries a session may change."""
    key = IdentityKey.generate()
    opening = offering(b"http/1.1", name=f"{key.key_id}.localhost".encode())
    async with house(tmp_path) as home:
        async with caller(home, key) as first:
            welcome = await first.say(HELLO)
            assert isinstance(welcome, control.Welcome)
            first.carrier.abort()
        await home.log.wait(CarrierLost)
        joining = msgspec.structs.replace(HELLO, session=welcome.session, alone=True)
        async with (
            caller(home, key, alpn=LINK_ALPN_YAMUX) as second,
            await trio.open_tcp_stream("127.0.0.1", home.relay.visitors_port) as visitor,
        ):
            await visitor.send_all(opening)
            answer = await second.say(joining)
            assert isinstance(answer, control.Welcome)
            assert answer.session == welcome.session
            stream = await second.visitor(opening)
            await stream.send_all(b"served")
            with trio.fail_after(PATIENCE):
                assert await visitor.receive_some() == b"served"
            await stream.aclose()
        assert [event.transport for event in home.log.of(CarrierOpened)] == ["h2", "yamux"]
        assert home.log.of(SessionEnded) == []
