"""End the visitor's TLS at the agent, with the endpoint's own key.

The relay passes the visitor's bytes through, so the handshake runs inside the
tunnel stream: memory engine, the leaf's context, `HANDSHAKE_TIMEOUT`.  Only the
leaf key is used here, never the identity key.

A visitor whose handshake fails gets the alert and the end of the stream; the
origin never hears of it, so scanners of the relay's port do not reach it.

Truncation: a visitor that closes without close_notify has not ended, it was
cut off, and the origin gets an abort, not an end (RFC 8446 §6.1).  Many HTTP
clients close so once they have the whole answer; `streams.copy` therefore
overlooks it when the origin has ended before.  Nothing is tolerated here.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import trio

from trunnel.identity.certstore import Leaf
from trunnel.identity.contexts import visitor_context
from trunnel.settings import limits
from trunnel.streams.tls import TlsRole, TlsStream


@final
class Terminator:
    """The certificate that visitors see, and the protocols that the origin speaks."""

    __slots__ = ("_context", "_leaf", "alpn")

    def __init__(self, leaf: Leaf, *, alpn: Sequence[bytes]) -> None:
        """Prepare for visitors.

        Args:
            leaf: Key and certificate of the endpoints.
            alpn: Protocols to select from, preferred first.
        """
        self.alpn = tuple(alpn)
        """Protocols that the origin speaks, preferred first."""
        self._leaf = leaf
        self._context = visitor_context(leaf, alpn=self.alpn)

    @property
    def leaf(self) -> Leaf:
        """What the next visitor sees."""
        return self._leaf

    def replace_leaf(self, leaf: Leaf) -> None:
        """Show *leaf* from the next visitor on; streams that are open keep theirs."""
        if leaf.fingerprint != self._leaf.fingerprint:
            self._context = visitor_context(leaf, alpn=self.alpn)
        self._leaf = leaf

    async def handshake(self, stream: trio.abc.HalfCloseableStream) -> TlsStream:
        """Run the server's side of the visitor's handshake over *stream*, which the result owns.

        Raises:
            ConnectError: It failed; the visitor was told by an alert where there is one, *stream* is closed.

        Cancellation: *stream* is aborted.
        """
        return await TlsStream.handshake(stream, self._context, role=TlsRole.SERVER, timeout=limits.HANDSHAKE_TIMEOUT)
