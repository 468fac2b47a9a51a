"""Our own visits are told from visitors by what is random in every ClientHello."""

from __future__ import annotations

import socket

import pytest
import trio
import trio.testing
from OpenSSL import SSL

from tests.agent.stage import NAME, echo, origin_of, stage, terminator, visit_over
from trunnel import capabilities
from trunnel.agent.ownvisits import OwnVisits, first_bytes
from trunnel.events import StreamClosed, StreamOpened
from trunnel.identity.contexts import visiting_context
from trunnel.settings import limits


def client_hello() -> bytes:
    """Return the ClientHello of a visit."""
    connection = SSL.Connection(visiting_context([b"http/1.1"]), None)
    connection.set_connect_state()
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()
    return connection.bio_read(limits.TLS_READ)


def test_a_visit_is_known_by_its_first_bytes_once_and_while_it_is_under_way() -> None:
    visits, hello, other = OwnVisits(), client_hello(), client_hello()
    assert not visits
    with visits.under_way(hello):
        assert visits
        assert not visits.arrived(other)
        assert not visits.arrived(hello[:20])
        assert not visits.arrived(b"")
        assert visits.arrived(hello[:43])
        assert not visits
        assert not visits.arrived(hello), "somebody's copy"
    assert not visits.arrived(hello)
    with visits.under_way(other):
        pass
    assert not visits.arrived(other)


def test_several_may_be_under_way() -> None:
    visits, one, two = OwnVisits(), client_hello(), client_hello()
    with visits.under_way(one), visits.under_way(two):
        assert visits.arrived(two)
        assert visits.arrived(one)


async def test_of_a_socket_nothing_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    """A worker needs it whole; where it cannot be looked at, it is not."""
    near, far = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
    async with near, far:
        await far.send_all(b"x" * 100)
        assert await first_bytes(near) == (b"x" * 43, b"")
        monkeypatch.setattr(capabilities, "HAS_MSG_PEEK", False)
        assert await first_bytes(near) == (b"", b"")
        assert await near.receive_some() == b"x" * 100


async def test_of_a_stream_they_are(autojump_clock: trio.testing.MockClock) -> None:
    """What comes never, or no more, is nothing."""
    near, far = trio.testing.memory_stream_pair()
    assert await first_bytes(near) == (b"", b"")
    await far.send_all(b"abc")
    assert await first_bytes(near) == (b"abc", b"abc")
    await far.send_eof()
    assert await first_bytes(near) == (b"", b"")


async def test_a_visitor_who_comes_meanwhile_is_served_and_counted() -> None:
    """Not a byte of the hello is lost."""
    visits = OwnVisits()
    ends = terminator()
    async with origin_of(echo) as origin, stage(origin, terminator=ends, own_visits=visits) as play:
        with visits.under_way(client_hello()):
            visitor = await visit_over(await play.open(), NAME, b"http/1.1")
        await visitor.send_all(b"hello")
        assert await visitor.receive_some() == b"hello"
        await visitor.send_eof()
        await play.closed()
        await visitor.aclose()
    assert [event.kind for event in play.events if isinstance(event, StreamOpened | StreamClosed)] == [
        "stream_opened",
        "stream_closed",
    ]


async def test_a_visit_that_arrives_gets_its_handshake_and_nobody_hears_of_it() -> None:
    visits, hello = OwnVisits(), client_hello()
    async with origin_of(echo) as origin, stage(origin, terminator=terminator(), own_visits=visits) as play:
        with visits.under_way(hello):
            stream = await play.open()
            await stream.send_all(hello)
            assert (await stream.receive_some())[:1] == b"\x16", "a ServerHello"
        await stream.aclose()
        await trio.testing.wait_all_tasks_blocked(0.01)
    assert play.events == []
