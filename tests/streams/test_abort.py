"""Aborting streams of every kind."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.streams.bench import over_memory, over_sockets, read_to_end, socket_pair
from trunnel.errors import ErrorCode
from trunnel.streams.abort import abort_stream, wait_stream_delivered
from trunnel.streams.copy import End
from trunnel.streams.sockets import abort_socket
from trunnel.transports.base import Stream


async def test_a_socket_is_reset() -> None:
    """There is no code on a socket."""
    async with over_sockets() as bench:
        abort_stream(bench.visitor, ErrorCode.DEADLINE)
        assert await read_to_end(bench.left) == (b"", End.RESET)


async def test_a_stream_of_a_transport_carries_the_code_behind_its_bytes() -> None:
    """What was sent before is read first."""
    async with over_memory() as bench:
        assert isinstance(bench.left, Stream)
        await bench.visitor.send_all(b"before")
        await wait_stream_delivered(bench.visitor)
        abort_stream(bench.visitor, ErrorCode.DEADLINE)
        assert await read_to_end(bench.left) == (b"before", End.RESET)
        assert bench.left.reset_code is ErrorCode.DEADLINE


async def test_streams_of_trio_testing_are_closed() -> None:
    """They know no abort."""
    near, far = trio.testing.memory_stream_pair()
    abort_stream(near)
    assert await read_to_end(far) == (b"", End.FIN)


async def test_an_object_that_cannot_be_aborted_is_refused() -> None:
    """A bug, to be seen at once."""
    with pytest.raises(TypeError, match="cannot abort a object"):
        abort_stream(object())


async def test_under_tls_the_socket_is_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """`wait_stream_delivered` looks through `transport` down to the socket."""
    waited: list[trio.socket.SocketType] = []

    async def note(sock: trio.socket.SocketType) -> bool:
        waited.append(sock)
        await trio.lowlevel.checkpoint()
        return True

    monkeypatch.setattr("trunnel.streams.abort.wait_delivered", note)
    near, far = await socket_pair()

    class Upper:
        transport = near

    await wait_stream_delivered(Upper())
    await wait_stream_delivered(near)
    await wait_stream_delivered(object())
    assert waited == [near.socket, near.socket]
    abort_socket(near.socket)
    abort_socket(far.socket)
