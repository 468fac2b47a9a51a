"""What processes use: CPU seconds, private memory, descriptors; and the kernel's memory behind sockets.

Read from /proc, so Linux only.  A program is its main process and all its
descendants (`Use.workers`), because work that moved to a worker is still work.
Kernel memory is what sockets cost (`socket_cost`) and what lies in their queues.
"""

from __future__ import annotations

import os
import re
import resource
import select
import socket
import subprocess
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import dataclass
from functools import cache
from pathlib import Path

PROC = Path("/proc")
TICK = os.sysconf("SC_CLK_TCK")
KIB = 1024
PAIRS = 2_000
"""Connections that are opened to learn what one costs."""
BACKLOG = 128
INODE = re.compile(r"\bino:(\d+)")
MEMORY = re.compile(r"skmem:\(r(\d+),rb\d+,t\d+,tb\d+,f(\d+),w(\d+),")
"""As `ss` prints a socket's memory: received, reserved, written and not acknowledged."""


@dataclass(frozen=True, kw_only=True)
class Use:
    """What one program uses now."""

    main_cpu: float
    """CPU seconds of the main process so far."""
    workers_cpu: float
    """The same of its descendants, those that have ended included."""
    private: int
    """Bytes that only this program's processes hold (`Private_*` of smaps_rollup)."""
    main_descriptors: int
    """Open descriptors of the main process."""
    sockets: int
    """Sockets that the program's processes hold, each descriptor counted."""

    queued: int
    """Bytes that the kernel holds in the queues of these sockets."""

    @property
    def cpu(self) -> float:
        """CPU seconds of all its processes."""
        return self.main_cpu + self.workers_cpu


def cpu_of(pid: int) -> tuple[float, float]:
    """Return CPU seconds of a process, and of its children that have ended."""
    fields = (PROC / str(pid) / "stat").read_text().rpartition(")")[2].split()
    user, system, children_user, children_system = map(int, fields[11:15])
    return (user + system) / TICK, (children_user + children_system) / TICK


def children(pid: int) -> Iterator[int]:
    """Yield all living descendants."""
    for task in (PROC / str(pid) / "task").iterdir():
        for child in map(int, (task / "children").read_text().split()):
            yield child
            yield from children(child)


def private_bytes(pid: int) -> int:
    """Return the bytes that no other process shares."""
    lines = (PROC / str(pid) / "smaps_rollup").read_text().splitlines()
    return sum(int(line.split()[1]) for line in lines if line.startswith("Private_")) * KIB


def descriptors(pid: int) -> list[str]:
    """Return what each descriptor of a process is."""
    found: list[str] = []
    for entry in (PROC / str(pid) / "fd").iterdir():
        try:
            found.append(str(entry.readlink()))
        except FileNotFoundError:
            continue
    return found


def use_of(pid: int, *, memory: bool = True) -> Use:
    """Return what a program uses; without *memory* only its CPU seconds are looked at."""
    main_cpu, workers_cpu = cpu_of(pid)
    workers = list(children(pid))
    for worker in workers:
        own, ended = cpu_of(worker)
        workers_cpu += own + ended
    everyone = [pid, *workers]
    opened = {each: descriptors(each) for each in everyone} if memory else {}
    held = [name for each in opened.values() for name in each if name.startswith("socket:")]
    return Use(
        main_cpu=main_cpu,
        workers_cpu=workers_cpu,
        private=sum(map(private_bytes, everyone)) if memory else 0,
        main_descriptors=len(opened.get(pid, ())),
        sockets=len(held),
        queued=queued_bytes({name[len("socket:[") : -1] for name in held}) if held else 0,
    )


def queued_bytes(inodes: set[str]) -> int:
    """Return what the kernel holds for these TCP sockets: received, sent and not acknowledged, and reserved."""
    words = ["ss", "--tcp", "--memory", "--extended", "--numeric", "--no-header", "--oneline"]
    said = subprocess.run(words, capture_output=True, text=True, check=True).stdout
    total = 0
    for line in said.splitlines():
        inode, memory = INODE.search(line), MEMORY.search(line)
        if inode and memory and inode.group(1) in inodes:
            total += sum(map(int, memory.groups()))
    return total


def slabs() -> int:
    """Return the bytes of all the kernel's slabs, this machine's."""
    line = next(line for line in (PROC / "meminfo").read_text().splitlines() if line.startswith("Slab:"))
    return int(line.split()[1]) * KIB


@cache
def socket_cost() -> float:
    """Return the kernel's bytes for one connected TCP socket that something waits for, tried on this machine.

    The slabs are everybody's, so what a program's own connections cost cannot
    be read while it runs; what thousands of connections of ours add can.  The
    most of three trials counts: a later one may be given what an earlier left.
    """
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
    tried: list[float] = []
    for _ in range(3):
        with ExitStack() as stack:
            listener = stack.enter_context(socket.create_server(("127.0.0.1", 0), backlog=BACKLOG))
            poll = stack.enter_context(select.epoll())
            before = slabs()
            for _ in range(PAIRS):
                near = stack.enter_context(socket.create_connection(listener.getsockname()))
                far = stack.enter_context(listener.accept()[0])
                poll.register(near, select.EPOLLIN)
                poll.register(far, select.EPOLLIN)
            tried.append((slabs() - before) / (2 * PAIRS))
    return max(tried)
