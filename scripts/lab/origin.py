"""The origin of the lab, a process of its own: `python -m scripts.lab.origin` prints its ports as an event.

HTTP/1.1 at `port`: GET `/` is a short page, `/bytes/N` N octets of the
pattern, `/slow/S` the page after S seconds; POST `/take/AT/REST` reads the
body, pausing once for REST seconds after AT octets, and answers `exact`, or
what was wrong.  At `raw`, whoever has sent something gets 32 KiB, and then a
trickle without end: a transfer that is always under way and never stalls.
"""

from __future__ import annotations

import json
import re
from contextlib import suppress

import trio

from scripts.lab.pattern import Checker, block

PAGE = b"canary"
HEAD_END = b"\r\n\r\n"
CHUNK = 65_536
BACKLOG = 1_024
TRICKLE = 5.0
"""Seconds between drops."""


class Visit:
    """One connection: what was read and is not used yet."""

    def __init__(self, stream: trio.SocketStream) -> None:
        self.stream = stream
        self._rest = bytearray()

    async def head(self) -> str | None:
        """Return the head of the next request, None at the end."""
        while HEAD_END not in self._rest:
            chunk = await self.stream.receive_some(CHUNK)
            if not chunk:
                return None
            self._rest += chunk
        head, _, beyond = bytes(self._rest).partition(HEAD_END)
        self._rest[:] = beyond
        return head.decode("ascii")

    async def take(self, size: int, *, pause_at: int, pause: float) -> str:
        """Read a body of *size* octets; returns the verdict."""
        checker = Checker()
        paused = False
        while checker.received < size:
            chunk = bytes(self._rest) or await self.stream.receive_some(min(CHUNK, size - checker.received))
            self._rest.clear()
            if not chunk:
                return f"cut short after {checker.received}"
            checker.feed(chunk)
            if not paused and checker.received >= pause_at:
                paused = True
                await trio.sleep(pause)
        return "exact" if checker.exact(size) else f"wrong at {checker.wrong_at}"

    async def give(self, size: int) -> None:
        """Send *size* octets of the pattern."""
        for sent in range(0, size, CHUNK):
            await self.stream.send_all(block(sent, min(CHUNK, size - sent)))

    async def answer(self, head: str) -> None:
        """Answer one request."""
        _, kind, *arguments = [*head.split(" ", 2)[1].split("/"), "0", "0"]
        if kind == "bytes":
            await self.stream.send_all(f"HTTP/1.1 200 OK\r\nContent-Length: {arguments[0]}\r\n\r\n".encode())
            await self.give(int(arguments[0]))
            return
        body = PAGE
        if kind == "slow":
            await trio.sleep(float(arguments[0]))
        if kind == "take":
            length = re.search(r"(?i)^content-length: *(\d+)", head, re.MULTILINE)
            size = int(length[1]) if length else 0
            body = (await self.take(size, pause_at=int(arguments[0]), pause=float(arguments[1]))).encode()
        await self.stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n%s" % (len(body), body))


async def serve(stream: trio.SocketStream) -> None:
    """Serve one connection of HTTP."""
    visit = Visit(stream)
    with suppress(trio.BrokenResourceError):
        while (head := await visit.head()) is not None:
            await visit.answer(head)
            if "connection: close" in head.lower():
                await stream.send_eof()
                return


async def serve_raw(stream: trio.SocketStream) -> None:
    """Send something, for ever, to whoever speaks; an RST ends it at once."""

    async def trickle() -> None:
        with suppress(trio.BrokenResourceError):
            await Visit(stream).give(CHUNK // 2)
            while True:
                await trio.sleep(TRICKLE)
                await stream.send_all(PAGE)

    async with trio.open_nursery() as nursery:
        with suppress(trio.BrokenResourceError):
            if await stream.receive_some(CHUNK):
                nursery.start_soon(trickle)
            while await stream.receive_some(CHUNK):
                pass
        nursery.cancel_scope.cancel()


async def main() -> None:
    """Serve until killed."""
    http = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=BACKLOG)
    raw = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=BACKLOG)
    ports = {"port": http[0].socket.getsockname()[1], "raw": raw[0].socket.getsockname()[1]}
    print(json.dumps({"event": "listening", **ports}), flush=True)
    async with trio.open_nursery() as nursery:
        nursery.start_soon(trio.serve_listeners, serve, http)
        nursery.start_soon(trio.serve_listeners, serve_raw, raw)


if __name__ == "__main__":
    trio.run(main)
