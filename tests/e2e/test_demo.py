"""The demo that a newcomer runs first."""

from __future__ import annotations

import sys
from pathlib import Path

import trio

from tests.e2e.programs import PATIENCE, clean_environment
from tests.rules.sources import ROOT


async def test_the_demo_makes_one_visit_and_exits_with_0(tmp_path: Path) -> None:
    with trio.fail_after(2 * PATIENCE):
        ran = await trio.run_process(
            [sys.executable, "-m", "scripts.demo", "--once"],
            cwd=ROOT,
            env=clean_environment(tmp_path),
            capture_stdout=True,
            capture_stderr=True,
            check=False,
        )
    assert ran.returncode == 0, ran.stderr.decode()
    assert b"200, the page arrived" in ran.stdout
