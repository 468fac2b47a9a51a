"""How one port tells its callers apart: the ALPN names in their ClientHello.

Names that begin with `trunnel-` are agents' (one for each kind of carrier),
`acme-tls/1` alone is a certificate authority's challenge (RFC 8737 §3),
everything else is a visitor.  All `trunnel-` names count as agents', known
here or not: an agent with a newer carrier is then told so by TLS
(no_application_protocol) instead of being taken for a visitor.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

LINK_ALPN_H2: Final = b"trunnel-h2/1"
"""An agent that wants an HTTP/2 carrier."""
LINK_ALPN_YAMUX: Final = b"trunnel-yamux/1"
"""An agent that wants a yamux carrier."""
LINK_ALPN_QUIC: Final = b"trunnel-quic/1"
"""An agent on a QUIC connection."""
LINK_ALPN_PREFIX: Final = b"trunnel-"
"""What every carrier's name begins with."""
CHALLENGE_ALPN: Final = b"acme-tls/1"
"""A TLS-ALPN-01 challenge (RFC 8737 §6.2)."""


def offers_link(alpn: Sequence[bytes]) -> bool:
    """Return whether a ClientHello with these ALPN names is an agent's."""
    return any(name.startswith(LINK_ALPN_PREFIX) for name in alpn)


def offers_challenge(alpn: Sequence[bytes]) -> bool:
    """Return whether a ClientHello with these ALPN names is a challenge: `acme-tls/1` and nothing else."""
    return tuple(alpn) == (CHALLENGE_ALPN,)
