"""Datagrams passed on from one process to another that shares the UDP socket (hot restart).

A UDP socket that two processes have gives each datagram to whichever reads
first.  So only one reads it, the newer; what belongs to none of its connections
it passes on through a `Passage`, a pair of Unix sockets, to the process before
it, which reads there instead and still answers on the UDP socket.

    agent ──▶ UDP socket ──▶ new process ──outlet──▶ inlet ──▶ old process ──▶ (UDP socket) ──▶ agent

A datagram that finds the passage full is dropped, like any that finds a full
queue.  The pair keeps the borders of messages and tells when the other end is
gone (SOCK_SEQPACKET, unix(7)): then nobody else reads the UDP socket, and the
old process does again.  Unless it was dismissed: too many are newer, and what
it would read is theirs.
"""

from __future__ import annotations

import contextlib
import socket
import struct
from typing import Final, final

from trunnel.settings import limits
from trunnel.streams.listen import HostPort

_HEAD: Final = struct.Struct("!HB")  # the peer's port, and how long the text of its address is


DISMISSAL: Final = b"\0"
"""A message that is no datagram: from now on there is none."""


def passage() -> tuple[socket.socket, socket.socket]:  # noqa: TID251 - non-blocking, waited for with trio
    """Return the inlet and the outlet of a new passage; raises OSError."""
    inlet, outlet = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    for end in (inlet, outlet):
        end.setblocking(False)
    return inlet, outlet


@final
class Outlet:
    """The end of the process that reads the UDP socket."""

    __slots__ = ("_sock", "over")

    def __init__(self, sock: socket.socket) -> None:  # noqa: TID251 - as above
        sock.setblocking(False)
        with contextlib.suppress(OSError):  # the kernel cuts it to net.core.wmem_max by itself
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, limits.UDP_BUFFER)
        self._sock = sock
        self.over = False
        """Whether the other process is known to be gone."""

    def fileno(self) -> int:
        """Return the descriptor, for one more process; it stays ours."""
        return self._sock.fileno()

    def send(self, datagram: bytes, source: HostPort) -> None:
        """Pass a datagram on; it is dropped if there is no room or nobody."""
        host = source[0].encode("ascii")
        try:
            self._sock.sendmsg([_HEAD.pack(source[1], len(host)), host, datagram])
        except BlockingIOError:
            pass
        except OSError:
            self.over = True

    def dismiss(self) -> None:
        """Close it, and have the other process read nothing any more."""
        with contextlib.suppress(OSError):
            self._sock.send(DISMISSAL)
        self.close()

    def close(self) -> None:
        """Close this process's end.  Idempotent."""
        self.over = True
        self._sock.close()


def unpacked(message: bytes) -> tuple[bytes, HostPort]:
    """Return the datagram and its source, as `Outlet.send` packed them."""
    port, length = _HEAD.unpack_from(message)
    begin = _HEAD.size + length
    return message[begin:], (message[_HEAD.size : begin].decode("ascii"), port)


MESSAGE_MAX: Final = _HEAD.size + 255 + limits.DATAGRAM_MAX
"""Bytes of one message."""
