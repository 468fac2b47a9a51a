"""What we ask of every TCP socket, and how one is aborted.

Two rules of the data plane live here:

- *Bounded kernel memory*: `TCP_NOTSENT_LOWAT` keeps what the kernel holds
  unsent small, so that a stalled reader costs little and a small message does
  not queue behind bulk.
- *An abort tells the truth*: bytes already received are delivered first, then
  RST.  `SO_LINGER` 0 makes `close` send RST and throw the send queue away, so
  whoever wants the bytes to arrive calls `wait_delivered` before.

A unix socket has no RST: its peer sees an end of file, whatever we do.
"""

from __future__ import annotations

import contextlib
import struct
import sys
from typing import Final

import trio
from trio import socket as tsocket

from trunnel import capabilities
from trunnel.settings import limits

_TCP_CLOSE: Final = 7
"""The state of a connection that is no more (Linux's tcp_states.h)."""
_LINGER_NOT: Final = struct.pack("hh" if sys.platform == "win32" else "ii", 1, 0)
"""`struct linger { l_onoff = 1, l_linger = 0 }`; Windows has shorts."""
_LINGER_AS_USUAL: Final = bytes(len(_LINGER_NOT))


def tune_socket(sock: tsocket.SocketType) -> None:
    """Set our options on a TCP socket; no effect where the system lacks one, or on a unix socket.

    Call it after `trio.SocketStream(sock)`, which sets options of its own.
    """
    with contextlib.suppress(OSError):
        sock.setsockopt(tsocket.IPPROTO_TCP, tsocket.TCP_NODELAY, 1)
    if capabilities.HAS_NOTSENT_LOWAT:
        with contextlib.suppress(OSError):
            sock.setsockopt(tsocket.IPPROTO_TCP, tsocket.TCP_NOTSENT_LOWAT, limits.NOTSENT_LOWAT)
    with contextlib.suppress(OSError):
        sock.setsockopt(tsocket.SOL_SOCKET, tsocket.SO_KEEPALIVE, 1)
        if capabilities.HAS_KEEPALIVE_TIMES:
            sock.setsockopt(tsocket.IPPROTO_TCP, tsocket.TCP_KEEPIDLE, limits.KEEPALIVE_IDLE)
            sock.setsockopt(tsocket.IPPROTO_TCP, tsocket.TCP_KEEPINTVL, limits.KEEPALIVE_INTERVAL)
            sock.setsockopt(tsocket.IPPROTO_TCP, tsocket.TCP_KEEPCNT, limits.KEEPALIVE_PROBES)


def reset_if_killed(sock: tsocket.SocketType, *, on: bool) -> None:
    """Have the kernel send RST, not FIN, should this process die with *sock* open; off again for an orderly close."""
    with contextlib.suppress(OSError):
        sock.setsockopt(tsocket.SOL_SOCKET, tsocket.SO_LINGER, _LINGER_NOT if on else _LINGER_AS_USUAL)


def abort_socket(sock: tsocket.SocketType) -> None:
    """Close *sock* with RST, at once; what was not sent yet is lost.  Idempotent."""
    if sock.fileno() < 0:
        return
    with contextlib.suppress(OSError):
        sock.setsockopt(tsocket.SOL_SOCKET, tsocket.SO_LINGER, _LINGER_NOT)
    sock.close()


async def wait_delivered(sock: tsocket.SocketType) -> bool:
    """Wait until the peer has acknowledged all that was sent, at most `ABORT_FLUSH_TIMEOUT`.

    Where the system does not tell, waits `ABORT_BLIND_WAIT` and hopes.

    Returns:
        True if all was acknowledged (or the connection is gone), False if
        that is not known.

    Cancellation: no effect on the socket; may be called again.
    """
    if not capabilities.HAS_OUTQ:
        await trio.sleep(limits.ABORT_BLIND_WAIT)
        return False
    pause, longest = limits.ABORT_FLUSH_POLLS
    with trio.move_on_after(limits.ABORT_FLUSH_TIMEOUT):
        while _unacknowledged(sock):
            await trio.sleep(pause)
            pause = min(2 * pause, longest)
        return True
    return False


def _unacknowledged(sock: tsocket.SocketType) -> int:
    """Return the bytes in *sock*'s send queue; 0 if it is closed, or reset: then nobody will acknowledge them."""
    import fcntl  # noqa: PLC0415 - only where HAS_OUTQ says so
    import termios  # noqa: PLC0415

    try:
        raw = fcntl.ioctl(sock.fileno(), termios.TIOCOUTQ, bytes(4))
        if capabilities.HAS_TCP_INFO and sock.family in (tsocket.AF_INET, tsocket.AF_INET6):
            is_gone = sock.getsockopt(tsocket.IPPROTO_TCP, tsocket.TCP_INFO, 1)[0] == _TCP_CLOSE
            return 0 if is_gone else _outq(raw)
    except (OSError, ValueError):
        return 0
    return _outq(raw)


def _outq(raw: bytes) -> int:
    (count,) = struct.unpack("i", raw)
    return int(count)
