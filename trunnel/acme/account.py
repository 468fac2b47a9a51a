"""Account files: one for each directory, with the key that speaks for us there.

    CREDS/HOST-DIGEST.json   0600, in a folder 0700: {directory, key, url, contact, next_key}

The name has the directory's host for people, and a digest of its URL, because
one host may have several directories.  The file is written before an account
is asked for: a key that the server knows and we do not would be an account
lost.  For the same reason `next_key` is written before a change of keys is
asked for, and taken over only once the server has said yes; who finds one
there asks the server which of the two it knows (`acme.client`).

Processes that share the folder share the account: reading and making is done
under a lock, and asking for an account with a key that has one returns it.

All functions block for as long as the disk takes.
"""

from __future__ import annotations

import hashlib
import re
from pathlib import Path
from typing import Final, final
from urllib.parse import urlsplit

import msgspec

from trunnel.acme.jws import AccountKey
from trunnel.errors import ConfigError
from trunnel.identity.files import atomic_write, open_folder, read_guarded
from trunnel.identity.locking import exclusive
from trunnel.settings import limits

_DIGEST_CHARS: Final = 10
_STEM_CHARS: Final = 80


@final
class Account(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """What is known of an account."""

    directory: str
    """URL of the directory."""
    key: str
    """PEM of its key.  Secret."""
    url: str | None = None
    """Its own URL; None: not asked for yet."""
    contact: str | None = None
    """The address that the server has."""
    next_key: str | None = None
    """PEM of a key that a change was asked for, while nobody knows how that ended.  Secret."""

    def __repr__(self) -> str:
        return f"Account({self.directory!r}, url={self.url!r})"

    @property
    def signer(self) -> AccountKey:
        """The key; raises ConfigError if it is none."""
        return AccountKey.from_pem(self.key.encode())

    @property
    def next_signer(self) -> AccountKey | None:
        """The key of a change that was not finished; raises ConfigError if it is none."""
        return None if self.next_key is None else AccountKey.from_pem(self.next_key.encode())


@final
class AccountFile:
    """Where the account of one directory is kept."""

    def __init__(self, folder: Path, directory: str) -> None:
        self._directory = directory
        self.path = folder / account_file_name(directory)

    def load_or_create(self) -> Account:
        """Read the account; make its file, with a new key, if there is none.

        Raises:
            ConfigError: It cannot be made, is open to others, or is no account of this directory.
        """
        open_folder(self.path.parent)
        with exclusive(self.path):
            account = self._load()
            if account is None:
                account = Account(directory=self._directory, key=AccountKey.generate().to_pem().decode())
                self._write(account)
            return account

    def save(self, account: Account, *, known: Account) -> Account:
        """Write *account* in place of what was *known*.

        Returns:
            What the file holds now: another process's account if one wrote in between.

        Raises:
            ConfigError: It cannot be written; nothing changed.
        """
        with exclusive(self.path):
            held = self._load()
            if held is not None and held.key != known.key:
                return held
            self._write(account)
            return account

    def _load(self) -> Account | None:
        content = read_guarded(self.path, limit=limits.KEY_FILE_MAX, secret=True)
        if content is None:
            return None
        try:
            account = msgspec.json.decode(content, type=Account)
        except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as exc:
            raise ConfigError("", f"{self.path} is no account file; remove it to have a new account made") from exc
        if account.directory != self._directory:
            raise ConfigError("", f"{self.path} is the account of another directory, {account.directory!a}")
        return account

    def _write(self, account: Account) -> None:
        atomic_write(self.path, msgspec.json.format(msgspec.json.encode(account), indent=2) + b"\n")


def account_file_name(directory: str) -> str:
    """Return the name of the file for the account of *directory*, a URL."""
    host = re.sub(r"[^a-z0-9.-]", "-", (urlsplit(directory).hostname or "").lower())[:_STEM_CHARS]
    digest = hashlib.sha256(directory.encode()).hexdigest()[:_DIGEST_CHARS]
    return f"{host}-{digest}.json"
