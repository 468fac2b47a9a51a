"""Locks between processes: one running agent a key, one writer a file.

A lock is a file beside what it protects, `NAME.lock`, held through the open
descriptor: by `fcntl.flock`, on Windows by `msvcrt.locking` of one byte far
behind the content.  The kernel gives it back when the process ends, however
it ends (kill -9), so there are no stale locks to clean up.  The file itself
stays: removing it would let two processes lock two files of one name.  In a
folder that cannot be written (a key on a read-only mount, a full disk) the key file itself
is locked, and who holds it stays unknown.

Where neither exists, a file made with O_EXCL and removed at the end is the
lock; one whose process is gone is taken over.

`lock_key` does not wait: the second holder is told at once who the first one
is, from the JSON in the file (`pid`, `purpose`, `since`).  That text is for
people; only the lock decides.  `exclusive` waits a moment: it protects a file
that is read, changed and written, which takes milliseconds.

A lock is per process *and* per call: taking one twice in a process fails too.
"""

from __future__ import annotations

import errno
import os
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

import msgspec

from trunnel import capabilities
from trunnel.errors import AuthError, ConfigError
from trunnel.identity import files
from trunnel.settings import limits

_FLAGS: Final = os.O_RDWR | os.O_CREAT | getattr(os, "O_CLOEXEC", 0) | getattr(os, "O_NOFOLLOW", 0)
_BUSY: Final = (errno.EWOULDBLOCK, errno.EAGAIN, errno.EACCES, errno.EDEADLK)
_NO_NEW_FILE: Final = (errno.EROFS, errno.EACCES, errno.ENOSPC, getattr(errno, "EDQUOT", errno.ENOSPC))
_LOCKED_BYTE: Final = 1 << 30
"""Where the locked byte of Windows is: behind any content, because locked bytes cannot be read."""


class Holder(msgspec.Struct, frozen=True, kw_only=True):
    """Who holds a lock, as written in its file."""

    pid: int
    """Its process."""
    purpose: str = ""
    """What it does, for people: `exposing localhost:3000`."""
    since: datetime | None = None
    """When it took the lock, by the clock of the file system."""


@contextmanager
def lock_key(path: Path, *, purpose: str) -> Iterator[None]:
    """Hold the lock of the key file *path* while the body runs.

    Args:
        path: The key file; the lock is `PATH.lock`.
        purpose: What the key is used for, shown to the next one who wants it.

    Raises:
        AuthError: Another process, or this one, holds it; the text names it and says what to do.
        ConfigError: The lock file cannot be made.
    """
    files.open_folder(path.parent)
    with _attempt(path, purpose) as held:
        if not held:
            raise AuthError(_in_use(path, _read_holder(path)))
        yield


@contextmanager
def exclusive(path: Path) -> Iterator[None]:
    """Hold the lock for rewriting *path* while the body runs; wait up to `LOCK_WAIT` for it.

    Blocks the thread while it waits.

    Raises:
        ConfigError: The lock file cannot be made, or is held for too long.
    """
    files.open_folder(path.parent)
    for _ in range(int(limits.LOCK_WAIT / limits.LOCK_PAUSE)):
        with _attempt(path, f"rewriting {path.name}") as held:
            if held:
                yield
                return
        time.sleep(limits.LOCK_PAUSE)  # noqa: TID251 - bounded; this module blocks and says so
    raise ConfigError("", f"{path} is being rewritten by {_describe(_read_holder(path))} and does not come free")


def _lock_file_of(path: Path) -> Path:
    return path.with_name(f"{path.name}.lock")


def _in_use(path: Path, holder: Holder | None) -> str:
    return (
        f"the key '{path.stem}' is in use by {_describe(holder)}; "
        "stop it, or give this one a key of its own with --key-name NAME"
    )


def _describe(holder: Holder | None) -> str:
    if holder is None:
        return "another process"
    purpose = f" ({holder.purpose})" if holder.purpose else ""
    return f"process {holder.pid}{purpose}"


@contextmanager
def _attempt(path: Path, purpose: str) -> Iterator[bool]:
    """Try once to take the lock of *path*; yields whether it is held."""
    locked_by_kernel = capabilities.HAS_FLOCK or capabilities.HAS_MSVCRT_LOCKING
    with (_kernel_lock if locked_by_kernel else _pid_lock)(path, purpose) as held:
        yield held


@contextmanager
def _kernel_lock(path: Path, purpose: str) -> Iterator[bool]:
    """Lock an open file; closing it, here or by the end of the process, gives it back."""
    try:
        descriptor = _open_lock_file(path)
    except OSError as exc:
        raise _cannot_lock(path, exc) from exc
    try:
        try:
            (_flock if capabilities.HAS_FLOCK else _lock_byte)(descriptor)
        except OSError as exc:
            if exc.errno not in _BUSY:  # for example a network share without locks
                raise _cannot_lock(path, exc) from exc
            yield False
        else:
            _write_holder(descriptor, purpose)
            yield True
    finally:
        os.close(descriptor)


def _open_lock_file(path: Path) -> int:
    """Open what is locked for *path*: its lock file, or itself where no file can be made; raises OSError."""
    try:
        return os.open(_lock_file_of(path), _FLAGS, files.SECRET_MODE)
    except OSError as exc:
        if not capabilities.HAS_FLOCK or exc.errno not in _NO_NEW_FILE:
            raise
        with suppress(FileNotFoundError):
            return os.open(path, os.O_RDONLY | getattr(os, "O_CLOEXEC", 0))
        raise


def _cannot_lock(path: Path, error: OSError) -> ConfigError:
    return ConfigError("", f"cannot lock {_lock_file_of(path)}: {error.strerror}")


def _flock(descriptor: int) -> None:
    """Lock the whole file; raises OSError (EWOULDBLOCK) if another descriptor has it."""
    if sys.platform != "win32":
        import fcntl

        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def _lock_byte(descriptor: int) -> None:
    """Lock one byte; raises OSError (EACCES) if another descriptor has it."""
    if sys.platform == "win32":
        import msvcrt

        os.lseek(descriptor, _LOCKED_BYTE, os.SEEK_SET)
        msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)


@contextmanager
def _pid_lock(path: Path, purpose: str) -> Iterator[bool]:
    """Let the existence of the file be the lock, for platforms without locks on open files.

    Two processes that find the same dead holder at the same moment could both
    take over: the price of this fallback.
    """
    lock = _lock_file_of(path)
    holder = _read_holder(path)
    if holder is not None and not _lives(holder.pid):
        with suppress(FileNotFoundError):
            lock.unlink()
    try:
        descriptor = os.open(lock, _FLAGS | os.O_EXCL, files.SECRET_MODE)
    except FileExistsError:
        yield False
        return
    except OSError as exc:
        raise _cannot_lock(path, exc) from exc
    try:
        _write_holder(descriptor, purpose)
        os.close(descriptor)
        yield True
    finally:
        lock.unlink(missing_ok=True)


def _lives(pid: int) -> bool:
    """Whether a process has this id; True where asking is not possible."""
    if not capabilities.HAS_POSIX_MODES:
        return True  # on Windows os.kill would end it
    try:
        os.kill(pid, 0)
    except (ProcessLookupError, OverflowError):
        return False
    except PermissionError:
        return True
    return True


def _write_holder(descriptor: int, purpose: str) -> None:
    """Say in the lock file who we are; a full disk must not prevent the lock."""
    with suppress(OSError):
        os.ftruncate(descriptor, 0)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, b"\n")  # sets the time that is read next
        since = datetime.fromtimestamp(int(os.fstat(descriptor).st_mtime), UTC)
        os.lseek(descriptor, 0, os.SEEK_SET)
        os.write(descriptor, msgspec.json.encode(Holder(pid=os.getpid(), purpose=purpose, since=since)))


def _read_holder(path: Path) -> Holder | None:
    """Return who holds the lock of *path*; None if its file does not say (yet)."""
    try:
        content = files.read_guarded(_lock_file_of(path), limit=limits.LOCK_FILE_MAX, secret=False)
        return None if content is None else msgspec.json.decode(content, type=Holder)
    except (ConfigError, msgspec.DecodeError):
        return None
