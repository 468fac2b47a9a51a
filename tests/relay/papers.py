"""Certificates for a relay: an authority of the tests' own, and the files of a person."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec

from trunnel.clock import utc_now
from trunnel.identity.keys import IdentityKey, PrivateKey, subject_alternative_names
from trunnel.settings.relay import RelaySettings


def settings(folder: Path, **options: object) -> RelaySettings:
    return RelaySettings(state_dir=folder, **options)  # type: ignore[arg-type]


@dataclass(frozen=True)
class Pair:
    """A key and its chain."""

    key: PrivateKey
    chain: tuple[x509.Certificate, ...]

    @property
    def chain_pem(self) -> bytes:
        return b"".join(certificate.public_bytes(serialization.Encoding.PEM) for certificate in self.chain)

    @property
    def key_pem(self) -> bytes:
        return self.key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )


class Authority:
    """Issues what it is asked for."""

    def __init__(self) -> None:
        self._key = ec.generate_private_key(ec.SECP256R1())
        self._name = x509.Name([x509.NameAttribute(x509.NameOID.COMMON_NAME, "authority of the tests")])
        self.root = (
            self._builder(self._name, self._key.public_key(), -timedelta(days=1_000), timedelta(days=1_000))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .sign(self._key, hashes.SHA256())
        )

    def put_root(self, folder: Path) -> Path:
        """Write the root; returns its path."""
        path = folder / "root.pem"
        path.write_bytes(self.root.public_bytes(serialization.Encoding.PEM))
        return path

    def issue(
        self,
        *names: str,
        key: PrivateKey | None = None,
        start: timedelta = -timedelta(days=1),
        end: timedelta = timedelta(days=89),
    ) -> Pair:
        """Issue a certificate for *names* that is valid from now + *start* to now + *end*."""
        key = key or IdentityKey.generate().private_key
        subject = x509.Name([])
        leaf = (
            self._builder(subject, key.public_key(), start, end)  # type: ignore[arg-type]
            .add_extension(subject_alternative_names(names), critical=True)
            .sign(self._key, hashes.SHA256())
        )
        return Pair(key, (leaf,))

    def _builder(
        self, subject: x509.Name, key: ec.EllipticCurvePublicKey, start: timedelta, end: timedelta
    ) -> x509.CertificateBuilder:
        now = utc_now()
        return x509.CertificateBuilder(
            self._name, subject, key, x509.random_serial_number(), now + start, now + end
        ).add_extension(x509.SubjectKeyIdentifier.from_public_key(key), critical=False)


def put_pair(folder: Path, pair: Pair) -> dict[str, Path]:
    """Write *pair*, as an ACME client does; returns the options that name the files."""
    paths = {"tls_cert": folder / "cert.pem", "tls_key": folder / "key.pem"}
    paths["tls_key"].write_bytes(pair.key_pem)
    paths["tls_key"].chmod(0o600)
    paths["tls_cert"].write_bytes(pair.chain_pem)
    return paths
