"""A visitor: one HTTPS request to a tunnel, from a connection that is given."""

from __future__ import annotations

import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

import trio

from scripts.lab.pattern import Checker, block

CHUNK = 65_536
HEAD_MAX = 8_192
Connect = trio.SocketStream


@dataclass(frozen=True)
class Where:
    """Where visitors go: an address, the tunnel's name, its certificate."""

    host: str
    port: int
    hostname: str
    certificate: str

    def context(self) -> ssl.SSLContext:
        """Return the TLS context of its visitors."""
        return ssl.create_default_context(cafile=self.certificate)


class Visitor:
    """A visitor that has shaken hands."""

    def __init__(self, tls: trio.SSLStream[trio.SocketStream], hostname: str) -> None:
        self._tls = tls
        self._hostname = hostname
        self._rest = b""
        self.received = 0
        """Octets so far, heads included."""

    async def ask(self, path: str, *, length: int = 0, close: bool = True) -> None:
        """Send the head of a request; with a *length*, of one that has a body."""
        verb = f"POST {path} HTTP/1.1\r\nContent-Length: {length}" if length else f"GET {path} HTTP/1.1"
        ending = "Connection: close\r\n" if close else ""
        await self._tls.send_all(f"{verb}\r\nHost: {self._hostname}\r\n{ending}\r\n".encode())

    async def upload(self, size: int) -> None:
        """Send *size* octets of the pattern."""
        for offset in range(0, size, CHUNK):
            await self._tls.send_all(block(offset, min(CHUNK, size - offset)))

    async def answer(self) -> int:
        """Read the head of an answer that must be 200; returns the length of its body."""
        head = b""
        while b"\r\n\r\n" not in head and len(head) < HEAD_MAX:
            head += await self._some()
        head, _, self._rest = head.partition(b"\r\n\r\n")
        if not head.startswith(b"HTTP/1.1 200"):
            raise ConnectionError(ascii(head[:80]))
        return int(head.lower().rpartition(b"content-length: ")[2].split(b"\r\n", 1)[0])

    async def body(self, size: int) -> bytes:
        """Read a short body."""
        while len(self._rest) < size:
            self._rest += await self._some()
        body, self._rest = self._rest[:size], self._rest[size:]
        return body

    async def check(self, checker: Checker, size: int) -> None:
        """Read *size* octets more (all there are) into *checker*."""
        end = checker.received + size
        while checker.received < end:
            chunk = self._rest or await self._some()
            self._rest = chunk[end - checker.received :]
            checker.feed(chunk[: end - checker.received])

    async def _some(self) -> bytes:
        chunk = await self._tls.receive_some(CHUNK)
        if not chunk:
            raise ConnectionError("cut short")
        self.received += len(chunk)
        return bytes(chunk)


@asynccontextmanager
async def visitor(stream: trio.SocketStream, where: Where, context: ssl.SSLContext) -> AsyncIterator[Visitor]:
    """Shake hands over *stream*, which is closed at the end."""
    tls = trio.SSLStream(stream, context, server_hostname=where.hostname, https_compatible=True)
    try:
        yield Visitor(tls, where.hostname)
    finally:
        await trio.aclose_forcefully(tls)


async def fetch(stream: trio.SocketStream, where: Where, context: ssl.SSLContext, path: str = "/") -> bytes:
    """Fetch a short *path*; returns the body."""
    async with visitor(stream, where, context) as visiting:
        await visiting.ask(path)
        return await visiting.body(await visiting.answer())
