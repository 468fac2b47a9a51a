"""Records that no library would send: a TLS 1.3 sender from the traffic secret of a real handshake.

Source: RFC 8446 §5.2 (records), §7.1 and §7.2 (secrets), §4.6.3 (KeyUpdate).
"""

from __future__ import annotations

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDFExpand
from OpenSSL import SSL

APPLICATION_DATA = 23
HANDSHAKE = 22
ALERT = 21


class KeyLog:
    """Traffic secrets of the connections of one client context, by label."""

    def __init__(self, context: SSL.Context) -> None:
        self.secrets: dict[bytes, bytes] = {}
        context.set_keylog_callback(self._note)

    def _note(self, _connection: SSL.Connection, line: bytes) -> None:
        label, _random, secret = line.split()
        self.secrets[label] = bytes.fromhex(secret.decode())


def _expand(secret: bytes, label: bytes, length: int) -> bytes:
    """HKDF-Expand-Label with an empty context."""
    full = b"tls13 " + label
    structure = length.to_bytes(2, "big") + bytes([len(full)]) + full + b"\0"
    return HKDFExpand(hashes.SHA384(), length, structure).derive(secret)


class Forge:
    """Seals and opens records of a connection's client, with TLS_AES_256_GCM_SHA384, from the first on."""

    def __init__(self, keylog: KeyLog, label: bytes = b"CLIENT_TRAFFIC_SECRET_0") -> None:
        self._rekey(keylog.secrets[label])

    def _rekey(self, secret: bytes) -> None:
        self._secret = secret
        self._aead = AESGCM(_expand(secret, b"key", 32))
        self._iv = int.from_bytes(_expand(secret, b"iv", 12), "big")
        self._sequence = 0

    def record(self, payload: bytes, content: int = APPLICATION_DATA) -> bytes:
        """Return one record with *payload*."""
        inner = payload + bytes([content])
        head = b"\x17\x03\x03" + (len(inner) + 16).to_bytes(2, "big")
        return head + self._aead.encrypt(self._nonce(), inner, head)

    def open(self, records: bytes) -> bytes:
        """Return the payload of encrypted *records*; others among them are skipped."""
        payload = b""
        while records:
            end = 5 + int.from_bytes(records[3:5], "big")
            if records[0] == APPLICATION_DATA:
                payload += self._aead.decrypt(self._nonce(), records[5:end], records[:5]).rstrip(b"\0")[:-1]
            records = records[end:]
        return payload

    def _nonce(self) -> bytes:
        nonce = (self._iv ^ self._sequence).to_bytes(12, "big")
        self._sequence += 1
        return nonce

    def key_update(self, *, request: bool) -> bytes:
        """Return a KeyUpdate; what follows is sealed with the next key."""
        record = self.record(bytes([24, 0, 0, 1, request]), HANDSHAKE)
        self._rekey(_expand(self._secret, b"traffic upd", 48))
        return record


def messages(payload: bytes) -> list[bytes]:
    """Split a flight into its handshake messages."""
    split: list[bytes] = []
    while payload:
        end = 4 + int.from_bytes(payload[1:4], "big")
        split.append(payload[:end])
        payload = payload[end:]
    return split


def certificate_message(der: bytes) -> bytes:
    """Return a Certificate message with one certificate (RFC 8446 §4.4.2)."""
    entry = len(der).to_bytes(3, "big") + der + b"\0\0"
    body = b"\0" + len(entry).to_bytes(3, "big") + entry
    return b"\x0b" + len(body).to_bytes(3, "big") + body
