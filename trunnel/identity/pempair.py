"""Certificate chains with their keys, in PEM: as a person brings them, or as we keep them.

Files of a person (`read_pem_pair`): what ACME clients and orchestrators write.
They publish a new pair by exchanging symbolic links, so links are followed;
the file that they lead to is judged as every other (`files`).  The chain must
begin with the certificate of the key, as TLS sends it (RFC 8446 §4.4.2).

Whether a certificate is valid *now* is no matter here (see `leaf`).
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa

from trunnel.errors import ConfigError
from trunnel.identity import files
from trunnel.identity.leaf import Leaf, ServerKey, leaf_of
from trunnel.settings import limits

_RSA_BITS_MIN: Final = 2048
"""What OpenSSL and browsers accept at least (CA/Browser Forum BR §6.1.5)."""


def read_pem_pair(cert: Path, key: Path) -> Leaf:
    """Read a chain and the key of its first certificate.

    Args:
        cert: PEM file of the chain, leaf first.
        key: PEM file of the key; may be the same file.

    Returns:
        The leaf, whatever its period, for the host names in it, which may be none.

    Raises:
        ConfigError: A file is missing or unusable, or the two do not belong together.
    """
    is_one = cert.resolve() == key.resolve()
    pem = _read(cert, secret=is_one)
    return parse_pem_pair(pem, pem if is_one else _read(key, secret=True), cert=cert, key=key)


def _read(path: Path, *, secret: bool) -> bytes:
    content = files.read_guarded(path.resolve(), limit=limits.KEY_FILE_MAX, secret=secret)
    if content is None:
        raise ConfigError("", f"there is no file {path}")
    return content


def parse_pem_pair(pem: bytes, key_pem: bytes, *, cert: Path, key: Path) -> Leaf:
    """Read a chain and its key from what *cert* and *key* hold; raises as `read_pem_pair`."""
    private_key = _private_key(key_pem, key)
    try:
        chain = tuple(x509.load_pem_x509_certificates(pem))
        matching = [certificate.public_key() == private_key.public_key() for certificate in chain]
    except (ValueError, x509.InvalidVersion, UnsupportedAlgorithm) as exc:
        raise ConfigError("", f"{cert} holds no certificate in PEM form that can be read: {exc}") from exc
    if not any(matching):
        raise ConfigError("", f"the key in {key} is not that of the certificate in {cert}")
    if not matching[0]:
        raise ConfigError(
            "", f"the first certificate in {cert} is not that of the key: put it first, its issuers after"
        )
    try:
        return leaf_of(private_key, chain, cert)
    except ValueError as exc:
        raise ConfigError("", f"the certificate in {cert} cannot be used: {exc}") from exc


def _private_key(pem: bytes, path: Path) -> ServerKey:
    try:
        key = serialization.load_pem_private_key(pem, password=None)
    except TypeError as exc:
        raise ConfigError("", f"the key in {path} is encrypted; trunnel needs it without a password") from exc
    except (ValueError, UnsupportedAlgorithm) as exc:
        raise ConfigError("", f"{path} holds no private key in PEM form") from exc
    if isinstance(key, rsa.RSAPrivateKey) and key.key_size < _RSA_BITS_MIN:
        raise ConfigError("", f"the RSA key in {path} has {key.key_size} bits: {_RSA_BITS_MIN} are needed")
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey):
        raise ConfigError("", f"the key in {path} is of a kind that visitors' TLS does not know")
    return key


def encode_pem_pair(private_key: ServerKey, chain: tuple[x509.Certificate, ...]) -> bytes:
    """Return key and chain as one PEM text: a secret."""
    key = private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    return key + b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in chain)
