"""Small proxies for tests: SOCKS 5 and HTTP CONNECT over real sockets, and odd ones that answer by script.

They are written from the RFCs' side of the server and share no code with the
clients under test.
"""

from __future__ import annotations

import base64
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import trio

from trunnel.names import ServerAddress

Serve = Callable[[trio.SocketStream], Awaitable[None]]


@asynccontextmanager
async def listening(serve: Serve) -> AsyncIterator[ServerAddress]:
    """Serve connections with *serve*; yield where."""
    async with trio.open_nursery() as nursery:
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")

        async def serve_one(stream: trio.SocketStream) -> None:
            async with stream:
                try:
                    await serve(stream)
                except (trio.BrokenResourceError, EOFError):
                    return  # the client went away

        nursery.start_soon(trio.serve_listeners, serve_one, [listener])
        yield ServerAddress("127.0.0.1", listener.socket.getsockname()[1])
        nursery.cancel_scope.cancel()


async def read_exactly(stream: trio.SocketStream, count: int) -> bytes:
    """Read *count* bytes."""
    found = b""
    while len(found) < count:
        chunk = await stream.receive_some(count - len(found))
        if not chunk:
            raise EOFError
        found += bytes(chunk)
    return found


async def read_head(stream: trio.SocketStream) -> bytes:
    """Read to the end of an HTTP head."""
    head = b""
    while not head.endswith(b"\r\n\r\n"):
        head += await read_exactly(stream, 1)
    return head


@dataclass
class SmallProxy:
    """One proxy: whom it lets in, what names mean to it, and what it was asked."""

    names: dict[str, ServerAddress] = field(default_factory=dict)
    """`HOST:PORT` as asked for -> where that is; all else cannot be reached."""
    account: tuple[str, str] | None = None
    """User and password that it demands."""
    asked: list[str] = field(default_factory=list)
    """Every `HOST:PORT` that clients asked for."""
    preamble: bytes = b""
    """First bytes of the tunnel, sent in one piece with the answer."""

    async def socks5(self, stream: trio.SocketStream) -> None:
        """Serve one client by RFC 1928 and RFC 1929."""
        version, count = await read_exactly(stream, 2)
        methods = await read_exactly(stream, count)
        wanted = 2 if self.account else 0
        if version != 5 or wanted not in methods:
            return await stream.send_all(b"\x05\xff")
        await stream.send_all(bytes([5, wanted]))
        if self.account and not await self._check_password(stream, self.account):
            return None
        _, command, _, kind = await read_exactly(stream, 4)
        if kind == 3:
            (length,) = await read_exactly(stream, 1)
            host = (await read_exactly(stream, length)).decode()
        else:
            packed = await read_exactly(stream, {1: 4, 4: 16}[kind])
            family = {1: trio.socket.AF_INET, 4: trio.socket.AF_INET6}[kind]
            host = trio.socket.inet_ntop(family, packed)
        port = int.from_bytes(await read_exactly(stream, 2), "big")
        bound = b"\x00\x03\x05bound\x00\x00" if kind == 3 else b"\x00\x01\x00\x00\x00\x00\x00\x00"
        upstream = await self._reach(ServerAddress(host, port)) if command == 1 else None
        await stream.send_all(
            b"\x05" + (b"\x00" if upstream else b"\x04") + bound + (self.preamble if upstream else b"")
        )
        return await join(stream, upstream)

    async def _check_password(self, stream: trio.SocketStream, account: tuple[str, str]) -> bool:
        parts: list[str] = []
        await read_exactly(stream, 1)
        for _ in account:
            (length,) = await read_exactly(stream, 1)
            parts.append((await read_exactly(stream, length)).decode())
        is_right = tuple(parts) == account
        await stream.send_all(b"\x01\x00" if is_right else b"\x01\x01")
        return is_right

    async def http(self, stream: trio.SocketStream) -> None:
        """Serve one client by RFC 9110 §9.3.6."""
        lines = (await read_head(stream)).decode().split("\r\n")
        method, authority, _ = lines[0].split(" ")
        fields = dict(line.split(": ", 1) for line in lines[1:] if line)
        assert method == "CONNECT"
        assert fields["Host"] == authority
        if self.account:
            proof = base64.b64encode(":".join(self.account).encode()).decode()
            if fields.get("Proxy-Authorization") != f"Basic {proof}":
                return await stream.send_all(
                    b'HTTP/1.1 407 Proxy Authentication Required\r\nProxy-Authenticate: Basic realm="x"\r\n\r\nno'
                )
        upstream = await self._reach(ServerAddress.parse(authority))
        if upstream is None:
            return await stream.send_all(b"HTTP/1.1 502 Bad Gateway\r\nContent-Length: 3\r\n\r\nno\n")
        await stream.send_all(b"HTTP/1.1 200 Connection established\r\nVia: test\r\n\r\n" + self.preamble)
        return await join(stream, upstream)

    async def _reach(self, asked: ServerAddress) -> trio.SocketStream | None:
        self.asked.append(str(asked))
        place = self.names.get(str(asked))
        return await trio.open_tcp_stream(place.host, place.port) if place else None


async def join(left: trio.SocketStream, right: trio.SocketStream | None) -> None:
    """Copy both ways until both have ended; None ends at once."""
    if right is None:
        return
    async with right, trio.open_nursery() as nursery:
        nursery.start_soon(_copy, left, right)
        nursery.start_soon(_copy, right, left)


async def _copy(source: trio.SocketStream, sink: trio.SocketStream) -> None:
    try:
        async for chunk in source:
            await sink.send_all(chunk)
        await sink.send_eof()
    except trio.BrokenResourceError:
        return


def scripted(*answers: bytes) -> Serve:
    """Return a proxy that gives one of *answers* after each message, then hangs up."""

    async def serve(stream: trio.SocketStream) -> None:
        for answer in answers:
            await stream.receive_some()
            await stream.send_all(answer)

    return serve
