"""Second processes for tests of locks and races: Python scripts that report by lines on standard output."""

from __future__ import annotations

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

Process = subprocess.Popen[str]


@contextmanager
def running(script: str, *arguments: object) -> Iterator[Process]:
    """Run *script* as a process of its own; at the end its standard input is closed and it is awaited."""
    command = [sys.executable, "-W", "error", "-c", script, *map(str, arguments)]
    process = subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    with process:
        try:
            yield process
        finally:
            if process.poll() is None and process.stdin is not None:
                process.stdin.close()


def next_line(process: Process) -> str:
    """Return the next line that *process* writes, without its end."""
    assert process.stdout is not None
    return process.stdout.readline().rstrip("\n")


def tell(process: Process, line: str = "") -> None:
    """Write *line* to *process*."""
    assert process.stdin is not None
    process.stdin.write(f"{line}\n")
    process.stdin.flush()
