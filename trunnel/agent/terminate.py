"""End the visitor's TLS at the agent, with the endpoint's own key.

The relay passes the visitor's bytes through, so the handshake runs inside the
tunnel stream: memory engine, the leaf's context, `HANDSHAKE_TIMEOUT`.  Only leaf
keys are used here, never the identity key.  Which leaf is shown is chosen by
the visitor's SNI (`identity.shown`), here and in workers by the same code.

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
from trunnel.identity.shown import ShownLeaves, choose
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.streams.tls import TlsRole, TlsStream


@final
class Terminator:
    """The certificates that visitors see, and the protocols that the origin speaks."""

    __slots__ = ("_shown", "alpn")

    def __init__(self, leaves: Sequence[Leaf], *, alpn: Sequence[bytes]) -> None:
        """Prepare for visitors.

        Args:
            leaves: Keys and certificates of the endpoints; the first is shown where no other is for the name asked.
            alpn: Protocols to select from, preferred first.

        Raises:
            ConfigError: OpenSSL does not take one of *leaves*.
        """
        self.alpn = tuple(alpn)
        """Protocols that the origin speaks, preferred first."""
        self._shown = ShownLeaves(leaves, alpn=self.alpn)

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """What visitors see, the standard leaf first."""
        return self._shown.leaves

    @property
    def leaf(self) -> Leaf:
        """What a visitor sees for whose name there is no other."""
        return self._shown.leaves[0]

    def leaf_for(self, name: Hostname) -> Leaf:
        """Return what the next visitor sees who asks for *name*."""
        return choose(self._shown.leaves, name)

    def replace(self, leaves: Sequence[Leaf]) -> None:
        """Show *leaves* from the next visitor on; streams that are open, and handshakes that run, keep theirs.

        Raises:
            ConfigError: OpenSSL does not take one of them; nothing has changed.
        """
        self._shown.replace(leaves)

    async def handshake(self, stream: trio.abc.HalfCloseableStream, prefix: bytes = b"") -> TlsStream:
        """Run the server's side of the visitor's handshake over *stream*, which the result owns.

        Args:
            stream: The visitor's.
            prefix: What was already read from it.

        Raises:
            ConnectError: It failed; the visitor was told by an alert where there is one, *stream* is closed.

        Cancellation: *stream* is aborted.
        """
        return await TlsStream.handshake(
            stream, self._shown.context, role=TlsRole.SERVER, prefix=prefix, timeout=limits.HANDSHAKE_TIMEOUT
        )
