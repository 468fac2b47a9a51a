"""The certificate that the relay shows now, and how another takes its place.

One holder, asked at each new handshake: TLS with agents, QUIC, and visitors of
the relay's own names.  `replace` puts another certificate in; connections that
there are go on with what they were shown (TLS shows a certificate once).  Who
has to act on a change, follows (`followed`); that is synchronous, so that no
handshake falls in between.

Where certificates come from:

    self-signed      the relay's own key; at every start, and remade before its end
    files            `tls_cert` and `tls_key` of a person; read again when they change
    ACME             for `acme_domains`, with the relay's own key: the id stays

With ACME the stored certificate is shown at once; before the first one, and
when the stored one has ended, the self-signed one is.  `certificate_watch` has
the tasks.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Final, final

import trio

from trunnel.clock import utc_now
from trunnel.errors import ConfigError, LocalProtocolError
from trunnel.identity.certstore import IssuedStore, Leaf
from trunnel.identity.keys import IdentityKey
from trunnel.relay.credentials import RelayCredentials, Source, credentials_of, given, require_issuable, self_signed
from trunnel.settings.relay import RelaySettings

logger = logging.getLogger(__name__)

ISSUED_FOLDER: Final = "issued"
"""Folder of the state folder with certificates from an authority, in a folder for each key of the relay."""

Follower = Callable[[RelayCredentials], None]
"""Takes what is shown from now on; must not block or raise."""


@final
class RelayCertificate:
    """Holds what the relay shows.

    Args:
        credentials: What is shown first.
        identity: The relay's own key; None where a person's files bring another.
    """

    def __init__(self, credentials: RelayCredentials, identity: IdentityKey | None = None) -> None:
        self._current = credentials
        self.identity = identity
        self._followers: list[Follower] = []
        self._replaced = trio.Event()

    @property
    def current(self) -> RelayCredentials:
        """What the next handshake shows."""
        return self._current

    def replace(self, credentials: RelayCredentials) -> None:
        """Show *credentials* from the next handshake on.  No connection is touched."""
        self._current = credentials
        for follower in tuple(self._followers):
            follower(credentials)
        self._replaced.set()
        self._replaced = trio.Event()
        logger.info("relay_certificate_shown", extra=described(credentials))

    def show_issued(self, leaf: Leaf) -> None:
        """Show what an authority has issued for the relay's own key; no effect if it is shown already."""
        if leaf.chain == self._current.leaf.chain:
            return
        fresh = credentials_of(leaf, Source.ACME)
        if self.identity is None or fresh.relay_id != self.identity.key_id:
            raise LocalProtocolError("an authority certified another key than the relay's")
        self.replace(fresh)

    async def wait_replaced(self) -> None:
        """Wait for the next `replace`.  Cancellation: no effect."""
        await self._replaced.wait()

    @contextmanager
    def followed(self, follower: Follower) -> Iterator[None]:
        """Tell *follower* what is shown now, and at each change, while the body runs."""
        follower(self._current)
        self._followers.append(follower)
        try:
            yield
        finally:
            self._followers.remove(follower)


def load_certificate(settings: RelaySettings) -> RelayCertificate:
    """Load the best that there is: files, what was issued, or a self-signed one.

    The relay's own key is made at the first start.  Blocks for as long as the disk takes.

    Raises:
        ConfigError: A file is missing or unusable, or no authority certifies the relay's key.
    """
    if settings.tls_cert is not None:
        return RelayCertificate(given(settings))
    identity = IdentityKey.load_or_create(settings.key_path)
    issued = None
    if settings.acme_domains:
        require_issuable(identity)
        issued = _stored(issued_store(settings, identity), settings)
    return RelayCertificate(issued or self_signed(settings, identity, now=utc_now()), identity)


def described(credentials: RelayCredentials) -> dict[str, str]:
    """Return what logs say of a certificate."""
    return {
        "source": credentials.source.value,
        "relay_id": credentials.relay_id.value,
        "not_after": credentials.leaf.not_after.isoformat(),
    }


def issued_store(settings: RelaySettings, identity: IdentityKey) -> IssuedStore:
    """Return where certificates from an authority are kept: with another key, there are none yet."""
    return IssuedStore(settings.state_dir / ISSUED_FOLDER / identity.key_id.value)


def _stored(store: IssuedStore, settings: RelaySettings) -> RelayCredentials | None:
    """Return what was issued before; None if there is none, or it has ended."""
    leaf = store.load(settings.acme_domains)
    if leaf is None or leaf.not_after <= utc_now():
        return None
    try:
        return credentials_of(leaf, Source.ACME)
    except ConfigError as exc:
        logger.warning("issued_certificate_unusable", extra={"path": str(leaf.path), "reason": exc.reason})
        return None
