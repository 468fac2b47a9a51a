"""What a person brings as certificate and key: one file or two, by whatever tool; and what is refused, and how."""

from __future__ import annotations

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed25519, rsa, x25519
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from tests.identity.certificates import NOW, Authority, new_key, subject
from tests.streams.tls_pairs import AnyKey, make_identity
from trunnel import capabilities
from trunnel.errors import ConfigError
from trunnel.identity.pempair import read_pem_pair
from trunnel.names import Hostname

posix = pytest.mark.skipif(not capabilities.HAS_POSIX_MODES, reason="no file modes here")
PEM = Encoding.PEM


def key_pem(key: object, layout: PrivateFormat = PrivateFormat.PKCS8) -> bytes:
    """Return the PEM of a private key."""
    return key.private_bytes(PEM, layout, NoEncryption())  # type: ignore[attr-defined,no-any-return]


def secret(path: Path, content: bytes) -> Path:
    """Write a file for nobody else's eyes."""
    path.write_bytes(content)
    path.chmod(0o600)
    return path


@pytest.fixture
def pair(tmp_path: Path) -> tuple[Path, Path]:
    """A chain of two, and its key."""
    root = Authority(name=subject("Root"))
    middle = Authority(name=subject("Middle"), parent=root)
    key = new_key()
    chain = [middle.issue(key, ["a.example", "*.b.example"]), middle.certificate]
    (tmp_path / "chain.pem").write_bytes(b"".join(each.public_bytes(PEM) for each in chain))
    return tmp_path / "chain.pem", secret(tmp_path / "key.pem", key_pem(key))


def test_two_files_are_a_leaf_with_its_chain_and_names(pair: tuple[Path, Path]) -> None:
    leaf = read_pem_pair(*pair)
    assert len(leaf.chain) == 2
    assert leaf.private_key.public_key() == leaf.chain[0].public_key()
    assert (leaf.names, leaf.wildcards) == ((Hostname("a.example"),), (Hostname("b.example"),))
    assert leaf.path == pair[0]


@pytest.mark.parametrize("order", [(0, 1), (1, 0)], ids=["chain-first", "key-first"])
def test_one_file_for_both_in_either_order(pair: tuple[Path, Path], order: tuple[int, int], tmp_path: Path) -> None:
    both = secret(tmp_path / "both.pem", b"".join(pair[index].read_bytes() for index in order))
    assert read_pem_pair(both, both).fingerprint == read_pem_pair(*pair).fingerprint


KEYS: dict[str, Callable[[], AnyKey]] = {
    "P-256": new_key,
    "P-384": lambda: ec.generate_private_key(ec.SECP384R1()),
    "RSA": lambda: rsa.generate_private_key(65_537, 2_048),
    "Ed25519": ed25519.Ed25519PrivateKey.generate,
}


@pytest.mark.parametrize("kind", KEYS)
def test_every_kind_of_key_that_tls_knows(kind: str, tmp_path: Path) -> None:
    identity = make_identity(KEYS[kind]())
    both = secret(tmp_path / "both.pem", key_pem(identity.key) + identity.certificate.public_bytes(PEM))
    assert read_pem_pair(both, both).private_key.public_key() == identity.key.public_key()


def test_symbolic_links_are_followed_as_acme_clients_use_them(pair: tuple[Path, Path], tmp_path: Path) -> None:
    """The `live` folder of certbot; a renewal exchanges the links."""
    links = tmp_path / "live"
    links.mkdir()
    (links / "fullchain.pem").symlink_to(pair[0])
    (links / "privkey.pem").symlink_to(pair[1])
    leaf = read_pem_pair(links / "fullchain.pem", links / "privkey.pem")
    assert leaf.path == links / "fullchain.pem"


@posix
def test_what_a_link_leads_to_is_judged(pair: tuple[Path, Path], tmp_path: Path) -> None:
    pair[1].chmod(0o640)
    (tmp_path / "link.pem").symlink_to(pair[1])
    with pytest.raises(ConfigError, match=r"key\.pem can be read or written by other users.*chmod 600"):
        read_pem_pair(pair[0], tmp_path / "link.pem")


@posix
def test_one_file_with_the_key_must_be_private_and_a_chain_may_be_public(
    pair: tuple[Path, Path], tmp_path: Path
) -> None:
    pair[0].chmod(0o644)
    read_pem_pair(*pair)
    both = secret(tmp_path / "both.pem", pair[0].read_bytes() + pair[1].read_bytes())
    both.chmod(0o644)
    with pytest.raises(ConfigError, match="read or written by other users"):
        read_pem_pair(both, both)
    pair[0].chmod(0o666)
    with pytest.raises(ConfigError, match=r"chmod go-w"):
        read_pem_pair(*pair)


@pytest.mark.parametrize("which", [0, 1], ids=["chain", "key"])
def test_a_missing_file_is_named(pair: tuple[Path, Path], which: int) -> None:
    pair[which].unlink()
    with pytest.raises(ConfigError, match=f"there is no file .*{pair[which].name}"):
        read_pem_pair(*pair)


@pytest.mark.parametrize("content", [b"", b"garbage", b"\0" * 1000, b"-----BEGIN CERTIFICATE-----\nAAAA\n"], ids=len)
@pytest.mark.parametrize("which", [0, 1], ids=["chain", "key"])
def test_garbage_is_refused(pair: tuple[Path, Path], which: int, content: bytes) -> None:
    pair[which].write_bytes(content)
    with pytest.raises(ConfigError, match=f"{pair[which].name} holds no"):
        read_pem_pair(*pair)


def test_every_cut_of_a_file_is_refused_or_whole(pair: tuple[Path, Path]) -> None:
    """A writer that was interrupted: never half a chain with a wrong leaf, never another error."""
    pem = pair[0].read_bytes()
    lengths: set[int] = set()
    for size in range(0, len(pem), 37):
        pair[0].write_bytes(pem[:size])
        try:
            lengths.add(len(read_pem_pair(*pair).chain))
        except ConfigError:
            lengths.add(0)
    assert lengths <= {0, 1, 2}
    assert 0 in lengths


def test_the_key_of_another_certificate_is_refused(pair: tuple[Path, Path]) -> None:
    secret(pair[1], key_pem(new_key()))
    with pytest.raises(ConfigError, match=r"key\.pem is not that of the certificate in .*chain\.pem"):
        read_pem_pair(*pair)


def test_a_chain_in_the_wrong_order_is_refused_with_the_cure(pair: tuple[Path, Path]) -> None:
    leaf, middle = read_pem_pair(*pair).chain
    pair[0].write_bytes(middle.public_bytes(PEM) + leaf.public_bytes(PEM))
    with pytest.raises(ConfigError, match="put it first"):
        read_pem_pair(*pair)


def test_keys_that_cannot_be_used_say_why(pair: tuple[Path, Path]) -> None:
    locked = new_key().private_bytes(PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret"))
    weak = key_pem(rsa.generate_private_key(65_537, 1_024))
    cases = [(locked, "encrypted"), (weak, "1024 bits"), (key_pem(x25519.X25519PrivateKey.generate()), "of a kind")]
    cases.append((key_pem(dsa.generate_private_key(1_024)), "of a kind"))
    for content, said in cases:
        secret(pair[1], content)
        with pytest.raises(ConfigError, match=said):
            read_pem_pair(*pair)


def test_a_malformed_certificate_is_refused(tmp_path: Path) -> None:
    key = new_key()
    certificate = Authority(name=subject("CA")).issue_malformed(key)
    both = secret(tmp_path / "both.pem", key_pem(key) + certificate.public_bytes(PEM))
    with pytest.raises(ConfigError, match="cannot be used"):
        read_pem_pair(both, both)


def test_too_large_a_file_is_not_read(pair: tuple[Path, Path]) -> None:
    pair[0].write_bytes(pair[0].read_bytes() * 100)
    with pytest.raises(ConfigError, match="larger than"):
        read_pem_pair(*pair)


@pytest.mark.parametrize("days", [-3_652, 3_652], ids=["behind", "ahead"])
def test_the_period_is_the_callers_affair(pair: tuple[Path, Path], days: int) -> None:
    """HOST-06: a clock that is ten years off keeps nobody from starting; the leaf says what is wrong."""
    assert read_pem_pair(*pair).period_problem(NOW + timedelta(days=days))
