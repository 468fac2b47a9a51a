"""The lock of a key: exclusive among processes, gone with the process, and it says who holds it."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest

from tests.identity.processes import next_line, running
from trunnel import capabilities
from trunnel.errors import AuthError, ConfigError
from trunnel.identity import locking
from trunnel.identity.locking import exclusive, lock_key
from trunnel.settings import limits

HOLD = """
import sys
from pathlib import Path
from trunnel.identity.locking import lock_key
with lock_key(Path(sys.argv[1]), purpose="exposing localhost:3000"):
    print("held", flush=True)
    sys.stdin.read()
"""

HOLD_BY_PID_FILE = "from trunnel import capabilities; capabilities.HAS_FLOCK = False\n" + HOLD

ADD_ONE = """
import sys
from pathlib import Path
from trunnel.identity.locking import exclusive
path = Path(sys.argv[1])
for _ in range(int(sys.argv[2])):
    with exclusive(path):
        path.write_text(str(int(path.read_text()) + 1))
"""


@pytest.fixture
def key(tmp_path: Path) -> Path:
    return tmp_path / "default.pem"


@pytest.fixture
def pid_files(monkeypatch: pytest.MonkeyPatch) -> None:
    """Switch off the locks of the kernel."""
    monkeypatch.setattr(capabilities, "HAS_FLOCK", False)
    monkeypatch.setattr(capabilities, "HAS_MSVCRT_LOCKING", False)


def test_the_second_process_is_told_who_the_first_is_and_what_to_do(key: Path) -> None:
    with running(HOLD, key) as holder:
        assert next_line(holder) == "held"
        with pytest.raises(AuthError) as caught, lock_key(key, purpose="exposing localhost:4000"):
            pytest.fail("two hold one key")
    assert str(caught.value) == (
        f"the key 'default' is in use by process {holder.pid} (exposing localhost:3000); "
        "stop it, or give this one a key of its own with --key-name NAME"
    )


def test_the_lock_file_says_who_what_and_since_when(key: Path) -> None:
    with lock_key(key, purpose="exposing localhost:3000"):
        holder = json.loads(key.with_name("default.pem.lock").read_text())
    assert holder.keys() == {"pid", "purpose", "since"}
    assert (holder["pid"], holder["purpose"]) == (os.getpid(), "exposing localhost:3000")


@pytest.mark.parametrize("script", [HOLD, HOLD_BY_PID_FILE], ids=["kernel", "pid-file"])
def test_the_lock_ends_with_a_killed_process(key: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    if script is HOLD_BY_PID_FILE:
        monkeypatch.setattr(capabilities, "HAS_FLOCK", False)
    with running(script, key) as holder:
        assert next_line(holder) == "held"
        with pytest.raises(AuthError, match=f"process {holder.pid} "), lock_key(key, purpose=""):
            pytest.fail("two hold one key")
        holder.kill()
        holder.wait()
        with lock_key(key, purpose="the next one"):
            pass


def test_the_same_process_cannot_hold_a_key_twice(key: Path) -> None:
    with (
        lock_key(key, purpose="first"),
        pytest.raises(AuthError, match="first"),
        lock_key(key, purpose="second"),
    ):
        pytest.fail("one key is held twice")


def test_a_key_can_be_held_again_after_it_was_given_back(key: Path) -> None:
    for _ in range(3):
        with lock_key(key, purpose="once more"):
            pass


def test_two_keys_of_one_folder_do_not_meet(tmp_path: Path) -> None:
    with lock_key(tmp_path / "a.pem", purpose=""), lock_key(tmp_path / "b.pem", purpose=""):
        pass


def test_an_error_in_the_body_passes_and_gives_the_lock_back(key: Path) -> None:
    with pytest.raises(ZeroDivisionError), lock_key(key, purpose=""):
        raise ZeroDivisionError
    with lock_key(key, purpose=""):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"pid":"x"}', "\0" * 9_000])
def test_a_lock_file_that_says_nothing_still_locks(key: Path, content: str) -> None:
    with running(HOLD, key) as holder:
        assert next_line(holder) == "held"
        key.with_name("default.pem.lock").write_text(content)
        with pytest.raises(AuthError, match="in use by another process;"), lock_key(key, purpose=""):
            pytest.fail("two hold one key")


def test_a_symbolic_link_in_place_of_the_lock_file_is_refused(key: Path, tmp_path: Path) -> None:
    victim = tmp_path / "victim"
    victim.write_text("precious")
    key.with_name("default.pem.lock").symlink_to(victim)
    with pytest.raises(ConfigError, match="cannot lock"), lock_key(key, purpose=""):
        pytest.fail("the lock is elsewhere")
    assert victim.read_text() == "precious"


def test_where_no_lock_file_can_be_made_the_key_itself_is_locked(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    key.write_text("key")
    really_open = os.open

    def read_only(path: str | Path, flags: int, mode: int = 0o777) -> int:
        if flags & (os.O_RDWR | os.O_WRONLY):
            raise PermissionError(13, "Permission denied")
        return really_open(path, flags, mode)

    monkeypatch.setattr(os, "open", read_only)
    with (
        lock_key(key, purpose="first"),
        pytest.raises(AuthError, match="in use by another process"),
        lock_key(key, purpose="second"),
    ):
        pytest.fail("one key is held twice")
    assert key.read_text() == "key"


def test_a_file_system_without_locks_is_an_error_that_says_so(key: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def unsupported(descriptor: int) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(locking, "_flock", unsupported)
    with pytest.raises(ConfigError, match="Operation not supported"), lock_key(key, purpose=""):
        pytest.fail("not locked")


# --- without locks of the kernel ---------------------------------------------------------------


def test_a_pid_file_excludes_and_is_removed(key: Path, pid_files: None) -> None:
    with (
        lock_key(key, purpose="first"),
        pytest.raises(AuthError, match=rf"process {os.getpid()} \(first\)"),
        lock_key(key, purpose="second"),
    ):
        pytest.fail("one key is held twice")
    assert not key.with_name("default.pem.lock").exists()


def test_where_asking_for_a_process_is_not_possible_its_pid_file_counts(
    key: Path, pid_files: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    with running("pass") as gone:
        gone.wait()
    lock = key.with_name("default.pem.lock")
    lock.write_text(json.dumps({"pid": gone.pid}))
    monkeypatch.setattr(capabilities, "HAS_POSIX_MODES", False)
    with pytest.raises(AuthError, match=f"process {gone.pid}"), lock_key(key, purpose=""):
        pytest.fail("taken over without asking")


# --- rewriting -----------------------------------------------------------------------------------


def test_rewriters_wait_for_each_other(tmp_path: Path) -> None:
    rounds = 50
    counter = tmp_path / "counter"
    counter.write_text("0")
    with running(ADD_ONE, counter, rounds), running(ADD_ONE, counter, rounds):
        pass
    assert counter.read_text() == str(2 * rounds)


def test_a_rewriter_that_never_ends_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "LOCK_WAIT", 3 * limits.LOCK_PAUSE)
    path = tmp_path / "file"
    with exclusive(path), pytest.raises(ConfigError, match=f"process {os.getpid()}"), exclusive(path):
        pytest.fail("two rewrite one file")


def test_a_rewriter_gets_the_lock_once_the_other_has_finished(tmp_path: Path) -> None:
    path = tmp_path / "file.pem"
    with running(HOLD, path) as holder:
        assert next_line(holder) == "held"
        assert holder.stdin is not None
        holder.stdin.close()  # it ends now, at some moment while we wait
        with exclusive(path):
            pass
    assert holder.returncode == 0
