"""The spelling of single values: text that a person wrote in, typed value out.

Every function takes the text of one value, whatever layer it came from (flag,
environment or TOML, where numbers are turned into their text first), and
raises `InvalidName` with a sentence when it does not parse.  Units: durations
are seconds unless they end in `ms`, `s`, `m`, `h` or `d`; sizes are bytes unless
they end in `KiB`, `MiB` or `GiB`.
"""

from __future__ import annotations

import ipaddress
import os
import re
from collections.abc import Callable
from enum import StrEnum
from pathlib import Path
from typing import Final, TypeVar

from trunnel.errors import InvalidName
from trunnel.names import Hostname, ServerAddress, parse_port
from trunnel.settings import limits

Choice = TypeVar("Choice", bound=StrEnum)

_DURATION: Final = re.compile(r"([0-9]{1,9}(?:\.[0-9]{1,9})?)\s*(ms|s|m|h|d|)", re.ASCII)
_SIZE: Final = re.compile(r"([0-9]{1,12})\s*(b|kib|mib|gib|)", re.ASCII)
_EMAIL: Final = re.compile(r"[!-?A-~]{1,64}@[A-Za-z0-9.-]{1,253}", re.ASCII)
_HTTPS: Final = re.compile(r"https://[!-~]{1,500}", re.ASCII)
_PORT_AT_END: Final = re.compile(r"(?:\]|^[^:]*):[0-9]+$", re.ASCII)
_COUNT: Final = re.compile(r"[0-9]{1,9}", re.ASCII)
_SECONDS: Final = {"ms": 0.001, "": 1.0, "s": 1.0, "m": 60.0, "h": 3600.0, "d": 86_400.0}
_BYTES: Final = {"": 1, "b": 1, "kib": limits.KIB, "mib": limits.MIB, "gib": 1024 * limits.MIB}
_SWITCH: Final = {
    **dict.fromkeys(("1", "true", "yes", "on"), True),
    **dict.fromkeys(("0", "false", "no", "off"), False),
}


def parse_switch(text: str) -> bool:
    """Parse 1/0, true/false, yes/no or on/off, in any case."""
    try:
        return _SWITCH[text.strip().lower()]
    except KeyError as exc:
        raise InvalidName(f"{text!r} is neither yes (1, true, yes, on) nor no (0, false, no, off)") from exc


def parse_seconds(text: str, *, longest: float = limits.DURATION_MAX) -> float:
    """Parse a duration above zero and up to *longest* seconds; returns seconds."""
    found = _DURATION.fullmatch(text.strip().lower())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else 0.0
    if not 0 < seconds <= longest:
        days = f"{longest / _SECONDS['d']:g}d"
        raise InvalidName(f"{text!r} is not a duration such as 30, 30s, 5m or 1h (above 0, at most {days})")
    return seconds


def parse_seconds_or_never(text: str) -> float:
    """Parse a duration as `parse_seconds` does, or 0, which stands for never."""
    return 0.0 if text.strip() in ("0", "0s") else parse_seconds(text)


def parse_count(text: str) -> int:
    """Parse a whole number from 1."""
    if _COUNT.fullmatch(text.strip()) is None or int(text) == 0:
        raise InvalidName(f"{text!r} is not a whole number from 1")
    return int(text)


def parse_pool_size(text: str) -> int:
    """Parse a number of connections, 1 to `limits.POOL_SIZE_MAX`."""
    count = parse_count(text)
    if count > limits.POOL_SIZE_MAX:
        raise InvalidName(f"{text!r} is more than the {limits.POOL_SIZE_MAX} connections that one session may have")
    return count


def parse_window(text: str) -> int:
    """Parse the size of a stream's receive window; returns bytes, 64 KiB to 16 MiB."""
    found = _SIZE.fullmatch(text.strip().lower())
    size = int(found[1]) * _BYTES[found[2]] if found else 0
    if not limits.STREAM_WINDOW_MIN <= size <= limits.STREAM_WINDOW_LIMIT:
        raise InvalidName(f"{text!r} is not a size from 64KiB to 16MiB, such as 3MiB or 262144")
    return size


def parse_public_port(text: str) -> int:
    """Parse a port that visitors use: 1 to 65535."""
    return parse_port(text.strip())


def parse_listen_port(text: str) -> int:
    """Parse a port to listen on: 0 ("any free one") to 65535."""
    return parse_port(text.strip(), zero=True)


def parse_address(text: str) -> str:
    """Parse an IP address to listen on; brackets around IPv6 are fine."""
    bare = text.strip().removeprefix("[").removesuffix("]")
    try:
        return str(ipaddress.ip_address(bare))
    except ValueError as exc:
        raise InvalidName(f"{text!r} is not an IP address, such as 127.0.0.1 or ::1") from exc


def parse_label(text: str) -> str:
    """Parse one label of a host name, such as `blog`."""
    label = Hostname.parse(text).value
    if "." in label:
        raise InvalidName(f"{text!r}: give one label such as {label.partition('.')[0]!r}; the relay adds its suffix")
    return label


def parse_key_name(text: str) -> str:
    """Parse the name of a key: it becomes a file name, so it is kept to letters, digits, '-' and '_'."""
    if re.fullmatch(r"[A-Za-z0-9][A-Za-z0-9_-]{0,62}", text, re.ASCII) is None:
        raise InvalidName(f"{text!r} is not a key name (letters, digits, '-' and '_', at most 63)")
    return text


def parse_path(text: str) -> Path:
    """Parse a path; `~` is the home folder."""
    if not text or "\0" in text:
        raise InvalidName("a path is missing")
    expanded = os.path.expanduser(text)  # noqa: PTH111 - Path.expanduser raises where there is no home
    return Path(expanded)


def parse_existing_file(text: str) -> Path:
    """Parse the path of a file that is there already."""
    path = parse_path(text)
    try:
        present = path.exists()
    except OSError as exc:
        raise InvalidName(f"{text!r} cannot be looked at: {exc.strerror}") from exc
    if not present:
        raise InvalidName(f"there is no file {text!r}")
    if path.is_dir():
        raise InvalidName(f"{text!r} is a folder, not a file")
    return path


def parse_hex(text: str) -> bytes:
    """Parse hex digits into bytes; colons and blanks between bytes are fine."""
    try:
        content = bytes.fromhex(text.replace(":", " "))
    except ValueError as exc:
        raise InvalidName(f"{text!r} is not an even number of hex digits") from exc
    if len(content) > limits.CERT_EXTENSION_MAX:
        raise InvalidName(f"{len(content)} bytes are more than the {limits.CERT_EXTENSION_MAX} that fit")
    return content


def parse_alpn(text: str) -> str:
    """Parse the name of an ALPN protocol (RFC 7301 §3.1: 1 to 255 bytes; here printable ASCII)."""
    if re.fullmatch(r"[!-+\--~]{1,255}", text, re.ASCII) is None:
        raise InvalidName(f"{text!r} is not an ALPN protocol name, such as h2 or http/1.1")
    return text


def parse_choice(kind: type[Choice]) -> Callable[[str], Choice]:
    """Return a parser for the words of *kind*."""

    def parse(text: str) -> Choice:
        try:
            return kind(text.strip().lower())
        except ValueError as exc:
            raise InvalidName(f"{text!r} is not one of: {', '.join(kind)}") from exc

    return parse


def parse_token(text: str) -> str:
    """Parse a word without blanks; blanks around it, and line breaks within, are left out."""
    token = "".join(text.split())
    if not token or not token.isascii() or not token.isprintable():
        raise InvalidName("it is empty, or has characters that do not belong there")
    return token


def parse_email(text: str) -> str:
    """Parse an e-mail address, as far as an authority will look at it."""
    if _EMAIL.fullmatch(text.strip()) is None:
        raise InvalidName(f"{text!r} is not an e-mail address such as ada@example.com")
    return text.strip()


def parse_https_url(text: str) -> str:
    """Parse the URL of a certificate authority's directory."""
    if _HTTPS.fullmatch(text.strip()) is None:
        raise InvalidName(f"{text!r} is not a URL such as https://acme.example.com/directory")
    return text.strip()


def parse_dns_server(text: str) -> ServerAddress:
    """Parse a resolver's IP address, with port 53 unless another is given."""
    bare = text.strip()
    server = ServerAddress.parse(bare if _PORT_AT_END.search(bare) else f"{bare}:53")
    try:
        ipaddress.ip_address(server.host)
    except ValueError as exc:
        raise InvalidName(f"{text!r} is not an IP address such as 1.1.1.1, or 127.0.0.1:5353") from exc
    return server
