"""Leaf certificates: what visitors see when the agent ends their TLS.

Each set of names has a leaf key of its own, so that whatever terminates TLS
never needs the identity key (DESIGN §4; the identity key stays in the main
process).  The leaf is self-signed and still proves the agent's id: extension
`LEAF_PROOF_OID` is the identity key's signature under

    b"trunnel leaf key v1" 00 leaf-SPKI

(the canonical SubjectPublicKeyInfo, DER; signed as `IdentityKey.sign` does).

The certificate is made so that a client that gets its PEM as a trust anchor
(`curl --cacert`) accepts it for its names and for nothing else: it is no CA,
its purpose is serverAuth, and it lasts 397 days, the longest that browsers
take.

In the folder: `HOST.pem`, the certificate, and `HOST.key`, 0600; HOST is the
first name.  A leaf is made anew when its names, its key or its proof do not
fit, when it nears its end, or when it starts in the future (the clock was set
back).  A key file that others could read is not repaired but replaced, with
the key.  Key and certificate are two files, both finished before either gets
its name: a full disk leaves the old pair.  One that does not match (a crash
between the two renames) counts as missing.

Certificates of authorities are in `issued`, a person's in `pempair`; their names
are here too, for whoever asks the certificate store.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import datetime, timedelta
from pathlib import Path
from typing import Final, final

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID

from trunnel.errors import ConfigError, RemoteProtocolError
from trunnel.identity import files
from trunnel.identity.files import atomic_write
from trunnel.identity.issued import IssuedStore
from trunnel.identity.keys import (
    LEAF_PROOF_OID,
    IdentityKey,
    signature_hash,
    spki_of,
    subject_alternative_names,
    unknown_extension,
    verify_signature,
)
from trunnel.identity.leaf import Leaf, fingerprint_of, stem_of
from trunnel.identity.locking import exclusive
from trunnel.identity.pempair import read_pem_pair
from trunnel.names import Hostname, KeyId
from trunnel.settings import limits

__all__ = ["IssuedStore", "Leaf", "LeafStore", "atomic_write", "leaf_certificate", "leaf_proves", "read_pem_pair"]

logger = logging.getLogger(__name__)

_PROOF_DOMAIN: Final = b"trunnel leaf key v1\0"
_SUBJECT: Final = "trunnel endpoint"
_CERTIFICATE_MODE: Final = 0o644


@final
class LeafStore:
    """The leaves of one identity, kept in a folder.

    Methods block for as long as the disk takes.
    """

    def __init__(self, directory: Path, identity: IdentityKey) -> None:
        self._directory = directory
        self._identity = identity

    def leaf(self, names: Sequence[Hostname], *, now: datetime) -> Leaf:
        """Return the leaf for *names*: the stored one, or a new one if that does not fit.

        Args:
            names: One or more; the first names the files.
            now: The time, with its zone.

        Returns:
            A leaf that fits; one that nears its end if the disk has no room for its successor.

        Raises:
            ConfigError: Nothing usable is stored and nothing can be.
            ValueError: `names` is empty.
        """
        if not names:
            raise ValueError("a leaf needs a name")
        wanted = tuple(dict.fromkeys(names))
        path = self._directory / f"{stem_of(wanted[0])}.pem"
        with exclusive(path):
            stored = self._stored(path, wanted)
            if stored is not None and _is_current(stored, now, left=timedelta(days=limits.LEAF_RENEW_DAYS)):
                return stored
            if stored is not None and (problem := stored.period_problem(now)):
                logger.warning("leaf replaced", extra={"path": str(path), "reason": problem})
            try:
                return self._make(path, wanted, now)
            except ConfigError as exc:
                if stored is None or not _is_current(stored, now, left=timedelta()):
                    raise
                logger.warning("leaf not renewed", extra={"path": str(path), "reason": exc.reason})
                return stored

    def _make(self, path: Path, names: tuple[Hostname, ...], now: datetime) -> Leaf:
        """Make and store a leaf; raises ConfigError if it cannot be stored."""
        key = IdentityKey.generate()
        certificate = leaf_certificate(key, self._identity, names=names, now=now)
        files.write_together(
            files.Content(path.with_suffix(".key"), key.to_pem(), files.SECRET_MODE),
            files.Content(path, certificate.public_bytes(Encoding.PEM), _CERTIFICATE_MODE),
        )
        return _leaf(key, certificate, path, names)

    def _stored(self, path: Path, names: tuple[Hostname, ...]) -> Leaf | None:
        """Return what is stored if it is sound and for *names*, whatever its period; else None."""
        try:
            key = IdentityKey.load(path.with_suffix(".key"))
            pem = files.read_guarded(path, limit=limits.KEY_FILE_MAX, secret=False)
        except ConfigError as exc:
            if path.exists():
                logger.warning("leaf replaced", extra={"path": str(path), "reason": exc.reason})
            return None
        try:
            certificate = x509.load_pem_x509_certificate(pem or b"")
            fits = spki_of(certificate) == key.spki and certificate.extensions.get_extension_for_class(
                x509.SubjectAlternativeName
            ).value == subject_alternative_names([name.value for name in names])
            proven = leaf_proves(certificate, self._identity.key_id, self._identity.spki)
        except (ValueError, x509.InvalidVersion, x509.ExtensionNotFound, RemoteProtocolError):
            return None
        return _leaf(key, certificate, path, names) if fits and proven else None


def leaf_certificate(
    key: IdentityKey, identity: IdentityKey, *, names: Sequence[Hostname], now: datetime
) -> x509.Certificate:
    """Make the self-signed certificate of the leaf key *key*, with *identity*'s proof.

    Args:
        key: The leaf's own key.
        identity: The agent's.
        names: Host names for the subjectAltName, one or more.
        now: The time, with its zone; the certificate starts a day earlier.

    Source: RFC 5280 §4.2.1; for a leaf as its own trust anchor, RFC 5280 §6.1 (d).
    """
    name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, _SUBJECT)])
    public_key = key.private_key.public_key()
    start = now - timedelta(days=limits.BACKDATE_DAYS)
    builder = (
        x509.CertificateBuilder(subject_name=name, issuer_name=name, public_key=public_key)
        .serial_number(x509.random_serial_number())
        .not_valid_before(start)
        .not_valid_after(start + timedelta(days=limits.LEAF_VALIDITY_DAYS))
        .add_extension(subject_alternative_names([host.value for host in names]), critical=False)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .add_extension(x509.SubjectKeyIdentifier.from_public_key(public_key), critical=False)
        .add_extension(x509.UnrecognizedExtension(LEAF_PROOF_OID, identity.sign(_PROOF_DOMAIN + key.spki)), False)
    )
    return builder.sign(key.private_key, signature_hash(key.private_key))


def leaf_proves(certificate: x509.Certificate, key_id: KeyId, spki: bytes) -> bool:
    """Whether the leaf *certificate* was vouched for by the identity *key_id*.

    Args:
        certificate: A leaf, of whatever origin.
        key_id: The identity asked about.
        spki: Its SubjectPublicKeyInfo, DER; must hash to `key_id`.

    Returns:
        False for anything malformed, too.
    """
    if KeyId.of_spki(spki) != key_id:
        return False
    try:
        proof = unknown_extension(certificate, LEAF_PROOF_OID)
        return verify_signature(spki, proof, _PROOF_DOMAIN + spki_of(certificate))
    except RemoteProtocolError:
        return False


def _leaf(key: IdentityKey, certificate: x509.Certificate, path: Path, names: tuple[Hostname, ...]) -> Leaf:
    return Leaf(
        private_key=key.private_key,
        chain=(certificate,),
        path=path,
        fingerprint=fingerprint_of(certificate),
        names=names,
    )


def _is_current(leaf: Leaf, now: datetime, *, left: timedelta) -> bool:
    """Whether *leaf* is valid now and for *left* more."""
    return leaf.not_before <= now and now + left < leaf.not_after
