"""Origins: the services that the tests put behind the tunnel, as tasks of the test.

`serve_web` is a small HTTP/1.1 server (keep-alive, Content-Length, chunked
requests, `Expect: 100-continue`: what curl and browsers send) whose answers
are one async callable.  `serve_stream` is bare: a callable a connection.
Both listen on 127.0.0.1 and a port of the system's choice, or on a socket
that the test has bound.
"""

from __future__ import annotations

import socket
from collections.abc import Awaitable, Callable
from functools import partial
from typing import final

import trio

RECEIVE = 262_144
"""Bytes a read."""
HEAD_END = b"\r\n\r\n"

StreamService = Callable[[trio.abc.HalfCloseableStream], Awaitable[None]]


def bound_socket() -> trio.socket.SocketType:
    """Return a socket that holds a free loopback port and refuses connections until it is listened on.

    Whoever does not give it to `serve_web` or `serve_stream` closes it.
    """
    sock = socket.socket()
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("127.0.0.1", 0))
    return trio.socket.from_stdlib_socket(sock)


def port_of(sock: trio.socket.SocketType) -> int:
    """Return the port that *sock* is bound to."""
    return int(sock.getsockname()[1])


@final
class Exchange:
    """One request, and the answer to it."""

    def __init__(self, connection: Connection, method: str, path: str, headers: dict[str, str]) -> None:
        self.method = method
        self.path = path
        self.headers = headers
        """By lower-case name."""
        self.connection = connection

    async def read_body(self, take: Callable[[bytes], object]) -> int:
        """Give the request's body to *take* piece by piece; returns its length."""
        if self.headers.get("expect", "").lower() == "100-continue":
            await self.connection.stream.send_all(b"HTTP/1.1 100 Continue\r\n\r\n")
        if self.headers.get("transfer-encoding") == "chunked":
            raise AssertionError("the tests' clients say how long their bodies are")
        length = int(self.headers.get("content-length", 0))
        await self.connection.pass_on(length, take)
        return length

    async def begin(self, *, kind: str = "text/plain", length: int | None = None) -> None:
        """Send the head of a 200; without a length the body ends with the connection."""
        self.connection.last = length is None
        framing = "Connection: close" if length is None else f"Content-Length: {length}"
        await self.send(f"HTTP/1.1 200 OK\r\nContent-Type: {kind}\r\n{framing}\r\n\r\n".encode())

    async def send(self, chunk: bytes) -> None:
        """Send a piece of the body."""
        await self.connection.stream.send_all(chunk)

    async def answer(self, body: bytes, *, kind: str = "text/plain") -> None:
        """Send a whole 200."""
        await self.begin(kind=kind, length=len(body))
        await self.send(body)


WebService = Callable[[Exchange], Awaitable[None]]


@final
class Connection:
    """One connection to a web origin."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, number: int) -> None:
        self.stream = stream
        self.number = number
        """Which of the origin's connections, from 1."""
        self.last = False
        """Whether the present answer ends with the connection."""
        self._pending = bytearray()

    async def serve(self, service: WebService) -> None:
        """Answer requests until the client goes, or asks for the end."""
        while (head := await self._read_head()) is not None:
            request, *lines = head.decode("latin-1").split("\r\n")
            method, path, _ = request.split(" ")
            pairs = (line.split(":", 1) for line in lines)
            headers = {name.lower(): value.strip() for name, value in pairs}
            await service(Exchange(self, method, path, headers))
            if self.last or headers.get("connection", "").lower() == "close":
                return

    async def pass_on(self, length: int, take: Callable[[bytes], object]) -> None:
        """Give exactly *length* bytes to *take*."""
        while length:
            chunk = bytes(self._pending[:length]) or bytes(await self.stream.receive_some(min(length, RECEIVE)))
            if not chunk:
                raise AssertionError(f"the request ended {length} bytes early")
            del self._pending[: len(chunk)]
            take(chunk)
            length -= len(chunk)

    async def _read_head(self) -> bytes | None:
        while HEAD_END not in self._pending:
            chunk = await self.stream.receive_some(RECEIVE)
            if not chunk:
                return None
            self._pending.extend(chunk)
        head, _, rest = bytes(self._pending).partition(HEAD_END)
        self._pending = bytearray(rest)
        return head


async def serve_stream(
    nursery: trio.Nursery, service: StreamService, sock: trio.socket.SocketType | None = None
) -> int:
    """Serve each connection with *service* until the nursery ends; returns the port (0 for a path)."""
    listening = sock if sock is not None else bound_socket()
    listening.listen()
    port = port_of(listening) if listening.family != socket.AF_UNIX else 0

    async def serve(stream: trio.SocketStream) -> None:
        async with stream:
            try:
                await service(stream)
            except trio.BrokenResourceError:
                return  # a visitor that went away is what some tests are about

    nursery.start_soon(partial(trio.serve_listeners, serve, [trio.SocketListener(listening)]))
    return port


async def serve_web(nursery: trio.Nursery, service: WebService, sock: trio.socket.SocketType | None = None) -> int:
    """Serve HTTP/1.1 with *service* until the nursery ends; returns the port (0 for a path)."""
    count = 0

    async def serve(stream: trio.abc.HalfCloseableStream) -> None:
        nonlocal count
        count += 1
        await Connection(stream, count).serve(service)

    return await serve_stream(nursery, serve, sock)


async def greet(exchange: Exchange) -> None:
    """Answer every request with its method, path and the number of the connection it came on."""
    await exchange.read_body(len)
    await exchange.answer(f"{exchange.method} {exchange.path} on {exchange.connection.number}\n".encode())
