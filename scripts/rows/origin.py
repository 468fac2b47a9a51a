"""The origin of the rows, a process of its own: `python -m scripts.rows.origin` prints its port as an event.

HTTP/1.1 on loopback: `/` is a short page, `/bytes/N` N bytes, `/slow/S` the
page after S seconds.  It shares no process with an attacker, so that what a
canary waits for is the tunnel.
"""

from __future__ import annotations

import json
from contextlib import suppress

import trio

PAGE = b"canary"
HEAD_END = b"\r\n\r\n"
BLOCK = bytes(65_536)
BACKLOG = 1_024


async def next_head(stream: trio.SocketStream, rest: bytearray) -> bytes | None:
    """Return the head of the next request, None at the end; *rest* keeps what came beyond it."""
    while HEAD_END not in rest:
        chunk = await stream.receive_some(len(BLOCK))
        if not chunk:
            return None
        rest += chunk
    head, _, beyond = bytes(rest).partition(HEAD_END)
    rest[:] = beyond
    return head


async def answer(stream: trio.SocketStream, path: str) -> None:
    """Send what *path* asks for."""
    _, kind, *rest = [*path.split("/"), ""]
    size = int(rest[0]) if kind == "bytes" else len(PAGE)
    if kind == "slow":
        await trio.sleep(float(rest[0]))
    await stream.send_all(b"HTTP/1.1 200 OK\r\nContent-Length: %d\r\n\r\n" % size)
    if kind != "bytes":
        await stream.send_all(PAGE)
        return
    for _ in range(size // len(BLOCK)):
        await stream.send_all(BLOCK)
    await stream.send_all(BLOCK[: size % len(BLOCK)])


async def serve(stream: trio.SocketStream) -> None:
    """Serve one connection."""
    rest = bytearray()
    with suppress(trio.BrokenResourceError):
        while (head := await next_head(stream, rest)) is not None:
            await answer(stream, head.split(b" ", 2)[1].decode("ascii"))
            if b"connection: close" in head.lower():
                await stream.send_eof()
                return


async def main() -> None:
    """Serve until killed."""
    listeners = await trio.open_tcp_listeners(0, host="127.0.0.1", backlog=BACKLOG)
    print(json.dumps({"event": "listening", "port": listeners[0].socket.getsockname()[1]}), flush=True)
    await trio.serve_listeners(serve, listeners)


if __name__ == "__main__":
    trio.run(main)
