"""Short messages on a plain socket, read and written by exact sizes.

For exchanges that cost by the call: a data connection is proved and taken for
every new visitor.  trio's own socket methods yield to the scheduler even when
the bytes are there, and `SocketStream` translates errors around each; here the
system call comes first, and only one that would block waits.

Not a checkpoint when nothing blocks: a caller who loops over peers must make
its own.  Where a socket is no file (Windows) trio's methods serve.
"""

from __future__ import annotations

import os

import trio

from trunnel import capabilities


async def receive(stream: trio.SocketStream, size: int) -> bytes:
    """Return 1 to *size* bytes of *stream*, or b"" at its end; raises as `read_exactly`.

    Cancellation: nothing is lost.
    """
    if not capabilities.HAS_SOCKET_FILES:
        return bytes(await stream.receive_some(size))
    while True:
        try:
            return os.read(_descriptor(stream), size)
        except BlockingIOError:
            await trio.lowlevel.wait_readable(stream.socket)
        except OSError as exc:
            raise trio.BrokenResourceError(f"the connection is lost: {exc}") from exc


async def read_exactly(stream: trio.SocketStream, size: int) -> bytes:
    """Return the next *size* bytes of *stream*, and read none behind them.

    Raises:
        trio.BrokenResourceError: The peer has ended the stream before, or it is lost.
        trio.ClosedResourceError: It was closed here.

    Cancellation: what was read is lost.
    """
    chunk = await receive(stream, size)
    if len(chunk) == size:
        return chunk
    pieces = bytearray(chunk)
    while chunk and len(pieces) < size:
        chunk = await receive(stream, size - len(pieces))
        pieces += chunk
    if not chunk:
        raise trio.BrokenResourceError(f"the connection ended after {len(pieces)} of {size} bytes")
    return bytes(pieces)


async def send(stream: trio.SocketStream, message: bytes) -> None:
    """Send all of *message*.

    Raises:
        trio.BrokenResourceError: The stream is lost.
        trio.ClosedResourceError: It was closed here.

    Cancellation: an unknown part was sent.
    """
    sent = 0
    if capabilities.HAS_SOCKET_FILES:
        try:
            sent = os.write(_descriptor(stream), message)
        except BlockingIOError:
            pass
        except OSError as exc:
            raise trio.BrokenResourceError(f"the connection is lost: {exc}") from exc
    if sent < len(message):
        await stream.send_all(memoryview(message)[sent:])


def _descriptor(stream: trio.SocketStream) -> int:
    descriptor = stream.socket.fileno()
    if descriptor < 0:
        raise trio.ClosedResourceError("this connection is closed")
    return descriptor
