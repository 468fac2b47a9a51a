"""The single file: `dist/trunnel-VERSION-pyX.Y.pyz`, everything but the interpreter.

shiv packs the wheel and what it needs; the file unpacks itself into `~/.shiv`
at its first start (`SHIV_ROOT` names another folder).  Some of what is in it
is compiled for one version of Python, and for this system and processor, so
there is a file for each version that is found here.  Packed twice from the
same commit it is the same, byte by byte, if the index gives the same files.
"""

from __future__ import annotations

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

OLDEST = 11
"""The first Python 3 that trunnel runs on."""
NEWEST = 14
"""The last one that is looked for."""


def find_pythons() -> dict[str, Path]:
    """Return an interpreter for each version, `3.X`, on the PATH or kept by pyenv, that can make environments."""
    found: dict[str, Path] = {}
    for minor in range(OLDEST, NEWEST + 1):
        version = f"3.{minor}"
        path = next((path for path in _candidates(version) if _usable(path, version)), None)
        if path is not None:
            found[version] = path
    return found


def _candidates(version: str) -> Iterator[Path]:
    on_path = shutil.which(f"python{version}")
    if on_path is not None:
        yield Path(on_path)
    pyenv = Path(os.environ.get("PYENV_ROOT") or Path.home() / ".pyenv")
    yield from sorted(pyenv.glob(f"versions/{version}*/bin/python{version}"), reverse=True)


def _usable(python: Path, version: str) -> bool:
    """Whether *python* is that version and has what an environment needs (a shim may be neither)."""
    test = "import venv, ensurepip, ssl, sys; print('%d.%d' % sys.version_info[:2])"
    try:
        answer = subprocess.run([python, "-I", "-c", test], capture_output=True, text=True, check=False, timeout=20)
    except (OSError, subprocess.TimeoutExpired):
        return False
    return answer.returncode == 0 and answer.stdout.strip() == version


def build_single_file(wheel: Path, *, python: Path, version: str, constraints: Path, work: Path) -> Path:
    """Pack *wheel* for one version of Python; returns the file, beside the wheel.

    Args:
        wheel: What to pack.
        python: The interpreter; its own pip chooses what fits it.
        version: Of Python, `3.X`.
        constraints: The versions of everything else.
        work: A folder for the environment that packs.

    Raises:
        subprocess.CalledProcessError: It does not work; pip has said why.
    """
    environment = work / f"py{version}"
    subprocess.run([python, "-m", "venv", "--clear", environment], check=True)
    pip: list[str | Path] = [environment / "bin" / "python", "-m", "pip", "--disable-pip-version-check", "--quiet"]
    subprocess.run([*pip, "install", "-c", constraints, "shiv", "setuptools"], check=True)
    packed = wheel.with_name(f"{'-'.join(wheel.name.split('-')[:2])}-py{version}.pyz")
    pack: list[str | Path] = [
        environment / "bin" / "shiv",
        "--compressed",
        "--compile-pyc",
        "--reproducible",
        "--console-script",
        "trunnel",
    ]
    named: list[str | Path] = ["--python", f"/usr/bin/env python{version}", "--output-file", packed]
    chosen: list[str | Path] = [
        "--quiet",
        "--disable-pip-version-check",
        "--only-binary",
        ":all:",
        "--constraint",
        constraints,
        wheel,
    ]
    subprocess.run([*pack, *named, *chosen], check=True, stdout=subprocess.DEVNULL)
    return packed
