"""What a real TLS server makes of the same bytes: two builds of OpenSSL as oracles.

A server calls its SNI callback once the structure of the hello is accepted, with
the name or with None; a refusal before that is a structural one, unless its
reason is in `NOT_STRUCTURAL`.  The handshake is aborted from the callback, so
that a judgement costs no key exchange.
"""

from __future__ import annotations

import datetime as dt
import ssl
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Protocol, final

from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

INCOMPLETE: Final = "INCOMPLETE"
"""The server waits for more bytes."""
NOT_ASCII: Final = "NAME_NOT_ASCII"
"""A name was reported that Python's `ssl` cannot express."""

NOT_STRUCTURAL: Final[dict[str, str]] = {
    "NO_SHARED_CIPHER": "the server has none of the offered ciphers; TLS 1.3 finds that out before it reads extensions",
    "UNSUPPORTED_PROTOCOL": "no offered version is one of the server's",
    "VERSION_TOO_LOW": "the same, for hellos without supported_versions",
    "INAPPROPRIATE_FALLBACK": "TLS_FALLBACK_SCSV below the server's highest version: a policy (RFC 7507)",
    "BAD_ECPOINT": "the key in a share is no point of its curve: cryptography, which only the terminator does",
    "POINT_IS_NOT_ON_CURVE": "the same, as newer versions say it",
    "INVALID_KEY": "the same for ML-KEM",
    "NOT_ON_RECORD_BOUNDARY": "bytes after the hello in its record; CH-56 routes them, the terminator sees them",
}
"""Refusals before the SNI callback that have nothing to do with SNI, extensions or lengths."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Sighting:
    """What a server made of a hello."""

    accepted: bool
    """Whether the structure was accepted: the SNI callback ran."""
    name: bytes | None = None
    """The name that it reported."""
    reason: str = ""
    """Why it was not accepted, as OpenSSL names it."""


class Oracle(Protocol):
    """A TLS server that tells what name it sees."""

    def judge(self, stream: bytes) -> Sighting:
        """Feed *stream* to a new server."""
        ...


@final
class StdlibOracle:
    """The OpenSSL that Python's `ssl` is linked with."""

    def __init__(self) -> None:
        self._names: list[str | None] = []
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.minimum_version = ssl.TLSVersion.MINIMUM_SUPPORTED
        self._context.set_ciphers("ALL:@SECLEVEL=0")
        key, certificate = _throwaway_certificate()
        with tempfile.NamedTemporaryFile(suffix=".pem") as pem:
            Path(pem.name).write_bytes(_pem(key) + certificate.public_bytes(serialization.Encoding.PEM))
            self._context.load_cert_chain(pem.name)
        self._context.sni_callback = self._note

    def _note(self, _connection: object, name: str | None, _context: ssl.SSLContext) -> int:
        self._names.append(name)
        return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE

    def judge(self, stream: bytes) -> Sighting:
        """Feed *stream* to a new server."""
        self._names.clear()
        incoming = ssl.MemoryBIO()
        incoming.write(stream)
        server = self._context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True)
        try:
            server.do_handshake()
        except ssl.SSLWantReadError:
            return Sighting(accepted=False, reason=INCOMPLETE)
        except ssl.SSLError as exc:
            if self._names:
                name = self._names[0]
                return Sighting(accepted=True, name=None if name is None else name.encode("ascii"))
            reason = exc.reason or str(exc)
            return Sighting(accepted=False, reason=NOT_ASCII if reason == "CALLBACK_FAILED" else reason)
        raise AssertionError("a handshake cannot succeed: its callback refuses")


@final
class PyOpenSSLOracle:
    """The OpenSSL that `cryptography` is linked with, usually a newer one."""

    def __init__(self) -> None:
        self._names: list[bytes | None] = []
        self._context = SSL.Context(SSL.TLS_SERVER_METHOD)
        self._context.set_min_proto_version(SSL.TLS1_VERSION)
        self._context.set_cipher_list(b"ALL:@SECLEVEL=0")
        key, certificate = _throwaway_certificate()
        self._context.use_certificate(certificate)
        self._context.use_privatekey(key)
        self._context.set_tlsext_servername_callback(self._note)

    def _note(self, connection: SSL.Connection) -> None:
        self._names.append(connection.get_servername())

    def judge(self, stream: bytes) -> Sighting:
        """Feed *stream* to a new server."""
        self._names.clear()
        server = SSL.Connection(self._context, None)
        server.set_accept_state()
        if stream:
            server.bio_write(stream)
        reason = INCOMPLETE
        try:
            server.do_handshake()
        except SSL.WantReadError:
            pass
        except SSL.Error as exc:
            reason = _reason_of(exc)
        if self._names:
            return Sighting(accepted=True, name=self._names[0])
        return Sighting(accepted=False, reason=reason)


def _reason_of(error: SSL.Error) -> str:
    """Return the first reason in OpenSSL's error queue, spelled as Python's `ssl` spells it."""
    queue: list[tuple[str, str, str]] = error.args[0] if error.args else []
    return queue[0][2].upper().replace(" ", "_") if queue else "UNKNOWN"


@contextmanager
def quiet_callbacks() -> Iterator[None]:
    """Keep `ssl` from printing a traceback for each name that is not ASCII; the oracle reports those."""
    previous = sys.unraisablehook

    def ignore_bad_names(unraisable: sys.UnraisableHookArgs) -> None:
        if not issubclass(unraisable.exc_type, UnicodeDecodeError):
            previous(unraisable)

    sys.unraisablehook = ignore_bad_names
    try:
        yield
    finally:
        sys.unraisablehook = previous


def _throwaway_certificate() -> tuple[ec.EllipticCurvePrivateKey, x509.Certificate]:
    """Make a key and a certificate that nobody will ever check."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "oracle")])
    begin = dt.datetime(2020, 1, 1, tzinfo=dt.UTC)
    certificate = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(1)
        .not_valid_before(begin)
        .not_valid_after(begin + dt.timedelta(days=36_500))
        .sign(key, hashes.SHA256())
    )
    return key, certificate


def _pem(key: ec.EllipticCurvePrivateKey) -> bytes:
    return key.private_bytes(
        serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
    )
