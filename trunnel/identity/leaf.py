"""A leaf: the key and the chain of certificates that an endpoint shows.

A value without a file of its own: `certstore` makes and keeps self-signed ones,
`issued` keeps those of an authority, `pempair` reads what a person brings.

Which leaf is for a name (`covers`): an exact name of it, or a wildcard, which
stands for one whole label at the left and nothing else (RFC 6125 §6.4.3).

Certificates are judged by the clock of this machine, which may be wrong (a
board without a battery starts in 1970).  So nothing here refuses a leaf because
of its period: `period_problem` says what is wrong, with both times, and the
caller decides.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Final, final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa

from trunnel.errors import InvalidName
from trunnel.identity.keys import PrivateKey
from trunnel.names import Hostname

ServerKey = PrivateKey | rsa.RSAPrivateKey
"""Keys that a server's certificate may have; public authorities still sign RSA."""

_WILDCARD: Final = "*."
_STEM_MAX: Final = 100
"""Characters of a host name used as a file name as it is; a longer one is cut and told apart by a digest."""
_STEM_DIGEST: Final = 16
_ISSUER_PARTS: Final = (x509.NameOID.ORGANIZATION_NAME, x509.NameOID.COMMON_NAME)
_ISSUER_MAX: Final = 200
"""Characters of an issuer that are shown."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Leaf:
    """A key and a certificate for visitors' TLS."""

    private_key: ServerKey
    """The leaf's own key."""
    chain: tuple[x509.Certificate, ...]
    """The leaf first, then its issuers; a self-signed one alone."""
    path: Path
    """PEM file of the certificate."""
    fingerprint: str
    """SHA-256 of the certificate as browsers show it: `AB:CD:…`."""
    names: tuple[Hostname, ...]
    """What it is for, wildcards apart."""
    wildcards: tuple[Hostname, ...] = ()
    """What follows `*.` in the others of its names."""

    @property
    def not_before(self) -> datetime:
        """When it begins to be valid, in UTC."""
        return self.chain[0].not_valid_before_utc

    @property
    def not_after(self) -> datetime:
        """When it ends, in UTC."""
        return self.chain[0].not_valid_after_utc

    @property
    def issuer(self) -> str:
        """Who issued it, for people: organisation and common name, escaped and cut."""
        issuer = self.chain[0].issuer
        parts = [part for oid in _ISSUER_PARTS for part in issuer.get_attributes_for_oid(oid)]
        text = " ".join(dict.fromkeys(str(part.value) for part in parts)) or issuer.rfc4514_string()
        return ascii(text[:_ISSUER_MAX])[1:-1]

    @property
    def self_signed(self) -> bool:
        """Whether nobody else vouches for it."""
        return is_self_signed(self.chain[0])

    def covers(self, name: Hostname) -> bool:
        """Whether a visitor who asks for *name* may be shown it."""
        if name in self.names:
            return True
        _, _, rest = name.value.partition(".")
        return any(wildcard.value == rest for wildcard in self.wildcards)

    def period_problem(self, now: datetime) -> str:
        """Return why it is not valid at *now*, with both times, or an empty text."""
        if now < self.not_before:
            return f"the certificate starts at {_text(self.not_before)}, and the clock of this machine {_says(now)}"
        if now >= self.not_after:
            return f"the certificate ended at {_text(self.not_after)}, and the clock of this machine {_says(now)}"
        return ""


def _says(now: datetime) -> str:
    return f"says {_text(now)}: renew the certificate, or set the clock"


def _text(moment: datetime) -> str:
    return f"{moment:%Y-%m-%d %H:%M:%S} UTC"


def is_self_signed(certificate: x509.Certificate) -> bool:
    """Whether *certificate* is signed with its own key."""
    try:
        certificate.verify_directly_issued_by(certificate)
    except (ValueError, TypeError, InvalidSignature, UnsupportedAlgorithm):
        return False
    return True


def fingerprint_of(certificate: x509.Certificate) -> str:
    """Return the SHA-256 of *certificate* as browsers show it."""
    return certificate.fingerprint(hashes.SHA256()).hex(":").upper()


def names_in(certificate: x509.Certificate) -> tuple[tuple[Hostname, ...], tuple[Hostname, ...]]:
    """Return the host names in the subjectAltName of *certificate*, and the wildcards without their `*.`.

    What is neither (an IP address, a name that is none) is left out; so is the subject's CN,
    which no browser looks at.

    Raises:
        ValueError: Its extensions are malformed.

    Source: RFC 5280 §4.2.1.6, RFC 6125 §6.4.
    """
    try:
        found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return (), ()
    except (x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as exc:
        raise ValueError(f"its extensions cannot be read: {exc}") from exc
    names: dict[Hostname, None] = {}
    wildcards: dict[Hostname, None] = {}
    for text in found.get_values_for_type(x509.DNSName):
        try:
            (wildcards if text.startswith(_WILDCARD) else names)[Hostname.parse(text.removeprefix(_WILDCARD))] = None
        except InvalidName:
            continue
    return tuple(names), tuple(wildcards)


def leaf_of(private_key: ServerKey, chain: tuple[x509.Certificate, ...], path: Path) -> Leaf:
    """Return *chain*, not empty, as a leaf for the names in its first certificate; raises as `names_in`."""
    names, wildcards = names_in(chain[0])
    return Leaf(
        private_key=private_key,
        chain=chain,
        path=path,
        fingerprint=fingerprint_of(chain[0]),
        names=names,
        wildcards=wildcards,
    )


def stem_of(name: Hostname) -> str:
    """Return the file name for *name*, without its ending: 253 characters and `.pem` exceed most file systems."""
    if len(name.value) <= _STEM_MAX:
        return name.value
    digest = hashlib.sha256(name.value.encode("ascii")).hexdigest()
    return f"{name.value[:_STEM_MAX]}-{digest[:_STEM_DIGEST]}"
