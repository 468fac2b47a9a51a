"""Requests for certificates, and a look at what came for them.

The request names hosts as subjectAltName and nothing else: a CN has 64
characters, our names have more, and nobody reads it.

What comes back is checked before anything is done with it, because a wrong
chain would be shown to visitors: it parses, each certificate is signed by the
next, the first one has our key and exactly our names (RFC 8555 §7.4).  Its period is not
judged: a clock that is wrong here does not make it wrong for visitors.
"""

from __future__ import annotations

import base64
from collections.abc import Sequence
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from trunnel.errors import RemoteProtocolError
from trunnel.identity.contexts import ServerKey
from trunnel.identity.keys import spki_of
from trunnel.names import Hostname
from trunnel.settings import limits


def signing_request(names: Sequence[Hostname], key: ServerKey) -> bytes:
    """Return the request for a certificate for *names*, DER (RFC 2986, RFC 8555 §7.4)."""
    alternative = x509.SubjectAlternativeName([x509.DNSName(name.value) for name in names])
    builder = x509.CertificateSigningRequestBuilder(x509.Name([])).add_extension(alternative, critical=False)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


def read_chain_untrusted(pem: bytes, names: Sequence[Hostname], key: ServerKey) -> tuple[x509.Certificate, ...]:
    """Read a chain that was issued for *names* and *key*.

    Returns:
        The certificates, leaf first.

    Raises:
        RemoteProtocolError: It is no chain, or not ours; the text goes on from "the chain".

    Source: RFC 8555 §7.4.2, RFC 8555 §9.1.
    """
    chain = _parsed_untrusted(pem)
    leaf = chain[0]
    spki = key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    if spki_of(leaf) != spki:
        raise RemoteProtocolError("the chain that was issued is for another key")
    covered, wanted = _names_untrusted(leaf), frozenset(name.value for name in names)
    if missing := wanted - covered:
        raise RemoteProtocolError(f"the chain that was issued does not cover {', '.join(sorted(missing))}")
    if covered != wanted:
        raise RemoteProtocolError("the chain that was issued is for names that nobody asked for, too")
    try:
        for below, above in pairwise(chain):
            below.verify_directly_issued_by(above)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm) as exc:
        raise RemoteProtocolError(
            "the chain that was issued is not in order: one does not sign the one before"
        ) from exc
    return chain


def _parsed_untrusted(pem: bytes) -> tuple[x509.Certificate, ...]:
    """Parse PEM, one certificate or more, and nothing else (RFC 8555 §9.1)."""
    if pem.count(b"-----BEGIN") > limits.ACME_CHAIN_MAX:
        raise RemoteProtocolError(f"the chain that was issued has more than {limits.ACME_CHAIN_MAX} certificates")
    try:
        return tuple(x509.load_pem_x509_certificates(pem))
    except (ValueError, x509.InvalidVersion) as exc:
        raise RemoteProtocolError("the chain that was issued is not PEM") from exc


def _names_untrusted(certificate: x509.Certificate) -> frozenset[str]:
    try:
        extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
        return frozenset(name.lower() for name in extension.value.get_values_for_type(x509.DNSName))
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as exc:
        raise RemoteProtocolError("the certificate that was issued has no names that can be read") from exc


def is_issued_under(chain: Sequence[x509.Certificate], issuer: str) -> bool:
    """Whether the last of *chain* was issued by a certificate whose CN is *issuer*."""
    return issuer in [part.value for part in chain[-1].issuer.get_attributes_for_oid(x509.NameOID.COMMON_NAME)]


def renewal_id(certificate: x509.Certificate) -> str | None:
    """Return the identifier of *certificate* for renewal information; None if it names no issuer's key.

    Source: RFC 9773 §4.1.
    """
    try:
        extension = certificate.extensions.get_extension_for_class(x509.AuthorityKeyIdentifier)
    except (ValueError, x509.ExtensionNotFound, x509.DuplicateExtension):
        return None
    identifier = extension.value.key_identifier
    serial = certificate.serial_number
    if identifier is None:
        return None
    octets = serial.to_bytes(serial.bit_length() // 8 + 1, "big")  # DER: the first bit is the sign
    return ".".join(base64.urlsafe_b64encode(part).decode().rstrip("=") for part in (identifier, octets))
