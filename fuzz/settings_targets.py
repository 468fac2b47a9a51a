"""Targets for what people write: configuration files, ids, pins, addresses, targets.

Invariants: a mistake is `ConfigError` or `InvalidName` and nothing else, its
text is one that can be printed; what parses prints as something that parses
to the same.
"""

from __future__ import annotations

import base64
import hashlib
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Final

import msgspec

from trunnel.errors import ConfigError, InvalidName
from trunnel.names import KeyId, ServerAddress, Target
from trunnel.settings import options
from trunnel.settings.invitation import JoinString
from trunnel.settings.load import load_agent, load_relay, parse_config

PARSERS: Final[tuple[Callable[[str], object], ...]] = (KeyId.parse, ServerAddress.parse, Target.parse)
"""Parsers whose values print in the form that they read."""
LOADERS: Final = (load_relay, load_agent)


def fuzz_names(data: bytes) -> None:
    """Every parser of one line of text refuses or reads what it prints."""
    text = data.decode("utf-8", "surrogateescape")
    for parse in PARSERS:
        try:
            value = parse(text)
        except InvalidName as refused:
            assert _printable(refused)
        else:
            assert parse(str(value)) == value


def fuzz_pin(data: bytes) -> None:
    """A pin in any of its forms becomes a key id, whose own form is a pin too."""
    try:
        pin = KeyId.parse_pin(data.decode("utf-8", "surrogateescape"))
    except InvalidName as refused:
        assert _printable(refused)
    else:
        assert KeyId.parse_pin(str(pin)) == KeyId.parse(str(pin)) == pin


def fuzz_join_string(data: bytes) -> None:
    """An invitation is refused or read; what is read prints as a string that says the same, and hides its secret."""
    text = data.decode("utf-8", "surrogateescape")
    for tried in (text, _invitation_of(data)):
        try:
            invitation = JoinString.parse(tried)
        except InvalidName as refused:
            assert _printable(refused)
        else:
            assert JoinString.parse(invitation.to_text()) == invitation
            assert invitation.secret not in repr(invitation)


def _invitation_of(content: bytes) -> str:
    """Return a string whose checksum is right, whatever its content."""
    whole = content + hashlib.sha256(content).digest()[:4]
    return "trunnel-join-1." + base64.urlsafe_b64encode(whole).decode("ascii").rstrip("=")


def fuzz_toml(data: bytes) -> None:
    """A file is a table or a ConfigError, however deep or odd it is."""
    try:
        table = parse_config(data, origin="trunnel.toml")
    except ConfigError as refused:
        assert _printable(refused)
    else:
        assert isinstance(table, dict)


def fuzz_settings(data: bytes) -> None:
    """A whole configuration loads into typed settings, or all that is wrong with it is told."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "trunnel.toml"
        path.write_bytes(data)
        for load in LOADERS:
            try:
                config = load({options.CONFIG.key: str(path)})
            except ConfigError as refused:
                assert _printable(refused)
            else:
                assert msgspec.structs.replace(config.settings) == config.settings


def _printable(error: Exception) -> bool:
    """Whether a terminal of any encoding can show the text, non-empty and without surrogates."""
    return bool(str(error).encode("utf-8", "strict"))
