"""Two aioquic connections in memory: `python -m scripts.bench.memory_quic BYTES IDLE DATAGRAM`.

Prints megabytes a second, one JSON list.

First with one stream, then with IDLE idle ones beside it, for plain aioquic as
it is: the limit that our QUIC carrier is held against, and what it makes of
many streams.  Both ends share one process, and the time is CPU time.
"""

from __future__ import annotations

import json
import logging
import sys

from aioquic.quic.connection import QuicConnection

from scripts.bench.bare_quic import Pair


def speed(amount: int, idle: int, datagram: int) -> float:
    """Return megabytes a second."""
    pair = Pair(QuicConnection, datagram=datagram)
    pair.client._local_max_streams_bidi.value = idle + 1  # noqa: SLF001 - aioquic has no setting for it; by itself 128
    pair.open_idle(idle)
    return pair.transfer(amount)


if __name__ == "__main__":
    logging.getLogger("quic").setLevel(logging.ERROR)
    amount, idle, datagram = map(int, sys.argv[1:])
    print(json.dumps([speed(amount, 0, datagram), speed(amount // 4, idle, datagram)]), flush=True)
