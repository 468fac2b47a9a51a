"""What is measured is the installed wheel, in an environment of its own under build/.

The wheel is built anew when a source file has changed.  A benchmark of the
working tree would have what no user has: modules that were never packaged,
and bytecode that is checked against its source.
"""

from __future__ import annotations

import hashlib
import shutil
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[2]
BUILD = ROOT / "build" / "bench"
PIP = ("-m", "pip", "--disable-pip-version-check", "--quiet")


def fingerprint() -> str:
    """Return a name for the sources as they are now, for this interpreter."""
    digest = hashlib.sha256(sys.version.encode())
    files = [path for path in (ROOT / "trunnel").rglob("*") if path.suffix in {".py", ".md", ".typed"}]
    for path in [*sorted(files), ROOT / "pyproject.toml", ROOT / "constraints.txt"]:
        digest.update(str(path).encode() + path.read_bytes())
    return digest.hexdigest()[:16]


def run(*words: object) -> None:
    """Run a step; what it said is shown when it fails."""
    done = subprocess.run([str(word) for word in words], cwd=ROOT, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"cannot install trunnel to measure it:\n{done.stdout}{done.stderr}")


def installed_trunnel() -> Path:
    """Return the command `trunnel` of an environment that holds the wheel of these sources."""
    folder, stamp, wanted = BUILD / "venv", BUILD / "fingerprint", fingerprint()
    python, command = folder / "bin" / "python", folder / "bin" / "trunnel"
    if stamp.exists() and stamp.read_text() == wanted and command.exists():
        return command
    print("building the wheel and installing it into build/bench", file=sys.stderr, flush=True)
    if not python.exists():
        BUILD.mkdir(parents=True, exist_ok=True)
        run(sys.executable, "-m", "venv", folder)
    shutil.rmtree(BUILD / "wheel", ignore_errors=True)
    # A copy, so that setuptools leaves nothing in the working tree and no other build runs into it.
    source = BUILD / "source"
    shutil.rmtree(source, ignore_errors=True)
    shutil.copytree(ROOT / "trunnel", source / "trunnel", ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    run(sys.executable, *PIP, "wheel", "--no-deps", "-w", BUILD / "wheel", source)
    (wheel,) = (BUILD / "wheel").glob("*.whl")
    run(python, *PIP, "install", "-c", ROOT / "constraints.txt", wheel)
    run(python, *PIP, "install", "--no-deps", "--force-reinstall", wheel)
    run(python, "-m", "compileall", "-q", folder)
    stamp.write_text(wanted)
    return command


def editable_trunnel() -> Path:
    """Return the command of the environment that runs the benchmark: the working tree."""
    return Path(sys.executable).with_name("trunnel")
