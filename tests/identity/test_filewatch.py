"""Noticing that files have changed."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
import trio

from trunnel import capabilities
from trunnel.identity.filewatch import FileWatch, look


@pytest.mark.skipif(not capabilities.HAS_POSIX_MODES, reason="inodes")
def test_the_identity_of_a_file_knows_its_inode(tmp_path: Path) -> None:
    """`cp -p` and configuration tools keep size and time; a new file is a change all the same."""
    path, other = tmp_path / "one", tmp_path / "other"
    path.write_text("a")
    before, times = look(path), path.stat()
    other.write_text("b")
    os.utime(other, ns=(times.st_atime_ns, times.st_mtime_ns))
    other.replace(path)
    after = look(path)
    assert before is not None
    assert after is not None
    assert before[1:3] == after[1:3]
    assert before != after
    path.unlink()
    assert look(path) is None


@pytest.mark.skipif(not capabilities.HAS_POSIX_MODES, reason="modes")
def test_a_change_of_mode_is_a_change(tmp_path: Path) -> None:
    """It may be the one that an error asked for."""
    path = tmp_path / "one"
    path.touch(mode=0o644)
    before = look(path)
    path.chmod(0o600)
    assert look(path) != before


async def test_a_change_of_any_file_ends_the_wait_and_nothing_else_does(tmp_path: Path) -> None:
    """A file that appears or vanishes has changed, too."""
    one, two = tmp_path / "one", tmp_path / "two"
    one.write_text("a")
    watch = FileWatch(one, two, poll=0.001)
    await watch.begin()
    for change in (lambda: two.write_text("b"), lambda: one.write_text("longer"), two.unlink):
        with trio.move_on_after(0.05) as quiet:
            await watch.wait_changed()
        assert quiet.cancelled_caught
        change()
        with trio.fail_after(5):
            await watch.wait_changed()
