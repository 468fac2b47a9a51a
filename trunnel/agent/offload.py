"""A visitor whose TLS is ended in a worker process: no byte of it passes through this one.

    visitor's socket → worker: handshake → `InWorker`
        carry   the origin's socket follows it into the worker
        here    a socket pair brings the plaintext back, for a page of ours

Only the endpoint's leaf key is there, never the identity key (`served` hands it
over).  An origin that is a callable of this program is not served so: a socket
pair knows no abort, and a visitor who was cut off would look like one who ended.
"""

from __future__ import annotations

import socket
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Final, final

import trio

from trunnel.agent.plaintext import Ends
from trunnel.pump import Terminated, Workers
from trunnel.settings import limits
from trunnel.streams.copy import CopyLimits, Counter

_PAGE: Final = CopyLimits(
    first_byte=limits.FIRST_BYTE_TIMEOUT,
    idle=limits.FIRST_BYTE_TIMEOUT,
    half_closed=limits.CLOSE_TIMEOUT,
    first_byte_from="right",
)
"""Deadlines of a page of our own: whoever writes it has its own, these are above them."""


async def offload(visitor: trio.SocketStream, workers: Workers | None) -> InWorker | None:
    """Have one of *workers* end the TLS of *visitor*, of whom nothing has been read.

    Returns:
        1. The visitor; its stream here is closed.
        2. None: no worker can, *visitor* is the caller's still.

    Raises:
        ConnectError: The handshake failed; the visitor was told by an alert where there is one, and closed.

    Cancellation: the visitor was aborted, or is the caller's still.
    """
    if workers is None:
        return None
    terminated = await workers.terminate(visitor.socket, timeout=limits.HANDSHAKE_TIMEOUT)
    return None if terminated is None else InWorker(terminated)


@final
class InWorker:
    """A `Plaintext` that is in a worker."""

    __slots__ = ("_terminated",)

    def __init__(self, terminated: Terminated) -> None:
        """Own the visitor, whose handshake is done."""
        self._terminated = terminated

    @property
    def alpn(self) -> bytes | None:
        """See `Plaintext`."""
        return self._terminated.alpn

    @property
    def tls_version(self) -> str | None:
        """See `Plaintext`."""
        return self._terminated.tls_version

    async def carry(self, origin: trio.SocketStream, deadlines: CopyLimits, counter: Counter) -> Ends:
        """See `Plaintext`."""
        outcome = await self._terminated.pump(origin, deadlines, counter=counter)
        return outcome.left_end, outcome.right_end

    @asynccontextmanager
    async def here(self) -> AsyncIterator[trio.abc.HalfCloseableStream]:
        """See `Plaintext`."""
        near, far = (trio.SocketStream(trio.socket.from_stdlib_socket(end)) for end in socket.socketpair())
        async with near, trio.open_nursery() as nursery:
            nursery.start_soon(self._join, far)
            yield near

    async def _join(self, far: trio.SocketStream) -> None:
        await self._terminated.pump(far, _PAGE, counter=Counter())

    async def abandon(self) -> None:
        """See `Plaintext`."""
        await self._terminated.abort()
