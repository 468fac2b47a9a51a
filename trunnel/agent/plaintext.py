"""The visitor's bytes as the origin is to see them: what stands between a visitor and the origin's connection.

A `Plaintext` is made by whoever ended the visitor's TLS, or passed it through,
and says how its bytes reach the origin:

- `carry` joins it to a dialled connection; where the bytes are moved (here, in a
  worker, in the kernel) is its own affair;
- `here` brings the bytes into this program: for an origin that is a callable,
  and for a page of our own.  After that, `carry` may not be called.

`Here` is the one for bytes that are in this program already.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from typing import Protocol, final

import trio

from trunnel.pump import Workers, pump
from trunnel.streams.copy import CopyLimits, Counter, End
from trunnel.streams.tls import TlsStream

Ends = tuple[End, End]
"""How the visitor's and the origin's bytes ended."""


class Plaintext(Protocol):
    """A visitor whose TLS is ended, or passed through."""

    @property
    def alpn(self) -> bytes | None:
        """The protocol agreed on in the visitor's TLS; None if there is none, or its TLS is passed through."""
        ...

    @property
    def tls_version(self) -> str | None:
        """`TLSv1.3` or `TLSv1.2`; None if the visitor's TLS is passed through."""
        ...

    async def carry(self, origin: trio.SocketStream, deadlines: CopyLimits, counter: Counter) -> Ends:
        """Move bytes between the visitor (left) and *origin* until both have ended; owns *origin*.

        Cancellation: both were aborted.
        """
        ...

    def here(self) -> AbstractAsyncContextManager[trio.abc.HalfCloseableStream]:
        """Have the bytes as a stream of this program, which the body closes or aborts."""
        ...

    async def abandon(self) -> None:
        """Abort what is held beside the visitor's stream, whose owner aborts that.  Idempotent."""
        ...


@final
class Here:
    """A visitor whose bytes this program has at hand: TLS that is ended here, or none that is ours."""

    __slots__ = ("_stream", "_workers")

    def __init__(self, stream: trio.abc.HalfCloseableStream, *, workers: Workers | None) -> None:
        """Own *stream*; *workers* may move its bytes if it is a plain socket."""
        self._stream = stream
        self._workers = workers

    @property
    def alpn(self) -> bytes | None:
        """See `Plaintext`."""
        return self._stream.alpn if isinstance(self._stream, TlsStream) else None

    @property
    def tls_version(self) -> str | None:
        """See `Plaintext`."""
        return self._stream.tls_version if isinstance(self._stream, TlsStream) else None

    async def carry(self, origin: trio.SocketStream, deadlines: CopyLimits, counter: Counter) -> Ends:
        """See `Plaintext`."""
        outcome = await pump(self._stream, origin, deadlines, counter=counter, workers=self._workers)
        return outcome.left_end, outcome.right_end

    @asynccontextmanager
    async def here(self) -> AsyncIterator[trio.abc.HalfCloseableStream]:
        """See `Plaintext`."""
        yield self._stream

    async def abandon(self) -> None:
        """See `Plaintext`: nothing is."""
