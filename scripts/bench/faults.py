"""What happens to visitors when a part of the data path dies under load."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import time
from pathlib import Path

from scripts.bench.hello import client_hello
from scripts.bench.launch import CannotMeasureError
from scripts.bench.load import STUCK
from scripts.bench.processes import children
from scripts.bench.scenarios import Size
from scripts.bench.stage import Stage, Target
from scripts.bench.standing import fresh

STREAMS = 16
AMOUNT = 8 << 30
"""Bytes of all downloads: they run for seconds."""
RUNNING = 0.7
"""Seconds until the worker is killed."""
AFTER = 64 << 20
"""Bytes of a download afterwards, which must come whole."""


def worker_killed(stage: Stage, command: Path, size: Size) -> dict[str, float]:
    """`kill -9` of one of the relay's workers while 16 downloads run: only its streams end, none hangs."""
    del size
    with fresh(stage, command) as peer:
        place = stage.place(peer, Target.PLAIN)
        hello = client_hello(place.host).hex()
        stage.load(place, "bulk", "down", STREAMS, AFTER)
        workers = list(children(peer.programs["relay"].pid))
        if not workers:
            raise CannotMeasureError("the relay has no workers")
        words = stage.command("load", "bulk", place.port, hello, "down", STREAMS, AMOUNT)
        with subprocess.Popen(words, stdout=subprocess.PIPE, text=True) as running:
            time.sleep(RUNNING)
            begun = time.monotonic()
            os.kill(workers[0], signal.SIGKILL)
            figures = json.loads(running.communicate(timeout=10 * STUCK)[0])
            seconds = time.monotonic() - begun
        after = stage.load(place, "bulk", "down", STREAMS, AFTER)
    if figures["hung"]:
        raise CannotMeasureError(f"{figures['hung']} streams hang")
    if figures["failed"] == STREAMS:
        raise CannotMeasureError("the streams of other workers ended, too")
    return {
        "workers": len(workers),
        "streams": STREAMS,
        "streams ended": figures["failed"],
        "seconds to the end": seconds,
        "streams afterwards that failed": after["failed"],
    }
