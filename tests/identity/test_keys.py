"""Identity keys: their files, their ids, and the certificates that carry them."""

from __future__ import annotations

import base64
import hashlib
import os
import subprocess
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    PublicFormat,
    load_der_public_key,
)
from cryptography.x509.oid import NameOID

from tests.identity.certificates import NOW, Authority, new_key, self_signed, subject
from tests.identity.processes import next_line, running, tell
from tests.peers import require_program
from trunnel import capabilities
from trunnel.errors import ConfigError, RemoteProtocolError
from trunnel.identity import files
from trunnel.identity.keys import IdentityKey, extension_of, id_of, link_certificate, spki_of, verify_signature
from trunnel.names import KeyId
from trunnel.settings import limits

LOAD_OR_CREATE = """
import sys
from pathlib import Path
from trunnel.identity.keys import IdentityKey
print("ready", flush=True)
input()
print(IdentityKey.load_or_create(Path(sys.argv[1])).key_id, flush=True)
"""


def pem_of(key: PrivateKeyTypes, encryption: KeySerializationEncryption | None = None) -> bytes:
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, encryption or NoEncryption())


def key_file(folder: Path, content: bytes, mode: int = 0o600) -> Path:
    path = folder / "default.pem"
    path.write_bytes(content)
    path.chmod(mode)
    return path


# --- the file ----------------------------------------------------------------------------------


def test_a_missing_key_file_is_made_private_and_kept(tmp_path: Path) -> None:
    path = tmp_path / "state" / "default.pem"
    key = IdentityKey.load_or_create(path)
    assert isinstance(key.private_key, ec.EllipticCurvePrivateKey)
    assert isinstance(key.private_key.curve, ec.SECP256R1)
    assert path.read_bytes().startswith(b"-----BEGIN PRIVATE KEY-----")
    if capabilities.HAS_POSIX_MODES:
        assert (path.stat().st_mode & 0o777, path.parent.stat().st_mode & 0o777) == (0o600, 0o700)
    assert IdentityKey.load_or_create(path).key_id == IdentityKey.load(path).key_id == key.key_id
    assert key.path == path


def test_load_does_not_make_a_key(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="no key file"):
        IdentityKey.load(tmp_path / "absent.pem")
    assert list(tmp_path.iterdir()) == []


def test_processes_that_start_together_end_up_with_one_key(tmp_path: Path) -> None:
    path = tmp_path / "default.pem"
    with running(LOAD_OR_CREATE, path) as a, running(LOAD_OR_CREATE, path) as b, running(LOAD_OR_CREATE, path) as c:
        for process in (a, b, c):
            assert next_line(process) == "ready"
        for process in (a, b, c):
            tell(process)
        ids = {next_line(process) for process in (a, b, c)}
    assert ids == {str(IdentityKey.load(path).key_id)}
    assert list(tmp_path.iterdir()) == [path]


def test_losing_the_race_means_taking_the_winners_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    winner = IdentityKey.generate()
    create = files.create

    def late(path: Path, content: bytes) -> bool:
        key_file(tmp_path, winner.to_pem())
        return create(path, content)

    monkeypatch.setattr(files, "create", late)
    assert IdentityKey.load_or_create(tmp_path / "default.pem").key_id == winner.key_id


def test_a_full_disk_does_not_leave_an_empty_key(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)
    with pytest.raises(ConfigError, match="No space left"):
        IdentityKey.load_or_create(tmp_path / "default.pem")
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(not capabilities.HAS_POSIX_MODES, reason="no file modes here")
def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    path = key_file(tmp_path, IdentityKey.generate().to_pem(), mode=0o644)
    with pytest.raises(ConfigError, match=r"read or written by other users.*chmod 600"):
        IdentityKey.load_or_create(path)


def test_a_key_behind_a_symbolic_link_is_refused(tmp_path: Path) -> None:
    link = tmp_path / "link.pem"
    link.symlink_to(key_file(tmp_path, IdentityKey.generate().to_pem()))
    with pytest.raises(ConfigError, match="symbolic link"):
        IdentityKey.load_or_create(link)


ENCRYPTED = pem_of(new_key(), BestAvailableEncryption(b"password"))
REFUSED = {
    "empty": (b"", "is empty"),
    "blank": (b" \n", "is empty"),
    "garbage": (b"\x00\xff" * 50, "not a private key"),
    "text": (b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n", "not a private key"),
    "certificate": (self_signed(new_key()).public_bytes(Encoding.PEM), "not a private key"),
    "cut": (pem_of(new_key())[:-40], "not a private key"),
    "encrypted": (ENCRYPTED, "encrypted"),
    "rsa": (pem_of(rsa.generate_private_key(65_537, 2_048)), "neither ECDSA P-256 nor Ed25519"),
    "p-384": (pem_of(ec.generate_private_key(ec.SECP384R1())), "neither ECDSA P-256 nor Ed25519"),
    "too-large": (b"#" * (limits.KEY_FILE_MAX + 1), "larger than"),
}


@pytest.mark.parametrize(("content", "reason"), REFUSED.values(), ids=REFUSED.keys())
def test_what_is_no_usable_key_is_refused_and_left_alone(tmp_path: Path, content: bytes, reason: str) -> None:
    path = key_file(tmp_path, content)
    with pytest.raises(ConfigError, match=reason) as caught:
        IdentityKey.load_or_create(path)
    assert str(path) in str(caught.value)
    assert path.read_bytes() == content


def test_an_ed25519_key_is_accepted_when_given(tmp_path: Path) -> None:
    key = IdentityKey.load(key_file(tmp_path, pem_of(ed25519.Ed25519PrivateKey.generate())))
    certificate = link_certificate(key, now=NOW)
    assert id_of(certificate) == key.key_id
    certificate.verify_directly_issued_by(certificate)


def test_pem_round_trip() -> None:
    key = IdentityKey.generate()
    assert IdentityKey.from_pem(key.to_pem()).key_id == key.key_id


def test_the_secret_is_not_shown() -> None:
    key = IdentityKey.generate()
    body = b"".join(key.to_pem().splitlines()[1:-1])
    assert body.decode()[:20] not in repr(key)


# --- the id --------------------------------------------------------------------------------------


def test_the_id_is_the_digest_of_the_spki() -> None:
    key = IdentityKey.generate()
    spki = key.private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    assert key.spki == spki
    assert key.key_id.value == base64.b32encode(hashlib.sha256(spki).digest()).decode().lower().rstrip("=")


@pytest.mark.interop
@pytest.mark.parametrize("encoding", [("-conv_form", "compressed"), ("-param_enc", "explicit")], ids=lambda e: e[1])
def test_another_encoding_of_a_key_has_the_same_id(tmp_path: Path, encoding: tuple[str, str]) -> None:
    openssl = require_program("openssl")
    key = IdentityKey.generate()
    plain, other, pem = key_file(tmp_path, key.to_pem()), tmp_path / "other.pem", tmp_path / "certificate.pem"
    subprocess.run([openssl, "ec", "-in", plain, *encoding, "-out", other], check=True, capture_output=True)
    request: list[str | Path] = [
        openssl,
        "req",
        "-x509",
        "-key",
        other,
        "-subj",
        "/CN=other",
        "-days",
        "1",
        "-out",
        pem,
    ]
    subprocess.run([*request, "-days", "1", "-out", pem], check=True, capture_output=True)
    certificate = x509.load_pem_x509_certificate(pem.read_bytes())
    raw = certificate.tbs_certificate_bytes
    assert key.spki not in raw, "openssl wrote the usual encoding: the test is void"
    assert spki_of(certificate) == key.spki
    assert id_of(certificate) == key.key_id


def test_a_certificate_whose_key_makes_no_sense_is_the_peers_fault() -> None:
    der = bytearray(self_signed(new_key()).public_bytes(Encoding.DER))
    curve = bytes.fromhex("06082a8648ce3d030107")  # the OID of P-256, in the SubjectPublicKeyInfo
    at = der.index(curve)
    der[at + len(curve) - 1] ^= 0x60
    certificate = x509.load_der_x509_certificate(bytes(der))
    with pytest.raises(RemoteProtocolError, match="public key"):
        id_of(certificate)


# --- signatures ------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["p-256", "ed25519"])
def test_a_signature_is_good_for_its_key_and_message_only(kind: str) -> None:
    ed = ed25519.Ed25519PrivateKey.generate()
    key = IdentityKey.generate() if kind == "p-256" else IdentityKey.from_pem(pem_of(ed))
    signature = key.sign(b"message")
    assert verify_signature(key.spki, signature, b"message")
    assert not verify_signature(key.spki, signature, b"another")
    assert not verify_signature(IdentityKey.generate().spki, signature, b"message")
    assert not verify_signature(key.spki, signature[:-1], b"message")
    assert not verify_signature(key.spki, b"", b"message")


def test_no_signature_is_good_for_what_is_no_key() -> None:
    other = rsa.generate_private_key(65_537, 2_048).public_key()
    for spki in (b"", b"\x30\x00", other.public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)):
        assert not verify_signature(spki, b"signature", b"message")


# --- link certificates -------------------------------------------------------------------------------


def test_a_link_certificate_is_self_signed_and_named_by_the_id() -> None:
    key = IdentityKey.generate()
    certificate = link_certificate(key, now=NOW)
    (cn,) = certificate.subject.get_attributes_for_oid(NameOID.COMMON_NAME)
    assert cn.value == key.key_id.value
    assert certificate.issuer == certificate.subject
    certificate.verify_directly_issued_by(certificate)
    assert (id_of(certificate), extension_of(certificate)) == (key.key_id, b"")
    with pytest.raises(x509.ExtensionNotFound):
        certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)


def test_a_link_certificate_lasts_from_yesterday_for_ten_years() -> None:
    certificate = link_certificate(IdentityKey.generate(), now=NOW)
    assert certificate.not_valid_before_utc == NOW - timedelta(days=1)
    assert certificate.not_valid_after_utc == NOW + timedelta(days=3_650)


@pytest.mark.parametrize("year", [1970, 2049, 2300])
def test_a_wrong_clock_still_makes_a_certificate(year: int) -> None:
    link_certificate(IdentityKey.generate(), now=NOW.replace(year=year))


def test_every_link_certificate_has_a_serial_number_of_its_own() -> None:
    key = IdentityKey.generate()
    assert len({link_certificate(key, now=NOW).serial_number for _ in range(3)}) == 3


@pytest.mark.parametrize("content", [b"\0", b"abc", b"x" * limits.CERT_EXTENSION_MAX], ids=len)
def test_the_owners_bytes_travel_as_they_are(content: bytes) -> None:
    certificate = link_certificate(IdentityKey.generate(), now=NOW, extension=content)
    again = x509.load_der_x509_certificate(certificate.public_bytes(Encoding.DER))
    assert extension_of(again) == content


def test_too_many_of_the_owners_bytes_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"1,025 bytes; at most 1,024"):
        link_certificate(IdentityKey.generate(), now=NOW, extension=b"x" * (limits.CERT_EXTENSION_MAX + 1))


def test_names_and_addresses_become_the_right_kind_of_alternative_name() -> None:
    names = ["localhost", "t.example.com", "127.0.0.1", "::1", "localhost"]
    certificate = link_certificate(IdentityKey.generate(), now=NOW, names=names)
    found = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert found.get_values_for_type(x509.DNSName) == ["localhost", "t.example.com"]
    assert [str(address) for address in found.get_values_for_type(x509.IPAddress)] == ["127.0.0.1", "::1"]


def test_malformed_extensions_are_the_peers_fault() -> None:
    authority = Authority(name=subject("CA"))
    with pytest.raises(RemoteProtocolError, match="extensions"):
        extension_of(authority.issue_malformed(new_key()))


def test_the_id_survives_the_certificate() -> None:
    key = IdentityKey.generate()
    again = x509.load_pem_x509_certificate(link_certificate(key, now=NOW).public_bytes(Encoding.PEM))
    assert KeyId.of_spki(spki_of(again)) == key.key_id
    assert load_der_public_key(spki_of(again)) == key.private_key.public_key()
