"""The relay that a key has joined: remembered, so that `--join` is needed once.

    <state folder>/joined/<key name>.json
    {"server":"t.example.com:443","relay":"…52 characters…","names":["shop"]}

Without `--server` and `--join` the agent goes to that relay, with that pin,
and shows the first of the names.  What a person gives wins: another `--server`
(then nothing here counts), a `--relay-pin` or `--relay-ca`, a `--name`.

Here the file is read and put to use; the agent writes it (`agent/joined.py`),
once the relay has let it in.
"""

from __future__ import annotations

import hashlib
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Final, cast, final

import msgspec

from trunnel.errors import ConfigError, InvalidName
from trunnel.names import KeyId, ServerAddress
from trunnel.settings import limits
from trunnel.settings.invitation import JoinString
from trunnel.settings.values import parse_label

FOLDER: Final = "joined"
"""In the agent's state folder."""
_FINGERPRINT_CHARS: Final = 8
Fields = Mapping[str, object]
"""Values of `AgentSettings`, by field; absent if nobody gave them."""


@final
class Joined(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the file."""

    server: str
    """The relay, as it is dialled."""
    relay: str
    """Its key."""
    names: list[str] = []
    """Labels that came with the invitation."""


def joined_path(state_dir: Path, *, key_name: str, key_file: Path | None) -> Path:
    """Return where the relay of a key is remembered; a key file elsewhere is told by its path."""
    if key_file is None:
        return state_dir / FOLDER / f"{key_name}.json"
    place = os.path.abspath(key_file)  # noqa: PTH100 - Path.absolute keeps `..`, resolve follows links
    digest = hashlib.sha256(place.encode("utf-8", "surrogateescape")).hexdigest()
    return state_dir / FOLDER / f"{key_file.stem}-{digest[:_FINGERPRINT_CHARS]}.json"


def with_relay(fields: Fields, *, state_dir: Path) -> tuple[Fields, str]:
    """Return *fields* with the relay that an invitation or an earlier one names, and a line for the person.

    Raises:
        ConfigError: The invitation does not parse or is at odds with other fields, or the file cannot be used.
    """
    if (join := cast("str | None", fields.get("join"))) is not None:
        return _by_invitation(fields, join), ""
    key_name = cast("str", fields.get("key_name", "default"))
    path = joined_path(state_dir, key_name=key_name, key_file=cast("Path | None", fields.get("key_file")))
    joined = _read(path)
    return (fields, "") if joined is None else _by_memory(fields, joined)


def _by_invitation(fields: Fields, join: str) -> Fields:
    try:
        invitation = JoinString.parse(join)
    except InvalidName as exc:
        raise ConfigError("agent.join", str(exc)) from exc
    if fields.get("servers", (invitation.server,)) != (invitation.server,):
        raise ConfigError("agent.join", f"the invitation is to {invitation.server}: leave out --server")
    if fields.get("relay_pin", invitation.relay) != invitation.relay:
        raise ConfigError("agent.join", f"the invitation is to the key {invitation.relay}: leave out --relay-pin")
    return _filled(fields, invitation.server, invitation.relay, [name.value for name in invitation.names])


def _by_memory(fields: Fields, joined: Joined) -> tuple[Fields, str]:
    server, relay = ServerAddress.parse(joined.server), KeyId.parse(joined.relay)
    given = fields.get("servers")
    if given not in (None, (server,)):
        return fields, f"this key has joined {server}; the relay that was named is used instead"
    filled = _filled(fields, server, relay, joined.names)
    if filled.get("relay_pin") != relay:
        return filled, f"this key has joined {server}; the pin or CA that was given is used instead"
    return filled, "" if given else f"to {server}, which this key has joined"


def _filled(fields: Fields, server: ServerAddress, relay: KeyId, names: list[str]) -> Fields:
    """Return *fields* with what they do not have yet."""
    filled: dict[str, object] = {"servers": (server,), **({"name": names[0]} if names else {})}
    if "relay_ca" not in fields:
        filled["relay_pin"] = relay
    return {**filled, **fields}


def _read(path: Path) -> Joined | None:
    """Return the file's content, None if there is none; raises ConfigError."""
    try:
        with path.open("rb") as file:
            content = file.read(limits.JOINED_FILE_MAX + 1)
    except FileNotFoundError:
        return None
    except OSError as exc:
        raise ConfigError("", f"cannot read {path}: {exc.strerror}") from exc
    try:
        joined = msgspec.json.decode(content, type=Joined)
        ServerAddress.parse(joined.server)
        KeyId.parse(joined.relay)
        for name in joined.names:
            parse_label(name)
    except (msgspec.DecodeError, UnicodeDecodeError, InvalidName) as exc:
        raise ConfigError("", f"{path} is not what it was ({exc}): remove it, and join again or name a relay") from exc
    return joined
