"""The relay's QUIC endpoint: who gets in, what strangers can cause, and how it ends."""

from __future__ import annotations

import gc
import os
import tracemalloc
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import replace

import pytest
import trio
import trio.testing
from aioquic.quic import events
from aioquic.quic.configuration import QuicConfiguration

from tests.transports.conformance import open_pair
from tests.transports.quic_pairs import RawAgent, Relay, credentials_of, quic_agent, quic_relay
from tests.transports.test_quic import exchange
from trunnel.errors import ConnectError, ErrorCode
from trunnel.settings import limits
from trunnel.transports.quic import QuicSession
from trunnel.transports.quic_configuration import client_configuration
from trunnel.transports.quic_credit import CreditedConnection
from trunnel.transports.quic_endpoint import CERTIFICATE_REQUIRED, NO_APPLICATION_PROTOCOL
from trunnel.transports.quic_handshake import QuicCarrier, dial_quic
from trunnel.transports.quic_link import QuicLink
from trunnel.transports.quic_receiving import Receiving
from trunnel.transports.quic_sending import Sending
from trunnel.transports.quic_stream import QuicStream
from trunnel.transports.quic_streams import StreamTable

DECRYPT_ERROR = 0x100 + 51


def configuration(name: str = "agent") -> QuicConfiguration:
    """Return what an agent dials with."""
    return client_configuration(credentials_of(name), server_name=None)


@contextmanager
def callers(relay: Relay, number: int, *, hosts: int = 1) -> Iterator[list[RawAgent]]:
    """*number* clients at so many addresses, that have sent nothing yet."""
    with ExitStack() as stack:
        agents = []
        for index in range(number):
            agent = RawAgent(relay.address, configuration(), host=f"127.0.0.{2 + index % hosts}")
            stack.enter_context(agent)
            agents.append(agent)
        yield agents


async def settled(relay: Relay) -> None:
    """Wait until the endpoint has taken what was sent to it."""
    await trio.testing.wait_all_tasks_blocked(0.02)


# --- who gets in ---------------------------------------------------------------------------------


async def test_a_client_without_a_certificate_is_refused_before_any_stream() -> None:
    async with quic_relay() as relay:
        bare = configuration()
        bare.certificate = bare.private_key = None
        with RawAgent(relay.address, bare) as agent:
            ended = await agent.until(events.ConnectionTerminated)
            assert ended.error_code == CERTIFICATE_REQUIRED
            assert not [event for event in agent.events if isinstance(event, events.StreamDataReceived)]
            assert relay.endpoint.statistics().opened == 0
            assert relay.endpoint.statistics().refused == 1
            assert relay.places.taken == 0


async def test_a_forged_certificate_is_refused_before_any_stream() -> None:
    """Somebody else's certificate does not pass without the key."""
    async with quic_relay() as relay:
        forged = configuration("agent")
        forged.certificate = credentials_of("somebody else").chain[0]
        with RawAgent(relay.address, forged) as agent:
            ended = await agent.until(events.ConnectionTerminated)
            assert ended.error_code == DECRYPT_ERROR
            assert not [event for event in agent.events if isinstance(event, events.StreamDataReceived)]
            assert relay.endpoint.statistics().opened == 0
            assert relay.places.taken == 0


@pytest.mark.parametrize("offered", [None, ["h3"]])
async def test_a_client_of_another_protocol_is_refused(offered: list[str] | None) -> None:
    async with quic_relay() as relay:
        other = configuration()
        other.alpn_protocols = offered
        with RawAgent(relay.address, other) as agent:
            ended = await agent.until(events.ConnectionTerminated)
            assert ended.error_code == NO_APPLICATION_PROTOCOL
            assert relay.endpoint.statistics().opened == 0


async def test_the_key_is_proved_on_both_sides() -> None:
    async with quic_relay() as relay, quic_agent(relay.address) as agent:
        session = await relay.session()
        assert agent._carrier.peer_certificates == credentials_of("relay").chain
        assert session._carrier.peer_certificates == credentials_of("agent").chain
        assert session._carrier.address == ("127.0.0.1", agent._link.socket.address[1])


async def test_a_closed_endpoint_takes_nobody_and_keeps_everybody() -> None:
    async with quic_relay() as relay, quic_agent(relay.address) as agent:
        session = await relay.session()
        relay.endpoint.close()
        with pytest.raises(ConnectError, match=r"no answer over UDP within 0\.3 s"):
            await dial_quic(relay.address, credentials_of("agent"), server_name=None, timeout=0.3)
        await exchange(session, agent, 1_000)


# --- strangers -----------------------------------------------------------------------------------


async def test_a_version_nobody_speaks_is_negotiated_without_a_trace() -> None:
    """The client learns what we speak and goes on with it; a Version Negotiation is never answered."""
    async with quic_relay() as relay:
        grease = configuration()
        grease.supported_versions = [0x1A2A3A4A, 1]
        with RawAgent(relay.address, grease) as agent:
            agent.send()
            await settled(relay)
            assert relay.endpoint.statistics().answered == 1
            assert relay.endpoint.statistics().connections == 0
            await agent.until(events.HandshakeCompleted)
            agent.socket.send([(b"\x80" + bytes(4) + b"\x08" + bytes(8) + b"\x08" + bytes(1_200), relay.address)])
            await settled(relay)
            assert relay.endpoint.statistics().answered == 1


async def test_above_64_handshakes_strangers_prove_their_address() -> None:
    """The 65th newcomer gets a Retry, answers it, and is served; those before it hold their places."""
    async with quic_relay() as relay:
        with callers(relay, limits.QUIC_HALF_OPEN_RETRY + 1, hosts=10) as agents:
            *silent, late = agents
            for agent in silent:
                agent.send()
            await settled(relay)
            assert relay.endpoint.statistics().half_open == limits.QUIC_HALF_OPEN_RETRY
            assert relay.endpoint.statistics().answered == 0
            await late.until(events.HandshakeCompleted)
            await settled(relay)
            assert relay.endpoint.statistics().answered == 1
            assert relay.endpoint.statistics().opened == 1
            assert relay.places.taken == limits.QUIC_HALF_OPEN_RETRY
            async with quic_agent(relay.address) as session:
                await relay.session()
                assert session.closed is None


async def test_an_address_that_is_forged_often_can_still_be_used() -> None:
    """Unproved handshakes take few of an address's places; whoever is really there proves it and comes in."""
    async with quic_relay() as relay:
        relay.places.most = 2 * limits.QUIC_UNPROVED_PER_ADDRESS
        with callers(relay, 100) as agents:
            for agent in agents:
                agent.send()
            await settled(relay)
            assert relay.endpoint.statistics().half_open == limits.QUIC_UNPROVED_PER_ADDRESS
            await agents[-1].until(events.HandshakeCompleted)


async def test_an_address_without_a_place_is_dropped() -> None:
    async with quic_relay() as relay:
        relay.places.most = 0
        with callers(relay, 1) as (agent,):
            agent.send()
            await settled(relay)
            statistics = relay.endpoint.statistics()
            assert (statistics.dropped, statistics.half_open, statistics.connections) == (1, 0, 0)


async def test_a_handshake_that_stalls_is_forgotten_without_a_word(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with quic_relay() as relay:
        with callers(relay, 1) as (agent,):
            agent.send()
            await settled(relay)
            assert relay.endpoint.statistics().half_open == 1
            await trio.sleep(limits.HANDSHAKE_TIMEOUT)
            agent.socket.receive_batch()
            await trio.sleep(1)
            statistics = relay.endpoint.statistics()
            assert (statistics.half_open, statistics.connections, relay.places.taken) == (0, 0, 0)
            assert agent.socket.receive_batch() == []


async def test_noise_leaves_nothing_behind() -> None:
    """Neither short nor long, truncated nor padded noise opens anything, and an Initial of noise does not either."""
    async with quic_relay() as relay:
        with callers(relay, 1) as (agent,):
            (initial,) = agent.quic.datagrams_to_send(trio.current_time())[:1]
            broken = initial[0][:100] + bytes(40) + initial[0][140:]
            for octets in (
                b"",
                b"\x00",
                b"\xc0",
                b"\xc0\x00\x00\x00\x01",
                os.urandom(1_500),
                broken,
                initial[0][:1_100],
            ):
                agent.socket.send([(octets, relay.address)])
                agent.socket.send([(octets + bytes(1_300 - len(octets)), relay.address)] if len(octets) < 100 else [])
            await settled(relay)
            statistics = relay.endpoint.statistics()
            assert (statistics.connections, statistics.half_open, relay.places.taken) == (0, 0, 0)
            async with quic_agent(relay.address) as session:
                await exchange(await relay.session(), session, 1_000)


async def test_a_flood_of_initials_costs_bounded_memory_and_no_heartbeat() -> None:
    """LOAD-16 in small: forged Initials by the thousand; connected agents go on, answers stay small."""
    async with quic_relay() as relay, quic_agent(relay.address) as agent:
        session = await relay.session()
        with callers(relay, 300) as agents:
            initials = [caller.quic.datagrams_to_send(trio.current_time())[0][0] for caller in agents]
        with callers(relay, 1) as (forger,):
            gc.collect()
            tracemalloc.start()
            before = tracemalloc.get_traced_memory()[0]
            for index in range(3_000):
                forger.socket.send([(initials[index % len(initials)], relay.address)])
                if index % 50 == 0:
                    await trio.testing.wait_all_tasks_blocked()
            await settled(relay)
            await exchange(session, agent, 10_000)
            gc.collect()
            grown = tracemalloc.get_traced_memory()[0] - before
            tracemalloc.stop()
            statistics = relay.endpoint.statistics()
            assert statistics.half_open <= limits.QUIC_HALF_OPEN_RETRY
            assert statistics.answered > 2_000
            assert grown < 10 << 20


# --- many agents ---------------------------------------------------------------------------------


async def test_agents_come_and_go_and_leave_nothing() -> None:
    async with quic_relay() as relay:
        await settled(relay)
        tasks = trio.lowlevel.current_statistics().tasks_living
        for _ in range(20):
            async with quic_agent(relay.address) as agent:
                session = await relay.session()
                near, far = await open_pair(session, agent)
                await near.send_all(b"x")
                assert await far.receive_some() == b"x"
        with trio.fail_after(5):
            while relay.endpoint.statistics().connections:
                await settled(relay)
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        endpoint = relay.endpoint
        assert (endpoint._by_id, endpoint._ids, endpoint._half_open, endpoint._unproved) == ({}, {}, {}, {})


KINDS = {
    f"{kind.__module__}.{kind.__qualname__}": kind
    for kind in (CreditedConnection, QuicCarrier, QuicLink, QuicSession, QuicStream, Receiving, Sending, StreamTable)
}


def alive() -> list[str]:
    """Return what there is of connections, by kind; of objects that only the cyclic collector would free, too."""
    return [name for each in gc.get_objects() for name, kind in KINDS.items() if type(each) is kind]


@contextmanager
def without_collector() -> Iterator[None]:
    """Leave all freeing to reference counting."""
    gc.collect()
    gc.disable()
    try:
        yield
    finally:
        gc.enable()


async def gone(relay: Relay) -> None:
    """Wait until the relay has no connection."""
    with trio.fail_after(5):
        while relay.endpoint.statistics().connections:
            await settled(relay)
    await settled(relay)


async def test_connections_that_lived_are_freed_by_reference_counting_alone() -> None:
    """At both ends, with sessions and streams, however they ended."""

    async def live(code: ErrorCode) -> None:
        async with quic_agent(relay.address) as agent:
            session = await relay.session()
            near, far = await open_pair(session, agent)
            await near.send_all(b"x" * 50_000)
            await far.receive_some()
            await open_pair(session, agent)
            (session if code is ErrorCode.INTERNAL_ERROR else agent).abort("enough", code=code)

    async with quic_relay() as relay:
        with without_collector():
            for code in (ErrorCode.NO_ERROR, ErrorCode.CANCEL, ErrorCode.INTERNAL_ERROR):
                await live(code)
            await gone(relay)
            assert alive() == []


async def test_handshakes_that_failed_are_freed_by_reference_counting_alone(
    autojump_clock: trio.testing.MockClock,
) -> None:
    """LOAD-16: one that stalls is forgotten, one is refused, one is given up by its client, noise never began."""
    autojump_clock.autojump_threshold = 0.02
    bare = configuration()
    bare.certificate = bare.private_key = None
    async with quic_relay() as relay:
        with without_collector():
            with callers(relay, 1) as (stalls,), RawAgent(relay.address, bare) as refused:
                (initial,) = stalls.send()
                stalls.socket.send([(initial[:100] + bytes(40) + initial[140:], relay.address)])
                await refused.until(events.ConnectionTerminated)
                await trio.sleep(limits.HANDSHAKE_TIMEOUT)
            with pytest.raises(ConnectError):
                await dial_quic(("127.0.0.1", 9), credentials_of("agent"), server_name=None)
            await gone(relay)
            assert alive() == []


async def test_a_relay_that_stops_says_goodbye() -> None:
    """Cancelling the endpoint ends every session at its agent at once, not after a silence."""
    async with trio.open_nursery() as nursery:
        address = None
        started = trio.Event()
        scope = trio.CancelScope()

        async def run() -> None:
            nonlocal address
            with scope:
                async with quic_relay() as relay:
                    address = relay.address
                    started.set()
                    await trio.sleep_forever()

        nursery.start_soon(run)
        await started.wait()
        assert address is not None
        async with quic_agent(address) as one, quic_agent(address, name="two") as two:
            await trio.sleep(0.05)
            scope.cancel()
            with trio.fail_after(1):
                for agent in (one, two):
                    assert "said goodbye" in (await agent.wait_closed()).reason


async def test_a_goodbye_that_was_lost_is_said_again() -> None:
    """Whoever goes on after our CONNECTION_CLOSE hears it again, ever more rarely, long after the rest is forgotten."""
    async with quic_relay() as relay:
        with RawAgent(relay.address, configuration()) as agent:
            await agent.until(events.HandshakeCompleted)
            agent.send()
            session = await relay.session()
            await settled(relay)
            session.abort("lost on its way", code=ErrorCode.DEADLINE)
            with trio.fail_after(5):
                while relay.endpoint.statistics().connections:
                    await settled(relay)
            agent.socket.receive_batch()
            for number in range(9):
                agent.quic.send_ping(number)
                agent.send()
            await settled(relay)
            heard = [octets for octets, _ in agent.socket.receive_batch()]
            assert len(heard) == len({1, 2, 4, 8})
            assert len(set(heard)) == 1
            agent.quic.receive_datagram(heard[0], relay.address, trio.current_time())
            ended = await agent.until(events.ConnectionTerminated)
            assert (ended.error_code, ended.reason_phrase) == (ErrorCode.DEADLINE, "lost on its way")


async def test_large_datagrams_work_where_both_ends_agree() -> None:
    async with quic_relay(datagram=1_400) as relay, quic_agent(relay.address, datagram=1_400) as agent:
        await exchange(await relay.session(), agent, 100_000)


def test_credentials_are_values() -> None:
    assert replace(credentials_of("agent"), datagram=1_300).datagram == 1_300
