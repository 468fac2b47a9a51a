"""How the relay proves itself: its own key, or the certificate that a person gave."""

from __future__ import annotations

from pathlib import Path

import pytest
from cryptography.hazmat.primitives import serialization

from trunnel.clock import utc_now
from trunnel.errors import ConfigError
from trunnel.identity.keys import IdentityKey, id_of, link_certificate
from trunnel.names import Hostname
from trunnel.relay.credentials import load_credentials
from trunnel.settings.relay import RelaySettings


def settings(folder: Path, **options: object) -> RelaySettings:
    return RelaySettings(state_dir=folder, **options)  # type: ignore[arg-type]


def pem_files(folder: Path, *, key: IdentityKey | None = None) -> dict[str, Path]:
    """Write a certificate and a key, that of the certificate unless another is given."""
    own = IdentityKey.generate()
    certificate = link_certificate(own, now=utc_now(), names=["relay.example"])
    paths = {"tls_cert": folder / "cert.pem", "tls_key": folder / "key.pem"}
    paths["tls_cert"].write_bytes(certificate.public_bytes(serialization.Encoding.PEM))
    paths["tls_key"].write_bytes((key or own).to_pem())
    paths["tls_key"].chmod(0o600)
    return paths


def test_a_relay_keeps_the_key_that_it_made_at_its_first_start(tmp_path: Path) -> None:
    first, second = (load_credentials(settings(tmp_path)) for _ in range(2))
    assert first.relay_id == second.relay_id == id_of(first.chain[0])


def test_its_own_certificate_names_its_suffixes_and_addresses(tmp_path: Path) -> None:
    made = load_credentials(
        settings(tmp_path, domain_suffixes=(Hostname("t.example"),), bind_addrs=("127.0.0.1", "0.0.0.0"), open=True)
    )
    names = str(made.chain[0].extensions)
    assert "t.example" in names
    assert "127.0.0.1" in names
    assert "0.0.0.0" not in names


def test_a_given_certificate_is_the_identity(tmp_path: Path) -> None:
    given = load_credentials(settings(tmp_path, **pem_files(tmp_path)))
    assert given.relay_id == id_of(given.chain[0])
    assert given.key.public_key() == given.chain[0].public_key()


def test_a_key_of_another_certificate_is_refused(tmp_path: Path) -> None:
    paths = pem_files(tmp_path, key=IdentityKey.generate())
    with pytest.raises(ConfigError, match="is not the key of"):
        load_credentials(settings(tmp_path, **paths))


def test_files_that_are_missing_or_no_pem_are_named(tmp_path: Path) -> None:
    paths = pem_files(tmp_path)
    paths["tls_cert"].write_bytes(b"no certificate")
    with pytest.raises(ConfigError, match="no certificate chain"):
        load_credentials(settings(tmp_path, **paths))
    paths["tls_cert"].unlink()
    with pytest.raises(ConfigError, match="is missing"):
        load_credentials(settings(tmp_path, **paths))
