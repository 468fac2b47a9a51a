"""Requests, chains and identifiers (RFC 8555 §7.4, §9.1, RFC 9773 §4.1)."""

from __future__ import annotations

import ssl
from datetime import UTC, datetime, timedelta

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from tests.acme.ari_server import Authority
from tests.identity.certificates import of_no_version
from trunnel.acme.certificates import is_issued_under, read_chain_untrusted, renewal_id, signing_request
from trunnel.errors import RemoteProtocolError
from trunnel.identity.contexts import ServerKey
from trunnel.names import Hostname
from trunnel.settings import limits

A, B = Hostname("a.example"), Hostname("b.example")
NOW = datetime.now(UTC)
KEY = ec.generate_private_key(ec.SECP256R1())
AUTHORITY, OTHER = Authority("root"), Authority("other")
KEYS: list[ServerKey] = [KEY, ed25519.Ed25519PrivateKey.generate(), rsa.generate_private_key(65537, 2048)]


def issued(*names: Hostname, authority: Authority = AUTHORITY) -> x509.Certificate:
    request = x509.load_der_x509_csr(signing_request(names, KEY))
    return authority.issue(request, NOW, NOW + timedelta(days=1))


def pem(*chain: x509.Certificate) -> bytes:
    return b"".join(each.public_bytes(Encoding.PEM) for each in chain)


@pytest.mark.parametrize("key", KEYS, ids=lambda key: type(key).__name__)
def test_request_names_hosts_as_alternative_names_only(key: ServerKey) -> None:
    request = x509.load_der_x509_csr(signing_request([A, B], key))
    assert request.is_signature_valid
    assert list(request.subject) == []
    names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    assert names.get_values_for_type(x509.DNSName) == [A.value, B.value]


def test_chain_in_order_is_read() -> None:
    leaf = issued(A, B)
    assert read_chain_untrusted(pem(leaf, AUTHORITY.certificate), [B, A], KEY) == (leaf, AUTHORITY.certificate)
    assert read_chain_untrusted(pem(leaf), [A, B], KEY) == (leaf,)


@pytest.mark.parametrize(
    ("chain", "said"),
    [
        (b"", "not PEM"),
        (b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n", "not PEM"),
        (ssl.DER_cert_to_PEM_cert(of_no_version(issued(A))).encode(), "not PEM"),
        (pem(AUTHORITY.certificate), "another key"),
        (pem(issued(B)), "does not cover a.example"),
        (pem(issued(A, B)), "nobody asked for"),
        (pem(issued(A), OTHER.certificate), "not in order"),
        (pem(issued(A), issued(A)), "not in order"),
        (pem(*[issued(A)] * (limits.ACME_CHAIN_MAX + 1)), "more than"),
    ],
)
def test_chain_that_would_not_serve_is_refused(chain: bytes, said: str) -> None:
    with pytest.raises(RemoteProtocolError, match=said):
        read_chain_untrusted(chain, [A], KEY)


def test_chain_is_known_by_who_issued_its_last() -> None:
    chain = (issued(A), AUTHORITY.certificate)
    assert is_issued_under(chain, "root")
    assert not is_issued_under(chain, "other")


def test_identifier_is_the_one_of_the_rfc() -> None:
    """RFC 9773 §4.1: its example; a serial number whose first bit is set begins with a zero."""
    issuer_key = bytes.fromhex("69885b6b87464041e1b37b847ba0ae2cde01c8d4")
    name = x509.Name([])
    builder = (
        x509.CertificateBuilder(name, name, KEY.public_key(), 0x87654321)
        .not_valid_before(NOW)
        .not_valid_after(NOW + timedelta(days=1))
    )
    assert renewal_id(builder.sign(KEY, hashes.SHA256())) is None
    extension = x509.AuthorityKeyIdentifier(issuer_key, None, None)
    certificate = builder.add_extension(extension, critical=False).sign(KEY, hashes.SHA256())
    assert renewal_id(certificate) == "aYhba4dGQEHhs3uEe6CuLN4ByNQ.AIdlQyE"
