"""A way to a relay that can be closed to UDP while TCP goes on: a firewall that changes its mind."""

from __future__ import annotations

from typing import final

import trio

from tests.e2e.origins import RECEIVE
from trunnel.streams.abort import abort_stream

_DATAGRAM_MAX = 65_535
_HERE = "127.0.0.1"


@final
class Forwarder:
    """Forwards one port, TCP and UDP, to another of this machine."""

    def __init__(self, port: int) -> None:
        """Forward to *port*."""
        self.passes_udp = True
        """Whether datagrams get through; others vanish."""
        self._far = (_HERE, port)
        self._paths: dict[tuple[str, int], trio.socket.SocketType] = {}

    async def run(self, *, task_status: trio.TaskStatus[int]) -> None:
        """Forward for ever; *task_status* gets our port."""
        (listener,) = await trio.open_tcp_listeners(0, host=_HERE)
        near = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
        with near:
            await near.bind(listener.socket.getsockname())
            async with trio.open_nursery() as nursery:
                nursery.start_soon(trio.serve_listeners, self._forward_stream, [listener])
                nursery.start_soon(self._forward_datagrams, near, nursery)
                task_status.started(int(listener.socket.getsockname()[1]))

    async def _forward_stream(self, near: trio.SocketStream) -> None:
        async with near, await trio.open_tcp_stream(*self._far) as far, trio.open_nursery() as nursery:
            nursery.start_soon(_copy, near, far)
            nursery.start_soon(_copy, far, near)

    async def _forward_datagrams(self, near: trio.socket.SocketType, nursery: trio.Nursery) -> None:
        while True:
            datagram, sender = await near.recvfrom(_DATAGRAM_MAX)
            path = self._paths.get(sender)
            if path is None:
                path = self._paths[sender] = trio.socket.socket(type=trio.socket.SOCK_DGRAM)
                await path.connect(self._far)
                nursery.start_soon(self._answer, near, sender, path)
            if self.passes_udp:
                await path.send(datagram)

    async def _answer(
        self, near: trio.socket.SocketType, sender: tuple[str, int], path: trio.socket.SocketType
    ) -> None:
        with path:
            while True:
                datagram = await path.recv(_DATAGRAM_MAX)
                if self.passes_udp:
                    await near.sendto(datagram, sender)


async def _copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    try:
        while chunk := await source.receive_some(RECEIVE):
            await sink.send_all(chunk)
        await sink.send_eof()
    except trio.BrokenResourceError:
        abort_stream(source)
        abort_stream(sink)
    except trio.ClosedResourceError:
        pass  # the other direction has aborted both
