"""`trunnel invite`: one string that lets one agent in, printed once.

Standard output has the string and nothing else, so it can be piped; what to do
with it is said on standard error.  Where an agent reaches the relay:

    --address                    as given; without a port, the relay's
    else the relay's name        an `acme_domain`, or the first suffix, unless that is `localhost`
    else an address              that the relay listens on and that is one machine's

The port is the one on which the relay listens or listened last, or would by
its configuration.  The pin is that of the key that the relay shows now.
"""

from __future__ import annotations

import ipaddress
import json as json_module
from collections.abc import Mapping, Sequence
from contextlib import suppress
from datetime import datetime, timedelta
from typing import Final

import typer

from trunnel.cli.health import LISTENING_FILE, Places, read_places
from trunnel.clock import utc_now
from trunnel.errors import ConfigError, ConnectError
from trunnel.names import Hostname, KeyId, ServerAddress, parse_port
from trunnel.settings import limits
from trunnel.settings.invitation import JoinString
from trunnel.settings.load import load_authorized_path, load_relay
from trunnel.settings.options import Flag
from trunnel.settings.paths import make_state_dir
from trunnel.settings.relay import LOOPBACK, RelaySettings
from trunnel.settings.values import parse_seconds

DEFAULT_LIFE: Final = "1d"
"""How long an invitation can be used, as a person writes it."""
_LOCAL: Final = Hostname("localhost")
_WHERE: Final = "where do agents reach this relay? Say it with --address HOST[:PORT]"


def run_invite(
    *,
    names: Sequence[str],
    label: str,
    expires: str,
    address: str | None,
    flags: Mapping[str, Flag],
    json: bool,
) -> None:
    """Make an invitation and print its string.

    Raises:
        InvalidName: A name, the label, the life or the address does not parse.
        ConfigError: A file cannot be used, a name is taken, or nothing says where agents reach the relay.
    """
    from trunnel.relay.authorized import load_if_there, parse_name
    from trunnel.relay.invitations import Invitations

    wanted = [parse_name(part) for name in names for part in name.split(",")]
    life = parse_seconds(expires, longest=limits.INVITATION_LIFE_MAX)
    settings = _settings(flags)
    server = _server(settings, address)
    make_state_dir(settings.state_dir)
    present = load_if_there(settings.authorized_path)
    if (taken := present.taken(wanted)) is not None:
        raise ConfigError("", f"the name {taken} belongs to an agent already (in {settings.authorized_path})")
    now = utc_now()
    ends = (now + timedelta(seconds=life)).replace(microsecond=0)
    pin = _relay_id(settings)
    made, secret = Invitations(settings.invitations_path).create(names=wanted, label=label, expires=ends, now=now)
    join = JoinString(server=server, relay=pin, secret=secret, expires=ends, names=tuple(wanted))
    if json:
        typer.echo(json_module.dumps({**described(made.id, made.names, made.label, ends), **_told(join)}))
        return
    typer.echo(join.to_text())
    as_whom = f" as {', '.join(made.names)}" if made.names else ""
    typer.echo(f"invitation {made.id}: one agent{as_whom}, at {server}, until {ends:%Y-%m-%d %H:%M} UTC", err=True)
    typer.echo("on the agent's machine: trunnel expose 3000 --join STRING", err=True)
    if _at_home(server):
        typer.echo("only this machine reaches the relay there; for others say --address HOST[:PORT]", err=True)


def described(invitation_id: str, names: Sequence[str], label: str, expires: datetime) -> dict[str, object]:
    """Return what programs are told of an invitation."""
    return {"invitation": invitation_id, "names": list(names), "label": label, "expires": expires.isoformat()}


def _told(join: JoinString) -> dict[str, object]:
    return {"join": join.to_text(), "server": str(join.server), "relay_id": join.relay.value}


def _settings(flags: Mapping[str, Flag]) -> RelaySettings:
    """Return the settings as `trunnel serve` would; who invites has said which agents may connect.

    A relay without a list of agents gets an empty one: a public one would not start without.
    """
    try:
        settings = load_relay(flags).settings
    except ConfigError as exc:
        if exc.key != "relay.authorized_agents":
            raise
    else:
        if settings.open or settings.authorized_agents is not None:
            return settings
    path = load_authorized_path(flags)
    make_state_dir(path.parent)
    path.touch(mode=0o644)
    return load_relay(flags).settings


def _server(settings: RelaySettings, address: str | None) -> ServerAddress:
    """Return where an agent reaches the relay; raises InvalidName or ConfigError.

    With an address of the wide world and nothing but a laptop's settings, a public relay is meant: port 443.
    """
    places = _places(settings).agents
    port = _port(settings, places)
    if address is not None:
        server = ServerAddress.parse(address)
        has_port = address.strip().endswith(f":{server.port}")
        unsaid = settings == RelaySettings(state_dir=settings.state_dir, authorized_agents=settings.authorized_agents)
        abroad = unsaid and not places and not _at_home(server)
        return server if has_port or abroad or not port else ServerAddress(server.host, port)
    if not port:
        raise ConfigError("", f"{_WHERE} (the system chooses the port, and no relay has listened yet)")
    return ServerAddress(_host(settings, [place.rpartition(":")[0].strip("[]") for place in places]), port)


def _at_home(server: ServerAddress) -> bool:
    return server.host in (*LOOPBACK, _LOCAL.value)


def _places(settings: RelaySettings) -> Places:
    """Return where the relay listens, or listened last; empty if it never has."""
    with suppress(ConnectError):
        return read_places(settings.state_dir / LISTENING_FILE)
    return Places(agents=(), visitors=())


def _relay_id(settings: RelaySettings) -> KeyId:
    """Return the key that agents will be shown: of the certificate that the settings name, else what a relay showed.

    A relay that was told of its certificate on the command line is known by what it has left alone.
    """
    from trunnel.relay.certificate import load_certificate

    if settings.tls_cert is None and (shown := _places(settings).relay_id):
        return KeyId.parse(shown)
    return load_certificate(settings).current.relay_id


def _port(settings: RelaySettings, places: Sequence[str]) -> int:
    """Return the agents' port, 0 if only the system knows it."""
    if settings.port is not None and settings.public_port is not None:
        return settings.public_port  # one port for everything, behind a forward
    if places:
        return parse_port(places[0].rpartition(":")[2])
    return settings.api_port if settings.port is None else settings.port


def _host(settings: RelaySettings, listening: Sequence[str]) -> str:
    """Return the host that an agent dials; raises ConfigError if nothing says it."""
    named = [*settings.acme_domains, *(suffix for suffix in settings.domain_suffixes if suffix != _LOCAL)]
    beyond = any(not ipaddress.ip_address(host).is_loopback for host in listening or settings.bind_addrs)
    if named and beyond:
        return named[0].value
    for host in listening or settings.bind_addrs:
        if not ipaddress.ip_address(host).is_unspecified:
            return host
    raise ConfigError("", _WHERE)
