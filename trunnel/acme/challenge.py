"""TLS-ALPN-01: how a name is proven by a TLS handshake (RFC 8737).

The authority connects to the name, offers ALPN `acme-tls/1` alone, and looks
at the certificate: self-signed, for that name and no other, with the digest of
the key authorisation in a critical extension.  Nobody else ever accepts such a
certificate: the extension is critical and unknown to them.

`Responder` is how the client asks for it.  Its context manager is entered
*before* the authority is told that it may look, and left when the order is
over, however that ends; between the two, challenges for the name are answered
with the context that it was given.
"""

from __future__ import annotations

import hashlib
from contextlib import AbstractContextManager
from datetime import datetime, timedelta
from typing import Final, Protocol

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from OpenSSL import SSL

from trunnel.identity.contexts import CHALLENGE_ALPN, challenge_context
from trunnel.names import Hostname
from trunnel.settings import limits

ACME_TLS_ALPN: Final = CHALLENGE_ALPN
"""What the authority offers."""
ACME_IDENTIFIER_OID: Final = x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31")
"""The extension with the digest (RFC 8737 §3, §6.1)."""

_OCTET_STRING: Final = b"\x04\x20"
"""DER ahead of 32 bytes."""
_SUBJECT: Final = "trunnel challenge"


class Responder(Protocol):
    """Who answers challenges."""

    def answering(self, name: Hostname, context: SSL.Context) -> AbstractContextManager[None]:
        """Answer challenges for *name* with *context* while the body runs."""
        ...


def challenge_certificate(
    name: Hostname, key_authorization: str, now: datetime
) -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Make the certificate that proves *name*, with a key of its own.

    Args:
        name: What is to be proven.
        key_authorization: The challenge's token and the account key's thumbprint.
        now: The time, with its zone.

    Source: RFC 8737 §3.
    """
    key = ec.generate_private_key(ec.SECP256R1())
    subject = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _SUBJECT)])
    digest = hashlib.sha256(key_authorization.encode("ascii")).digest()
    certificate = (
        x509.CertificateBuilder(subject_name=subject, issuer_name=subject, public_key=key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=limits.BACKDATE_DAYS))
        .not_valid_after(now + timedelta(days=limits.BACKDATE_DAYS))
        .add_extension(x509.SubjectAlternativeName([x509.DNSName(name.value)]), critical=False)
        .add_extension(x509.UnrecognizedExtension(ACME_IDENTIFIER_OID, _OCTET_STRING + digest), critical=True)
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def context_for_challenge(name: Hostname, key_authorization: str, now: datetime) -> SSL.Context:
    """Return the server's end of the handshake that proves *name*; arguments as of `challenge_certificate`."""
    return challenge_context(*challenge_certificate(name, key_authorization, now))
