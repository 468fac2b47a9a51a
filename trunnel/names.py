"""Names and addresses: parsed once at the edge, never plain `str` below it.

Every constructor here either returns a canonical value or raises.  Text that
a person wrote raises `InvalidName` (with a sentence for them); bytes of a
stranger go through the `*_untrusted` function and raise `RemoteProtocolError`.

Host names are compared as ASCII bytes folded to lower case, one trailing dot
stripped (RFC 6066 §3 forbids it, some clients send it).  Nothing here uses
Unicode case folding: U+212A KELVIN SIGN lower-cases to `k`, and a router that
folds it would give one tenant's visitors to another.
"""

from __future__ import annotations

import base64
import hashlib
import ipaddress
import re
from dataclasses import dataclass
from typing import Final, final

from trunnel.errors import ErrorCode, InvalidName, RemoteProtocolError

HOSTNAME_MAX: Final = 253
"""Characters of a host name without its final dot (RFC 1035 §2.3.4)."""
LABEL_MAX: Final = 63
"""Characters of one label (RFC 1035 §2.3.4)."""
SPKI_DIGEST_BYTES: Final = 32
"""Bytes of SHA-256."""
AGENT_ID_CHARS: Final = 52
"""Characters of 32 bytes in base32 without padding."""
PORT_MAX: Final = 65535
"""Largest TCP port."""

_LABELS: Final = re.compile(rb"[a-z0-9_-]{1,63}(?:\.[a-z0-9_-]{1,63})*", re.ASCII)
_ID: Final = re.compile(r"[a-z2-7]{51}[aq]", re.ASCII)
_SCOPE: Final = re.compile(r"[A-Za-z0-9_.-]{1,32}", re.ASCII)
_PORT: Final = re.compile(r"[0-9]{1,5}", re.ASCII)


def _canonical_hostname(raw: bytes) -> str | None:
    """Return the canonical form of *raw*, or None if it is no host name."""
    if raw.endswith(b"."):
        raw = raw[:-1]
    if not 0 < len(raw) <= HOSTNAME_MAX:
        return None
    folded = raw.lower()  # bytes.lower folds ASCII only
    if _LABELS.fullmatch(folded) is None:
        return None
    name = folded.decode("ascii")
    try:
        ipaddress.IPv4Address(name)
    except ValueError:
        return name
    return None


@final
@dataclass(frozen=True, slots=True, order=True)
class Hostname:
    """A DNS host name: lower-case ASCII, no final dot, no IP literal."""

    value: str

    @classmethod
    def parse(cls, text: str) -> Hostname:
        """Parse what a person or a file wrote.

        Raises:
            InvalidName: The text is not a host name.
        """
        try:
            raw = text.strip().encode("ascii")
        except UnicodeEncodeError as exc:
            raise InvalidName(f"{text!r} is not ASCII; write an international name in its xn-- form") from exc
        name = _canonical_hostname(raw)
        if name is None:
            raise InvalidName(
                f"{text!r} is not a host name (letters, digits, '-', '_' in labels of 1 to {LABEL_MAX}, joined by dots)"
            )
        return cls(name)

    def under(self, label: str) -> Hostname:
        """Return the host name *label*.*self*; raises InvalidName as `parse` does."""
        return Hostname.parse(f"{label}.{self.value}")

    def __str__(self) -> str:
        return self.value


def parse_hostname_untrusted(raw: bytes) -> Hostname:
    """Parse a host name from a peer's bytes, for example an SNI value.

    Raises:
        RemoteProtocolError: It is not a host name by the rule of this module.

    Source: RFC 6066 §3, RFC 1035 §2.3.
    """
    name = _canonical_hostname(raw)
    if name is None:
        raise RemoteProtocolError("not a host name", code=ErrorCode.PROTOCOL_ERROR)
    return Hostname(name)


@final
@dataclass(frozen=True, slots=True, order=True)
class KeyId:
    """Who a key is: SHA-256 of its SubjectPublicKeyInfo, base32, lower case.

    52 characters, so that it fits one DNS label (a hex digest does not).
    Agents and relays are named alike.
    """

    value: str

    @classmethod
    def of_spki(cls, spki_der: bytes) -> KeyId:
        """Return the id of the key whose DER-encoded SubjectPublicKeyInfo is given."""
        return cls._of_digest(hashlib.sha256(spki_der).digest())

    @classmethod
    def _of_digest(cls, digest: bytes) -> KeyId:
        return cls(base64.b32encode(digest).decode("ascii").lower().rstrip("="))

    @classmethod
    def parse(cls, text: str) -> KeyId:
        """Parse an id as `trunnel id` prints it.

        Raises:
            InvalidName: It is not 52 characters of base32.
        """
        bare = text.strip()
        folded = bare.lower()
        if not bare.isascii() or _ID.fullmatch(folded) is None:  # U+212A folds to `k`: look before folding
            raise InvalidName(f"{text!r} is not a key id ({AGENT_ID_CHARS} characters a-z 2-7, as `trunnel id` prints)")
        return cls(folded)

    @classmethod
    def parse_pin(cls, text: str) -> KeyId:
        """Parse a pin: the id itself, 64 hex digits, or `sha256//BASE64` as curl writes it.

        Raises:
            InvalidName: It is none of them.
        """
        bare = text.strip().removeprefix("sha256//").removeprefix("sha256:")
        if len(bare) == AGENT_ID_CHARS and "=" not in bare:
            return cls.parse(bare)
        try:
            if re.fullmatch(r"[0-9a-fA-F:]+", bare):
                digest = bytes.fromhex(bare.replace(":", ""))
            else:
                digest = base64.b64decode(bare, validate=True)
        except ValueError as exc:
            raise InvalidName(f"{text!r} is not a pin (52 base32, 64 hex or 44 base64 characters)") from exc
        if len(digest) != SPKI_DIGEST_BYTES:
            raise InvalidName(f"{text!r} is not the SHA-256 of a public key")
        return cls._of_digest(digest)

    @property
    def short(self) -> str:
        """The first eight characters, for people."""
        return self.value[:8]

    def __str__(self) -> str:
        return self.value


def parse_port(text: str, *, zero: bool = False) -> int:
    """Parse a TCP port, 1 to 65535 (or 0 if *zero*, "any free port").

    Raises:
        InvalidName: It is no such number.
    """
    if _PORT.fullmatch(text) is None or int(text) > PORT_MAX or (int(text) == 0 and not zero):
        raise InvalidName(f"{text!r} is not a port (1 to {PORT_MAX})")
    return int(text)


def is_ip_literal(host: str) -> bool:
    """Whether *host* is an IPv4 or IPv6 address (without brackets)."""
    return _canonical_address(host) is not None


def _canonical_address(host: str) -> str | None:
    """Return the one text of an IP address, or None if *host* is none.

    A scope (`fe80::1%eth0`) is the name of an interface; `ipaddress` would
    take any text for one.
    """
    try:
        address = str(ipaddress.ip_address(host))
    except ValueError:
        return None
    _, percent, scope = address.partition("%")
    return None if percent and _SCOPE.fullmatch(scope) is None else address


def _split_host_port(text: str) -> tuple[str, str | None]:
    """Split `HOST`, `HOST:PORT`, `[V6]` or `[V6]:PORT`; raises InvalidName on other shapes."""
    if text.startswith("["):
        inner, bracket, rest = text[1:].partition("]")
        address = _canonical_address(inner) if bracket and ":" in inner else None
        if address is None or (rest and not rest.startswith(":")):
            raise InvalidName(f"{text!r}: write an IPv6 address as [ADDRESS]:PORT")
        return address, rest[1:] if rest else None
    host, colon, port = text.partition(":")
    if ":" in port:
        if (address := _canonical_address(text)) is not None:
            return address, None
        raise InvalidName(f"{text!r}: write an IPv6 address as [ADDRESS]:PORT")
    return _canonical_address(host) or Hostname.parse(host).value, port if colon else None


def _join_host_port(host: str, port: int) -> str:
    return f"[{host}]:{port}" if ":" in host else f"{host}:{port}"


@final
@dataclass(frozen=True, slots=True, order=True)
class ServerAddress:
    """Where a relay is dialled: a host name or IP address, and a port."""

    host: str
    port: int

    DEFAULT_PORT = 443

    @classmethod
    def parse(cls, text: str) -> ServerAddress:
        """Parse `HOST[:PORT]`; the port is 443 if absent.

        Raises:
            InvalidName: The text has another shape.
        """
        bare = text.strip().removeprefix("https://").rstrip("/")
        host, port = _split_host_port(bare)
        return cls(host, cls.DEFAULT_PORT if port is None else parse_port(port))

    def __str__(self) -> str:
        return _join_host_port(self.host, self.port)


@final
@dataclass(frozen=True, slots=True)
class Target:
    """What an agent exposes: a TCP port (on a host) or a unix socket.

    Exactly one of `port` and `path` is set.  `host` None means loopback, both
    127.0.0.1 and ::1.
    """

    host: str | None = None
    port: int | None = None
    path: str | None = None

    @classmethod
    def parse(cls, text: str) -> Target:
        """Parse `PORT`, `HOST:PORT`, `[V6]:PORT`, `unix:PATH` or `http://HOST[:PORT]`.

        Raises:
            InvalidName: The text has another shape; `https://` gets a hint.
        """
        text = text.strip()
        if text.startswith("unix:"):
            path = text.removeprefix("unix:")
            if not path or "\0" in path:
                raise InvalidName("unix: needs a path, for example unix:/run/app.sock")
            return cls(path=path)
        if text.lower().startswith("https://"):
            raise InvalidName(
                f"{text!r}: an origin that speaks TLS keeps its own certificate; "
                "give HOST:PORT together with --tls-passthrough"
            )
        if text.lower().startswith("http://"):
            host, port = _split_host_port(text[len("http://") :].rstrip("/"))
            return cls._tcp(host, 80 if port is None else parse_port(port))
        if _PORT.fullmatch(text):
            return cls(port=parse_port(text))
        host, port = _split_host_port(text)
        if port is None:
            raise InvalidName(f"{text!r}: what port? Give PORT, HOST:PORT, [V6]:PORT, unix:PATH or http://HOST")
        return cls._tcp(host, parse_port(port))

    @classmethod
    def _tcp(cls, host: str, port: int) -> Target:
        return cls(host=None if host == "localhost" else host, port=port)

    def __str__(self) -> str:
        if self.path is not None:
            return f"unix:{self.path}"
        return _join_host_port(self.host or "localhost", self.port or 0)
