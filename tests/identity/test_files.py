"""Files of secrets: what is refused when reading, and that a write is whole or did not happen."""

from __future__ import annotations

import errno
import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from trunnel import capabilities
from trunnel.errors import ConfigError
from trunnel.identity import files

posix_modes = pytest.mark.skipif(not capabilities.HAS_POSIX_MODES, reason="no file modes here")
LIMIT = 100


def mode_of(path: Path) -> int:
    return stat.S_IMODE(path.lstat().st_mode)


def secret_file(folder: Path, content: bytes = b"secret", mode: int = 0o600) -> Path:
    path = folder / "secret"
    path.write_bytes(content)
    path.chmod(mode)
    return path


@pytest.fixture
def wide_umask() -> Iterator[None]:
    before = os.umask(0)
    yield
    os.umask(before)


@pytest.fixture
def narrow_umask() -> Iterator[None]:
    before = os.umask(0o777)
    yield
    os.umask(before)


# --- reading ---------------------------------------------------------------------------------


def read(path: Path, *, secret: bool = True) -> bytes | None:
    return files.read_guarded(path, limit=LIMIT, secret=secret)


def test_a_private_file_is_read_whole(tmp_path: Path) -> None:
    assert read(secret_file(tmp_path, b"x" * LIMIT)) == b"x" * LIMIT


def test_a_missing_file_is_none(tmp_path: Path) -> None:
    assert read(tmp_path / "absent") is None


@posix_modes
@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o602, 0o610, 0o644, 0o666])
def test_a_secret_open_to_others_is_refused_and_the_command_named(tmp_path: Path, mode: int) -> None:
    path = secret_file(tmp_path, mode=mode)
    with pytest.raises(ConfigError, match=f"chmod 600 {path}"):
        read(path)
    assert mode_of(path) == mode, "it is not repaired silently"


@posix_modes
def test_what_is_no_secret_may_be_read_by_others_but_not_written(tmp_path: Path) -> None:
    assert read(secret_file(tmp_path, mode=0o644), secret=False) == b"secret"
    with pytest.raises(ConfigError, match="chmod go-w"):
        read(secret_file(tmp_path, mode=0o664), secret=False)


@pytest.mark.parametrize("kernel_refuses", [True, False], ids=["O_NOFOLLOW", "without"])
def test_a_symbolic_link_is_not_followed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, kernel_refuses: bool
) -> None:
    monkeypatch.setattr(capabilities, "HAS_NOFOLLOW", kernel_refuses)
    link = tmp_path / "link"
    link.symlink_to(secret_file(tmp_path))
    with pytest.raises(ConfigError, match="symbolic link"):
        read(link)


def test_a_dangling_symbolic_link_is_not_taken_for_a_missing_file(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "absent")
    with pytest.raises(ConfigError, match="symbolic link"):
        read(link)


@posix_modes
def test_a_fifo_is_refused_without_waiting_for_a_writer(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo", 0o600)
    with pytest.raises(ConfigError, match="not a regular file"):
        read(tmp_path / "fifo")


def test_a_folder_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="not a regular file"):
        read(tmp_path)


def test_a_larger_file_is_refused_without_reading_it_all(tmp_path: Path) -> None:
    path = secret_file(tmp_path)
    os.truncate(path, 1 << 40)  # sparse; reading it would take all memory
    with pytest.raises(ConfigError, match="larger than 100 bytes"):
        read(path)


@pytest.mark.may_skip("needs root to give a file away")
@pytest.mark.skipif(not capabilities.HAS_POSIX_MODES or os.geteuid() != 0, reason="not root")
def test_a_file_of_another_user_is_refused(tmp_path: Path) -> None:
    path = secret_file(tmp_path)
    os.chown(path, 12_345, -1)
    with pytest.raises(ConfigError, match="belongs to another user"):
        read(path)


# --- folders ---------------------------------------------------------------------------------


@posix_modes
def test_missing_folders_are_made_private_all_the_way(tmp_path: Path, wide_umask: None) -> None:
    files.open_folder(tmp_path / "a" / "b")
    assert (mode_of(tmp_path / "a"), mode_of(tmp_path / "a" / "b")) == (0o700, 0o700)


@posix_modes
def test_a_folder_that_others_can_write_is_refused(tmp_path: Path) -> None:
    tmp_path.chmod(0o770)
    with pytest.raises(ConfigError, match="chmod go-w"):
        files.open_folder(tmp_path)
    tmp_path.chmod(0o1777)  # sticky: others cannot exchange our files
    files.open_folder(tmp_path)


def test_a_file_is_no_folder(tmp_path: Path) -> None:
    path = secret_file(tmp_path)
    with pytest.raises(ConfigError, match="folder"):
        files.open_folder(path)
    with pytest.raises(ConfigError, match="folder"):
        files.open_folder(path / "below")


# --- writing ---------------------------------------------------------------------------------

Writer = Callable[[Path, bytes], object]
writers = pytest.mark.parametrize("write", [files.atomic_write, files.create])


@posix_modes
@writers
def test_a_new_file_is_private_under_a_wide_umask(tmp_path: Path, write: Writer, wide_umask: None) -> None:
    write(tmp_path / "new", b"content")
    assert mode_of(tmp_path / "new") == 0o600


@posix_modes
@writers
def test_a_new_file_is_usable_under_a_narrow_umask(tmp_path: Path, write: Writer, narrow_umask: None) -> None:
    write(tmp_path / "new", b"content")
    assert mode_of(tmp_path / "new") == 0o600


@posix_modes
def test_the_mode_asked_for_is_set_exactly(tmp_path: Path) -> None:
    files.atomic_write(tmp_path / "new", b"", mode=0o644)
    assert mode_of(tmp_path / "new") == 0o644


def test_atomic_write_replaces_and_leaves_nothing_else(tmp_path: Path) -> None:
    path = secret_file(tmp_path, b"old and longer")
    files.atomic_write(path, b"new")
    assert path.read_bytes() == b"new"
    assert list(tmp_path.iterdir()) == [path]


def test_atomic_write_replaces_a_symbolic_link_and_not_its_target(tmp_path: Path) -> None:
    target = secret_file(tmp_path)
    link = tmp_path / "link"
    link.symlink_to(target)
    files.atomic_write(link, b"new")
    assert (target.read_bytes(), link.is_symlink()) == (b"secret", False)


@pytest.mark.parametrize("links", [True, False], ids=["hard-links", "without"])
def test_create_never_replaces(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, *, links: bool) -> None:
    monkeypatch.setattr(capabilities, "HAS_HARD_LINKS", links)
    path = tmp_path / "new"
    assert files.create(path, b"first")
    assert not files.create(path, b"second")
    assert path.read_bytes() == b"first"
    assert list(tmp_path.iterdir()) == [path]


def test_create_works_on_a_file_system_without_hard_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(self: Path, target: Path) -> None:
        raise OSError(errno.EPERM, "Operation not permitted")

    monkeypatch.setattr(Path, "hardlink_to", refuse)
    assert files.create(tmp_path / "new", b"first")
    assert not files.create(tmp_path / "new", b"second")
    assert (tmp_path / "new").read_bytes() == b"first"


def test_create_does_not_follow_a_dangling_link(tmp_path: Path) -> None:
    link = tmp_path / "link"
    link.symlink_to(tmp_path / "elsewhere")
    assert not files.create(link, b"secret")
    assert not (tmp_path / "elsewhere").exists()


def disk_with_room_for(count: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Let `os.write` take *count* bytes in all, then fail as a full disk does: short once, then ENOSPC."""
    room = count
    write = os.write

    def limited(descriptor: int, content: bytes | memoryview) -> int:
        nonlocal room
        if room == 0:
            raise OSError(errno.ENOSPC, "No space left on device")
        written = write(descriptor, content[:room])
        room -= written
        return written

    monkeypatch.setattr(os, "write", limited)


@writers
@pytest.mark.parametrize("room", [0, 3])
def test_a_full_disk_leaves_no_part_of_a_new_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, write: Writer, room: int
) -> None:
    disk_with_room_for(room, monkeypatch)
    with pytest.raises(ConfigError, match="No space left on device"):
        write(tmp_path / "new", b"content")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file_as_it_was(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = secret_file(tmp_path, b"old")
    disk_with_room_for(3, monkeypatch)
    with pytest.raises(ConfigError, match="No space left"):
        files.atomic_write(path, b"content")
    assert path.read_bytes() == b"old"
    assert list(tmp_path.iterdir()) == [path]


def test_a_short_write_is_continued(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write = os.write
    monkeypatch.setattr(os, "write", lambda descriptor, content: write(descriptor, content[:1]))
    files.atomic_write(tmp_path / "new", b"content")
    assert (tmp_path / "new").read_bytes() == b"content"


def test_content_and_name_are_flushed_in_that_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    steps: list[str] = []
    fsync, replace = os.fsync, Path.replace

    def record_fsync(descriptor: int) -> None:
        steps.append("folder" if stat.S_ISDIR(os.fstat(descriptor).st_mode) else "file")
        fsync(descriptor)

    def record_replace(self: Path, target: Path) -> Path:
        steps.append("rename")
        return replace(self, target)

    monkeypatch.setattr(os, "fsync", record_fsync)
    monkeypatch.setattr(Path, "replace", record_replace)
    files.atomic_write(tmp_path / "new", b"content")
    assert steps == ["file", "rename", *(["folder"] if capabilities.HAS_FOLDER_FSYNC else [])]


@writers
def test_writing_into_a_missing_folder_is_refused_in_words(tmp_path: Path, write: Writer) -> None:
    with pytest.raises(ConfigError, match="cannot write"):
        write(tmp_path / "absent" / "new", b"content")


def test_without_modes_nothing_depends_on_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(capabilities, "HAS_POSIX_MODES", False)
    monkeypatch.setattr(capabilities, "HAS_FOLDER_FSYNC", False)
    files.open_folder(tmp_path / "state")
    files.atomic_write(tmp_path / "state" / "new", b"content", mode=0o644)
    assert read(tmp_path / "state" / "new") == b"content"
