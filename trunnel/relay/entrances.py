"""Which sockets the relay has: bound as the settings say, or given by somebody who had them before.

Sockets are given by a supervisor (socket activation) or by the relay that runs
already (`takeover`), each with a name:

    port       | all          everything
    api-port   | agents       agents
    pub-port   | visitors     visitors and challenges
    alpn-port  | challenges   the same, on one more port

A socket with another name is the one of the port that it is bound to.  UDP goes
with the agents' port.  What was given is not bound; what the settings ask for
besides is.  A supervisor's word counts more than the settings' addresses and
ports: its unit says where the relay listens.

A takeover is strict: it changes no address and no port.  Where the settings ask
for others than were given, it fails, and the relay before goes on.
"""

from __future__ import annotations

import ipaddress
import logging
import socket
from collections.abc import Iterable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Final, NamedTuple, final

from trunnel.errors import ConfigError
from trunnel.relay.ingress import ALL_ROLES, Entrance, Role
from trunnel.settings.relay import RelaySettings
from trunnel.streams.listen import adopt_listener, host_port, open_listeners
from trunnel.streams.udp import UdpSocket, open_udp_sockets
from trunnel.wire.proxyprotocol import Address

logger = logging.getLogger(__name__)

_VISITOR_ROLES: Final = frozenset({Role.VISITORS, Role.CHALLENGES})
_ROLES: Final = {
    "port": ALL_ROLES,
    "api-port": frozenset({Role.AGENTS}),
    "pub-port": _VISITOR_ROLES,
    "alpn-port": _VISITOR_ROLES,
}
_BESIDES: Final = "alpn-port"
"""It replaces no other, and no other replaces it."""
_OTHER_NAMES: Final = {"all": "port", "agents": "api-port", "visitors": "pub-port", "challenges": "alpn-port"}
_GIVEN: Final = "relay.takeover"


@final
@dataclass(frozen=True, slots=True)
class Given:
    """A socket of another process, which is whoever's who has this; see the head for names."""

    sock: socket.socket  # noqa: TID251 - adopted, then waited for with trio
    name: str
    supervised: bool = True
    """Whether it comes from a supervisor, which says where we listen."""

    @property
    def is_udp(self) -> bool:
        """Whether it is for QUIC."""
        return self.sock.type == socket.SOCK_DGRAM

    @property
    def place(self) -> str:
        """Where it is bound, for people."""
        return f"{'udp' if self.is_udp else 'tcp'} {Address(*host_port(self.sock.getsockname()))}"


class _Wanted(NamedTuple):
    name: str
    port: int


def _wanted(settings: RelaySettings) -> list[_Wanted]:
    """Return the ports that the settings ask for."""
    ports = [_Wanted("api-port", settings.api_port), _Wanted("pub-port", settings.pub_port)]
    if settings.port is not None:
        ports = [_Wanted("port", settings.port)]
    if settings.alpn_port is not None and (not settings.alpn_port or settings.alpn_port not in {p.port for p in ports}):
        ports.append(_Wanted("alpn-port", settings.alpn_port))
    return ports


def _key(name: str) -> str:
    return f"relay.{name.replace('-', '_')}"


def open_entrances(settings: RelaySettings, given: Iterable[Given] = ()) -> list[Entrance]:
    """Return every listener: those *given*, which are ours then, and the rest bound.

    Raises:
        ConfigError: One cannot be had or is for nothing; then those bound here are closed, and none was taken.
    """
    wanted = _wanted(settings)
    entrances: list[Entrance] = []
    with ExitStack() as undo:
        for one in given:
            if not one.is_udp:
                name = _name_of(one, wanted)
                listener = adopt_listener(one.sock, key=_GIVEN)
                entrances.append(Entrance(listener, _ROLES[name], name=name, supervised=one.supervised))
        had = {entrance.name for entrance in entrances}
        covered = frozenset[Role]().union(*(entrance.roles for entrance in entrances if entrance.name != _BESIDES))
        for name, port in wanted:
            if name in had or (_ROLES[name] <= covered and name != _BESIDES):
                continue
            for listener in open_listeners(settings.bind_addrs, port, key=_key(name)):
                undo.callback(listener.close)
                entrances.append(Entrance(listener, _ROLES[name], name=name))
        undo.pop_all()
    _require_all(entrances)
    return entrances


def _require_all(entrances: Sequence[Entrance]) -> None:
    for role in (Role.AGENTS, Role.VISITORS):
        if not any(role in entrance.roles for entrance in entrances):
            raise AssertionError(f"nobody listens for {role}")


def _name_of(one: Given, wanted: Sequence[_Wanted]) -> str:
    """Return what a given socket is for."""
    named = _OTHER_NAMES.get(one.name, one.name)
    if named in _ROLES:
        return named
    port = host_port(one.sock.getsockname())[1]
    for name, asked in wanted:
        if asked == port:
            return name
    raise ConfigError(
        _GIVEN, f"the socket at {one.place} was given as {one.name!r}: name it {', '.join(_ROLES)}, or ask for its port"
    )


def open_udp(entrances: Sequence[Entrance], given: Iterable[Given] = ()) -> list[UdpSocket]:
    """Return the sockets for QUIC: those *given*, which are ours then, or new ones, at the agents' port.

    Where they cannot be had there is no QUIC, and a warning: TCP serves everybody, and after a hot restart
    that went wrong it is a relay of ours, draining, that still has the port.
    """
    adopted = [UdpSocket.adopt(one.sock, key=_GIVEN) for one in given if one.is_udp]
    if adopted:
        return adopted
    of_agents = [entrance for entrance in entrances if Role.AGENTS in entrance.roles]
    hosts = [entrance.listener.address[0] for entrance in of_agents]
    try:
        return open_udp_sockets(hosts, of_agents[0].listener.address[1], key=_key(of_agents[0].name))
    except ConfigError as exc:
        logger.warning("no_quic", extra={"reason": exc.reason})
        return []


def require_same(settings: RelaySettings, given: Sequence[Given]) -> None:
    """Raise ConfigError unless the settings ask for exactly the listeners that another relay gives away."""
    listeners = [one for one in given if not one.is_udp]
    if any(one.supervised for one in listeners):
        return
    wanted = dict(_wanted(settings))
    for one in listeners:
        host, port = host_port(one.sock.getsockname())
        if wanted.get(one.name, -1) not in (0, port) or not _among(host, settings.bind_addrs):
            raise ConfigError(_GIVEN, _other_places(f"it listens on {one.place}", listeners))
    for name, port in wanted.items():
        if name not in {one.name for one in listeners}:
            raise ConfigError(_GIVEN, _other_places(f"it has no {name} {port}", listeners))


def _among(host: str, addresses: Iterable[str]) -> bool:
    return any(ipaddress.ip_address(host) == ipaddress.ip_address(address.partition("%")[0]) for address in addresses)


def _other_places(why: str, listeners: Sequence[Given]) -> str:
    places = ", ".join(f"{one.name} {one.place}" for one in listeners)
    return (
        "a takeover keeps addresses and ports, and these settings ask for others than the running relay has "
        f"({why}; it has {places}): stop it and start this one without --takeover"
    )
