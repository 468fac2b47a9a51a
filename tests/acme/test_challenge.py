"""TLS-ALPN-01 as a client of the standard library sees it (RFC 8737 §3)."""

from __future__ import annotations

import hashlib
import ssl
import subprocess
import sys
from contextlib import suppress
from datetime import UTC, datetime

import pytest
import trio
from cryptography import x509
from cryptography.exceptions import InvalidSignature

from trunnel.acme.challenge import ACME_TLS_ALPN, challenge_certificate, context_for_challenge
from trunnel.errors import ConnectError, RemoteProtocolError
from trunnel.names import Hostname
from trunnel.streams.tls import TlsRole, TlsStream
from trunnel.transports.alpn import CHALLENGE_ALPN

NAME, PROOF = Hostname("a.example"), "token.thumbprint"
NOW = datetime.now(UTC)


def test_certificate_proves_the_name_and_nothing_else() -> None:
    """RFC 8737 §3: SAN of exactly this name, the digest in a critical extension, self-signed."""
    key, certificate = challenge_certificate(NAME, PROOF, NOW)
    alternative = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    assert list(alternative.value) == [x509.DNSName(NAME.value)]
    proof = certificate.extensions.get_extension_for_oid(x509.ObjectIdentifier("1.3.6.1.5.5.7.1.31"))
    assert proof.critical
    assert isinstance(proof.value, x509.UnrecognizedExtension)
    assert proof.value.value == b"\x04\x20" + hashlib.sha256(PROOF.encode()).digest()
    assert certificate.not_valid_before_utc < NOW < certificate.not_valid_after_utc
    assert certificate.public_key() == key.public_key()
    certificate.verify_directly_issued_by(certificate)


def test_each_challenge_has_a_key_of_its_own() -> None:
    first, second = (challenge_certificate(NAME, PROOF, NOW)[1] for _ in range(2))
    with pytest.raises(InvalidSignature):
        first.verify_directly_issued_by(second)


def test_protocol_is_the_one_by_which_challenges_are_routed() -> None:
    assert ACME_TLS_ALPN == CHALLENGE_ALPN


async def _ask(alpn: list[str], *, version: ssl.TLSVersion = ssl.TLSVersion.TLSv1_3) -> tuple[str | None, bytes | None]:
    """Do a handshake as an authority does; return the protocol (or its error) and the certificate that it saw."""
    tls = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    tls.check_hostname, tls.verify_mode = False, ssl.CERT_NONE
    tls.maximum_version = version
    if alpn:
        tls.set_alpn_protocols(alpn)
    ours, theirs = trio.testing.memory_stream_pair()
    client = trio.SSLStream(theirs, tls, server_hostname=NAME.value, https_compatible=True)
    seen: list[tuple[str | None, bytes | None]] = []

    async def look() -> None:
        try:
            await client.do_handshake()
        except trio.BrokenResourceError as refused:
            seen.append((str(refused.__cause__), None))
        else:
            seen.append((client.selected_alpn_protocol(), client.getpeercert(binary_form=True)))

    with trio.fail_after(5):
        async with trio.open_nursery() as nursery:
            nursery.start_soon(look)
            with suppress(ConnectError, RemoteProtocolError):
                context = context_for_challenge(NAME, PROOF, NOW)
                server = await TlsStream.handshake(ours, context, role=TlsRole.SERVER, timeout=5)
                nursery.start_soon(trio.aclose_forcefully, server)
        await trio.aclose_forcefully(theirs)
    return seen[0]


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
async def test_authority_sees_the_proof(version: ssl.TLSVersion) -> None:
    protocol, certificate = await _ask(["acme-tls/1"], version=version)
    assert protocol == "acme-tls/1"
    digest = hashlib.sha256(PROOF.encode()).digest()
    assert certificate is not None
    assert digest in certificate


async def test_client_of_another_protocol_is_refused() -> None:
    """RFC 7301 §3.2."""
    said, certificate = await _ask(["h2", "http/1.1"])
    assert said is not None
    assert "no application protocol" in said
    assert certificate is None


def test_challenges_need_no_client() -> None:
    """What answers challenges imports neither httpx nor josepy: only asking for certificates does."""
    wanted = "trunnel.acme.challenge, trunnel.acme.order, trunnel.acme.certificates"
    program = f"import sys, {wanted}; print([name for name in ('httpx', 'josepy', 'dns') if name in sys.modules])"
    loaded = subprocess.run([sys.executable, "-c", program], check=True, capture_output=True, text=True).stdout
    assert loaded.strip() == "[]"
