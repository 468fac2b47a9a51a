"""All fuzz targets by name: every `fuzz_NAME` of every module `fuzz/*_targets.py`.

A target takes bytes, asserts invariants and returns nothing.  Whatever it
lets out, an assertion or any other exception, is a finding.
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import fuzz

Target = Callable[[bytes], None]

CORPUS: Final = Path(__file__).parent / "corpus"
"""One folder a target: seeds and past findings."""
PREFIX: Final = "fuzz_"


def _collect() -> Iterator[tuple[str, Target]]:
    for found in pkgutil.iter_modules(fuzz.__path__):
        if not found.name.endswith("_targets"):
            continue
        module = importlib.import_module(f"fuzz.{found.name}")
        for name, target in sorted(vars(module).items()):
            if name.startswith(PREFIX) and getattr(target, "__module__", None) == module.__name__:
                yield name.removeprefix(PREFIX), target


TARGETS: Final[dict[str, Target]] = dict(_collect())
"""Name of each target, without `fuzz_` -> the function."""


def corpus_of(name: str) -> list[Path]:
    """Return the corpus files of target *name*, in order of path."""
    return sorted(path for path in (CORPUS / name).glob("*") if path.is_file())
