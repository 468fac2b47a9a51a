"""Which network this is, and how a relay looks from it; nothing is sent to find out.

`fingerprint` names the network by its default route: interface and gateway,
hashed, so that a file that holds it does not tell where a person was.  IPv4's
is taken if there is one, else IPv6's: router advertisements come and go while
the network stays the same.  Two homes with the same router's address share a
fingerprint; what is remembered by it must be cheap to be wrong about.

`source_towards` is the local address that the kernel would send from: that of
a connected UDP socket, which costs a route look-up and no packet.  It also
sees what the route files do not: VPNs with rules and tables of their own.

Linux lists its routes in two files, of which only the head is read and only
lines of the known shape are understood.  Elsewhere, and where the files may
not be read, the fingerprint is made of the source towards an address that
belongs to nobody and so takes the default route.
"""

from __future__ import annotations

import hashlib
import ipaddress
import socket
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

from trunnel import capabilities
from trunnel.settings import limits

NO_NETWORK: Final = "none"
"""The fingerprint where there is no default route."""

_ROUTES_V4: Final = Path("/proc/net/route")
_ROUTES_V6: Final = Path("/proc/net/ipv6_route")
_BEYOND: Final = ("192.0.2.1", "2001:db8::1")
"""Addresses of documentation (RFC 5737, RFC 3849): they take the default route, and nobody is there."""
_PORT: Final = 9
"""Any port: a datagram socket that is connected sends nothing."""
_FINGERPRINT_CHARACTERS: Final = 16
_ROUTE_UP: Final = 0x0001
_ROUTE_REJECTS: Final = 0x0200


@final
@dataclass(frozen=True, slots=True, order=True)
class DefaultRoute:
    """A line of a route file that leads everywhere; the least is the one that the kernel takes."""

    metric: int
    """Its cost."""
    interface: str
    """Where it leads out."""
    gateway: str
    """Over which router, in the file's own spelling; zeros on a line without one."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class NetworkView:
    """The network at one moment, as seen towards a relay."""

    fingerprint: str
    """Which network it is."""
    towards: str | None
    """The relay's IP address; None if there is none yet."""
    source: str | None
    """The local address towards it; None if there is no way."""


def look(towards: str | None) -> NetworkView:
    """Look at the network.

    Args:
        towards: The relay's IP address, if one is known.

    Raises:
        ValueError: It is no IP address.
    """
    source = None if towards is None else source_towards(towards)
    return NetworkView(fingerprint=fingerprint(), towards=towards, source=source)


def fingerprint() -> str:
    """Return a short name of this network, the same whenever we are on it; `NO_NETWORK` if on none."""
    described = _described_by_files() if capabilities.HAS_ROUTE_FILES else None
    if described is None:
        described = next((source for address in _BEYOND if (source := source_towards(address))), "")
    if not described:
        return NO_NETWORK
    return hashlib.sha256(described.encode()).hexdigest()[:_FINGERPRINT_CHARACTERS]


def source_towards(address: str) -> str | None:
    """Return the local IP address from which packets to *address* would go; None if they cannot go.

    Raises:
        ValueError: *address* is no IP address.
    """
    is_v4 = isinstance(ipaddress.ip_address(address), ipaddress.IPv4Address)
    family = socket.AF_INET if is_v4 else socket.AF_INET6
    try:
        with closing(socket.socket(family, socket.SOCK_DGRAM)) as sock:  # noqa: TID251 - never waits, never sends
            sock.connect((address, _PORT))
            return str(sock.getsockname()[0])
    except OSError:
        return None


# --- route files (Linux) ---------------------------------------------------------------------


def _described_by_files() -> str | None:
    """Return what the fingerprint is made of; empty without a default route, None if no file can be read."""
    found = [default_route_v4(content) for content in _head(_ROUTES_V4)]
    found += [default_route_v6(content) for content in _head(_ROUTES_V6)]
    if not found:
        return None
    route = next((route for route in found if route is not None), None)
    return "" if route is None else f"{route.interface} {route.gateway}"


def _head(path: Path) -> Iterator[bytes]:
    """Yield the first part of a file, or nothing if it cannot be read."""
    try:
        with path.open("rb") as file:
            content = file.read(limits.ROUTES_READ_MAX)
    except OSError:
        return
    yield content


def default_route_v4(content: bytes) -> DefaultRoute | None:
    """Return the best default route in the text of `/proc/net/route`; None if there is none.

    A line that does not have the known shape is passed over.
    """
    return min(_defaults_v4(content), default=None)


def default_route_v6(content: bytes) -> DefaultRoute | None:
    """Return the best default route in the text of `/proc/net/ipv6_route`; None if there is none.

    A line that does not have the known shape is passed over.
    """
    return min(_defaults_v6(content), default=None)


def _defaults_v4(content: bytes) -> Iterator[DefaultRoute]:
    for line in content.decode("ascii", "replace").splitlines():
        match line.split():
            case [interface, "00000000", gateway, flags, _, _, metric, "00000000", *_] if _usable(flags):
                if (cost := _number(metric, base=10)) is not None:
                    yield DefaultRoute(cost, interface, gateway)
            case _:
                pass


def _defaults_v6(content: bytes) -> Iterator[DefaultRoute]:
    for line in content.decode("ascii", "replace").splitlines():
        match line.split():
            case [destination, "00", _, _, gateway, metric, _, _, flags, interface] if _usable(flags):
                if not destination.strip("0") and (cost := _number(metric, base=16)) is not None:
                    yield DefaultRoute(cost, interface, gateway)
            case _:
                pass


def _usable(flags: str) -> bool:
    """Whether a route is up and leads somewhere."""
    number = _number(flags, base=16)
    return number is not None and number & (_ROUTE_UP | _ROUTE_REJECTS) == _ROUTE_UP


def _number(text: str, *, base: int) -> int | None:
    try:
        return int(text, base)
    except ValueError:
        return None
