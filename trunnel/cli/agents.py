"""`trunnel authorize`, `revoke` and `agents`: the relay's list of agents, edited in place, and its invitations.

They find the list as `trunnel serve` does: `--authorized-agents`, its variable
or TOML key, else `authorized` in the relay's state folder.  Invitations are in
that folder, wherever the list is.  `revoke` tells an agent from an invitation by
the form of the id.
"""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import typer

from trunnel.cli.failures import ExitCode
from trunnel.clock import utc_now
from trunnel.names import KeyId
from trunnel.settings.load import load_authorized_path, load_state_dir
from trunnel.settings.options import Flag
from trunnel.settings.paths import Program, make_state_dir
from trunnel.settings.relay import RelaySettings

if TYPE_CHECKING:
    from trunnel.relay.invitations import Invitations


def run_authorize(agent_id: str, *, names: Sequence[str], label: str | None, flags: Mapping[str, Flag]) -> None:
    """Add an agent to the list, or names and a label to one that is there.

    Raises:
        InvalidName: The id, a name or the label does not parse.
        ConfigError: The list cannot be found, read or written.
    """
    from trunnel.relay.authorized import authorize, load_authorized, parse_name

    key_id = KeyId.parse(agent_id)
    wanted = [parse_name(part) for name in names for part in name.split(",")]
    path = load_authorized_path(flags)
    if not path.exists() and path == RelaySettings(state_dir=path.parent).authorized_path:
        make_state_dir(path.parent)
    authorize(path, key_id, names=wanted, label=label)
    entry = load_authorized(path).get(key_id)
    known_as = f" as {', '.join(map(str, entry.names))}" if entry is not None and entry.names else ""
    typer.echo(f"{key_id} may connect{known_as} (in {path})")


def run_revoke(agent_id: str, *, flags: Mapping[str, Flag]) -> int:
    """Take an agent off the list, or an invitation back; returns the exit code, 1 if it was not there.

    Raises:
        InvalidName: The id does not parse.
        ConfigError: The list cannot be found, read or written.
    """
    from trunnel.relay.authorized import revoke
    from trunnel.relay.invitations import is_invitation_id

    if is_invitation_id(agent_id):
        return _revoke_invitation(agent_id, flags=flags)
    key_id = KeyId.parse(agent_id)
    path, invitations = load_authorized_path(flags), _invitations(flags)
    if invitations.path.exists():
        invitations.revoke_of(key_id, now=utc_now())
    if not path.exists() or not revoke(path, key_id):
        typer.echo(f"{key_id} was not in {path}", err=True)
        return ExitCode.RUNTIME
    typer.echo(f"{key_id} may no longer connect (in {path})")
    return ExitCode.OK


def _revoke_invitation(invitation_id: str, *, flags: Mapping[str, Flag]) -> int:
    invitations = _invitations(flags)
    if not invitations.path.exists() or not invitations.revoke(invitation_id, now=utc_now()):
        typer.echo(f"no invitation {invitation_id} waits to be used (in {invitations.path})", err=True)
        return ExitCode.RUNTIME
    typer.echo(f"nobody may come with the invitation {invitation_id} any more")
    return ExitCode.OK


def _invitations(flags: Mapping[str, Flag]) -> Invitations:
    from trunnel.relay.invitations import Invitations

    return Invitations(RelaySettings(state_dir=load_state_dir(Program.RELAY, flags)).invitations_path)


def run_agents(*, flags: Mapping[str, Flag], json: bool) -> None:
    """Print the list, in its order, then the invitations that wait: a line each, or a JSON object a line.

    Raises:
        ConfigError: The list or the invitations cannot be found, read or parsed.
    """
    from trunnel.cli.invite import described
    from trunnel.relay.authorized import load_if_there

    path = load_authorized_path(flags)
    listed = load_if_there(path)
    for entry in listed.agents.values():
        if json:
            names = [str(name) for name in entry.names]
            typer.echo(json_module.dumps({"id": str(entry.key_id), "names": names, "label": entry.label}))
        else:
            typer.echo(str(entry))
    pending = _invitations(flags).pending(utc_now())
    for invitation in pending:
        if json:
            typer.echo(
                json_module.dumps(described(invitation.id, invitation.names, invitation.label, invitation.expires))
            )
        else:
            known_as = "".join(f" {name}" for name in invitation.names)
            label = f"  # {invitation.label}" if invitation.label else ""
            typer.echo(f"invitation {invitation.id}{known_as}, until {invitation.expires:%Y-%m-%d %H:%M} UTC{label}")
    if not listed.agents and not pending and not json:
        typer.echo(f"no agents in {path}; add one with: trunnel authorize ID, or trunnel invite", err=True)
