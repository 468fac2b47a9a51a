"""Peeking: the verdict comes, the bytes stay, and nobody makes us spin."""

from __future__ import annotations

import contextlib
import socket
import struct
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from tests.wire.hello_builder import Hello, in_records_of
from trunnel import capabilities
from trunnel.settings.limits import CLIENT_HELLO_MAX, CLIENT_HELLO_RAW_MAX
from trunnel.streams.peek import Peeked, peek_hello, take_hello
from trunnel.wire.clienthello import ClientHelloParser, Verdict

RST = struct.pack("ii", 1, 0)


HELLO = Hello().with_name(b"a.example").stream()


class Steps(trio.abc.Instrument):
    """Counts how often the task that made it is run."""

    def __init__(self) -> None:
        self.task = trio.lowlevel.current_task()
        self.count = 0

    def before_task_step(self, task: trio.lowlevel.Task) -> None:
        self.count += task is self.task


@contextlib.contextmanager
def counting_steps() -> Iterator[Steps]:
    steps = Steps()
    trio.lowlevel.add_instrument(steps)
    try:
        yield steps
    finally:
        trio.lowlevel.remove_instrument(steps)


@asynccontextmanager
async def connection() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Two ends of a TCP connection over loopback: visitor, relay."""
    listener = (await trio.open_tcp_listeners(0, host="127.0.0.1"))[0]
    async with listener:
        visitor = await trio.open_tcp_stream(*listener.socket.getsockname())
        async with visitor, await listener.accept() as relay:
            yield visitor, relay


@pytest.fixture(params=["peeking", "reading"])
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Both ways to look at a hello: with and without what Linux offers."""
    road = str(request.param)
    if road == "reading":
        monkeypatch.setattr(capabilities, "HAS_RCVLOWAT", False)
    elif not capabilities.HAS_RCVLOWAT:
        pytest.skip("no SO_RCVLOWAT here")
    return road


async def peek(stream: trio.SocketStream) -> Peeked:
    with trio.fail_after(10):
        return await peek_hello(stream.socket, ClientHelloParser())


async def test_the_hello_stays_in_the_kernel(road: str) -> None:
    """What was peeked can be read again, to the byte; what was read is handed on as the prefix."""
    async with connection() as (visitor, relay):
        await visitor.send_all(HELLO)
        peeked = await peek(relay)
        assert (peeked.verdict, str(peeked.hello and peeked.hello.server_name)) == (Verdict.ROUTE, "a.example")
        assert peeked.consumed == (b"" if road == "peeking" else HELLO)
        assert HELLO.startswith(peeked.head)
        assert await take_hello(relay.socket, peeked) == HELLO


async def test_what_follows_the_hello_is_taken_with_it_or_stays(road: str) -> None:
    """CH-55, CH-56: early data behind the hello is neither lost nor reordered."""
    early = bytes(range(256)) * 200
    async with connection() as (visitor, relay), trio.open_nursery() as nursery:
        nursery.start_soon(visitor.send_all, HELLO + early)
        raw = await take_hello(relay.socket, await peek(relay))
        assert len(HELLO) <= len(raw) <= CLIENT_HELLO_RAW_MAX
        while len(raw) < len(HELLO + early):
            raw += await relay.receive_some()
        assert raw == HELLO + early


@pytest.mark.usefixtures("road")
async def test_a_hello_in_pieces_gives_the_same_verdict() -> None:
    """Any split of the stream ends at the same verdict."""
    whole = in_records_of(Hello().with_name(b"a.example").padded(2_000).message(), 290)
    async with connection() as (visitor, relay), trio.open_nursery() as nursery:

        async def dribble() -> None:
            for at in range(0, len(whole), 97):
                await visitor.send_all(whole[at : at + 97])
                await trio.testing.wait_all_tasks_blocked()

        nursery.start_soon(dribble)
        peeked = await peek(relay)
        assert peeked.verdict is Verdict.ROUTE
        assert peeked.hello is not None
        assert peeked.hello.raw_bytes == len(whole)


async def test_one_byte_segments_wake_us_rarely() -> None:
    """17,668 bytes (256 records, the longest legal hello) in 1-byte segments cost under 3 wake-ups a record."""
    whole = in_records_of(Hello().with_name(b"a.example").padded(CLIENT_HELLO_MAX).message(), 64)
    assert len(whole) > 17_600
    async with connection() as (visitor, relay), trio.open_nursery() as nursery:

        async def dribble() -> None:
            for at in range(len(whole)):
                await visitor.send_all(whole[at : at + 1])

        nursery.start_soon(dribble)
        with counting_steps() as steps:
            peeked = await peek(relay)
        assert peeked.verdict is Verdict.ROUTE
        assert steps.count < 3 * 256
        assert await take_hello(relay.socket, peeked) == whole


async def test_an_incomplete_hello_followed_by_silence_costs_nothing() -> None:
    """CH-59: no wake-up at all while nothing comes."""
    async with connection() as (visitor, relay):
        await visitor.send_all(HELLO[:40])
        with counting_steps() as steps, trio.move_on_after(0.3):
            await peek_hello(relay.socket, ClientHelloParser())
        assert steps.count <= 5  # in, first peek, wait, the end of the scope


async def test_a_dribble_inside_a_record_does_not_wake_us() -> None:
    """Bytes that cannot change the verdict are left to the kernel."""
    async with connection() as (visitor, relay), trio.open_nursery() as nursery:
        await visitor.send_all(HELLO[:6])
        with counting_steps() as steps:
            nursery.start_soon(peek_hello, relay.socket, ClientHelloParser())
            await trio.testing.wait_all_tasks_blocked()
            (task,) = nursery.child_tasks
            steps.task, steps.count = task, 0
            for at in range(6, len(HELLO) - 1):
                await visitor.send_all(HELLO[at : at + 1])
                await trio.testing.wait_all_tasks_blocked()
            assert steps.count <= 2  # one wake-up, when the message's header is there, and its checkpoint
        nursery.cancel_scope.cancel()


@pytest.mark.usefixtures("road")
async def test_fin_after_half_a_hello_ends_at_once() -> None:
    """CH-59: a FIN is invisible to a peek and must be noticed all the same."""
    for cut in (0, 1, 5, 40, len(HELLO) - 1):
        async with connection() as (visitor, relay):
            await visitor.send_all(HELLO[:cut])
            await visitor.send_eof()
            with trio.fail_after(1):
                assert (await peek(relay)).verdict is Verdict.NEED_MORE


async def test_fin_that_comes_while_we_wait_ends_at_once() -> None:
    async with connection() as (visitor, relay), trio.open_nursery() as nursery:
        await visitor.send_all(HELLO[:40])
        verdicts: list[Verdict] = []

        async def look() -> None:
            verdicts.append((await peek(relay)).verdict)

        nursery.start_soon(look)
        await trio.testing.wait_all_tasks_blocked()
        await visitor.send_eof()
        with trio.fail_after(1):
            while not verdicts:
                await trio.testing.wait_all_tasks_blocked()
        assert verdicts == [Verdict.NEED_MORE]


@pytest.mark.usefixtures("road")
async def test_fin_right_behind_a_hello_loses_nothing() -> None:
    async with connection() as (visitor, relay):
        await visitor.send_all(HELLO)
        await visitor.send_eof()
        assert (await peek(relay)).verdict is Verdict.ROUTE


@pytest.mark.usefixtures("road")
async def test_rst_is_an_error() -> None:
    async with connection() as (visitor, relay), trio.open_nursery() as nursery:

        async def look() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await peek(relay)

        await visitor.send_all(HELLO[:40])
        nursery.start_soon(look)
        await trio.testing.wait_all_tasks_blocked()
        visitor.socket.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, RST)
        visitor.socket.close()


async def test_urgent_data_does_not_make_us_spin() -> None:
    """A peek stops at the mark of urgent data and epoll reports it for ever; we rest in between."""
    async with connection() as (visitor, relay):
        await visitor.send_all(HELLO[:20])
        await visitor.socket.send(b"!", socket.MSG_OOB)
        await visitor.send_all(HELLO[20:])
        with counting_steps() as steps, trio.move_on_after(0.3):
            await peek_hello(relay.socket, ClientHelloParser())
        assert steps.count < 15


@pytest.mark.parametrize("prefix", [HELLO, HELLO[:40], b"GET / HTTP/1.1\r\n\r\n"])
async def test_the_low_water_mark_is_one_afterwards(prefix: bytes) -> None:
    """It survives every hand-over of the descriptor; left high, epoll is silent while bytes wait."""
    async with connection() as (visitor, relay):
        await visitor.send_all(prefix[:10])
        with trio.move_on_after(0.1):
            async with trio.open_nursery() as nursery:
                nursery.start_soon(peek_hello, relay.socket, ClientHelloParser())
                await trio.testing.wait_all_tasks_blocked()
                await visitor.send_all(prefix[10:])
        assert relay.socket.getsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT) == 1


@pytest.mark.usefixtures("road")
async def test_what_is_not_tls_is_told_by_its_first_byte() -> None:
    async with connection() as (visitor, relay):
        await visitor.send_all(b"G")
        peeked = await peek(relay)
        assert (peeked.verdict, peeked.head) == (Verdict.NOT_TLS, b"G")


@pytest.mark.usefixtures("road")
async def test_an_endless_hello_is_refused() -> None:
    """Empty records without end stop within the cap."""
    async with connection() as (visitor, relay):
        await visitor.send_all(b"\x16\3\1\0\0" * 4_000)
        assert (await peek(relay)).verdict is Verdict.MALFORMED
