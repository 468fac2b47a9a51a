"""A socket in a worker's hands, and the rules for it.

- While a worker has a socket its `SO_LINGER` is 0: should the worker be killed,
  the peer gets RST, for truncation must not look like an end.  Only a socket
  that is closed in order gets its linger off.
- A socket that brings bulk gets a receive buffer of fixed size, by its round
  trip: the kernel's own tuning goes to `tcp_rmem` (33 MB for a stalled reader
  where that was measured), and bytes that wait there help nobody.
- A socket with nothing to wait for is not in epoll: HUP and ERR are reported
  even with an empty mask, and one such socket would burn a whole core.

Imported by workers: standard library only.
"""

from __future__ import annotations

import contextlib
import fcntl
import socket
import struct
import sys
import termios
from collections.abc import Callable
from functools import cache
from select import EPOLLIN, EPOLLOUT
from typing import Final, Protocol

from trunnel.pump.orders import Finish

_TCP_CLOSE: Final = 7
_ABORTIVE: Final = struct.pack("ii", 1, 0)
_ORDERLY: Final = struct.pack("ii", 0, 0)
_NO_BYTES: Final = bytes(4)
_RATE: Final = 125_000_000
"""Bytes a second that a receive buffer is to allow over a round trip: 1 Gbit/s."""
_WINDOW: Final = (512 * 1024, 3 * 1024 * 1024)
"""Bytes of a receive buffer, at least and at most; the kernel doubles it, for what packets cost beside their bytes."""
_TCP_INFO_RTT: Final = (68, 72)
"""Where `struct tcp_info` has the smoothed round trip, in microseconds."""


class Registry(Protocol):
    """What a side needs of `select.epoll`."""

    def register(self, fd: int, eventmask: int = ...) -> None:
        """Begin to watch."""
        ...

    def modify(self, fd: int, eventmask: int) -> None:
        """Watch for something else."""
        ...

    def unregister(self, fd: int) -> None:
        """Stop to watch."""
        ...


@cache
def _largest_buffer() -> int:
    """Return the bytes that SO_RCVBUF may ask for here."""
    try:
        with open("/proc/sys/net/core/rmem_max", encoding="ascii") as file:  # noqa: PTH123 - pathlib is half a megabyte
            return int(file.read())
    except (OSError, ValueError):
        return 0


class Inflow(Protocol):
    """What a side, and the loop, need of a direction: `flow.Flow`."""

    @property
    def hungry(self) -> bool:
        """Whether it waits for bytes of its source."""
        ...

    @property
    def stuck(self) -> bool:
        """Whether it waits for its sink to take what it has."""
        ...

    def pull(self) -> bool:
        """Move what the source has; return whether there may be more at once."""
        ...

    def push(self) -> bool:
        """Deliver what was kept, then move more; return whether there may be more at once."""
        ...


class Side:
    """One of the two sockets of a pumped stream, and what is known of its two halves."""

    __slots__ = (
        "_mask",
        "_registry",
        "ahead",
        "crossed",
        "deaf",
        "end",
        "fd",
        "inward",
        "outward",
        "receive",
        "sealed",
        "sealing",
        "send",
        "sock",
        "suspect",
    )

    inward: Inflow
    """Takes what is read here."""
    outward: Inflow
    """Brings what is written here."""

    def __init__(self, sock: socket.socket, registry: Registry) -> None:
        """Own *sock*, which does not block."""
        self.sock = sock
        self.fd = sock.fileno()
        self.receive: Callable[[int], bytes] = sock.recv
        self.send: Callable[[bytes], int] = sock.send
        self.end = Finish.NOT
        """How its bytes ended."""
        self.sealed = False
        """It got the other side's FIN, so it has everything."""
        self.sealing = False
        """That FIN waits for room."""
        self.crossed = False
        """Its reader has to write first."""
        self.ahead = False
        """Its end was taken from the socket together with its last bytes: `epoll` will not tell of it."""
        self.deaf = False
        """Writing to it failed: it reads no more."""
        self.suspect = False
        """Writing failed such that its end of file means nothing."""
        self._registry = registry
        self._mask = 0
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ABORTIVE)

    def is_truncation(self, error: OSError) -> bool:
        """Whether a read error means that its peer has closed without saying so in its protocol."""
        del error
        return False

    @property
    def gone(self) -> bool:
        """Whether it was closed or aborted."""
        return self.fd < 0

    def interest(self) -> int:
        """Return the events to be woken for."""
        return (EPOLLIN if self.inward.hungry else 0) | (EPOLLOUT if self.outward.stuck else 0)

    def watch(self) -> None:
        """Be woken for what the two flows wait for, and for nothing else."""
        mask = self.interest()
        if mask == self._mask or self.fd < 0:
            return
        if not mask:
            self._registry.unregister(self.fd)
        elif not self._mask:
            self._registry.register(self.fd, mask)
        else:
            self._registry.modify(self.fd, mask)
        self._mask = mask

    def bound(self) -> None:
        """Bound what the kernel takes in ahead of us, where that costs no speed: bulk has begun to come."""
        first, end = _TCP_INFO_RTT
        with contextlib.suppress(OSError):
            info = self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, end)
            least, most = _WINDOW
            needed = min(int.from_bytes(info[first:end], sys.byteorder) * _RATE // 1_000_000, most)
            if needed <= _largest_buffer():
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, max(needed, least))

    def ignore(self) -> None:
        """Wait for nothing any more."""
        if self._mask:
            self._registry.unregister(self.fd)
            self._mask = 0

    def seal(self) -> None:
        """Send it the other side's FIN; what was sent before has left.  If it broke meanwhile, reading it will tell."""
        try:
            self.sock.shutdown(socket.SHUT_WR)
        except OSError:
            return
        self.sealed = True

    def is_delivered(self) -> bool:
        """Whether its peer has acknowledged everything, or is no more."""
        try:
            unacknowledged = fcntl.ioctl(self.fd, termios.TIOCOUTQ, _NO_BYTES) != _NO_BYTES
            return not unacknowledged or (
                self.sock.family != socket.AF_UNIX
                and self.sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1)[0] == _TCP_CLOSE
            )
        except OSError:
            return True

    def close(self) -> None:
        """Close it in order."""
        if self.fd >= 0:
            with contextlib.suppress(OSError):
                self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _ORDERLY)
            self.abort()

    def abort(self) -> None:
        """Close it with RST, unless it is gone."""
        if self.fd >= 0:
            self.ignore()
            self.fd = -1
            self.sock.close()
