"""SOCKS version 5, the client: CONNECT, without or with user and password.  Sans-IO.

    METHOD --none--> REPLY --> BOUND_HEAD --> BOUND --> DONE
       `--password--> STATUS ---^

Every message of the proxy has a length that is known before its last byte,
so `needed` is exact.  A failure reply counts as soon as its code is there:
proxies cut the rest of it short.

What is tolerated: the version octet of the answer to the password (proxies
send 1 or 5; only the status matters), and the reserved octet.  The address
that the proxy bound is read and dropped.

Source: RFC 1928 (SOCKS), RFC 1929 (user name and password).
"""

from __future__ import annotations

import ipaddress
from enum import IntEnum, unique
from typing import Final, final

from trunnel.errors import RemoteProtocolError
from trunnel.names import ServerAddress, is_ip_literal
from trunnel.settings.via import Credentials
from trunnel.wire.hop import Refusal

_VERSION: Final = 5
_PASSWORD_VERSION: Final = 1
_CONNECT: Final = 1
_SUCCESS: Final = 0
_PORT_BYTES: Final = 2
_IPV4, _NAME, _IPV6 = 1, 3, 4
_ADDRESS_BYTES: Final = {_IPV4: 4, _IPV6: 16}
"""Octets of an address, by its type; a name says its length itself."""


@unique
class Method(IntEnum):
    """How a client may prove who it is (RFC 1928 §3)."""

    NONE = 0x00
    PASSWORD = 0x02
    NONE_ACCEPTABLE = 0xFF


_REPLIES: Final = {
    1: Refusal(reason="general failure", beyond=False),
    2: Refusal(reason="its rules do not allow this connection", beyond=False),
    3: Refusal(reason="network is unreachable", beyond=True),
    4: Refusal(reason="host is unreachable, or its name is not known there", beyond=True),
    5: Refusal(reason="connection refused", beyond=True),
    6: Refusal(reason="no answer (TTL expired)", beyond=True),
    7: Refusal(reason="it does not support CONNECT", beyond=False),
    8: Refusal(reason="it does not support this type of address", beyond=True),
}
"""What the reply codes mean (RFC 1928 §6); 8 is about one address, another may do."""


class _Stage(IntEnum):
    """What is awaited."""

    METHOD = 0
    STATUS = 1
    REPLY = 2
    BOUND_HEAD = 3
    BOUND = 4
    DONE = 5


_SIZES: Final = {_Stage.METHOD: 2, _Stage.STATUS: 2, _Stage.REPLY: 2, _Stage.BOUND_HEAD: 3, _Stage.DONE: 0}
"""Octets of each message; BOUND is as long as its head says."""


@final
class Socks5Client:
    """One request to be connected to a server; see `wire.hop` for how to drive it."""

    __slots__ = ("_buffer", "_credentials", "_server", "_size", "_stage", "refusal")

    def __init__(self, server: ServerAddress, *, credentials: Credentials | None = None) -> None:
        """Prepare to ask for *server*; a host name is left to the proxy to look up."""
        self._server = server
        self._credentials = credentials
        self._buffer = bytearray()
        self._stage = _Stage.METHOD
        self._size = _SIZES[_Stage.METHOD]
        self.refusal: Refusal | None = None

    @property
    def needed(self) -> int:
        """Bytes until the message at hand is complete; 0 when it is over."""
        return max(0, self._size - len(self._buffer))

    @property
    def leftover(self) -> bytes:
        """Bytes that were given and lie behind the proxy's last message."""
        return bytes(self._buffer) if self._stage is _Stage.DONE else b""

    def start(self) -> bytes:
        """Return the greeting: which methods we can do (RFC 1928 §3)."""
        methods = [Method.NONE] if self._credentials is None else [Method.NONE, Method.PASSWORD]
        return bytes([_VERSION, len(methods), *methods])

    def feed_untrusted(self, chunk: bytes) -> bytes:
        """Take bytes of the proxy; return what to send next.

        Raises:
            RemoteProtocolError: They are not SOCKS 5, or no answer to what was sent.
        """
        self._buffer += chunk
        answer = b""
        while self._stage is not _Stage.DONE and not self.needed:
            message = bytes(self._buffer[: self._size])
            del self._buffer[: self._size]
            answer += self._step_untrusted(message)
        return answer

    def _step_untrusted(self, message: bytes) -> bytes:
        match self._stage:
            case _Stage.METHOD:
                return self._method_untrusted(message)
            case _Stage.STATUS:
                return self._status_untrusted(message)
            case _Stage.REPLY:
                self._reply_untrusted(message)
            case _Stage.BOUND_HEAD:
                self._bound_untrusted(message)
            case _:
                self._enter(_Stage.DONE)
        return b""

    def _method_untrusted(self, message: bytes) -> bytes:
        """Take the proxy's choice of a method."""
        version, method = message
        if version != _VERSION:
            kind = "an HTTP server" if message == b"HT" else "something else"
            raise RemoteProtocolError(f"it does not speak SOCKS 5 but answers like {kind}")
        if method == Method.NONE:
            self._enter(_Stage.REPLY)
            return self._request()
        if method == Method.PASSWORD and self._credentials is not None:
            self._enter(_Stage.STATUS)
            return self._password(self._credentials)
        if method != Method.NONE_ACCEPTABLE:
            raise RemoteProtocolError(f"it chose method {method} of authentication, which was not offered")
        wants = "other proof than" if self._credentials else "proof of who we are, such as"
        self._refuse(Refusal(reason=f"it wants {wants} user and password", beyond=False))
        return b""

    def _status_untrusted(self, message: bytes) -> bytes:
        """Take the verdict on the password (RFC 1929 §2)."""
        if message[1] != _SUCCESS:
            self._refuse(Refusal(reason="user or password are wrong", beyond=False))
            return b""
        self._enter(_Stage.REPLY)
        return self._request()

    def _reply_untrusted(self, message: bytes) -> None:
        """Take version and code of the reply."""
        version, code = message
        if version != _VERSION:
            raise RemoteProtocolError(f"its reply is of version {version}, not of SOCKS 5")
        if code == _SUCCESS:
            self._enter(_Stage.BOUND_HEAD)
        else:
            self._refuse(_REPLIES.get(code) or Refusal(reason=f"unknown failure (code {code})", beyond=False))

    def _bound_untrusted(self, message: bytes) -> None:
        """Take the beginning of the bound address: reserved, type, first octet."""
        _, kind, first = message
        if kind != _NAME and kind not in _ADDRESS_BYTES:
            raise RemoteProtocolError(f"its reply has an address of unknown type {kind}")
        self._enter(_Stage.BOUND)
        rest = first if kind == _NAME else _ADDRESS_BYTES[kind] - 1
        self._size = rest + _PORT_BYTES

    def _enter(self, stage: _Stage) -> None:
        self._stage = stage
        self._size = _SIZES.get(stage, 0)

    def _refuse(self, refusal: Refusal) -> None:
        self.refusal = refusal
        self._enter(_Stage.DONE)

    def _password(self, credentials: Credentials) -> bytes:
        """Return user name and password as RFC 1929 §2 wants them."""
        parts = (credentials.user.encode(), credentials.password.encode())
        return bytes([_PASSWORD_VERSION]) + b"".join(bytes([len(part)]) + part for part in parts)

    def _request(self) -> bytes:
        """Return the request to connect (RFC 1928 §4, §5)."""
        host = self._server.host.partition("%")[0]  # a scope is the name of an interface of ours
        if is_ip_literal(host):
            address = ipaddress.ip_address(host)
            where = bytes([_IPV4 if isinstance(address, ipaddress.IPv4Address) else _IPV6]) + address.packed
        else:
            where = bytes([_NAME, len(host)]) + host.encode("ascii")
        return bytes([_VERSION, _CONNECT, 0]) + where + self._server.port.to_bytes(_PORT_BYTES, "big")
