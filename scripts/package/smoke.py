"""Try a packaged `trunnel` as a stranger would: an empty home, no checkout, no variable of ours.

The program says its version, a relay and an agent are started, a visitor fetches
the origin's page and checks whose key ended its TLS, and both are stopped with
exit code 0.  On Linux the relay must also have started its workers: they are
processes of their own, and find the package by other means than the program.
"""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import final

from scripts.demo import await_event, origin, visit

TIMEOUT = 60.0
"""Seconds for the first start: a single file unpacks itself."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Tried:
    """What was found."""

    version: str
    first_start: float
    """Seconds of the first `trunnel version`."""
    start: float
    """Seconds of the second."""
    data_path: str
    """The road that visitors' bytes took."""


def smoke(command: Sequence[str | Path]) -> Tried:
    """Try *command*, the beginning of a `trunnel` command line; exits with a sentence if something is wrong."""
    with tempfile.TemporaryDirectory(prefix="trunnel-smoke-") as folder:
        home = Path(folder)
        words = [str(word) for word in command]
        version, first_start = _version(words, home)
        _, start = _version(words, home)
        return Tried(version=version, first_start=first_start, start=start, data_path=_tunnel(words, home))


def bare_environment(home: Path) -> dict[str, str]:
    """Return an environment that finds programs of the system, and nothing else."""
    return {"PATH": os.defpath, "HOME": str(home), "LANG": "C.UTF-8"}


def _version(words: Sequence[str], home: Path) -> tuple[str, float]:
    began = time.perf_counter()
    completed = subprocess.run(
        [*words, "version"],
        cwd=home,
        env=bare_environment(home),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
        timeout=TIMEOUT,
    )
    return completed.stdout.strip(), time.perf_counter() - began


@contextmanager
def _program(words: Sequence[str], home: Path) -> Iterator[subprocess.Popen[str]]:
    """Run one program with `--json`; asked to stop at the end, it must exit with 0."""
    with subprocess.Popen(
        [*words, "--json", "--log-level", "warning"],
        cwd=home,
        env=bare_environment(home),
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=TIMEOUT)
    if process.returncode:
        raise SystemExit(f"asked to stop, {' '.join(words)} exited with {process.returncode}")


def _tunnel(words: Sequence[str], home: Path) -> str:
    """Serve and expose, be a visitor; returns the road that the bytes took."""
    relay_words = [*words, "serve", "--api-port", "0", "--pub-port", "0", "--state-dir", str(home / "relay")]
    with origin() as web, _program(relay_words, home) as relay:
        listening = await_event(relay, "listening")
        agent_words = [
            *words,
            "expose",
            str(web),
            "--server",
            listening["agents"][0],
            "--state-dir",
            str(home / "agent"),
        ]
        with _program([*agent_words, "--relay-pin", listening["relay_id"]], home) as agent:
            ready = {**await_event(agent, "ready"), "state_dir": str(home / "agent")}
            visit(ready, int(ready["port"]))
            if sys.platform == "linux" and not _has_workers(relay.pid):
                raise SystemExit("the relay has no workers: they do not start from this package")
            return ready["data_path"]


def _has_workers(pid: int) -> bool:
    threads = Path(f"/proc/{pid}/task").iterdir()  # a child is listed with the thread that started it
    children = [child for thread in threads for child in (thread / "children").read_text("ascii").split()]
    return any("worker.py" in Path(f"/proc/{child}/cmdline").read_text("utf-8", "replace") for child in children)
