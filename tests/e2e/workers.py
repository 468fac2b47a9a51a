"""The worker processes of a program, seen from outside: who they are, what they hold, that they end."""

from __future__ import annotations

import os
from collections.abc import Iterable
from pathlib import Path

import trio

from tests.e2e.programs import PATIENCE, Program
from tests.tunnels import until
from trunnel.pump import worker

_PROGRAM = os.fsencode(worker.__file__)
_CHANNEL = 1
"""Sockets that a worker has without a stream."""


def workers_of(program: Program) -> list[int]:
    """Return the process ids of the workers that *program* has now."""
    return [pid for pid, parent in _workers() if parent == program.pid]


async def hired(program: Program, *, without: Iterable[int] = ()) -> list[int]:
    """Wait until *program* has a worker a core, none of them *without*; return them."""
    unwanted = set(without)
    count = len(os.sched_getaffinity(0))

    def complete() -> bool:
        found = workers_of(program)
        return len(found) == count and not unwanted & set(found)

    await until(complete)
    return workers_of(program)


def sockets_of(pid: int) -> int:
    """Return the sockets that visitors and origins have in the hands of a worker; 0 if it has gone."""
    try:
        links = [os.readlink(entry) for entry in Path(f"/proc/{pid}/fd").iterdir()]  # noqa: PTH115 - no path is meant
    except FileNotFoundError:
        return 0
    return max(0, sum(link.startswith("socket:") for link in links) - _CHANNEL)


async def gone(pids: Iterable[int]) -> None:
    """Wait until none of these processes runs."""
    with trio.fail_after(PATIENCE):
        for pid in pids:
            try:
                watched = os.pidfd_open(pid)
            except ProcessLookupError:
                continue
            try:
                await trio.lowlevel.wait_readable(watched)
            finally:
                os.close(watched)


def _workers() -> Iterable[tuple[int, int]]:
    """Yield the process ids of all workers on this machine, each with its parent's."""
    for process in Path("/proc").iterdir():
        try:
            if process.name.isdecimal() and _PROGRAM in (process / "cmdline").read_bytes().split(b"\0"):
                state = (process / "stat").read_text("ascii", "replace").rpartition(")")[2].split()
                yield int(process.name), int(state[1])
        except (FileNotFoundError, ProcessLookupError):
            continue
