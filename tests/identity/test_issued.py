"""Certificates that were issued: found again for exactly their names, whole or not at all."""

from __future__ import annotations

import logging
import os
from collections.abc import Iterator
from datetime import datetime, timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.identity.certificates import NOW, Authority, Key, new_key, subject
from tests.identity.full_disk import fill, small_disk
from tests.identity.processes import next_line, running
from trunnel import capabilities
from trunnel.errors import ConfigError
from trunnel.identity.certstore import IssuedStore, LeafStore
from trunnel.identity.keys import IdentityKey
from trunnel.identity.pempair import encode_pem_pair
from trunnel.names import Hostname

A, B, C = Hostname("a.example"), Hostname("b.example"), Hostname("c.example")
DAY = timedelta(days=1)
posix = pytest.mark.skipif(not capabilities.HAS_POSIX_MODES, reason="no file modes here")
AUTHORITY = Authority(name=subject("An authority"))
MIDDLE = Authority(name=subject("Middle"), parent=AUTHORITY)


def chain_for(key: Key, *names: Hostname, end: datetime = NOW + 60 * DAY) -> list[x509.Certificate]:
    """Return what an authority issues: the certificate and its issuer's."""
    return [MIDDLE.issue(key, [name.value for name in names], end=end), MIDDLE.certificate]


@pytest.fixture
def store(tmp_path: Path) -> IssuedStore:
    return IssuedStore(tmp_path / "issued")


@pytest.fixture
def saved(store: IssuedStore) -> Path:
    """The file of a pair for A and B that is stored."""
    key = new_key()
    return store.save([A, B], key, chain_for(key, A, B)).path


def left_over(folder: Path) -> list[str]:
    """Return the names of temporary files that somebody forgot."""
    return [path.name for path in folder.iterdir() if path.suffix == ".tmp"]


# --- what is kept ----------------------------------------------------------------------------------


def test_what_was_saved_is_loaded_with_its_chain(store: IssuedStore, tmp_path: Path) -> None:
    key = new_key()
    leaf = store.save([A, B], key, chain_for(key, A, B))
    assert leaf.path == tmp_path / "issued" / "a.example.issued.pem"
    again = IssuedStore(tmp_path / "issued").load([A, B])
    assert again is not None
    assert (again.chain, again.names, again.path) == (leaf.chain, (A, B), leaf.path)
    assert len(again.chain) == 2
    assert again.private_key.public_key() == key.public_key()
    assert (again.not_after, again.self_signed) == (NOW + 60 * DAY, False)


def test_what_is_for_some_of_the_names_is_found_the_longest_valid_first(store: IssuedStore) -> None:
    """After the set of names has changed; what is for none of them, or broken, is not."""
    key = new_key()
    for end, names in ((30, [A, C]), (60, [B, C]), (90, [C])):
        store.save(names, key, chain_for(key, *names, end=NOW + end * DAY))
    store.path([Hostname("broken.example")]).write_text("-")
    assert store.load([A, B]) is None
    assert [leaf.names for leaf in store.related([A, B])] == [(B, C), (A, C)]
    assert IssuedStore(store.path([A]).parent / "missing").related([A]) == []


def test_an_rsa_key_is_kept_too(store: IssuedStore) -> None:
    key = rsa.generate_private_key(65_537, 2_048)
    store.save([A], key, chain_for(key, A))  # type: ignore[arg-type]
    again = store.load([A])
    assert again is not None
    assert again.private_key.public_key() == key.public_key()


@posix
def test_the_file_is_ours_alone(saved: Path) -> None:
    assert saved.stat().st_mode & 0o777 == 0o600
    assert saved.parent.stat().st_mode & 0o777 == 0o700


@pytest.mark.usefixtures("saved")
def test_only_exactly_these_names_find_it(store: IssuedStore) -> None:
    assert store.load([A, B]) is not None
    assert [store.load(names) for names in ([A], [A, B, C], [A, C], [B, A], [C])] == [None] * 5


def test_a_newer_one_takes_its_place(store: IssuedStore, saved: Path) -> None:
    key = new_key()
    newer = store.save([A, B], key, chain_for(key, A, B))
    found = store.load([A, B])
    assert found is not None
    assert (found.fingerprint, newer.path) == (newer.fingerprint, saved)
    assert left_over(saved.parent) == []


def test_what_is_not_there_is_no_news(store: IssuedStore, caplog: pytest.LogCaptureFixture) -> None:
    assert store.load([A]) is None
    assert caplog.records == []


@pytest.mark.parametrize("step", [timedelta(hours=1), -timedelta(hours=1), 3_652 * DAY, -3_652 * DAY], ids=str)
def test_the_clock_hides_no_certificate(store: IssuedStore, step: timedelta) -> None:
    """HOST-06: whatever the clock says, the pair is found; the leaf says what is wrong with its period."""
    key = new_key()
    store.save([A], key, chain_for(key, A))
    leaf = store.load([A])
    assert leaf is not None
    assert bool(leaf.period_problem(NOW + step)) is (abs(step) > DAY)


def test_without_a_name_it_is_a_mistake(store: IssuedStore) -> None:
    with pytest.raises(ValueError, match="needs a name"):
        store.load([])


# --- what is not saved --------------------------------------------------------------------------


def test_what_does_not_fit_is_not_saved(store: IssuedStore, saved: Path) -> None:
    before = saved.read_bytes()
    key = new_key()
    with pytest.raises(ConfigError, match="is not that of the certificate"):
        store.save([A, B], new_key(), chain_for(key, A, B))
    with pytest.raises(ConfigError, match=r"is for a\.example, not for a\.example, b\.example"):
        store.save([A, B], key, chain_for(key, A))
    with pytest.raises(ConfigError, match="bytes"):
        store.save([A, B], key, [*chain_for(key, A, B), *[MIDDLE.certificate] * 200])
    assert saved.read_bytes() == before


# --- what is not loaded --------------------------------------------------------------------------


def unusable(store: IssuedStore, caplog: pytest.LogCaptureFixture) -> str:
    """Nothing is loaded for A and B; return the one line that says why."""
    caplog.clear()
    assert store.load([A, B]) is None
    (record,) = caplog.records
    assert record.message == "issued_certificate_unusable"
    return str(vars(record)["reason"])


def test_garbage_is_missing_and_said(store: IssuedStore, saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    for content in (b"", b"garbage", bytes(5_000), b"-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----\n"):
        saved.write_bytes(content)
        assert "holds no private key" in unusable(store, caplog)


def test_a_part_of_a_file_is_missing_and_said(
    store: IssuedStore, saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """Whatever is cut off, it is the leaf with its key, or nothing."""
    whole = saved.read_bytes()
    first = whole.index(b"-----END CERTIFICATE-----")
    for size in range(0, first, 61):
        saved.write_bytes(whole[:size])
        unusable(store, caplog)


def test_the_key_of_another_certificate_is_missing_and_said(
    store: IssuedStore, saved: Path, caplog: pytest.LogCaptureFixture
) -> None:
    saved.write_bytes(encode_pem_pair(new_key(), tuple(chain_for(new_key(), A, B))))
    assert "is not that of the certificate" in unusable(store, caplog)


@posix
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_one_that_others_could_read_is_missing_and_said(
    store: IssuedStore, saved: Path, mode: int, caplog: pytest.LogCaptureFixture
) -> None:
    saved.chmod(mode)
    assert "chmod 600" in unusable(store, caplog)


@posix
def test_a_symbolic_link_is_not_followed_and_replaced_when_saving(
    store: IssuedStore, saved: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    elsewhere = tmp_path / "elsewhere.pem"
    saved.rename(elsewhere)
    saved.symlink_to(elsewhere)
    before = elsewhere.read_bytes()
    assert "symbolic link" in unusable(store, caplog)
    key = new_key()
    store.save([A, B], key, chain_for(key, A, B))
    assert not saved.is_symlink()
    assert elsewhere.read_bytes() == before
    assert store.load([A, B]) is not None


@posix
def test_a_fifo_does_not_block(store: IssuedStore, saved: Path, caplog: pytest.LogCaptureFixture) -> None:
    saved.unlink()
    os.mkfifo(saved, 0o600)
    assert "not a regular file" in unusable(store, caplog)


# --- several processes -----------------------------------------------------------------------------

SAVE_FOR_EVER = """
import sys
from pathlib import Path
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from trunnel.identity.certstore import IssuedStore
from trunnel.names import Hostname
store, pem = IssuedStore(Path(sys.argv[1])), Path(sys.argv[2]).read_bytes()
key, chain = load_pem_private_key(pem, None), load_pem_x509_certificates(pem)
for number in range(int(sys.argv[3])):
    leaf = store.save([Hostname("a.example"), Hostname("b.example")], key, chain)
    print(leaf.fingerprint, flush=True)
"""


def written(folder: Path, number: int) -> Path:
    """Write a pair for a process to save."""
    key = new_key()
    path = folder / f"pair{number}.pem"
    path.write_bytes(encode_pem_pair(key, tuple(chain_for(key, A, B))))
    return path


def test_readers_find_a_whole_pair_while_several_processes_write(store: IssuedStore, tmp_path: Path) -> None:
    """SEC of the store: no lock for readers, no half of one pair with a half of another."""
    folder, rounds = tmp_path / "issued", 20
    with (
        running(SAVE_FOR_EVER, folder, written(tmp_path, 1), rounds) as one,
        running(SAVE_FOR_EVER, folder, written(tmp_path, 2), rounds) as other,
    ):
        saved = {next_line(one), next_line(other)}
        assert len(saved) == 2
        seen = set[str]()
        while one.poll() is None or other.poll() is None:
            leaf = store.load([A, B])
            assert leaf is not None
            seen.add(leaf.fingerprint)
    assert seen <= saved
    assert (one.returncode, other.returncode) == (0, 0)
    assert left_over(folder) == []


def test_a_writer_that_is_killed_leaves_a_whole_pair(store: IssuedStore, tmp_path: Path) -> None:
    """At whatever moment; its lock is free at once."""
    folder = tmp_path / "issued"
    for round_ in range(3):
        with running(SAVE_FOR_EVER, folder, written(tmp_path, round_), 10_000) as writer:
            said = [next_line(writer) for _ in range(round_ + 1)]
            writer.kill()
            writer.wait()
        leaf = store.load([A, B])
        assert leaf is not None
        assert {leaf.fingerprint} == set(said)
    key = new_key()
    assert store.save([A, B], key, chain_for(key, A, B)).names == (A, B)


# --- no room -----------------------------------------------------------------------------------------


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of its own, small enough to fill."""
    with small_disk(tmp_path / "disk") as folder:
        yield folder


@pytest.mark.may_skip("needs the right to mount")
def test_a_full_disk_keeps_what_is_stored_and_room_mends_it(disk: Path) -> None:
    """HOST-05, on a real file system."""
    store = IssuedStore(disk / "issued")
    key = new_key()
    before = store.save([A, B], key, chain_for(key, A, B))
    content = before.path.read_bytes()
    ballast = fill(disk)
    newer = new_key()
    for _ in range(5):
        with pytest.raises(ConfigError, match="No space left"):
            store.save([A, B], newer, chain_for(newer, A, B))
    assert before.path.read_bytes() == content
    assert left_over(disk / "issued") == []
    found = store.load([A, B])
    assert found is not None
    assert found.chain == before.chain
    ballast.unlink()
    assert store.save([A, B], newer, chain_for(newer, A, B)).private_key.public_key() == newer.public_key()


@pytest.mark.may_skip("needs the right to mount")
@pytest.mark.parametrize("left", [0, 1, 2], ids="{} pages left".format)
def test_a_disk_that_fills_up_between_key_and_certificate_costs_no_leaf(
    disk: Path, left: int, caplog: pytest.LogCaptureFixture
) -> None:
    """HOST-05: the self-signed pair is two files; both are finished before either is replaced."""
    identity, caught = IdentityKey.generate(), NOW + 380 * DAY
    old = LeafStore(disk / "leaf", identity).leaf([A], now=NOW)
    files = [old.path, old.path.with_suffix(".key")]
    before = [path.read_bytes() for path in files]
    fill(disk, left=left)
    caplog.set_level(logging.WARNING)
    leaf = LeafStore(disk / "leaf", identity).leaf([A], now=caught)
    if left < len(files):
        assert [path.read_bytes() for path in files] == before
        assert [record.message for record in caplog.records] == ["leaf not renewed"]
    assert LeafStore(disk / "leaf", identity).leaf([A], now=caught).fingerprint == leaf.fingerprint
    assert left_over(disk / "leaf") == []
    assert (leaf.fingerprint == old.fingerprint) is (left < len(files))


@pytest.mark.may_skip("needs the right to mount")
def test_a_full_disk_without_lock_files_still_gives_the_stored_leaf(disk: Path) -> None:
    """A folder that was copied without them."""
    identity = IdentityKey.generate()
    store = LeafStore(disk / "leaf", identity)
    old = store.leaf([A], now=NOW)
    for lock in (disk / "leaf").glob("*.lock"):
        lock.unlink()
    fill(disk)
    assert store.leaf([A], now=NOW).fingerprint == old.fingerprint


LIMITED = """
import resource, signal, sys
from pathlib import Path
from cryptography.hazmat.primitives.serialization import load_pem_private_key
from cryptography.x509 import load_pem_x509_certificates
from trunnel.errors import ConfigError
from trunnel.identity.certstore import IssuedStore
from trunnel.names import Hostname
signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
resource.setrlimit(resource.RLIMIT_FSIZE, (700, 700))
store, pem = IssuedStore(Path(sys.argv[1])), Path(sys.argv[2]).read_bytes()
try:
    store.save([Hostname("a.example"), Hostname("b.example")],
               load_pem_private_key(pem, None), load_pem_x509_certificates(pem))
except ConfigError as exc:
    print(exc, flush=True)
"""


@posix
def test_a_write_that_stops_in_the_middle_keeps_what_is_stored(store: IssuedStore, saved: Path, tmp_path: Path) -> None:
    """HOST-05 where nobody may mount: 700 bytes are written, and then no more."""
    before = saved.read_bytes()
    with running(LIMITED, saved.parent, written(tmp_path, 1)) as process:
        assert "File too large" in next_line(process)
    assert saved.read_bytes() == before
    assert left_over(saved.parent) == []
    assert store.load([A, B]) is not None
