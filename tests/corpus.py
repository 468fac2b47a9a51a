"""Where recorded ClientHellos are: the project's own, and a larger folder outside of it.

The larger one is not part of the project (its captures carry the licences of
others).  It is looked for in `TRUNNEL_CORPUS`, then beside the repository; tests
that need it are marked `corpus` and skip without it, always with this reason.
"""

from __future__ import annotations

import csv
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Final

import pytest

ROOT: Final = Path(__file__).resolve().parents[1]
CAPTURES: Final = Path(__file__).parent / "data" / "clienthellos"
"""Hellos of real clients, made by `scripts/capture_hellos.py`; `index.tsv` says what they hold."""
OUTSIDE: Final = Path(os.environ.get("TRUNNEL_CORPUS") or ROOT.parent / "shared" / "data" / "clienthellos")


def outside_corpus() -> Path:
    """Return the outside folder; without it the running test skips."""
    if not (OUTSIDE / "index.tsv").is_file():
        pytest.skip("the outside corpus is absent (set TRUNNEL_CORPUS)")
    return OUTSIDE


def rows(table: Path) -> Iterator[dict[str, str]]:
    """Yield the rows of a tab-separated table; none if it is absent."""
    if not table.is_file():
        return
    with table.open(encoding="utf-8", newline="") as lines:
        yield from csv.DictReader(lines, delimiter="\t", quoting=csv.QUOTE_NONE)


def recorded_hellos() -> list[bytes]:
    """Return every recorded hello at hand, our own first, in a fixed order."""
    folders = (CAPTURES, OUTSIDE) if OUTSIDE.is_dir() else (CAPTURES,)
    return [path.read_bytes() for folder in folders for path in sorted(folder.rglob("*.bin"))]
