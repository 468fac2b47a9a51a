"""How a program talks: for people or for programs, and how much it logs."""

from __future__ import annotations

from enum import StrEnum
from typing import final

import msgspec


@final
class LogLevel(StrEnum):
    """`--log-level`: the least important record that is written."""

    DEBUG = "debug"
    INFO = "info"
    WARNING = "warning"
    ERROR = "error"


@final
class LogFormat(StrEnum):
    """`--log-format`."""

    TEXT = "text"
    JSON = "json"


@final
class OutputSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of the command line itself; the library does not see them."""

    json: bool = False
    """Events as one JSON object a line on standard output."""
    log_level: LogLevel = LogLevel.INFO
    """Least level written to standard error."""
    log_format: LogFormat = LogFormat.TEXT
    """Form of the log."""
