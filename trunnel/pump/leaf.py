"""A leaf certificate on its way to the workers that end TLS.

The agent imports this on every system, so nothing here, and nothing that it
imports, is of Linux; what a worker does with a leaf is in `tls_side`.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Final, cast

from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_pem_x509_certificates

from trunnel.identity.certstore import Leaf

if TYPE_CHECKING:
    from trunnel.identity.keys import PrivateKey

_SEPARATOR: Final = b"\n"
"""Between the protocols (hexadecimal, with commas) and the PEM of key and chain."""


def encode_leaf(leaf: Leaf, alpn: tuple[bytes, ...]) -> bytes:
    """Return what a worker needs to show *leaf*: protocols, key, chain.  Secret."""
    key = leaf.private_key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
    chain = b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in leaf.chain)
    return b",".join(protocol.hex().encode() for protocol in alpn) + _SEPARATOR + key + chain


def decode_leaf(encoded: bytes) -> tuple[Leaf, list[bytes]]:
    """Return the leaf, as far as a worker needs it, and the protocols of `encode_leaf`."""
    protocols, _, pem = encoded.partition(_SEPARATOR)
    leaf = Leaf(
        private_key=cast("PrivateKey", serialization.load_pem_private_key(pem, None)),
        chain=tuple(load_pem_x509_certificates(pem)),
        path=Path(),
        fingerprint="",
        names=(),
    )
    return leaf, [bytes.fromhex(protocol.decode()) for protocol in protocols.split(b",") if protocol]
