"""Through which proxy the relay is dialled: `--via`, or the environment's usual variables.

`http://` asks an HTTP proxy to CONNECT; `socks5h://` a SOCKS 5 proxy; both
look the relay's name up themselves.  With `socks5://` we look it up and give
an address.  The words, the default port, and the rules of `NO_PROXY` are
those of curl, which people know.

A password is in no `str`, `repr` or message: those show `***`.
"""

from __future__ import annotations

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import ClassVar, Final, final
from urllib.parse import unquote_to_bytes

from trunnel.errors import ConfigError, InvalidName
from trunnel.names import ServerAddress
from trunnel.settings import limits

_MASK: Final = "***"
_SCHEME: Final = "://"
_VARIABLES: Final = ("https_proxy", "HTTPS_PROXY", "all_proxy", "ALL_PROXY")
"""Where a proxy for TLS connections is looked for, first one first.  `http_proxy` is for plain HTTP."""
_EXEMPT: Final = ("no_proxy", "NO_PROXY")
_EVERYTHING: Final = "*"
_SCHEME_NAME: Final = re.compile(r"[A-Za-z][A-Za-z0-9+.-]*", re.ASCII)
_CONTROL: Final = re.compile(r"[\x00-\x1f\x7f]")

Network = ipaddress.IPv4Network | ipaddress.IPv6Network
IpAddress = ipaddress.IPv4Address | ipaddress.IPv6Address


@final
class ViaKind(StrEnum):
    """The protocol spoken with the proxy."""

    HTTP = "http"
    """HTTP CONNECT."""
    SOCKS5 = "socks5"
    """SOCKS 5; names are looked up here."""
    SOCKS5H = "socks5h"
    """SOCKS 5; names are looked up by the proxy."""


@final
@dataclass(frozen=True, slots=True)
class Credentials:
    """Who we are for a proxy."""

    user: str
    """At most 255 bytes of UTF-8, without control characters; for `http` without a colon."""
    password: str = field(repr=False)
    """The same; may be empty."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class ViaAddress:
    """A proxy: how to speak with it, where it is, and who we are there."""

    DEFAULT_PORT: ClassVar[int] = 1080

    kind: ViaKind
    address: ServerAddress
    credentials: Credentials | None = None

    @classmethod
    def parse(cls, text: str) -> ViaAddress:
        """Parse `[http://|socks5://|socks5h://][USER[:PASSWORD]@]HOST[:PORT]`.

        Without a scheme it is `http`, without a port 1080, as for curl.  User
        and password may have %-escapes.

        Raises:
            InvalidName: The text has another shape; no password is in the message.
        """
        scheme, userinfo, place = _split(text)
        shown = masked(text)
        kind = _parse_kind(scheme or ViaKind.HTTP, shown)
        return cls(
            kind=kind,
            address=_parse_place(place.removesuffix("/"), shown),
            credentials=_parse_credentials(userinfo, kind, shown) if userinfo else None,
        )

    def __str__(self) -> str:
        user = f"{self.credentials.user}:{_MASK}@" if self.credentials else ""
        return f"{self.kind}{_SCHEME}{user}{self.address}"


def masked(text: str) -> str:
    """Return *text*, what should be a proxy's address, without user and password, in quotes."""
    scheme, userinfo, place = _split(text)
    return ascii(f"{scheme}{_SCHEME if scheme else ''}{_MASK}@{place}" if userinfo else text)


def _split(text: str) -> tuple[str, str, str]:
    """Return scheme, user and password, and the rest; what is absent is empty."""
    scheme, separator, rest = text.strip().partition(_SCHEME)
    if not separator or _SCHEME_NAME.fullmatch(scheme) is None:
        scheme, rest = "", text.strip()
    userinfo, _, place = rest.rpartition("@")
    return scheme, userinfo, place


def via_from_environment(environ: Mapping[str, str], server: ServerAddress) -> ViaAddress | None:
    """Return the proxy that the environment names for *server*.

    The first of `https_proxy`, `HTTPS_PROXY`, `all_proxy` and `ALL_PROXY` that
    is not empty counts, unless `no_proxy` or `NO_PROXY` exempts the server.
    A server on loopback is never dialled through it.

    Returns:
        None if there is none.

    Raises:
        ConfigError: The variable that counts does not parse; it is the key.
    """
    name = next((name for name in _VARIABLES if environ.get(name)), None)
    exempt = next((environ[name] for name in _EXEMPT if environ.get(name)), "")
    if name is None or _is_loopback(server.host) or is_exempt(server.host, exempt):
        return None
    try:
        return ViaAddress.parse(environ[name])
    except InvalidName as exc:
        raise ConfigError(name, f"{exc}; NO_PROXY={server.host} exempts this relay") from exc


def is_exempt(host: str, exempt: str) -> bool:
    """Whether *exempt*, a value of `NO_PROXY`, has *host*.

    Entries are separated by commas or blanks.  A name stands for itself and
    all below it (with or without a leading dot), an address for itself,
    ADDRESS/BITS for a network, `*` for everything.  Names are not looked up.
    """
    entries = exempt.replace(",", " ").split()
    if _EVERYTHING in entries:
        return True
    address = _address(host)
    if address is not None:
        return any(address in network for entry in entries if (network := _network(entry)) is not None)
    name = f".{host.lower().removesuffix('.')}"
    return any(name.endswith(f".{bare}") for entry in entries if (bare := entry.lower().strip(".")))


def _parse_kind(scheme: str, shown: str) -> ViaKind:
    try:
        return ViaKind(scheme.lower())
    except ValueError as exc:
        kinds = ", ".join(f"{kind}{_SCHEME}" for kind in ViaKind)
        raise InvalidName(f"{shown} is not a proxy that can be used ({kinds} can)") from exc


def _parse_place(place: str, shown: str) -> ServerAddress:
    """Parse host and port; raises InvalidName."""
    is_bracketed = place.startswith("[")
    if not place or "/" in place or (place.count(":") > 1 and not is_bracketed):
        raise InvalidName(f"{shown}: write a proxy as [SCHEME://][USER:PASSWORD@]HOST[:PORT], IPv6 in brackets")
    has_port = ":" in place.rpartition("]")[2]
    try:
        return ServerAddress.parse(place if has_port else f"{place}:{ViaAddress.DEFAULT_PORT}")
    except InvalidName as exc:
        raise InvalidName(f"{shown}: {exc}") from exc


def _parse_credentials(userinfo: str, kind: ViaKind, shown: str) -> Credentials:
    """Parse `USER[:PASSWORD]` (RFC 3986 §3.2.1); raises InvalidName."""
    user, _, password = userinfo.partition(":")
    try:
        credentials = Credentials(_unescaped(user), _unescaped(password))
    except UnicodeError:
        raise InvalidName(f"{shown}: user and password must be UTF-8") from None  # the cause would show them
    for part in (credentials.user, credentials.password):
        if _CONTROL.search(part) or len(part.encode()) > limits.VIA_CREDENTIAL_MAX:
            raise InvalidName(
                f"{shown}: user and password have at most {limits.VIA_CREDENTIAL_MAX} bytes, no control characters"
            )
    if not credentials.user:
        raise InvalidName(f"{shown}: a password without a user")
    if kind is ViaKind.HTTP and ":" in credentials.user:
        raise InvalidName(f"{shown}: a user of an HTTP proxy has no colon (RFC 7617)")
    return credentials


def _unescaped(text: str) -> str:
    """Undo %-escapes; raises UnicodeError if that is not UTF-8."""
    return unquote_to_bytes(text).decode("utf-8")


def _address(host: str) -> IpAddress | None:
    """Return *host* as an address, IPv4 in IPv6 unwrapped and without scope; None if it is a name."""
    try:
        address = ipaddress.ip_address(host.strip("[]").partition("%")[0])
    except ValueError:
        return None
    return (address.ipv4_mapped or address) if isinstance(address, ipaddress.IPv6Address) else address


def _network(entry: str) -> Network | None:
    """Return *entry*, ADDRESS or ADDRESS/BITS, as a network; None if it is neither."""
    try:
        return ipaddress.ip_network(entry.replace("[", "").replace("]", ""), strict=False)
    except ValueError:
        return None


def _is_loopback(host: str) -> bool:
    """Whether *host* is this machine by its text alone (RFC 6761 §6.3)."""
    address = _address(host)
    return f".{host.lower()}".endswith(".localhost") if address is None else address.is_loopback
