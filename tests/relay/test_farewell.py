"""Last words: who gets which, that they arrive, and that they cannot be drawn out."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio

from trunnel.relay.farewell import HTTP_ON_TLS, bid_farewell, farewell_for, speaks_http
from trunnel.settings.limits import CLOSE_TIMEOUT, FAREWELL_DRAIN_MAX
from trunnel.streams.sockets import abort_socket
from trunnel.wire.alert import AlertDescription, plaintext_alert
from trunnel.wire.clienthello import Verdict


@asynccontextmanager
async def connection() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Two ends of a TCP connection over loopback: visitor, relay."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        visitor = await trio.open_tcp_stream(*listener.socket.getsockname())
        async with visitor, await listener.accept() as relay:
            yield visitor, relay


def test_only_methods_are_taken_for_http() -> None:
    for opening in (b"GET /", b"P", b"OPTIONS * HTTP/1.1", b"PRI * HTTP/2.0\r\n"):
        assert speaks_http(opening)
    for opening in (b"", b"SSH-2.0-", b"GETX", b"get /", b"\0\0", b"PROXY TCP4"):
        assert not speaks_http(opening)


@pytest.mark.parametrize("verdict", list(Verdict))
def test_every_verdict_has_its_answer(verdict: Verdict) -> None:
    """Nothing is said to those who route, who are gone, or who speak something unknown."""
    silent = verdict in (Verdict.ROUTE, Verdict.NEED_MORE, Verdict.NOT_TLS)
    assert (farewell_for(verdict, b"SSH-2.0-") == b"") == silent
    assert farewell_for(Verdict.NOT_TLS, b"GET / HTTP/1.1") == HTTP_ON_TLS
    assert farewell_for(Verdict.MALFORMED, b"") == plaintext_alert(AlertDescription.DECODE_ERROR)


async def test_words_arrive_although_much_was_not_read() -> None:
    """A close with unread bytes is RST, which destroys what was said just before."""
    async with connection() as (visitor, relay):
        await visitor.send_all(bytes(50_000))
        async with trio.open_nursery() as nursery:
            nursery.start_soon(bid_farewell, relay, b"words")
            assert await visitor.receive_some() == b"words"
            assert await visitor.receive_some() == b""
            await visitor.aclose()


async def test_a_peer_that_does_not_leave_is_left(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.01  # real sockets
    async with connection() as (_, relay):
        begun = trio.current_time()
        await bid_farewell(relay, b"words")
        assert trio.current_time() - begun == pytest.approx(CLOSE_TIMEOUT)
        assert relay.socket.fileno() < 0


async def test_a_peer_that_sends_for_ever_is_left() -> None:
    """What is read away is bounded in bytes too."""
    async with connection() as (visitor, relay), trio.open_nursery() as nursery:

        async def flood() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await visitor.send_all(bytes(400 * FAREWELL_DRAIN_MAX))

        nursery.start_soon(flood)
        with trio.fail_after(CLOSE_TIMEOUT / 2):
            await bid_farewell(relay, b"words")


async def test_a_lost_connection_is_no_error() -> None:
    async with connection() as (visitor, relay):
        abort_socket(visitor.socket)
        await bid_farewell(relay, b"words")
        assert relay.socket.fileno() < 0
