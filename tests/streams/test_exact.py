"""Short messages by exact sizes: nothing behind them is read, nothing is lost, and errors are trio's."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

import pytest
import trio
import trio.testing

from trunnel import capabilities
from trunnel.streams.exact import read_exactly, receive, send
from trunnel.streams.sockets import abort_socket

BIG = 4 << 20
"""More than the kernel takes at once."""


@pytest.fixture(params=["files", "no-files"], autouse=True)
def files(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    """Both ways: by descriptor, and where a socket is no file."""
    monkeypatch.setattr(capabilities, "HAS_SOCKET_FILES", request.param == "files")


@asynccontextmanager
async def connected() -> AsyncIterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Two ends of a TCP connection."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        near = await trio.open_tcp_stream(*listener.socket.getsockname())
        far = await listener.accept()
    async with near, far:
        yield near, far


@pytest.mark.parametrize("pieces", [(b"abcdef",), (b"a", b"b", b"cdef"), (b"abc", b"def tail")], ids=str)
async def test_a_message_is_read_whole_however_it_comes_and_nothing_behind_it(pieces: tuple[bytes, ...]) -> None:
    async with connected() as (near, far), trio.open_nursery() as nursery:

        async def feed() -> None:
            for piece in pieces:
                await near.send_all(piece)
                await trio.testing.wait_all_tasks_blocked()
            await near.send_eof()

        nursery.start_soon(feed)
        assert await read_exactly(far, 6) == b"abcdef"
        rest = b"".join(pieces)[6:]
        assert await read_exactly(far, len(rest)) == rest if rest else True
        assert await receive(far, 10) == b""


async def test_an_end_inside_a_message_is_a_break() -> None:
    async with connected() as (near, far):
        await near.send_all(b"abc")
        await near.send_eof()
        with pytest.raises(trio.BrokenResourceError, match="3 of 6"):
            await read_exactly(far, 6)


async def test_a_reset_is_a_break_for_reader_and_writer() -> None:
    async with connected() as (near, far):
        abort_socket(near.socket)
        with pytest.raises(trio.BrokenResourceError):
            await read_exactly(far, 6)
        with pytest.raises(trio.BrokenResourceError):
            await send(far, b"x")


async def test_a_closed_stream_says_so() -> None:
    async with connected() as (near, _far):
        await near.aclose()
        with pytest.raises(trio.ClosedResourceError):
            await send(near, b"x")
        with pytest.raises(trio.ClosedResourceError):
            await receive(near, 1)


async def test_what_the_kernel_does_not_take_at_once_is_sent_all_the_same() -> None:
    async with connected() as (near, far), trio.open_nursery() as nursery:
        nursery.start_soon(send, near, bytes(BIG))
        assert await read_exactly(far, BIG) == bytes(BIG)


async def test_a_cancelled_wait_loses_nothing() -> None:
    async with connected() as (near, far):
        with trio.move_on_after(0):
            await receive(far, 1)
        await near.send_all(b"z")
        assert await receive(far, 1) == b"z"
