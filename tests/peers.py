"""Real programs that tests talk to: found on this machine, or the test is skipped.

A skip names the missing program.  Under `TRUNNEL_NO_SKIP=1` (as in `.ci/run`,
which installs them) a missing program is a failure: a test that silently did
not run protects nothing.
"""

from __future__ import annotations

import os
import shutil
from pathlib import Path
from typing import NoReturn

import pytest

NO_SKIP = os.environ.get("TRUNNEL_NO_SKIP", "") not in ("", "0")
"""Whether a skip counts as a failure."""

SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where servers live, and where an ordinary user's PATH often does not look."""


def absent(what: str) -> NoReturn:
    """End the running test because *what* is not on this machine: skip, or fail under NO_SKIP."""
    reason = f"{what} is not installed"
    if NO_SKIP:
        pytest.fail(f"{reason}, and TRUNNEL_NO_SKIP is set")
    pytest.skip(reason)


def find_program(*names: str) -> Path | None:
    """Return the path of the first of *names* that is installed, or None."""
    path = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS))
    found = (shutil.which(name, path=path) for name in names)
    return next((Path(program) for program in found if program is not None), None)


def require_program(*names: str) -> Path:
    """Return the path of the first of *names* that is installed; without one the test ends (see `absent`).

    Several names are several spellings of one program, for example
    `require_program("chromium", "chromium-browser")`.
    """
    program = find_program(*names)
    if program is None:
        absent(names[0])
    return program
