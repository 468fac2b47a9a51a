"""A visitor that moves known octets, a process of its own: `python -m scripts.lab.transfer WHERE`.

`WHERE` is a `Where` in JSON, each line of its input a `Job`.  Of each stream
it prints one line: how long it took, how fast its second half was (when
windows have grown), whether every octet was right, or the error that ended
it; and `done` after the last of a job.
"""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict, dataclass

import trio

from scripts.lab.pattern import Checker
from scripts.lab.visits import Visitor, Where, visitor

CONNECT_TIMEOUT = 30.0


@dataclass(frozen=True)
class Job:
    """What to move."""

    size: int
    """Octets of each stream."""
    streams: int = 1
    upload: bool = False
    pause_at: int = 0
    """Octets after which the reader stops."""
    pause: float = 0.0
    """Seconds that it stops for; 0 = never."""
    deadline: float = 60.0
    """Seconds after which a stream that still moves is given up."""


def command(where: Where) -> list[str]:
    """Return the command of a visitor of *where*."""
    return [sys.executable, "-m", "scripts.lab.transfer", json.dumps(asdict(where))]


def say(event: str, **fields: object) -> None:
    """Print one event."""
    print(json.dumps({"event": event, **fields}), flush=True)


async def download(job: Job, visiting: Visitor) -> dict[str, object]:
    """Fetch and check; returns what is to be said of it."""
    begun = trio.current_time()
    await visiting.ask(f"/bytes/{job.size}")
    size = await visiting.answer()
    checker = Checker()
    first = trio.current_time() - begun
    if job.pause:
        await visiting.check(checker, job.pause_at)
        say("paused")
        await trio.sleep(job.pause)
        say("resumed")
    await visiting.check(checker, max(0, size // 2 - checker.received))
    halfway, half_read = trio.current_time(), checker.received
    await visiting.check(checker, size - checker.received)
    ended = trio.current_time()
    rate = (size - half_read) / max(ended - halfway, 1e-6)
    return {"exact": checker.exact(job.size), "seconds": ended - begun, "first": first, "rate": rate}


async def upload(job: Job, visiting: Visitor) -> dict[str, object]:
    """Send, and hear whether the origin got it; returns what is to be said of it."""
    begun = trio.current_time()
    path = f"/take/{job.pause_at}/{job.pause}" if job.pause else "/take"
    await visiting.ask(path, length=job.size)
    await visiting.upload(job.size)
    verdict = await visiting.body(await visiting.answer())
    ended = trio.current_time()
    return {"exact": verdict == b"exact", "seconds": ended - begun, "rate": job.size / (ended - begun)}


async def stream(where: Where, job: Job) -> None:
    """Move one stream, and say how it ended."""
    move = upload if job.upload else download
    begun = trio.current_time()
    visiting: Visitor | None = None
    try:
        with trio.fail_after(job.deadline):
            raw = await trio.open_tcp_stream(where.host, where.port)
            async with visitor(raw, where, where.context()) as visiting:
                moved = await move(job, visiting)
    except trio.TooSlowError:
        received = visiting.received if visiting else 0
        say("moved", error="given up", seconds=trio.current_time() - begun, received=received)
    except (OSError, trio.BrokenResourceError) as exc:
        say("moved", error=f"{type(exc).__name__}: {exc}", seconds=trio.current_time() - begun)
    else:
        say("moved", **moved)


async def main(where: Where) -> None:
    """Do the jobs, one after another; the streams of one go side by side."""
    rest = b""
    async with trio.lowlevel.FdStream(os.dup(sys.stdin.fileno())) as jobs:
        while chunk := await jobs.receive_some():
            *lines, rest = (rest + chunk).split(b"\n")
            for line in lines:
                job = Job(**json.loads(line))
                async with trio.open_nursery() as nursery:
                    for _ in range(job.streams):
                        nursery.start_soon(stream, where, job)
                say("done")


if __name__ == "__main__":
    trio.run(main, Where(**json.loads(sys.argv[1])))
