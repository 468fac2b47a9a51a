"""Account files: one a directory, 0600, never lost to a race or to another directory."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import msgspec
import pytest

from trunnel.acme.account import Account, AccountFile, account_file_name
from trunnel.errors import ConfigError

DIRECTORY = "https://ca.example/directory"


def test_account_is_made_once(tmp_path: Path) -> None:
    file = AccountFile(tmp_path / "acme", DIRECTORY)
    account = file.load_or_create()
    assert (account.url, account.next_signer) == (None, None)
    assert AccountFile(tmp_path / "acme", DIRECTORY).load_or_create() == account
    assert account.signer.thumbprint == file.load_or_create().signer.thumbprint


@pytest.mark.may_skip("modes of POSIX")
def test_file_and_folder_are_closed_to_others(tmp_path: Path) -> None:
    file = AccountFile(tmp_path / "acme", DIRECTORY)
    file.load_or_create()
    assert file.path.stat().st_mode & 0o777 == 0o600
    assert file.path.parent.stat().st_mode & 0o777 == 0o700
    file.path.chmod(0o644)
    with pytest.raises(ConfigError, match="chmod 600"):
        file.load_or_create()


def test_each_directory_has_its_file(tmp_path: Path) -> None:
    others = [DIRECTORY, f"{DIRECTORY}/", "https://ca.example:14000/directory", "https://other.example/directory"]
    assert len({account_file_name(url) for url in others}) == len(others)
    assert account_file_name(DIRECTORY).startswith("ca.example-")
    assert account_file_name("https://[::1]:14000/../x").startswith("--1-")
    assert {AccountFile(tmp_path, url).load_or_create().key for url in others}.__len__() == len(others)


def test_account_of_another_directory_is_not_used(tmp_path: Path) -> None:
    file, other = AccountFile(tmp_path, DIRECTORY), AccountFile(tmp_path, f"{DIRECTORY}/2")
    file.load_or_create()
    file.path.rename(other.path)
    with pytest.raises(ConfigError, match="another directory"):
        other.load_or_create()


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", b"[" * 10_000])
def test_file_that_is_no_account_is_not_replaced(tmp_path: Path, content: bytes) -> None:
    """An account may be worth more than a fresh start: a person decides."""
    file = AccountFile(tmp_path, DIRECTORY)
    file.path.write_bytes(content)
    file.path.chmod(0o600)
    with pytest.raises(ConfigError, match="no account file"):
        file.load_or_create()
    assert file.path.read_bytes() == content


def test_account_that_changed_meanwhile_is_not_overwritten(tmp_path: Path) -> None:
    """Another process gave it another key: that one counts."""
    file = AccountFile(tmp_path, DIRECTORY)
    known = file.load_or_create()
    other = file.save(
        msgspec.structs.replace(known, key=AccountFile(tmp_path, "https://x.example").load_or_create().key), known=known
    )
    assert file.save(msgspec.structs.replace(known, url="https://ca.example/1"), known=known) == other
    assert file.load_or_create() == other


def test_two_processes_make_one_account(tmp_path: Path) -> None:
    program = (
        "import sys, pathlib; from trunnel.acme.account import AccountFile;"
        f"print(AccountFile(pathlib.Path(sys.argv[1]), {DIRECTORY!r}).load_or_create().signer.thumbprint)"
    )
    command = [sys.executable, "-W", "error", "-c", program, str(tmp_path)]
    running = [subprocess.Popen(command, stdout=subprocess.PIPE, text=True) for _ in range(3)]
    assert len({process.communicate()[0] for process in running}) == 1
    assert [process.returncode for process in running] == [0, 0, 0]


def test_secrets_are_not_shown(tmp_path: Path) -> None:
    account = AccountFile(tmp_path, DIRECTORY).load_or_create()
    assert "PRIVATE" not in repr(account)
    assert "PRIVATE" in account.key


def test_next_key_is_read_too(tmp_path: Path) -> None:
    account = AccountFile(tmp_path, DIRECTORY).load_or_create()
    both = Account(directory=DIRECTORY, key=account.key, next_key=account.key)
    assert both.next_signer is not None
    assert both.next_signer.thumbprint == account.signer.thumbprint
