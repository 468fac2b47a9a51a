"""`trunnel authorize`, `revoke` and `agents`: the relay's list of agents, edited in place.

They find the list as `trunnel serve` does: `--authorized-agents`, its variable
or TOML key, else `authorized` in the relay's state folder.
"""

from __future__ import annotations

import json as json_module
from collections.abc import Mapping, Sequence

import typer

from trunnel.cli.failures import ExitCode
from trunnel.names import KeyId
from trunnel.settings.load import AUTHORIZED_FILE, load_authorized_path
from trunnel.settings.options import Flag
from trunnel.settings.paths import make_state_dir


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
    if path.name == AUTHORIZED_FILE and not path.exists():
        make_state_dir(path.parent)
    authorize(path, key_id, names=wanted, label=label)
    entry = load_authorized(path).get(key_id)
    known_as = f" as {', '.join(map(str, entry.names))}" if entry is not None and entry.names else ""
    typer.echo(f"{key_id} may connect{known_as} (in {path})")


def run_revoke(agent_id: str, *, flags: Mapping[str, Flag]) -> int:
    """Take an agent off the list; returns the exit code, 1 if it was not there.

    Raises:
        InvalidName: The id does not parse.
        ConfigError: The list cannot be found, read or written.
    """
    from trunnel.relay.authorized import revoke

    key_id = KeyId.parse(agent_id)
    path = load_authorized_path(flags)
    if not path.exists() or not revoke(path, key_id):
        typer.echo(f"{key_id} was not in {path}", err=True)
        return ExitCode.RUNTIME
    typer.echo(f"{key_id} may no longer connect (in {path})")
    return ExitCode.OK


def run_agents(*, flags: Mapping[str, Flag], json: bool) -> None:
    """Print the list, in its order: a line each, or a JSON object a line.

    Raises:
        ConfigError: The list cannot be found, read or parsed.
    """
    from trunnel.relay.authorized import AuthorizedAgents, load_authorized

    path = load_authorized_path(flags)
    listed = load_authorized(path) if path.exists() else AuthorizedAgents()
    for entry in listed.agents.values():
        if json:
            names = [str(name) for name in entry.names]
            typer.echo(json_module.dumps({"id": str(entry.key_id), "names": names, "label": entry.label}))
        else:
            typer.echo(str(entry))
    if not listed.agents and not json:
        typer.echo(f"no agents in {path}; add one with: trunnel authorize ID", err=True)
