"""Several leaves behind one door: which one a visitor sees is chosen by SNI.

The first leaf is the standard one: it is shown to whoever names no host, or one
that no other leaf is for.  Of the others the first that covers the name is
shown (`choose`); their order is the caller's preference.

A new set takes effect with the next ClientHello.  Contexts of leaves that stay
are kept, with their ticket keys, so that a renewal costs one context and no
resumption of the others; a handshake that runs, and a connection that is open,
hold the context that they have.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

from cryptography import x509
from OpenSSL import SSL

from trunnel.errors import ConfigError, RemoteProtocolError
from trunnel.identity.contexts import visitor_context
from trunnel.identity.leaf import Leaf
from trunnel.names import Hostname, parse_hostname_untrusted


def choose(leaves: Sequence[Leaf], name: Hostname) -> Leaf:
    """Return which of *leaves*, not empty, is shown to a visitor who asks for *name*."""
    return next((leaf for leaf in leaves[1:] if leaf.covers(name)), leaves[0])


def require_usable(leaf: Leaf) -> None:
    """Raise ConfigError if OpenSSL does not take *leaf*: a weak key, a chain that it cannot read."""
    ShownLeaves([leaf], alpn=())


@final
class ShownLeaves:
    """The leaves that visitors see now, ready for handshakes."""

    def __init__(self, leaves: Sequence[Leaf], *, alpn: Sequence[bytes]) -> None:
        """Prepare for visitors.

        Args:
            leaves: The standard one first; not empty.
            alpn: The protocols that the origin speaks, preferred first.

        Raises:
            ConfigError: OpenSSL does not take one of them.
        """
        self._alpn = tuple(alpn)
        self._leaves: tuple[Leaf, ...] = ()
        self._contexts: dict[tuple[x509.Certificate, ...], SSL.Context] = {}
        self.replace(leaves)

    @property
    def leaves(self) -> tuple[Leaf, ...]:
        """What is shown, the standard one first."""
        return self._leaves

    @property
    def context(self) -> SSL.Context:
        """The context that the next handshake begins with."""
        return self._contexts[self._leaves[0].chain]

    def replace(self, leaves: Sequence[Leaf]) -> None:
        """Show *leaves*, not empty, from the next ClientHello on.

        Raises:
            ConfigError: OpenSSL does not take one of them; nothing has changed.
        """
        if not leaves:
            raise ValueError("nothing to show")
        contexts = {leaf.chain: self._contexts.get(leaf.chain) or self._make(leaf) for leaf in leaves}
        self._leaves, self._contexts = tuple(leaves), contexts

    def _make(self, leaf: Leaf) -> SSL.Context:
        try:
            return visitor_context(leaf, alpn=self._alpn, by_name=self._by_name)
        except (SSL.Error, ValueError) as exc:
            raise ConfigError("", f"OpenSSL does not take the certificate {leaf.path} or its key: {exc}") from exc

    def _by_name(self, asked: bytes | None) -> SSL.Context | None:
        """Choose for a stranger's SNI value; None keeps the context that the handshake began with."""
        if asked is None:
            return None
        try:
            name = parse_hostname_untrusted(asked)
        except RemoteProtocolError:
            return None
        return self._contexts[choose(self._leaves, name).chain]
