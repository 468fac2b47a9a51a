"""A leaf on its way to workers: what is put in comes out, and nothing else goes along."""

from __future__ import annotations

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519

from tests.streams.tls_pairs import make_identity, make_leaf
from trunnel.pump.leaf import decode_leaf, encode_leaf


@pytest.mark.parametrize("alpn", [(), (b"h2",), (b"h2", b"http/1.1"), (b"\x00,\n", b"\n")])
@pytest.mark.parametrize("kind", ["P-256", "Ed25519"])
def test_key_chain_and_protocols_arrive(kind: str, alpn: tuple[bytes, ...]) -> None:
    """Any bytes are a protocol (RFC 7301 §3.1); a chain keeps its order."""
    identity = make_identity(ed25519.Ed25519PrivateKey.generate() if kind == "Ed25519" else None)
    given = make_leaf(identity)
    leaf, protocols = decode_leaf(encode_leaf(given, alpn))
    assert leaf.private_key.public_key() == given.private_key.public_key()
    assert leaf.chain == (identity.certificate,)
    assert tuple(protocols) == alpn
