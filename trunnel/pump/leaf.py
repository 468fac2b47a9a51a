"""Leaf certificates on their way to the workers that end TLS.

The agent imports this on every system, so nothing here, and nothing that it
imports, is of Linux; what a worker does with leaves is in `tls_side`.

Everything is DER: half the bytes of PEM, and a worker reads twenty leaves in
milliseconds.  It does not check RSA keys again, which costs 45 ms each: they
come from our own program, which has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import cast

import msgspec
from cryptography.hazmat.primitives import serialization
from cryptography.x509 import load_der_x509_certificate

from trunnel.identity.leaf import Leaf, ServerKey, fingerprint_of
from trunnel.names import Hostname


class _Leaf(msgspec.Struct, frozen=True, array_like=True):
    key: bytes
    chain: list[bytes]
    names: list[str]
    wildcards: list[str]


class _Shown(msgspec.Struct, frozen=True, array_like=True):
    alpn: list[bytes]
    leaves: list[_Leaf]


def encode_leaves(leaves: Sequence[Leaf], alpn: Sequence[bytes]) -> bytes:
    """Return what a worker needs to show *leaves*, the standard one first: protocols, keys, chains, names.  Secret."""
    return msgspec.msgpack.encode(_Shown(list(alpn), [_encoded(leaf) for leaf in leaves]))


def _encoded(leaf: Leaf) -> _Leaf:
    der = serialization.Encoding.DER
    return _Leaf(
        key=leaf.private_key.private_bytes(der, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()),
        chain=[certificate.public_bytes(der) for certificate in leaf.chain],
        names=[name.value for name in leaf.names],
        wildcards=[name.value for name in leaf.wildcards],
    )


def decode_leaves(encoded: bytes) -> tuple[list[Leaf], list[bytes]]:
    """Return the leaves of `encode_leaves`, without their paths, and the protocols."""
    shown = msgspec.msgpack.decode(encoded, type=_Shown)
    return [_decoded(leaf) for leaf in shown.leaves], shown.alpn


def _decoded(leaf: _Leaf) -> Leaf:
    key = serialization.load_der_private_key(leaf.key, None, unsafe_skip_rsa_key_validation=True)
    chain = tuple(load_der_x509_certificate(certificate) for certificate in leaf.chain)
    return Leaf(
        private_key=cast("ServerKey", key),
        chain=chain,
        path=Path(),
        fingerprint=fingerprint_of(chain[0]),
        names=tuple(map(Hostname, leaf.names)),
        wildcards=tuple(map(Hostname, leaf.wildcards)),
    )
