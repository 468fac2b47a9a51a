"""Leaves on their way to workers: what is put in comes out, and nothing else goes along."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ed25519, rsa

from tests.streams.tls_pairs import AnyKey, make_identity, make_leaf
from trunnel.identity.leaf import Leaf, leaf_of
from trunnel.names import Hostname
from trunnel.pump.leaf import decode_leaves, encode_leaves
from trunnel.pump.orders import MORE_FOLLOWS, ORDER_MAX, PAYLOAD_MAX, Verb, decode_orders, leaf_orders

KEYS: dict[str, AnyKey | None] = {
    "P-256": None,
    "Ed25519": ed25519.Ed25519PrivateKey.generate(),
    "RSA": rsa.generate_private_key(65_537, 2_048),
}


@pytest.mark.parametrize("alpn", [(), (b"h2",), (b"h2", b"http/1.1"), (b"\x00,\n", b"\n")])
@pytest.mark.parametrize("kind", KEYS)
def test_key_chain_names_and_protocols_arrive(kind: str, alpn: tuple[bytes, ...]) -> None:
    """Any bytes are a protocol (RFC 7301 §3.1)."""
    identity = make_identity(KEYS[kind])
    given = make_leaf(identity)
    (leaf,), protocols = decode_leaves(encode_leaves([given], alpn))
    assert leaf.private_key.public_key() == given.private_key.public_key()
    assert (leaf.chain, leaf.names) == ((identity.certificate,), given.names)
    assert tuple(protocols) == alpn


def test_several_leaves_keep_their_order_chains_and_wildcards() -> None:
    issuers = [make_identity(name=f"issuer {number}").certificate for number in range(2)]
    identity = make_identity(name="*.b.example")
    wild = leaf_of(identity.key, (identity.certificate, *issuers), Path("wild.pem"))
    assert wild.wildcards == (Hostname("b.example"),)
    first, second = decode_leaves(encode_leaves([make_leaf(make_identity()), wild], []))[0]
    assert first.wildcards == ()
    assert (second.chain, second.names, second.wildcards) == (wild.chain, (), wild.wildcards)
    assert second.fingerprint == wild.fingerprint


@pytest.mark.parametrize("size", [1, PAYLOAD_MAX, PAYLOAD_MAX + 1, 5 * PAYLOAD_MAX])
def test_what_is_too_long_for_a_packet_goes_in_parts(size: int) -> None:
    encoded = bytes(range(256)) * (size // 256 + 1)
    packets = [order.encode() for order in leaf_orders(encoded[:size])]
    orders = [order for packet in packets for order in decode_orders(packet)]
    assert b"".join(order.payload for order in orders) == encoded[:size]
    assert [order.flags for order in orders] == [MORE_FOLLOWS] * (len(orders) - 1) + [0]
    assert {order.verb for order in orders} == {Verb.LEAF}
    assert max(map(len, packets)) <= ORDER_MAX


def test_nothing_to_show_is_no_order() -> None:
    assert leaf_orders(b"") == []


def test_a_leaf_does_not_bring_its_path(tmp_path: Path) -> None:
    leaf: Leaf = make_leaf(make_identity())
    assert str(leaf.path).encode() not in encode_leaves([leaf], [])
