"""The package's version, from its metadata: `pyproject.toml` is the one source."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version
from typing import Final

try:
    VERSION: Final = version("trunnel")
except PackageNotFoundError:  # a frozen program, or a tree that is not installed
    VERSION = "0+unknown"  # type: ignore[misc]
