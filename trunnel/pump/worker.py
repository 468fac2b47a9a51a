"""The program of a worker process: `python -I -S worker.py CHANNEL COUNTS PIPES [tls]`.

Started by the supervisor with two descriptors: the channel and the shared
memory of the byte counts.  It runs without `site`, so that it imports nothing
but the standard library and the few modules of trunnel that say so in their
heads, and costs a few megabytes.  One that ends visitors' TLS needs OpenSSL and
so the installed packages (no `-S`); what it knows of keys is the endpoint's leaf.

SIGINT and SIGTERM, which a terminal or a service manager sends to all
processes, are for the supervisor: a worker ends when its channel does.
"""

from __future__ import annotations

import mmap
import resource
import signal
import socket
import sys
from typing import Final

RESERVE: Final = 64
"""Descriptors that no stream may take."""


def main(arguments: list[str]) -> None:
    """Work until the supervisor goes; *arguments* as in the head of this file."""
    from trunnel.pump.loop import Loop

    channel, counts, pipes = map(int, arguments[:3])
    leaves = None
    if arguments[3:]:
        from trunnel.pump.tls_side import Leaves

        leaves = Leaves()
    memory = memoryview(mmap.mmap(counts, 0)).cast("Q")
    Loop(socket.socket(fileno=channel), memory, pipes=pipes, capacity=capacity(pipes), leaves=leaves).run()


def capacity(pipes: int) -> int:
    """Return how many streams there are descriptors for, beside *pipes* pipes and a reserve; claims all it may have."""
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    if hard != resource.RLIM_INFINITY and soft < hard:
        resource.setrlimit(resource.RLIMIT_NOFILE, (hard, hard))
        soft = hard
    return max(0, soft - RESERVE - 2 * pipes) // 2


if __name__ == "__main__":
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    signal.signal(signal.SIGTERM, signal.SIG_IGN)
    # where the package `trunnel` is (the supervisor gives the whole path): last, for it holds whatever is installed
    sys.path.append(__file__.rsplit("/", 3)[0])
    main(sys.argv[1:])
