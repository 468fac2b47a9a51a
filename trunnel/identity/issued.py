"""Certificates that an authority has issued for us, kept in a folder.

One file for each set of names, `HOST.issued.pem`: the key, then the chain.  One
file, because two cannot be exchanged in one step: whoever reads finds the old
pair or the new one, never halves of both, whatever else happens (a full disk, a
power cut, kill -9, two processes that write at once).  So readers need no lock.

`load` judges what is there as a stranger's: mode, owner, symbolic links, names,
and that key and certificate belong together.  What fails is not repaired but
said in the log, and counts as missing.  The period is no matter: a certificate
that has ended is still better than none where the clock is wrong.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Final, final

from cryptography import x509

from trunnel.errors import ConfigError
from trunnel.identity import files
from trunnel.identity.leaf import Leaf, ServerKey, stem_of
from trunnel.identity.locking import exclusive
from trunnel.identity.pempair import encode_pem_pair, parse_pem_pair
from trunnel.names import Hostname
from trunnel.settings import limits

logger = logging.getLogger(__name__)

_SUFFIX: Final = ".issued.pem"


@final
class IssuedStore:
    """The issued certificates in one folder.

    Methods block for as long as the disk takes.
    """

    def __init__(self, directory: Path) -> None:
        self._directory = directory

    def load(self, names: Sequence[Hostname]) -> Leaf | None:
        """Return the pair that is stored for exactly *names*, whatever its period.

        Returns:
            1. The leaf.
            2. None: there is none, or what is there cannot be used, which is logged.
        """
        path = self.path(names)
        try:
            pem = files.read_guarded(path, limit=limits.KEY_FILE_MAX, secret=True)
            return None if pem is None else _parse(pem, path, names)
        except ConfigError as exc:
            logger.warning("issued_certificate_unusable", extra={"path": str(path), "reason": exc.reason})
            return None

    def related(self, names: Sequence[Hostname]) -> list[Leaf]:
        """Return the pairs that are stored for some of *names*, whatever else they are for, the longest valid first.

        They are what there is while the names that are wanted have changed.
        """
        found: list[Leaf] = []
        for path in itertools.islice(sorted(self._directory.glob(f"*{_SUFFIX}")), limits.ISSUED_FILES_MAX):
            try:
                pem = files.read_guarded(path, limit=limits.KEY_FILE_MAX, secret=True)
                leaf = None if pem is None else parse_pem_pair(pem, pem, cert=path, key=path)
            except ConfigError as exc:
                logger.info("issued_certificate_unusable", extra={"path": str(path), "reason": exc.reason})
                continue
            if leaf is not None and not set(leaf.names).isdisjoint(names):
                found.append(leaf)
        return sorted(found, key=lambda leaf: leaf.not_after, reverse=True)

    def save(self, names: Sequence[Hostname], key: ServerKey, chain: Sequence[x509.Certificate]) -> Leaf:
        """Keep a certificate; it is on the disk when this returns.

        Args:
            names: What it is for; the first names the file.
            key: Its private key.
            chain: The certificate first, then its issuers.

        Raises:
            ConfigError: It could not be written, or is not for this key and these names; nothing changed.
        """
        path = self.path(names)
        pem = encode_pem_pair(key, tuple(chain))
        leaf = _parse(pem, path, names)
        if len(pem) > limits.KEY_FILE_MAX:
            raise ConfigError("", f"a chain of {len(pem):,} bytes: {limits.KEY_FILE_MAX:,} are kept at most")
        with exclusive(path):
            files.atomic_write(path, pem, mode=files.SECRET_MODE)
        return leaf

    def path(self, names: Sequence[Hostname]) -> Path:
        """Return the file for *names*, which need not be there; raises ValueError if there is none."""
        if not names:
            raise ValueError("a certificate needs a name")
        return self._directory / f"{stem_of(names[0])}{_SUFFIX}"


def _parse(pem: bytes, path: Path, names: Sequence[Hostname]) -> Leaf:
    """Return what *pem* holds; raises ConfigError unless it is a pair for exactly *names*."""
    leaf = parse_pem_pair(pem, pem, cert=path, key=path)
    if leaf.wildcards or set(leaf.names) != set(names):
        found = ", ".join([*map(str, leaf.names), *(f"*.{wildcard}" for wildcard in leaf.wildcards)])
        raise ConfigError("", f"the certificate is for {found or 'no host name'}, not for {', '.join(map(str, names))}")
    return leaf
