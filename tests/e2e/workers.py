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
    """Wait until *program* has a worker a core, all at work, none of them *without*; return them."""
    unwanted = set(without)
    count = len(os.sched_getaffinity(0))

    def complete() -> bool:
        found = workers_of(program)
        at_work = all("anon_inode:[eventpoll]" in _descriptors(pid) for pid in found)
        return len(found) == count and at_work and not unwanted & set(found)

    await until(complete)
    return workers_of(program)


def sockets_of(pid: int) -> int:
    """Return the sockets that visitors and origins have in the hands of a worker; 0 if it has gone."""
    return max(0, sum(name.startswith("socket:") for name in _descriptors(pid)) - _CHANNEL)


def _descriptors(pid: int) -> list[str]:
    """Return what a process has open, as the kernel calls it."""
    try:
        return [str(entry.readlink()) for entry in Path(f"/proc/{pid}/fd").iterdir()]
    except FileNotFoundError:
        return []


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
