"""The pump: two streams joined, by the kernel where that is possible.

    pump(left, right) ┬ two plain sockets, and a worker has room: their descriptors go to it (`supervisor`)
                      │     worker process: one `epoll` loop (`loop`), `splice` for bulk (`flow`)
                      └ anything else, anywhere else: `streams.copy`, here

trio decides, the kernel moves the bytes.  A worker is a process of nothing but
the standard library and the modules named in `worker`; it knows neither keys
nor names, only pairs of descriptors and their deadlines.  The task that owns a
stream stays in trio and waits for the worker's report; cancelling it ends the
stream.  A worker that dies takes its streams down with it, and nothing else.

Names are imported when they are first used: a worker imports this package, too.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from trunnel.pump.pumping import pump
    from trunnel.pump.result import PumpResult, Way
    from trunnel.pump.supervisor import Workers, open_workers
    from trunnel.pump.terminated import Terminated

__all__ = ["PumpResult", "Terminated", "Way", "Workers", "open_workers", "pump"]

_HOMES = {
    "PumpResult": "trunnel.pump.result",
    "Way": "trunnel.pump.result",
    "pump": "trunnel.pump.pumping",
    "Terminated": "trunnel.pump.terminated",
    "Workers": "trunnel.pump.supervisor",
    "open_workers": "trunnel.pump.supervisor",
}


def __getattr__(name: str) -> object:
    """Import a public name when it is first used (PEP 562)."""
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(_HOMES[name]), name)
