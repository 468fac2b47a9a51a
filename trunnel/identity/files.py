"""Files that hold secrets or decide about trust: read with suspicion, written whole.

Reading.  The file is opened first and judged by its descriptor afterwards, so
that nothing can be exchanged between look and use: a regular file (no
symbolic link, no FIFO that would block), owned by this user or by root, of a
bounded size, and closed to others: a secret must not even be readable by
group or others, any other file here not writable.  What fails is refused with
the command that mends it, never repaired silently: whoever could read a key
may have a copy of it.

Writing.  Every file is finished under a temporary name in the same folder
(O_EXCL, mode set at creation and then exactly, whatever the umask), flushed,
and only then given its name; the folder is flushed too.  So a full disk or a
power cut leaves either the old file or the new one, never a part (HOST-05),
and a symbolic link at the target is replaced, never followed.  `create` gives
the name only if nobody has it yet: of two processes that make the same file
both end up with the same content.

Folders that are missing are made with mode 0700.  One that exists must not be
writable by others, or they could exchange what is in it.

Where the platform has no modes (Windows) the checks on them are skipped: the
profile folder's access list protects the files there.

All functions block for as long as the disk takes; they are called at start,
not while streams run.
"""

from __future__ import annotations

import errno
import os
import secrets
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Final, NamedTuple, final

from trunnel import capabilities
from trunnel.errors import ConfigError

SECRET_MODE: Final = 0o600
"""Mode of every file made here unless said otherwise."""
FOLDER_MODE: Final = 0o700
"""Mode of every folder made here."""

_READ_FLAGS: Final = (
    os.O_RDONLY | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0) | getattr(os, "O_NONBLOCK", 0)
) | getattr(os, "O_BINARY", 0)
_CREATE_FLAGS: Final = os.O_WRONLY | os.O_CREAT | os.O_EXCL | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_BINARY", 0)
_OTHERS_ANY: Final = 0o077
_OTHERS_WRITE: Final = 0o022
_TEMPORARY_TOKEN_BYTES: Final = 8


def read_guarded(path: Path, *, limit: int, secret: bool) -> bytes | None:
    """Read a whole file that only this user (and root) can have written.

    Args:
        path: The file; a symbolic link is refused.
        limit: Largest size, in bytes.
        secret: Whether group and others must not be able to read it either.

    Returns:
        The content; None if there is no such file.

    Raises:
        ConfigError: The file is there and cannot be used; the text says what to do.
    """
    try:
        descriptor = _open_no_follow(path)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError("", f"cannot read {path}: {exc.strerror}") from exc
    try:
        _check_guarded(path, os.fstat(descriptor), secret=secret)
        with os.fdopen(descriptor, "rb", closefd=False) as file:
            content = file.read(limit + 1)
    except OSError as exc:
        raise ConfigError("", f"cannot read {path}: {exc.strerror}") from exc
    finally:
        os.close(descriptor)
    if len(content) > limit:
        raise ConfigError("", f"{path} is larger than {limit:,} bytes: that is not the file meant here")
    return content


def _open_no_follow(path: Path) -> int:
    """Open *path* for reading; raises ConfigError for a symbolic link, OSError else."""
    if not capabilities.HAS_NOFOLLOW and path.is_symlink():
        raise _symlink(path)
    try:
        return os.open(path, _READ_FLAGS)
    except OSError as exc:
        # Linux and macOS say ELOOP, FreeBSD EMLINK; ELOOP alone may also be a loop among the folders.
        if exc.errno in (errno.ELOOP, errno.EMLINK) and path.is_symlink():
            raise _symlink(path) from exc
        raise


def _symlink(path: Path) -> ConfigError:
    return ConfigError("", f"{path} is a symbolic link, which is not followed here: name the file that it points to")


def _check_guarded(path: Path, status: os.stat_result, *, secret: bool) -> None:
    """Raise ConfigError unless *status* is that of a regular file closed to others."""
    if not stat.S_ISREG(status.st_mode):
        raise ConfigError("", f"{path} is not a regular file")
    if not capabilities.HAS_POSIX_MODES:
        return
    _check_owner(path, status)
    mode = stat.S_IMODE(status.st_mode)
    if mode & (_OTHERS_ANY if secret else _OTHERS_WRITE):
        verb = "read or written" if secret else "written"
        fix = "600" if secret else "go-w"
        raise ConfigError(
            "",
            f"{path} can be {verb} by other users (mode {mode:04o}): if you still trust it, run `chmod {fix} {path}`",
        )


def _check_owner(path: Path, status: os.stat_result) -> None:
    """Raise ConfigError if another user (root apart) owns *path*."""
    if status.st_uid not in (os.geteuid(), 0):
        raise ConfigError(
            "", f"{path} belongs to another user (uid {status.st_uid}, this program runs as {os.geteuid()})"
        )


def open_folder(path: Path) -> None:
    """Make sure that *path* is a folder in which others cannot exchange files.

    A missing one is made with mode 0700, its missing parents too.  In one
    with the sticky bit (`/tmp`) others can add files but not exchange ours.

    Raises:
        ConfigError: It cannot be made, or others can write to it.
    """
    try:
        _make_folders(path)
        status = path.stat()
    except OSError as exc:
        raise ConfigError("", f"cannot use the folder {path}: {exc.strerror}") from exc
    if not stat.S_ISDIR(status.st_mode):
        raise ConfigError("", f"{path} is not a folder")
    if not capabilities.HAS_POSIX_MODES:
        return
    _check_owner(path, status)
    if status.st_mode & _OTHERS_WRITE and not status.st_mode & stat.S_ISVTX:
        raise ConfigError("", f"other users can write to the folder {path}: run `chmod go-w {path}`")


def _make_folders(path: Path) -> None:
    """Create *path* and its missing parents, each with mode 0700 (`mkdir(parents=True)` leaves parents open)."""
    if path.is_dir():
        return
    if path.parent != path:
        _make_folders(path.parent)
    path.mkdir(mode=FOLDER_MODE, exist_ok=True)


def atomic_write(path: Path, content: bytes, *, mode: int = SECRET_MODE) -> None:
    """Write *path* as a whole: afterwards it has all of *content*, or is as it was.

    Args:
        path: The file; what is there is replaced, a symbolic link itself and not its target.
        content: Its bytes.
        mode: Its permissions, exactly, whatever the umask.

    Raises:
        ConfigError: It could not be written; nothing changed.
    """
    try:
        with _finished_temporary(path, content, mode) as temporary:
            temporary.replace(path)
        _flush_folder(path.parent)
    except OSError as exc:
        raise ConfigError("", f"cannot write {path}: {exc.strerror}") from exc


@final
class Content(NamedTuple):
    """What a file is to hold."""

    path: Path
    """The file; all that are written together lie in one folder."""
    content: bytes
    """Its bytes."""
    mode: int
    """Its permissions, exactly."""


def write_together(*contents: Content) -> None:
    """Write several files of one folder: all are finished before the first gets its name.

    So a full disk changes none of them.  A crash between two renames leaves some
    new and some old, each of them whole: who reads must notice.

    Raises:
        ConfigError: They could not be written.
    """
    written = ", ".join(str(each.path) for each in contents)
    try:
        with ExitStack() as stack:
            finished = [stack.enter_context(_finished_temporary(*each)) for each in contents]
            for temporary, each in zip(finished, contents, strict=True):
                temporary.replace(each.path)
        _flush_folder(contents[0].path.parent)
    except OSError as exc:
        raise ConfigError("", f"cannot write {written}: {exc.strerror}") from exc


def create(path: Path, content: bytes, *, mode: int = SECRET_MODE) -> bool:
    """Write *path* as a whole unless it exists.

    Returns:
        True: it was made.  False: something has that name; nothing changed.

    Raises:
        ConfigError: It could not be written; nothing changed.
    """
    try:
        with _finished_temporary(path, content, mode) as temporary:
            _name_exclusively(temporary, path)
        _flush_folder(path.parent)
    except FileExistsError:
        return False
    except OSError as exc:
        raise ConfigError("", f"cannot write {path}: {exc.strerror}") from exc
    return True


def _name_exclusively(temporary: Path, path: Path) -> None:
    """Give *temporary* the name *path*; raises FileExistsError if somebody has it."""
    if capabilities.HAS_HARD_LINKS:
        try:
            path.hardlink_to(temporary)
        except FileExistsError:
            raise
        except OSError:
            pass  # a file system without hard links (FAT, some network shares)
        else:
            return
    # The name is taken first, then filled by a rename: a process that loses the race may read an
    # empty file in between and is told so, but never makes a second key.
    os.close(os.open(path, _CREATE_FLAGS, SECRET_MODE))
    try:
        temporary.replace(path)
    except OSError:
        path.unlink(missing_ok=True)
        raise


@contextmanager
def _finished_temporary(path: Path, content: bytes, mode: int) -> Iterator[Path]:
    """Yield a flushed file with *content* beside *path*; it is gone afterwards unless renamed."""
    temporary = path.with_name(f".trunnel-{secrets.token_hex(_TEMPORARY_TOKEN_BYTES)}.tmp")
    descriptor = os.open(temporary, _CREATE_FLAGS, mode)
    try:
        with os.fdopen(descriptor, "wb", buffering=0) as file:
            if capabilities.HAS_POSIX_MODES:
                os.fchmod(descriptor, mode)  # the umask may have taken bits away
            _write_all(descriptor, content)
            os.fsync(file.fileno())
        yield temporary
    finally:
        with suppress(FileNotFoundError):
            temporary.unlink()


def _write_all(descriptor: int, content: bytes) -> None:
    """Write *content*; `os.write` may stop short on a nearly full disk and fail only at the next call."""
    rest = memoryview(content)
    while rest:
        rest = rest[os.write(descriptor, rest) :]


def _flush_folder(folder: Path) -> None:
    """Flush *folder*, so that the new name survives a power cut."""
    if not capabilities.HAS_FOLDER_FSYNC:
        return
    descriptor = os.open(folder, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
    try:
        os.fsync(descriptor)
    except OSError as exc:
        if exc.errno not in (errno.EINVAL, errno.ENOTSUP):  # some file systems cannot flush folders
            raise
    finally:
        os.close(descriptor)
