"""Leaf certificates: kept while they fit, made anew when not, and proof of the identity."""

from __future__ import annotations

import hashlib
import logging
import os
import socket
import ssl
import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ed25519
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from tests.identity.certificates import NOW, Authority, new_key, self_signed, subject
from tests.identity.processes import next_line, running
from tests.peers import require_program
from trunnel import capabilities
from trunnel.errors import ConfigError
from trunnel.identity import files
from trunnel.identity.certstore import Leaf, LeafStore, leaf_certificate, leaf_proves
from trunnel.identity.keys import IdentityKey, spki_of
from trunnel.names import Hostname

A, B = Hostname("a.localhost"), Hostname("b.localhost")
DAY = timedelta(days=1)


@pytest.fixture
def identity() -> IdentityKey:
    return IdentityKey.generate()


@pytest.fixture
def store(tmp_path: Path, identity: IdentityKey) -> LeafStore:
    return LeafStore(tmp_path / "leaves", identity)


def key_file(leaf: Leaf) -> Path:
    return leaf.path.with_suffix(".key")


# --- making ------------------------------------------------------------------------------------


def test_a_leaf_has_a_key_of_its_own(store: LeafStore, identity: IdentityKey) -> None:
    leaf = store.leaf([A], now=NOW)
    assert leaf.private_key.public_key() == leaf.chain[0].public_key()
    assert spki_of(leaf.chain[0]) != identity.spki
    assert store.leaf([B], now=NOW).private_key.public_key() != leaf.private_key.public_key()


def test_files_are_named_by_the_first_name_and_the_key_is_private(store: LeafStore, tmp_path: Path) -> None:
    leaf = store.leaf([A, B], now=NOW)
    assert leaf.path == tmp_path / "leaves" / "a.localhost.pem"
    assert x509.load_pem_x509_certificate(leaf.path.read_bytes()) == leaf.chain[0]
    if capabilities.HAS_POSIX_MODES:
        assert key_file(leaf).stat().st_mode & 0o777 == 0o600
        assert leaf.path.parent.stat().st_mode & 0o777 == 0o700


def test_the_fingerprint_is_the_one_that_browsers_show(store: LeafStore) -> None:
    leaf = store.leaf([A], now=NOW)
    digest = hashlib.sha256(leaf.chain[0].public_bytes(Encoding.DER)).hexdigest().upper()
    assert leaf.fingerprint == ":".join(digest[i : i + 2] for i in range(0, 64, 2))


def test_a_leaf_is_for_its_names_for_servers_and_no_ca(store: LeafStore) -> None:
    extensions = store.leaf([A, B, A], now=NOW).chain[0].extensions
    names = extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == ["a.localhost", "b.localhost"]
    assert not extensions.get_extension_for_class(x509.BasicConstraints).value.ca


def test_a_leaf_lasts_397_days_from_yesterday(store: LeafStore) -> None:
    certificate = store.leaf([A], now=NOW).chain[0]
    assert certificate.not_valid_before_utc == NOW - DAY
    assert certificate.not_valid_after_utc == NOW + 396 * DAY


def test_the_longest_host_name_has_a_file_of_its_own(store: LeafStore) -> None:
    stem = ".".join(["x" * 63] * 3)
    long, other = Hostname(f"{stem}.{'a' * 61}"), Hostname(f"{stem}.{'b' * 61}")
    assert store.leaf([long], now=NOW).path != store.leaf([other], now=NOW).path


def test_a_leaf_without_a_name_is_a_mistake(store: LeafStore) -> None:
    with pytest.raises(ValueError, match="needs a name"):
        store.leaf([], now=NOW)


# --- keeping -------------------------------------------------------------------------------------


@pytest.mark.parametrize("later", [timedelta(), DAY, 365 * DAY, 366 * DAY - timedelta(seconds=1)], ids=str)
def test_a_leaf_is_kept_until_30_days_are_left(store: LeafStore, later: timedelta) -> None:
    assert store.leaf([A, B], now=NOW).fingerprint == store.leaf([A, B], now=NOW + later).fingerprint


@pytest.mark.parametrize(
    "then", [NOW + 366 * DAY, NOW + 1_000 * DAY, NOW - 2 * DAY], ids=["30-days-left", "expired", "not-yet-valid"]
)
def test_a_leaf_outside_its_period_is_made_anew(store: LeafStore, then: datetime) -> None:
    old = store.leaf([A], now=NOW)
    new = store.leaf([A], now=then)
    assert new.fingerprint != old.fingerprint
    assert store.leaf([A], now=then).fingerprint == new.fingerprint


@pytest.mark.parametrize("step", [timedelta(hours=1), -timedelta(hours=1)], ids=str)
def test_a_clock_that_is_set_by_an_hour_changes_nothing(
    store: LeafStore, step: timedelta, caplog: pytest.LogCaptureFixture
) -> None:
    """HOST-06: at the very moment that it is made, too."""
    assert store.leaf([A], now=NOW + step).fingerprint == store.leaf([A], now=NOW).fingerprint
    assert caplog.records == []


@pytest.mark.parametrize(
    ("step", "said"),
    [
        (3_652 * DAY, ["ended at 2027-07-02 12:00:00 UTC", "says 2036-05-31 12:00:00 UTC"]),
        (-3_652 * DAY, ["starts at 2026-05-31 12:00:00 UTC", "says 2016-06-01 12:00:00 UTC"]),
    ],
    ids=["ahead", "behind"],
)
def test_a_clock_that_is_ten_years_off_is_said_with_both_times(
    store: LeafStore, step: timedelta, said: list[str], caplog: pytest.LogCaptureFixture
) -> None:
    """HOST-06: visitors are served with what fits the clock, there and back."""
    old = store.leaf([A], now=NOW)
    then = store.leaf([A], now=NOW + step)
    assert then.period_problem(NOW + step) == ""
    (record,) = caplog.records
    assert record.message == "leaf replaced"
    assert all(text in vars(record)["reason"] for text in said), vars(record)["reason"]
    back = store.leaf([A], now=NOW)
    assert back.period_problem(NOW) == ""
    assert len({old.fingerprint, then.fingerprint, back.fingerprint}) == 3


@pytest.mark.parametrize("names", [[A, B], [A, Hostname("c.localhost")]], ids=["one-more", "another"])
def test_a_leaf_for_other_names_is_made_anew(store: LeafStore, names: list[Hostname]) -> None:
    old = store.leaf([A], now=NOW)
    new = store.leaf(names, now=NOW)
    assert (new.path, new.names) == (old.path, tuple(names))
    assert new.fingerprint != old.fingerprint


def test_a_leaf_of_another_identity_is_made_anew(store: LeafStore, tmp_path: Path) -> None:
    old = store.leaf([A], now=NOW)
    other = IdentityKey.generate()
    new = LeafStore(tmp_path / "leaves", other).leaf([A], now=NOW)
    assert new.fingerprint != old.fingerprint
    assert leaf_proves(new.chain[0], other.key_id, other.spki)


def test_a_key_and_a_certificate_that_do_not_match_are_made_anew(store: LeafStore, tmp_path: Path) -> None:
    old = store.leaf([A], now=NOW)
    files.atomic_write(key_file(old), IdentityKey.generate().to_pem())  # a crash between the two writes
    new = store.leaf([A], now=NOW)
    assert new.private_key.public_key() == new.chain[0].public_key()
    assert new.fingerprint != old.fingerprint


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAAAA\n"], ids=len)
@pytest.mark.parametrize("which", [".pem", ".key"])
def test_damaged_files_are_made_anew(store: LeafStore, which: str, content: bytes) -> None:
    old = store.leaf([A], now=NOW)
    old.path.with_suffix(which).write_bytes(content)
    assert store.leaf([A], now=NOW).fingerprint != old.fingerprint


@pytest.mark.skipif(not capabilities.HAS_POSIX_MODES, reason="no file modes here")
def test_a_leaf_key_that_others_could_read_is_replaced_and_logged(
    store: LeafStore, caplog: pytest.LogCaptureFixture
) -> None:
    old = store.leaf([A], now=NOW)
    key_file(old).chmod(0o644)
    new = store.leaf([A], now=NOW)
    assert new.private_key.public_key() != old.private_key.public_key()
    assert key_file(new).stat().st_mode & 0o777 == 0o600
    assert [record.message for record in caplog.records] == ["leaf replaced"]


def fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)


def test_a_full_disk_keeps_the_old_leaf_in_use_while_it_is_valid(
    store: LeafStore, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    old = store.leaf([A], now=NOW)
    content = old.path.read_bytes(), key_file(old).read_bytes()
    fill_the_disk(monkeypatch)
    caplog.set_level(logging.WARNING)
    assert store.leaf([A], now=NOW + 390 * DAY).fingerprint == old.fingerprint
    assert [record.message for record in caplog.records] == ["leaf not renewed"]
    with pytest.raises(ConfigError, match="No space left"):
        store.leaf([A], now=NOW + 396 * DAY)
    assert (old.path.read_bytes(), key_file(old).read_bytes()) == content


def test_a_full_disk_at_first_is_an_error(store: LeafStore, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_the_disk(monkeypatch)
    with pytest.raises(ConfigError, match="No space left"):
        store.leaf([A], now=NOW)


MAKE_LEAF = """
import sys
from datetime import datetime
from pathlib import Path
from trunnel.identity.certstore import LeafStore
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname
folder = Path(sys.argv[1])
leaf = LeafStore(folder, IdentityKey.load(Path(sys.argv[2]))).leaf(
    [Hostname("a.localhost")], now=datetime.fromisoformat(sys.argv[3])
)
print(leaf.fingerprint, flush=True)
"""


def test_processes_that_share_a_key_share_a_leaf(store: LeafStore, identity: IdentityKey, tmp_path: Path) -> None:
    path = tmp_path / "default.pem"
    files.create(path, identity.to_pem())
    arguments = (tmp_path / "leaves", path, NOW.isoformat())
    with running(MAKE_LEAF, *arguments) as one, running(MAKE_LEAF, *arguments) as other:
        shared = {next_line(one), next_line(other)}
    assert shared == {store.leaf([A], now=NOW).fingerprint}


# --- the proof -----------------------------------------------------------------------------------


def ed25519_identity() -> IdentityKey:
    key = ed25519.Ed25519PrivateKey.generate()
    return IdentityKey.from_pem(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))


@pytest.mark.parametrize("make", [IdentityKey.generate, ed25519_identity], ids=["p-256", "ed25519"])
def test_a_leaf_proves_its_identity_and_no_other(make: Callable[[], IdentityKey]) -> None:
    identity, other, key = make(), IdentityKey.generate(), IdentityKey.generate()
    certificate = leaf_certificate(key, identity, names=[A], now=NOW)
    assert leaf_proves(certificate, identity.key_id, identity.spki)
    assert not leaf_proves(certificate, other.key_id, other.spki)
    assert not leaf_proves(certificate, identity.key_id, other.spki), "the SPKI must be that of the id"


def test_a_proof_is_for_one_leaf_key(identity: IdentityKey) -> None:
    """An extension that is copied into a certificate of another key proves nothing."""
    stolen_from = leaf_certificate(IdentityKey.generate(), identity, names=[A], now=NOW)
    thief = IdentityKey.generate()
    certificate = leaf_certificate(thief, IdentityKey.generate(), names=[A], now=NOW)
    builder = x509.CertificateBuilder(
        certificate.issuer, certificate.subject, thief.private_key.public_key(), 1, NOW, NOW + DAY
    )
    for extension in stolen_from.extensions:
        builder = builder.add_extension(extension.value, extension.critical)
    forged = builder.sign(new_key(), hashes.SHA256())
    assert not leaf_proves(forged, identity.key_id, identity.spki)


def test_a_certificate_without_a_proof_proves_nothing(identity: IdentityKey) -> None:
    assert not leaf_proves(self_signed(new_key()), identity.key_id, identity.spki)
    malformed = Authority(name=subject("CA")).issue_malformed(new_key())
    assert not leaf_proves(malformed, identity.key_id, identity.spki)


# --- real clients ----------------------------------------------------------------------------------


@contextmanager
def https_server(leaf: Leaf) -> Iterator[int]:
    """Run `openssl s_server -www` with *leaf*; yields its port."""
    openssl = require_program("openssl")
    command: list[str | Path] = [openssl, "s_server", "-accept", "127.0.0.1:0", "-www"]
    command += ["-cert", leaf.path, "-key", key_file(leaf)]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as server:
        try:
            assert server.stdout is not None
            accepting = next(line for line in server.stdout if line.startswith("ACCEPT"))
            yield int(accepting.rpartition(":")[2])
        finally:
            server.kill()


def now_leaf(store: LeafStore) -> Leaf:
    return store.leaf([A, B], now=datetime.now(NOW.tzinfo))


@pytest.mark.interop
def test_curl_accepts_the_leaf_as_its_own_anchor_for_its_names_only(store: LeafStore) -> None:
    curl = require_program("curl")
    leaf = now_leaf(store)

    def status(host: str, port: int) -> int:
        url = [f"https://{host}:{port}/", "--resolve", f"{host}:{port}:127.0.0.1", "--noproxy", "*"]
        command: list[str | Path] = [curl, "-sS", "-o", os.devnull, "--cacert", leaf.path, *url]
        return subprocess.run(command, check=False, capture_output=True, timeout=10).returncode

    with https_server(leaf) as port:
        assert [status(host, port) for host in ("a.localhost", "b.localhost", "c.localhost")] == [0, 0, 60]


@pytest.mark.interop
def test_python_accepts_the_leaf_as_its_own_anchor(store: LeafStore) -> None:
    leaf = now_leaf(store)
    context = ssl.create_default_context(cafile=str(leaf.path))
    with (
        https_server(leaf) as port,
        socket.create_connection(("127.0.0.1", port)) as plain,
        context.wrap_socket(plain, server_hostname="b.localhost") as tls,
    ):
        assert tls.getpeercert(binary_form=True) == leaf.chain[0].public_bytes(Encoding.DER)
