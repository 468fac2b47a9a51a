"""How the relay proves itself to agents: its own key, or a certificate that a person gave.

Both carriers show the same: TLS on TCP through `context`, QUIC through `key`
and `chain`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from OpenSSL import SSL

from trunnel.clock import utc_now
from trunnel.errors import ConfigError
from trunnel.identity.contexts import ServerKey, link_server_context
from trunnel.identity.files import read_guarded
from trunnel.identity.keys import IdentityKey, id_of, link_certificate
from trunnel.names import KeyId
from trunnel.settings import limits
from trunnel.settings.relay import RelaySettings
from trunnel.transports.alpn import LINK_ALPN_H2, LINK_ALPN_YAMUX


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class RelayCredentials:
    """The relay's key and certificates."""

    relay_id: KeyId
    """Id of the key that agents pin."""
    key: ServerKey
    """The private key."""
    chain: tuple[x509.Certificate, ...]
    """The leaf first."""
    context: SSL.Context
    """For agents on TCP; offers every transport that there is."""


def load_credentials(settings: RelaySettings) -> RelayCredentials:
    """Load what the settings name, or the relay's own key, which is made at the first start.

    Raises:
        ConfigError: A file is missing or unusable.
    """
    if settings.tls_cert is not None:
        key, chain = _load_pem(settings)
        return _credentials(id_of(chain[0]), key, chain)
    identity = IdentityKey.load_or_create(settings.key_path)
    names = [suffix.value for suffix in settings.domain_suffixes]
    names += [address for address in settings.bind_addrs if address not in ("0.0.0.0", "::")]  # noqa: S104
    certificate = link_certificate(identity, now=utc_now(), names=names)
    return _credentials(identity.key_id, identity.private_key, [certificate])


def _credentials(relay_id: KeyId, key: ServerKey, chain: list[x509.Certificate]) -> RelayCredentials:
    context = link_server_context(key, chain, alpn=[LINK_ALPN_H2, LINK_ALPN_YAMUX])
    return RelayCredentials(relay_id=relay_id, key=key, chain=tuple(chain), context=context)


def _load_pem(settings: RelaySettings) -> tuple[ServerKey, list[x509.Certificate]]:
    """Load the certificate chain and key that a person gave."""
    if settings.tls_cert is None or settings.tls_key is None:
        raise AssertionError("asked for only when both are set")
    pem = read_guarded(settings.tls_cert, limit=limits.KEY_FILE_MAX, secret=False)
    key_pem = read_guarded(settings.tls_key, limit=limits.KEY_FILE_MAX, secret=True)
    if pem is None or key_pem is None:
        raise ConfigError("relay.tls_cert", f"{settings.tls_cert} or {settings.tls_key} is missing")
    try:
        chain = x509.load_pem_x509_certificates(pem)
        key = serialization.load_pem_private_key(key_pem, password=None)
    except (ValueError, TypeError, UnsupportedAlgorithm) as exc:
        raise ConfigError("relay.tls_cert", f"no certificate chain and key in PEM form: {exc}") from exc
    if key.public_key() != chain[0].public_key():
        raise ConfigError("relay.tls_key", f"{settings.tls_key} is not the key of {settings.tls_cert}")
    return key, chain  # type: ignore[return-value]
