"""Run fuzz targets for a while: `python -m fuzz.run [--seconds N] [--target X] [--deep]`.

Each target gets an equal share of the time: first its corpus is replayed,
then hypothesis tries inputs in batches until the share is over.  Where
atheris is installed, it takes half of each share, in a process of its own
(`fuzz.guided`).  One line a target; a failing input is shrunk and saved into
`fuzz/corpus/TARGET/`, where the ordinary tests replay it for ever.
Exit status 1 if any target failed.
"""

from __future__ import annotations

import argparse
import hashlib
import importlib.util
import subprocess
import sys
import time
import traceback
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from hypothesis import HealthCheck, Phase, given, settings

from fuzz.inputs import inputs_for
from fuzz.targets import CORPUS, TARGETS, Target, corpus_of

BATCH: Final = 200
"""Examples between two looks at the clock."""
SECONDS: Final = 60.0
"""Default for all targets together."""
DEEP_SECONDS: Final = 3_600.0
"""Default of `--deep`."""
LIBFUZZER_GRACE: Final = 30
"""Seconds beyond its share after which a guided process is stopped."""


@dataclass(slots=True)
class Run:
    """One target's run so far."""

    name: str
    target: Target
    examples: int = 0
    failing: bytes | None = None
    """The last input that failed; after shrinking, the smallest."""

    def attempt(self, octets: bytes) -> None:
        """Call the target; what it raises is remembered and passed on."""
        self.examples += 1
        try:
            self.target(octets)
        except BaseException:
            self.failing = octets
            raise

    def replay(self) -> None:
        """Try each file of the corpus."""
        for path in corpus_of(self.name):
            self.attempt(path.read_bytes())

    def explore(self, seconds: float) -> None:
        """Let hypothesis try inputs, at least one batch."""
        inputs = inputs_for([path.read_bytes() for path in corpus_of(self.name)])
        batch = given(inputs)(self.attempt)
        batch = settings(
            max_examples=BATCH,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
            phases=[Phase.generate, Phase.shrink],
        )(batch)
        end = time.monotonic() + seconds
        while True:
            batch()
            if time.monotonic() >= end:
                return

    def save(self) -> Path | None:
        """Write the failing input into the corpus, named by its digest."""
        if self.failing is None:
            return None
        folder = CORPUS / self.name
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / f"found-{hashlib.sha256(self.failing).hexdigest()[:16]}"
        path.write_bytes(self.failing)
        return path


def fuzz_one(name: str, seconds: float) -> bool:
    """Run target *name* for about *seconds*, print its line, return whether it held."""
    run = Run(name, TARGETS[name])
    has_atheris = importlib.util.find_spec("atheris") is not None
    start = time.monotonic()
    try:
        run.replay()
        run.explore(seconds / 2 if has_atheris else seconds)
        if has_atheris:
            _guided(name, seconds / 2)
    except Exception:  # noqa: BLE001 - whatever leaves a target is the finding
        traceback.print_exc()
        print(f"{name:32} FAIL {run.examples:>8} examples  {_where(run.save())}", flush=True)
        return False
    print(f"{name:32} ok   {run.examples:>8} examples  {time.monotonic() - start:5.1f} s", flush=True)
    return True


def _where(saved: Path | None) -> str:
    return "" if saved is None else f"saved to {saved.relative_to(CORPUS.parents[1]).as_posix()}"


def _guided(name: str, seconds: float) -> None:
    """Run atheris on target *name*; raises CalledProcessError with its output if it finds something."""
    command = [sys.executable, "-m", "fuzz.guided", name, str(max(1, round(seconds)))]
    done = subprocess.run(  # noqa: S603 - our own module, a name from our table
        command, capture_output=True, text=True, errors="replace", timeout=seconds + LIBFUZZER_GRACE, check=False
    )
    if done.returncode != 0:
        print(done.stdout, done.stderr[-4_000:], sep="\n")
        done.check_returncode()


def main(arguments: Sequence[str] | None = None) -> int:
    """Parse *arguments*, run the targets, return the exit status."""
    # Hypothesis keeps bytes and numbers as keys of one table, which `python -bb` reports.
    warnings.filterwarnings("ignore", category=BytesWarning, module=r"hypothesis\.")
    parser = argparse.ArgumentParser(prog="fuzz.run", description=__doc__.partition("\n")[0])
    parser.add_argument("--seconds", type=float, help="for all targets together")
    parser.add_argument(
        "--target", action="append", choices=sorted(TARGETS), metavar="X", help="only this one; repeats"
    )
    parser.add_argument("--deep", action="store_true", help=f"{DEEP_SECONDS:.0f} seconds unless --seconds says else")
    parser.add_argument("--list", action="store_true", help="print the targets' names")
    options = parser.parse_args(arguments)
    if options.list:
        print("\n".join(TARGETS))
        return 0
    names: list[str] = options.target or list(TARGETS)
    total = options.seconds if options.seconds is not None else DEEP_SECONDS if options.deep else SECONDS
    held = [fuzz_one(name, total / len(names)) for name in names]
    return 0 if all(held) else 1


if __name__ == "__main__":
    sys.exit(main())
