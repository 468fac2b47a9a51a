"""What a handler in the same program gets instead of an origin: a stream and who is at its end.

`VisitorStream` adds to the visitor's stream only what the closing record
needs: bytes each way, and how the visitor ended.
"""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import final

import trio

from trunnel.names import Hostname
from trunnel.streams.copy import Counter, End
from trunnel.wire.proxyprotocol import Address


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class VisitorInfo:
    """Who is at the other end of a stream, as the relay says."""

    address: Address | None
    """Address and port from which the visitor came to the relay; None if the relay does not know."""
    hostname: Hostname
    """The endpoint that the visitor asked for."""
    alpn: bytes | None
    """The protocol agreed on in the visitor's TLS, if the agent ended it and there is one."""
    stream: str
    """Id of the stream in both programs' events and logs."""


StreamHandler = Callable[[trio.abc.HalfCloseableStream, VisitorInfo], Awaitable[None]]
"""Serves one visitor.  When it returns, the stream is closed in order; when it raises, it is aborted."""


@final
class VisitorStream(trio.abc.HalfCloseableStream):
    """A visitor's stream that counts; otherwise the stream that it wraps, with its rules and errors."""

    __slots__ = ("_counter", "_stream", "end")

    def __init__(self, stream: trio.abc.HalfCloseableStream, counter: Counter) -> None:
        """Wrap *stream* and count what the visitor sends on the left, what it gets on the right."""
        self._stream = stream
        self._counter = counter
        self.end: End | None = None
        """How the visitor's bytes ended, None as long as they have not."""

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Send *data* to the visitor."""
        await self._stream.send_all(data)
        self._counter.right_bytes += len(data)

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the visitor may take more."""
        await self._stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        """Tell the visitor that nothing more comes; reading goes on."""
        await self._stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        """Return what the visitor sent next, b"" at its end."""
        try:
            chunk = await self._stream.receive_some(max_bytes)
        except trio.BrokenResourceError:
            self.end = End.RESET
            raise
        self._counter.left_bytes += len(chunk)
        if not chunk:
            self.end = End.FIN
        return chunk

    async def aclose(self) -> None:
        """Close the visitor's stream in order."""
        await self._stream.aclose()
