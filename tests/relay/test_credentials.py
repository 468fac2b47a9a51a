"""How the relay proves itself: its own key, or the certificate that a person gave."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from tests.relay.papers import Authority, put_pair, settings
from trunnel.clock import utc_now
from trunnel.errors import ConfigError
from trunnel.identity.keys import IdentityKey, id_of
from trunnel.names import Hostname
from trunnel.relay.credentials import Source, given, require_issuable, self_signed


def test_its_own_certificate_names_its_suffixes_its_names_and_its_addresses(tmp_path: Path) -> None:
    identity = IdentityKey.generate()
    wanted = settings(
        tmp_path,
        domain_suffixes=(Hostname("t.example"),),
        acme_domains=(Hostname("relay.example"),),
        bind_addrs=("127.0.0.1", "0.0.0.0"),
        open=True,
    )
    made = self_signed(wanted, identity, now=utc_now())
    assert made.relay_id == identity.key_id == id_of(made.leaf.chain[0])
    assert made.leaf.names == (Hostname("t.example"), Hostname("relay.example"))
    names = str(made.leaf.chain[0].extensions)
    assert "127.0.0.1" in names
    assert "0.0.0.0" not in names


def test_a_given_certificate_is_the_identity(tmp_path: Path) -> None:
    pair = Authority().issue("relay.example", "*.relay.example")
    found = given(settings(tmp_path, **put_pair(tmp_path, pair)))
    assert found.source is Source.FILES
    assert found.relay_id == id_of(found.leaf.chain[0])
    assert found.leaf.names == (Hostname("relay.example"),)


def test_one_file_may_hold_both(tmp_path: Path) -> None:
    pair = Authority().issue("relay.example")
    both = tmp_path / "both.pem"
    both.write_bytes(pair.key_pem + pair.chain_pem)
    both.chmod(0o600)
    assert given(settings(tmp_path, tls_cert=both, tls_key=both)).leaf.chain == pair.chain


def test_links_are_followed_as_acme_clients_make_them(tmp_path: Path) -> None:
    pair = Authority().issue("relay.example")
    (tmp_path / "archive").mkdir()
    kept = put_pair(tmp_path / "archive", pair)
    links = {name: tmp_path / f"live-{name}" for name in kept}
    for name, link in links.items():
        link.symlink_to(kept[name])
    assert given(settings(tmp_path, **links)).leaf.chain == pair.chain


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    ca = Authority()
    pair, other = ca.issue("relay.example"), ca.issue("relay.example")
    paths = put_pair(tmp_path, pair)
    paths["tls_key"].write_bytes(other.key_pem)
    with pytest.raises(ConfigError, match="is not that of the certificate"):
        given(settings(tmp_path, **paths))


def test_files_that_are_missing_or_no_pem_are_named(tmp_path: Path) -> None:
    paths = put_pair(tmp_path, Authority().issue("relay.example"))
    paths["tls_cert"].write_bytes(b"no certificate")
    with pytest.raises(ConfigError, match=r"cert\.pem holds no certificate"):
        given(settings(tmp_path, **paths))
    paths["tls_cert"].unlink()
    with pytest.raises(ConfigError, match=r"there is no file .*cert\.pem"):
        given(settings(tmp_path, **paths))


def test_an_expired_certificate_is_shown_all_the_same_for_the_clock_may_be_wrong(tmp_path: Path) -> None:
    pair = Authority().issue("relay.example", start=-timedelta(days=9), end=-timedelta(days=1))
    assert given(settings(tmp_path, **put_pair(tmp_path, pair))).leaf.chain == pair.chain


def test_no_authority_is_asked_to_certify_an_ed25519_key(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519

    pem = IdentityKey(ed25519.Ed25519PrivateKey.generate(), IdentityKey.generate().key_id, b"").to_pem()
    with pytest.raises(ConfigError, match="Ed25519"):
        require_issuable(IdentityKey.from_pem(pem, path=tmp_path / "relay.key"))
    require_issuable(IdentityKey.generate())
