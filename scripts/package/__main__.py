"""Build the wheel, the sdist and a single file for each Python here; try each in a clean environment.

    python -m scripts.package [--python X.Y ...]    all that are found, or those named

What is built lies in `dist/`; what was needed for it in `build/package`, which may be removed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

from scripts.package.single import build_single_file, find_pythons
from scripts.package.smoke import Tried, smoke

ROOT = Path(__file__).resolve().parents[2]
CONSTRAINTS = ROOT / "constraints.txt"
DIST = ROOT / "dist"
WORK = ROOT / "build" / "package"
EPOCH = "1767225600"
"""2026-01-01: the age of what is in an archive, where there is no commit to ask (an unpacked sdist)."""


def stamp() -> None:
    """Give everything that is built the age of the commit, so that building it again gives the same bytes."""
    asked = subprocess.run(
        ["git", "log", "-1", "--format=%ct"], cwd=ROOT, capture_output=True, text=True, check=False
    ).stdout.strip()
    os.environ.setdefault("SOURCE_DATE_EPOCH", asked or EPOCH)


def build_wheel() -> Path:
    """Build sdist and wheel; returns the wheel."""
    for old in [*DIST.glob("trunnel-*")] if DIST.is_dir() else []:
        old.unlink()
    completed = subprocess.run(
        [sys.executable, "-m", "build", "--outdir", DIST, ROOT], cwd=ROOT, capture_output=True, text=True, check=False
    )
    if completed.returncode:
        raise SystemExit(completed.stdout + completed.stderr)
    (wheel,) = DIST.glob("*.whl")
    return wheel


def install(wheel: Path, python: Path, version: str) -> Path:
    """Install *wheel* where nothing else is; returns its `trunnel`."""
    environment = WORK / f"wheel-py{version}"
    subprocess.run([python, "-m", "venv", "--clear", environment], check=True)
    pip: list[str | Path] = [environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "-c", CONSTRAINTS, wheel], check=True)
    return environment / "bin" / "trunnel"


def show(path: Path, tried: Tried) -> None:
    """Print one line about what was built and tried."""
    size = f"{path.stat().st_size / 1e6:.1f} MB"
    print(
        f"{path.name:34} {size:>8}  {tried.version}, starts in {tried.start:.2f} s (first {tried.first_start:.1f} s), "
        f"a visitor was served ({tried.data_path})",
        flush=True,
    )


def main() -> int:
    """Build and try everything; returns the exit status."""
    parser = argparse.ArgumentParser(prog="make package", description="Build and try what is shipped.")
    parser.add_argument("--python", action="append", metavar="X.Y", help="only for this version; repeat for more")
    wanted = parser.parse_args().python
    pythons = {version: path for version, path in find_pythons().items() if not wanted or version in wanted}
    if missing := set(wanted or ()) - set(pythons):
        print(f"no such Python here: {', '.join(sorted(missing))}", file=sys.stderr)
        return 2
    stamp()
    wheel = build_wheel()
    here = f"{sys.version_info.major}.{sys.version_info.minor}"
    show(wheel, smoke([install(wheel, pythons.get(here, Path(sys.executable)), here)]))
    for version, python in pythons.items():
        packed = build_single_file(wheel, python=python, version=version, constraints=CONSTRAINTS, work=WORK)
        show(packed, smoke([python, "-I", packed]))
    return 0


if __name__ == "__main__":
    sys.exit(main())
