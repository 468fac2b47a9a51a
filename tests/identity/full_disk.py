"""A disk without room: a small file system of its own, where we may mount one."""

from __future__ import annotations

import errno
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Final

import pytest

from tests.peers import require_program

SIZE: Final = 128 * 1024
"""Bytes of the disk."""
PAGE: Final = 4096


@contextmanager
def small_disk(folder: Path) -> Iterator[Path]:
    """Mount a file system of `SIZE` bytes at *folder*; skips where that is not allowed."""
    if sys.platform != "linux":
        pytest.skip("tmpfs is Linux's")
    mount, umount = require_program("mount"), require_program("umount")
    folder.mkdir()
    command: list[str | Path] = [mount, "-t", "tmpfs", "-o", f"size={SIZE},mode=0700", "tmpfs", folder]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("no right to mount a file system")
    try:
        yield folder
    finally:
        subprocess.run([umount, "-l", folder], check=True)


def fill(folder: Path, *, left: int = 0) -> Path:
    """Leave *left* pages of room in the file system of *folder*; return what fills the rest."""
    ballast = folder / "ballast"
    with ballast.open("wb", buffering=0) as file:
        while True:
            try:
                file.write(bytes(PAGE))
            except OSError as exc:
                if exc.errno != errno.ENOSPC:
                    raise
                break
        file.truncate(file.tell() - left * PAGE)
    return ballast
