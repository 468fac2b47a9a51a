"""How the relay proves itself: a key, a chain, and the TLS contexts that show them.

Every listener shows the same: TLS on TCP for agents through `context`, QUIC
through `leaf`, and the visitors of the relay's own names through
`page`.  Contexts are frozen by their first connection, so credentials are a
value: a new certificate is a new value, handed out by `certificate`.

Whatever the certificate, the key decides who the relay is (`relay_id`): that
is what agents pin and remember.  So a self-signed certificate and those of a
public authority have the same key, the relay's own, and the id stays; only the
files of a person (`tls_cert`) bring a key of theirs.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from enum import StrEnum
from typing import Final, final

from cryptography.hazmat.primitives.asymmetric import ed25519
from OpenSSL import SSL

from trunnel.errors import ConfigError, RemoteProtocolError
from trunnel.identity.certstore import Leaf, read_pem_pair
from trunnel.identity.contexts import link_server_context, visitor_context
from trunnel.identity.keys import IdentityKey, id_of, link_certificate
from trunnel.identity.leaf import leaf_of
from trunnel.names import KeyId
from trunnel.settings.relay import RelaySettings
from trunnel.transports.alpn import LINK_ALPN_H2, LINK_ALPN_YAMUX

HTTP_ALPN: Final = b"http/1.1"
"""What the page of the relay's own names speaks (RFC 7301 §6)."""


@final
class Source(StrEnum):
    """Where a certificate comes from; the word in logs."""

    SELF_SIGNED = "self-signed"
    FILES = "files"
    """Of a person: `tls_cert` and `tls_key`."""
    ACME = "acme"


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RelayCredentials:
    """The relay's key and certificates."""

    relay_id: KeyId
    """Id of the key that agents pin."""
    leaf: Leaf
    """Key and chain."""
    source: Source
    """Where they come from."""
    context: SSL.Context
    """For agents on TCP; offers every transport that there is."""
    page: SSL.Context
    """For visitors of the relay's own names."""


def credentials_of(leaf: Leaf, source: Source) -> RelayCredentials:
    """Return what shows *leaf*.

    Raises:
        ConfigError: TLS cannot use it.
    """
    try:
        return RelayCredentials(
            relay_id=id_of(leaf.chain[0]),
            leaf=leaf,
            source=source,
            context=link_server_context(leaf.private_key, leaf.chain, alpn=[LINK_ALPN_H2, LINK_ALPN_YAMUX]),
            page=visitor_context(leaf, alpn=[HTTP_ALPN]),
        )
    except (SSL.Error, ValueError, RemoteProtocolError) as exc:
        raise ConfigError("relay.tls_cert", f"TLS cannot use the certificate in {leaf.path}: {exc}") from exc


def self_signed(settings: RelaySettings, identity: IdentityKey, *, now: datetime) -> RelayCredentials:
    """Return a new certificate of the relay's own key, for its suffixes, its own names and its addresses."""
    names = [name.value for name in (*settings.domain_suffixes, *settings.acme_domains)]
    names += [address for address in settings.bind_addrs if address not in ("0.0.0.0", "::")]  # noqa: S104
    certificate = link_certificate(identity, now=now, names=names)
    return credentials_of(leaf_of(identity.private_key, (certificate,), settings.key_path), Source.SELF_SIGNED)


def given(settings: RelaySettings) -> RelayCredentials:
    """Return what a person gave: the files `tls_cert` and `tls_key`.

    Raises:
        ConfigError: A file is missing or unusable, or the key is another certificate's.
    """
    if settings.tls_cert is None or settings.tls_key is None:
        raise AssertionError("asked for only when both are set")
    try:
        leaf = read_pem_pair(settings.tls_cert, settings.tls_key)
    except ConfigError as exc:
        raise ConfigError("relay.tls_cert", exc.reason) from exc
    return credentials_of(leaf, Source.FILES)


def require_issuable(identity: IdentityKey) -> None:
    """Raise ConfigError unless authorities certify keys like that of *identity*."""
    if isinstance(identity.private_key, ed25519.Ed25519PrivateKey):
        raise ConfigError(
            "relay.acme_domain",
            f"{identity.path} is an Ed25519 key, which public certificate authorities do not certify: "
            "take an ECDSA P-256 key (agents that have pinned the old one must be told), or give tls_cert",
        )
