"""Leaves that an authority has issued, as an agent has them: a chain of three, for names of one's choice."""

from __future__ import annotations

from datetime import timedelta
from functools import cache
from pathlib import Path

from cryptography.hazmat.primitives.asymmetric import rsa

from tests.identity.certificates import Authority, Key, new_key, subject
from tests.streams.tls_pairs import AnyKey
from trunnel.clock import utc_now
from trunnel.identity.leaf import Leaf, leaf_of
from trunnel.identity.pempair import encode_pem_pair
from trunnel.names import Hostname


@cache
def authorities() -> tuple[Authority, Authority]:
    """Return one that issues, and the root above it."""
    root = Authority(name=subject("Root"))
    return Authority(name=subject("Authority 1"), parent=root), root


@cache
def _key(kind: str) -> AnyKey:
    return rsa.generate_private_key(65_537, 2_048) if kind == "RSA" else new_key()


def issued_leaf(*names: Hostname | str, kind: str = "P-256", days: tuple[int, int] = (-1, 60)) -> Leaf:
    """Return a new certificate for *names*; *days* is its period, from now."""
    key: AnyKey = _key(kind) if kind == "RSA" else new_key()
    issuer, root = authorities()
    start, end = (utc_now() + timedelta(days=count) for count in days)
    certificate = issuer.issue(_issuable(key), [str(name) for name in names], start=start, end=end)
    return leaf_of(key, (certificate, issuer.certificate, root.certificate), Path("issued.pem"))


def _issuable(key: AnyKey) -> Key:
    return key  # type: ignore[return-value] # its public key is all that is looked at


def write_pem(path: Path, leaf: Leaf) -> Path:
    """Have *leaf* in the file *path*, put there in one step."""
    fresh = path.with_suffix(".new")
    fresh.write_bytes(encode_pem_pair(leaf.private_key, leaf.chain))
    fresh.chmod(0o600)
    return fresh.replace(path)
