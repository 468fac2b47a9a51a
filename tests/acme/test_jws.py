"""Signatures as a server checks them (RFC 7515, RFC 7638, RFC 8555 §6.2, §7.3.4, §7.3.5)."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from typing import Any

import pytest
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.asymmetric.utils import encode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from trunnel.acme.jws import AccountKey, b64, external_binding
from trunnel.errors import AcmeError, ConfigError

URL, KID = "https://ca.example/order", "https://ca.example/account/1"


def unb64(text: str) -> bytes:
    assert "=" not in text
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


def verified(signed: dict[str, str], key: ec.EllipticCurvePublicKey) -> tuple[dict[str, Any], bytes]:
    """Check an ES256 signature (RFC 7518 §3.4) without our own code; return header and payload."""
    signature = unb64(signed["signature"])
    assert len(signature) == 64
    r, s = int.from_bytes(signature[:32], "big"), int.from_bytes(signature[32:], "big")
    message = f"{signed['protected']}.{signed['payload']}".encode()
    key.verify(encode_dss_signature(r, s), message, ec.ECDSA(hashes.SHA256()))
    return json.loads(unb64(signed["protected"])), unb64(signed["payload"])


def public_of(jwk: dict[str, Any]) -> ec.EllipticCurvePublicKey:
    x, y = (int.from_bytes(unb64(jwk[part]), "big") for part in ("x", "y"))
    return ec.EllipticCurvePublicNumbers(x, y, ec.SECP256R1()).public_key()


def test_request_by_account_names_key_url_and_nonce() -> None:
    key = AccountKey.generate()
    header, payload = verified(key.sign({"a": 1}, url=URL, nonce="n", kid=KID), key.private_key.public_key())
    assert header == {"alg": "ES256", "kid": KID, "nonce": "n", "url": URL}
    assert json.loads(payload) == {"a": 1}


def test_request_that_only_reads_has_an_empty_payload() -> None:
    """RFC 8555 §6.3: empty, not an empty object."""
    key = AccountKey.generate()
    assert verified(key.sign(None, url=URL, nonce="n", kid=KID), key.private_key.public_key())[1] == b""
    assert verified(key.sign({}, url=URL, nonce="n", kid=KID), key.private_key.public_key())[1] == b"{}"


def test_request_for_an_account_carries_the_key() -> None:
    key = AccountKey.generate()
    header, _ = verified(key.sign({}, url=URL, nonce="n"), key.private_key.public_key())
    assert "kid" not in header
    assert public_of(header["jwk"]) == key.private_key.public_key()


def test_signature_covers_header_and_payload() -> None:
    key = AccountKey.generate()
    signed = key.sign({"a": 1}, url=URL, nonce="n", kid=KID)
    for part in ("protected", "payload"):
        with pytest.raises(InvalidSignature):
            verified({**signed, part: b64(b'{"other":1}')}, key.private_key.public_key())


def test_thumbprint_is_the_digest_of_the_sorted_key() -> None:
    """RFC 7638 §3: the required members alone, in order, without spaces."""
    for _ in range(5):
        key = AccountKey.generate()
        numbers = key.private_key.public_key().public_numbers()
        x, y = (b64(number.to_bytes(32, "big")) for number in (numbers.x, numbers.y))
        text = f'{{"crv":"P-256","kty":"EC","x":"{x}","y":"{y}"}}'
        assert key.thumbprint == b64(hashlib.sha256(text.encode()).digest())


def test_change_of_keys_is_signed_by_the_new_one_and_names_the_old() -> None:
    """RFC 8555 §7.3.5: no nonce within."""
    old, fresh = AccountKey.generate(), AccountKey.generate()
    header, payload = verified(old.change_to(fresh, account=KID, url=URL), fresh.private_key.public_key())
    assert (public_of(header["jwk"]), header["url"]) == (fresh.private_key.public_key(), URL)
    assert "nonce" not in header
    assert json.loads(payload) == {"account": KID, "oldKey": old.jwk}


@pytest.mark.parametrize("padding", ["", "="])
def test_external_account_is_bound_by_its_mac(padding: str) -> None:
    """RFC 8555 §7.3.4."""
    key, secret = AccountKey.generate(), b"s" * 32
    signed = external_binding(key, url=URL, kid="kid-1", mac_key=b64(secret) + padding)
    message = f"{signed['protected']}.{signed['payload']}".encode()
    assert unb64(signed["signature"]) == hmac.digest(secret, message, "sha256")
    assert json.loads(unb64(signed["protected"])) == {"alg": "HS256", "kid": "kid-1", "url": URL}
    assert json.loads(unb64(signed["payload"])) == key.jwk


@pytest.mark.parametrize("mac_key", ["", "=", "é", "a"])
def test_mac_key_that_is_none_is_refused(mac_key: str) -> None:
    with pytest.raises(AcmeError, match="MAC key") as refused:
        external_binding(AccountKey.generate(), url=URL, kid="kid-1", mac_key=mac_key)
    assert not refused.value.retryable


def test_key_survives_its_file() -> None:
    key = AccountKey.generate()
    assert AccountKey.from_pem(key.to_pem()).thumbprint == key.thumbprint


@pytest.mark.parametrize(
    "pem",
    [
        b"",
        b"-----BEGIN PRIVATE KEY-----",
        *(
            key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
            for key in (ec.generate_private_key(ec.SECP384R1()), ed25519.Ed25519PrivateKey.generate())
        ),
    ],
    ids=["empty", "cut", "P-384", "Ed25519"],
)
def test_key_of_another_kind_is_refused(pem: bytes) -> None:
    with pytest.raises(ConfigError, match="account's key"):
        AccountKey.from_pem(pem)


def test_key_is_not_shown() -> None:
    key = AccountKey.generate()
    assert "PRIVATE" not in repr(key)
