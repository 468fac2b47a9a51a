"""Identity keys, their ids, and the link certificates that carry them.

A key *is* an identity: relays and agents are named by the SHA-256 of their
canonical SubjectPublicKeyInfo (`names.KeyId`).  Canonical means: the public
key is loaded and encoded again, so that another encoding of the same key (a
compressed point, say) has the same id and cannot be a second identity.

Keys are ECDSA P-256, or Ed25519 when a person brings one; PKCS #8 PEM without
a password, in a file that only its owner can read.  `load_or_create` makes
the file on first use; two processes doing so at once get the same key.  One
running program a key: see `lock_key`.

A link certificate is self-signed and proves possession of a key in the TLS
handshake, nothing else.  Nobody checks its validity period against anything:
it starts a day in the past and lasts ten years, so that a wrong clock does
not cut a machine off.  Its subject's CN is the id, because a host name can
exceed the 64 characters of a CN (RFC 5280, ub-common-name).

`spki_of`, `id_of` and `extension_of` read certificates of peers: they raise
`RemoteProtocolError` only.

Private keys stay in memory as objects of `cryptography`; nothing here logs
them, and `repr` does not show them.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, final

from cryptography import x509
from cryptography.exceptions import InvalidSignature, UnsupportedAlgorithm
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes

from trunnel.errors import ConfigError, RemoteProtocolError
from trunnel.identity import files
from trunnel.identity.locking import lock_key
from trunnel.names import KeyId
from trunnel.settings import limits

__all__ = [
    "EXTENSION_OID",
    "LEAF_PROOF_OID",
    "IdentityKey",
    "PrivateKey",
    "extension_of",
    "id_of",
    "link_certificate",
    "lock_key",
    "signature_hash",
    "spki_of",
    "subject_alternative_names",
    "unknown_extension",
    "verify_signature",
]

EXTENSION_OID: Final = x509.ObjectIdentifier("1.3.6.1.4.1.65535.1")
"""Extension of a link certificate with bytes of the agent's owner, as they are."""
LEAF_PROOF_OID: Final = x509.ObjectIdentifier("1.3.6.1.4.1.65535.2")
"""Extension of a leaf certificate with the identity key's signature; see `certstore`."""

PrivateKey = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey
"""The kinds of key an identity can have; of the curves P-256 only."""


@final
@dataclass(frozen=True, slots=True)
class IdentityKey:
    """A key that names a relay or an agent."""

    private_key: PrivateKey
    """P-256 or Ed25519."""
    key_id: KeyId
    """The name that it proves."""
    spki: bytes
    """Its canonical SubjectPublicKeyInfo, DER."""
    path: Path | None = None
    """The file it came from; None if it lives in memory only."""

    @classmethod
    def generate(cls) -> IdentityKey:
        """Make a new P-256 key, in memory only."""
        return cls._of(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes, *, path: Path | None = None) -> IdentityKey:
        """Read a private key.

        Args:
            pem: PKCS #8 or SEC 1 PEM, not encrypted.
            path: Where it came from, for messages.

        Raises:
            ConfigError: It is no key, encrypted, or of a kind not used here.
        """
        where = str(path) if path is not None else "the key"
        if not pem.strip():
            raise ConfigError("", f"{where} is empty; remove it to have a new key made")
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except TypeError as exc:
            raise ConfigError("", f"{where} is encrypted; trunnel needs it without a password") from exc
        except (ValueError, UnsupportedAlgorithm) as exc:
            raise ConfigError("", f"{where} is not a private key in PEM form") from exc
        if isinstance(key, ed25519.Ed25519PrivateKey):
            return cls._of(key, path)
        if isinstance(key, ec.EllipticCurvePrivateKey) and isinstance(key.curve, ec.SECP256R1):
            return cls._of(key, path)
        raise ConfigError("", f"{where} holds a key that is neither ECDSA P-256 nor Ed25519")

    @classmethod
    def load(cls, path: Path) -> IdentityKey:
        """Read the key file *path*.

        Raises:
            ConfigError: It is missing, open to others, or holds no key that can be used.
        """
        key = cls._load_if_present(path)
        if key is None:
            raise ConfigError("", f"there is no key file {path}")
        return key

    @classmethod
    def load_or_create(cls, path: Path) -> IdentityKey:
        """Read the key file *path*; make it, with a new key, if it is missing.

        The folder is made too, with mode 0700.

        Raises:
            ConfigError: It cannot be made, is open to others, or holds no key that can be used.
        """
        key = cls._load_if_present(path)
        if key is not None:
            return key
        files.open_folder(path.parent)
        fresh = cls.generate()
        if files.create(path, fresh.to_pem()):
            return cls._of(fresh.private_key, path)
        return cls.load(path)  # another process was faster: its key is the one

    @classmethod
    def _load_if_present(cls, path: Path) -> IdentityKey | None:
        pem = files.read_guarded(path, limit=limits.KEY_FILE_MAX, secret=True)
        return None if pem is None else cls.from_pem(pem, path=path)

    @classmethod
    def _of(cls, private_key: PrivateKey, path: Path | None = None) -> IdentityKey:
        spki = _encode_spki(private_key.public_key())
        return cls(private_key, KeyId.of_spki(spki), spki, path)

    def to_pem(self) -> bytes:
        """Return the private key as PKCS #8 PEM without a password: a secret."""
        return self.private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    def sign(self, message: bytes) -> bytes:
        """Sign *message*: ECDSA with SHA-256 (DER form), or Ed25519."""
        if isinstance(self.private_key, ed25519.Ed25519PrivateKey):
            return self.private_key.sign(message)
        return self.private_key.sign(message, ec.ECDSA(hashes.SHA256()))


def verify_signature(spki: bytes, signature: bytes, message: bytes) -> bool:
    """Whether *signature* is that of the key *spki* under *message*, as `IdentityKey.sign` makes it.

    All three may be a peer's; nothing is raised.
    """
    try:
        public_key = serialization.load_der_public_key(spki)
        if isinstance(public_key, ed25519.Ed25519PublicKey):
            public_key.verify(signature, message)
        elif isinstance(public_key, ec.EllipticCurvePublicKey):
            public_key.verify(signature, message, ec.ECDSA(hashes.SHA256()))
        else:
            return False
    except (InvalidSignature, ValueError, UnsupportedAlgorithm):
        return False
    return True


def link_certificate(
    key: IdentityKey, *, now: datetime, extension: bytes = b"", names: Sequence[str] = ()
) -> x509.Certificate:
    """Make a self-signed certificate that carries *key* in a TLS handshake.

    Args:
        key: Whose certificate.
        now: The time, with its zone; the certificate starts a day earlier.
        extension: Bytes for `EXTENSION_OID`, at most `CERT_EXTENSION_MAX`; none if empty.
        names: Host names and IP addresses for the subjectAltName (a relay's own certificate); none if empty.

    Raises:
        ConfigError: `extension` is too long.

    Source: RFC 5280 §4.1, §4.2.
    """
    if len(extension) > limits.CERT_EXTENSION_MAX:
        raise ConfigError("cert_extension", f"{len(extension):,} bytes; at most {limits.CERT_EXTENSION_MAX:,} fit")
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, key.key_id.value)])
    builder = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=key.private_key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - timedelta(days=limits.BACKDATE_DAYS))
        .not_valid_after(now + timedelta(days=limits.LINK_VALIDITY_DAYS))
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
    )
    if names:
        builder = builder.add_extension(subject_alternative_names(names), critical=False)
    if extension:
        builder = builder.add_extension(x509.UnrecognizedExtension(EXTENSION_OID, extension), critical=False)
    return builder.sign(key.private_key, signature_hash(key.private_key))


def signature_hash(key: PrivateKey) -> hashes.SHA256 | None:
    """Return the hash that *key* signs certificates with; Ed25519 has its own (RFC 8410)."""
    return None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()


def subject_alternative_names(names: Sequence[str]) -> x509.SubjectAlternativeName:
    """Return the extension for *names*, host names and IP addresses mixed, each once.

    Source: RFC 5280 §4.2.1.6.
    """
    return x509.SubjectAlternativeName([_general_name(name) for name in dict.fromkeys(names)])


def _general_name(name: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(name))
    except ValueError:
        return x509.DNSName(name)


def spki_of(certificate: x509.Certificate) -> bytes:
    """Return the canonical SubjectPublicKeyInfo of a peer's certificate, DER.

    Raises:
        RemoteProtocolError: Its key is malformed or of an unknown kind.
    """
    try:
        return _encode_spki(certificate.public_key())
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise RemoteProtocolError("the certificate's public key cannot be read") from exc


def _encode_spki(public_key: CertificatePublicKeyTypes) -> bytes:
    return public_key.public_bytes(serialization.Encoding.DER, serialization.PublicFormat.SubjectPublicKeyInfo)


def id_of(certificate: x509.Certificate) -> KeyId:
    """Return the id of the key in a peer's certificate; raises as `spki_of` does."""
    return KeyId.of_spki(spki_of(certificate))


def extension_of(certificate: x509.Certificate) -> bytes:
    """Return the owner's bytes in a peer's link certificate, b"" if there are none.

    Raises:
        RemoteProtocolError: The certificate's extensions are malformed.
    """
    return unknown_extension(certificate, EXTENSION_OID)


def unknown_extension(certificate: x509.Certificate, oid: x509.ObjectIdentifier) -> bytes:
    """Return the bytes of extension *oid* of a peer's certificate, b"" if absent; raises as `extension_of` does."""
    try:
        extension = certificate.extensions.get_extension_for_oid(oid)
    except x509.ExtensionNotFound:
        return b""
    except (ValueError, x509.DuplicateExtension, x509.UnsupportedGeneralNameType) as exc:
        raise RemoteProtocolError("the certificate's extensions cannot be read") from exc
    return extension.value.value if isinstance(extension.value, x509.UnrecognizedExtension) else b""
