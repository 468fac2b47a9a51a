"""Certificates of relays as they come: self-signed, by a CA, expired, for other names, by an inspecting network."""

from __future__ import annotations

import ipaddress
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtensionOID, NameOID

NOW = datetime(2026, 6, 1, 12, 0, tzinfo=UTC)
"""The time at which everything here happens."""
YEAR = timedelta(days=365)

Key = ec.EllipticCurvePrivateKey


def new_key() -> Key:
    return ec.generate_private_key(ec.SECP256R1())


def subject(cn: str, organisation: str = "") -> x509.Name:
    parts = [x509.NameAttribute(NameOID.ORGANIZATION_NAME, organisation)] if organisation else []
    return x509.Name([*parts, x509.NameAttribute(NameOID.COMMON_NAME, cn)])


def alternative_names(names: Sequence[str]) -> x509.SubjectAlternativeName:
    def parse(name: str) -> x509.GeneralName:
        try:
            return x509.IPAddress(ipaddress.ip_address(name))
        except ValueError:
            return x509.DNSName(name)

    return x509.SubjectAlternativeName([parse(name) for name in names])


@dataclass(kw_only=True)
class Authority:
    """A CA with a self-signed root, or one below another."""

    name: x509.Name
    key: Key = field(default_factory=new_key)
    parent: Authority | None = None
    is_ca: bool = True
    """False: its certificate says that it is none."""

    def __post_init__(self) -> None:
        """Make its certificate, by the parent or by itself."""
        signer = self.parent or self
        builder = (
            x509.CertificateBuilder(signer.name, self.name, self.key.public_key(), x509.random_serial_number())
            .not_valid_before(NOW - 10 * YEAR)
            .not_valid_after(NOW + 10 * YEAR)
            .add_extension(x509.BasicConstraints(ca=self.is_ca, path_length=None), critical=True)
        )
        self.certificate = builder.sign(signer.key, hashes.SHA256())

    def issue(
        self,
        key: Key,
        names: Sequence[str],
        *,
        start: datetime = NOW - timedelta(days=30),
        end: datetime = NOW + timedelta(days=60),
        purpose: x509.ObjectIdentifier | None = None,
    ) -> x509.Certificate:
        """Make a server's certificate for *names* (none: no subjectAltName)."""
        builder = (
            x509.CertificateBuilder(self.name, subject("relay"), key.public_key(), x509.random_serial_number())
            .not_valid_before(start)
            .not_valid_after(end)
        )
        if names:
            builder = builder.add_extension(alternative_names(names), critical=False)
        if purpose is not None:
            builder = builder.add_extension(x509.ExtendedKeyUsage([purpose]), critical=False)
        return builder.sign(self.key, hashes.SHA256())

    def issue_malformed(self, key: Key) -> x509.Certificate:
        """Make a certificate whose subjectAltName is no DER."""
        garbage = x509.UnrecognizedExtension(ExtensionOID.SUBJECT_ALTERNATIVE_NAME, b"\xff\xff")
        builder = (
            x509.CertificateBuilder(self.name, subject("relay"), key.public_key(), x509.random_serial_number())
            .not_valid_before(NOW)
            .not_valid_after(NOW + YEAR)
            .add_extension(garbage, critical=False)
        )
        return builder.sign(self.key, hashes.SHA256())

    def write(self, path: Path) -> Path:
        """Write the root as PEM."""
        path.write_bytes(self.certificate.public_bytes(Encoding.PEM))
        return path


def of_no_version(certificate: x509.Certificate) -> bytes:
    """Return the DER of *certificate* with a version that there is not: OpenSSL takes it, cryptography does not."""
    der = bytearray(certificate.public_bytes(Encoding.DER))
    version = bytes.fromhex("a003020102")  # [0] { INTEGER 2 } (RFC 5280 §4.1)
    der[der.index(version) + len(version) - 1] = 5
    return bytes(der)


def self_signed(key: Key, names: Sequence[str] = (), *, end: datetime = NOW + YEAR) -> x509.Certificate:
    """Make a certificate that nobody vouches for."""
    name = subject("relay")
    builder = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number())
        .not_valid_before(NOW - 2 * YEAR)
        .not_valid_after(end)
    )
    if names:
        builder = builder.add_extension(alternative_names(names), critical=False)
    return builder.sign(key, hashes.SHA256())
