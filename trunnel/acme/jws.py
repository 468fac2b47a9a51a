"""The account's key, and requests signed by it (RFC 8555 §6.2, RFC 7515 in its flattened form).

Every request but those for the directory, a nonce and renewal information is
one: `protected` says by which key, with which nonce, and for which URL, so
that it cannot be replayed nor sent elsewhere.  Three kinds of signature:

- by `kid`, the account's URL; the rule;
- by `jwk`, the key itself: for a new account, and within a key change;
- by HMAC, within a new account, to bind it to one that the authority knows
  from elsewhere (external account binding, §7.3.4).

Keys are ECDSA P-256 (ES256), which every authority must take (§6.2).

josepy has the forms of keys and signatures; it is imported with this module,
so this module is imported only by what is itself imported when it is used.
"""

from __future__ import annotations

import binascii
from collections.abc import Mapping
from dataclasses import dataclass
from typing import final

import msgspec
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from josepy.b64 import b64decode, b64encode
from josepy.jwa import ES256, HS256
from josepy.jwk import JWKEC
from josepy.util import ComparableECKey

from trunnel.errors import AcmeError, ConfigError

Payload = Mapping[str, object] | None
"""JSON, or None for a request that only reads: POST-as-GET (RFC 8555 §6.3)."""


@final
@dataclass(frozen=True, slots=True)
class AccountKey:
    """The key of an account."""

    private_key: ec.EllipticCurvePrivateKey
    """P-256."""

    @classmethod
    def generate(cls) -> AccountKey:
        """Make a new key."""
        return cls(ec.generate_private_key(ec.SECP256R1()))

    @classmethod
    def from_pem(cls, pem: bytes) -> AccountKey:
        """Read a key that `to_pem` wrote.

        Raises:
            ConfigError: It is none.
        """
        try:
            key = serialization.load_pem_private_key(pem, password=None)
        except (ValueError, TypeError) as exc:
            raise ConfigError("", "the account's key is not a private key in PEM form") from exc
        if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
            raise ConfigError("", "the account's key is not ECDSA P-256")
        return cls(key)

    def to_pem(self) -> bytes:
        """Return the key as PKCS #8 PEM without a password: a secret."""
        return self.private_key.private_bytes(
            serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption()
        )

    @property
    def jwk(self) -> dict[str, object]:
        """The public key (RFC 7517)."""
        return dict(self._jose().to_json())

    @property
    def thumbprint(self) -> str:
        """Its digest (RFC 7638), the second half of every key authorisation (RFC 8555 §8.1)."""
        return b64(self._jose().thumbprint(hash_function=hashes.SHA256))

    def _jose(self) -> JWKEC:
        return JWKEC(key=ComparableECKey(self.private_key.public_key()))

    def sign(self, payload: Payload, *, url: str, nonce: str | None = None, kid: str | None = None) -> dict[str, str]:
        """Sign a request.

        Args:
            payload: The JSON; None is POST-as-GET.
            url: Where it is sent.
            nonce: The server's; None only within a key change.
            kid: The account's URL; None: the key itself is named.

        Returns:
            The JWS, to be sent as JSON.
        """
        header: dict[str, object] = {"alg": "ES256", "url": url}
        header |= {"jwk": self.jwk} if kid is None else {"kid": kid}
        if nonce is not None:
            header["nonce"] = nonce
        signing = _signing_input(header, payload)
        return _flattened(signing, ES256.sign(self.private_key, signing))

    def change_to(self, fresh: AccountKey, *, account: str, url: str) -> dict[str, str]:
        """Return the payload that asks for *fresh* in place of this key: signed by *fresh*, which so proves itself.

        Args:
            fresh: The new key.
            account: The account's URL.
            url: Where it is sent (`keyChange` of the directory).

        Source: RFC 8555 §7.3.5.
        """
        return fresh.sign({"account": account, "oldKey": self.jwk}, url=url)


def external_binding(key: AccountKey, *, url: str, kid: str, mac_key: str) -> dict[str, str]:
    """Return the binding of a new account to one that the authority knows.

    Args:
        key: Of the new account.
        url: Where the account is asked for.
        kid: Key identifier that the authority gave.
        mac_key: Its MAC key, base64url, with or without padding.

    Raises:
        AcmeError: `mac_key` is no base64url.

    Source: RFC 8555 §7.3.4.
    """
    try:
        secret = b64decode(mac_key.strip().rstrip("="))
    except (ValueError, binascii.Error) as exc:
        raise AcmeError("the external account's MAC key is not base64url", retryable=False) from exc
    if not secret:
        raise AcmeError("the external account's MAC key is empty", retryable=False)
    signing = _signing_input({"alg": "HS256", "kid": kid, "url": url}, key.jwk)
    return _flattened(signing, HS256.sign(secret, signing))


def b64(octets: bytes) -> str:
    """Return base64url without padding (RFC 7515 §2)."""
    return b64encode(octets).decode("ascii")


def _signing_input(header: Mapping[str, object], payload: Payload) -> bytes:
    text = b"" if payload is None else msgspec.json.encode(payload)
    return f"{b64(msgspec.json.encode(header))}.{b64(text)}".encode()


def _flattened(signing: bytes, signature: bytes) -> dict[str, str]:
    protected, payload = signing.decode().split(".")
    return {"protected": protected, "payload": payload, "signature": b64(signature)}
