"""The certificate chain of a relay: does it lead to a trusted root, for this name, now?

Two questions are answered here and no decision is taken (that is `trust`):
what is wrong with a chain, if anything (`check_chain`), and whether it looks
like one that a TLS-inspecting network made (`interceptor_of`).

The chain is built and verified by OpenSSL (signatures, validity periods,
basicConstraints; RFC 5280 §6), which also accepts the plain private CAs that
people make with `openssl req -x509`.  Names are compared by service_identity
(RFC 9525: subjectAltName only, no CN, wildcards for one left-most label).
What OpenSSL does not look at without a purpose is checked here: a leaf with
an extendedKeyUsage must have serverAuth in it.  Revocation is not checked.

The roots of "public" are the system's: OpenSSL's default file and folder
(`SSL_CERT_FILE` and `SSL_CERT_DIR` are honoured, by the standard library), the
system store on Windows, and certifi's if it happens to be installed and
nothing else was found.

Texts from certificates are a stranger's: they are cut, and escaped by `ascii`.
"""

from __future__ import annotations

import importlib.util
import logging
import re
import ssl
import sys
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Final, final

import service_identity
from cryptography import x509
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto
from service_identity.cryptography import verify_certificate_hostname, verify_certificate_ip_address

from trunnel import capabilities
from trunnel.errors import ConfigError, RemoteProtocolError
from trunnel.names import ServerAddress, is_ip_literal
from trunnel.settings import limits

logger = logging.getLogger(__name__)

_TEXT_MAX: Final = 80
"""Characters shown of a name in a certificate."""
_NAMES_SHOWN: Final = 5

# X509_V_ERR_…, openssl/x509_vfy.h; pyOpenSSL gives numbers only.
_NOT_YET_VALID: Final = 9
_HAS_EXPIRED: Final = 10
_UNKNOWN_ISSUER: Final = frozenset({2, 18, 19, 20, 21})
"""No issuer found, self-signed leaf, self-signed in the chain, no issuer here, leaf alone."""

_INTERCEPTORS: Final = re.compile(
    r"\b(zscaler|fortinet|fortigate|palo alto|netskope|cisco umbrella|opendns|cisco secure access|sophos|kaspersky|"
    r"avast|avg technologies|avg web|eset ssl|bitdefender|blue ?coat|check point|forcepoint|websense|"
    r"mcafee web|skyhigh|trend micro|barracuda|sonicwall|watchguard|untangle|smoothwall|lightspeed|securly|iboss|"
    r"menlo security|cato networks|cloudflare gateway|gateway ca - cloudflare|squid|mitmproxy|charles proxy|"
    r"do_not_trust_fiddlerroot|fiddler|portswigger|burp)\b",
    re.IGNORECASE,
)
"""Words in the issuers of networks and programs that decrypt TLS; none is a CA for the public."""


@final
@dataclass(frozen=True, slots=True)
class PeerChain:
    """The certificates that a peer showed in the handshake."""

    certificates: tuple[x509.Certificate, ...]
    """The leaf first, then as sent."""


class FaultKind(StrEnum):
    """What is wrong with a chain, by what follows from it."""

    UNKNOWN_ISSUER = "unknown-issuer"
    """Nothing trusted vouches for it: self-signed, or of a CA that is not among the roots."""
    EXPIRED = "expired"
    """It leads to a trusted root, but not now."""
    WRONG_NAME = "wrong-name"
    """It leads to a trusted root, but is for other names."""
    INVALID = "invalid"
    """It breaks a rule of RFC 5280, or is not for servers."""


@final
@dataclass(frozen=True, slots=True)
class Fault:
    """What is wrong with a chain; `reason` goes on from "the certificate"."""

    kind: FaultKind
    reason: str


def check_chain(chain: PeerChain, server: ServerAddress, *, roots: crypto.X509Store, now: datetime) -> Fault | None:
    """Find out what is wrong with *chain*, if anything.

    Args:
        chain: Of a peer, one certificate or more.
        server: What was dialled; its host is the name that the leaf must have.
        roots: What is trusted, from `public_roots` or `private_roots`; its time is set to `now`.
        now: The time, with its zone.

    Returns:
        None if it leads to one of `roots`, for that name, at that time.
    """
    if len(chain.certificates) > limits.PEER_CHAIN_MAX:
        return Fault(FaultKind.INVALID, f"chain is longer than {limits.PEER_CHAIN_MAX}")
    leaf = chain.certificates[0]
    try:
        _ = leaf.extensions
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType):
        return Fault(FaultKind.INVALID, "has malformed extensions")  # OpenSSL would say: unknown issuer
    roots.set_time(now.astimezone(UTC))
    try:
        converted = [crypto.X509.from_cryptography(certificate) for certificate in chain.certificates]
        crypto.X509StoreContext(roots, converted[0], chain=converted[1:]).verify_certificate()
    except crypto.X509StoreContextError as exc:
        return _fault_of(exc.errors[0], str(exc), leaf)
    except crypto.Error:
        return Fault(FaultKind.INVALID, "cannot be read by OpenSSL")
    return _check_use(leaf) or _check_name(leaf, server.host)


def require_readable(chain: PeerChain) -> None:
    """Read every field of a peer's *chain* that is shown or compared later: they are parsed at first sight.

    Raises:
        RemoteProtocolError: One is malformed, or the chain is empty.
    """
    if not chain.certificates:
        raise RemoteProtocolError("it showed no certificate")
    try:
        for certificate in chain.certificates:
            _ = certificate.subject, certificate.issuer
            _ = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    except ValueError as exc:
        raise RemoteProtocolError("its certificate is malformed") from exc


def _fault_of(code: int, text: str, leaf: x509.Certificate) -> Fault:
    """Translate what OpenSSL found."""
    if code in _UNKNOWN_ISSUER:
        if is_self_issued(leaf):
            return Fault(FaultKind.UNKNOWN_ISSUER, "is self-signed")
        return Fault(FaultKind.UNKNOWN_ISSUER, f"is issued by {issuer_of(leaf)}, which is not trusted here")
    if code == _HAS_EXPIRED:
        return Fault(FaultKind.EXPIRED, f"expired on {leaf.not_valid_after_utc:%Y-%m-%d}, or its issuer's did")
    if code == _NOT_YET_VALID:
        return Fault(FaultKind.EXPIRED, f"is valid from {leaf.not_valid_before_utc:%Y-%m-%d}; check the clock")
    return Fault(FaultKind.INVALID, f"is not acceptable: {text}")


def _check_use(leaf: x509.Certificate) -> Fault | None:
    """Check that *leaf* may serve TLS (RFC 5280 §4.2.1.12)."""
    try:
        purposes = leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value
    except x509.ExtensionNotFound:
        return None
    allowed = {ExtendedKeyUsageOID.SERVER_AUTH, ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE}
    return None if allowed.intersection(purposes) else Fault(FaultKind.INVALID, "is not meant for servers")


def _check_name(leaf: x509.Certificate, host: str) -> Fault | None:
    """Check that *leaf* is for *host* (RFC 9525)."""
    verify = verify_certificate_ip_address if is_ip_literal(host) else verify_certificate_hostname
    try:
        verify(leaf, host)
    except (service_identity.VerificationError, service_identity.CertificateError, ValueError):
        return Fault(FaultKind.WRONG_NAME, f"is for {_names_of(leaf)}, not for {host}")
    return None


def _names_of(leaf: x509.Certificate) -> str:
    """Return the names in *leaf* for a message."""
    try:
        names = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return "no name at all"
    hosts = names.get_values_for_type(x509.DNSName)
    addresses = [str(address) for address in names.get_values_for_type(x509.IPAddress)]
    shown = [ascii(name[:_TEXT_MAX]) for name in (*hosts, *addresses)]
    return ", ".join(shown[:_NAMES_SHOWN]) + (", …" if len(shown) > _NAMES_SHOWN else "") or "no name at all"


def is_self_issued(certificate: x509.Certificate) -> bool:
    """Whether *certificate*, of a peer, names itself as its issuer."""
    return certificate.issuer.public_bytes() == certificate.subject.public_bytes()


def issuer_of(certificate: x509.Certificate) -> str:
    """Return who issued a peer's *certificate*, escaped and cut, for a message."""
    return ascii(_issuer_text(certificate)[:_TEXT_MAX])


def _issuer_text(certificate: x509.Certificate) -> str:
    """Return the organisation and common name of the issuer, a stranger's text."""
    wanted = (x509.NameOID.ORGANIZATION_NAME, x509.NameOID.ORGANIZATIONAL_UNIT_NAME, x509.NameOID.COMMON_NAME)
    parts = [str(part.value) for oid in wanted for part in certificate.issuer.get_attributes_for_oid(oid)]
    return " ".join(dict.fromkeys(parts)) or certificate.issuer.rfc4514_string()


def interceptor_of(chain: PeerChain) -> str | None:
    """Return the issuer in *chain* that is known to decrypt other people's TLS, escaped; None if there is none."""
    for certificate in chain.certificates[: limits.PEER_CHAIN_MAX]:
        if _INTERCEPTORS.search(_issuer_text(certificate)):
            return issuer_of(certificate)
    return None


def private_roots(path: Path) -> crypto.X509Store:
    """Return the roots in the PEM file *path* (`--relay-ca`): CAs, or the relay's own certificate.

    Raises:
        ConfigError: It cannot be read, or holds no certificate.
    """
    try:
        with path.open("rb") as file:
            pem = file.read(limits.CA_FILE_MAX + 1)
    except OSError as exc:
        raise ConfigError("", f"cannot read {path}: {exc.strerror}") from exc
    if len(pem) > limits.CA_FILE_MAX:
        raise ConfigError("", f"{path} is larger than {limits.CA_FILE_MAX:,} bytes")
    store = crypto.X509Store()
    # Whatever is in the file is trusted by itself, so an intermediate or the relay's own certificate will do.
    store.set_flags(crypto.X509StoreFlags.PARTIAL_CHAIN)
    try:
        for certificate in x509.load_pem_x509_certificates(pem):
            store.add_cert(crypto.X509.from_cryptography(certificate))
    except (ValueError, crypto.Error) as exc:
        raise ConfigError("", f"{path} holds no certificate in PEM form") from exc
    return store


def public_roots(path: Path | None = None) -> crypto.X509Store:
    """Return the roots of the public CAs as this system has them.

    Args:
        path: A PEM file to take instead; it must be readable.

    Raises:
        ConfigError: `path` cannot be used.
    """
    if path is not None:
        return private_roots(path)
    store = crypto.X509Store()
    defaults = ssl.get_default_verify_paths()
    found = [
        _load(store, file=defaults.cafile),
        _load(store, folder=defaults.capath),
        capabilities.HAS_SYSTEM_CERTIFICATES and _load_system_store(store),
    ]
    if not any(found) and not _load(store, file=_certifi_file()):
        logger.warning("no public roots", extra={"hint": "install the ca-certificates package, or certifi"})
    return store


def _load(store: crypto.X509Store, *, file: str | None = None, folder: str | None = None) -> bool:
    """Add a file or a folder of roots, if it is there; returns whether it was."""
    if file is None and folder is None:
        return False
    try:
        store.load_locations(file, folder)
    except crypto.Error:
        return False
    return True


def _load_system_store(store: crypto.X509Store) -> bool:
    """Add the roots of the system store that are trusted for servers; returns whether there were any."""
    count = 0
    if sys.platform == "win32":
        for der, encoding, trust in ssl.enum_certificates("ROOT"):
            if encoding != "x509_asn" or not (trust is True or ExtendedKeyUsageOID.SERVER_AUTH.dotted_string in trust):
                continue
            try:
                store.add_cert(crypto.X509.from_cryptography(x509.load_der_x509_certificate(der)))
            except (ValueError, crypto.Error):
                continue  # one root that cannot be read is no reason to do without the others
            count += 1
    return count > 0


def _certifi_file() -> str | None:
    if importlib.util.find_spec("certifi") is None:
        return None
    import certifi  # noqa: PLC0415 - not a dependency: taken if there

    return certifi.where()
