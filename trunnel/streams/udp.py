"""UDP sockets that carry many connections: bound, buffered, read and written in batches.

- One family a socket, as in `streams.listen`: a peer's address never has the
  form `::ffff:`.  Sockets are not connected: a connection outlives a change
  of either end's address.
- Big kernel buffers: what arrives while Python is busy waits there.
- `receive_batch` takes what lies there, up to `DATAGRAM_BATCH`, without
  waiting; `send` hands over what the kernel takes and keeps a bounded rest,
  which `drain` sends when there is room.  UDP may lose: what exceeds the bound
  is dropped, and the connections' loss recovery sees to it.
- No error of one datagram ends anything.  ICMP says "refused" or "unreachable"
  of somebody (and anybody can forge it), a firewall answers EPERM, a full queue
  ENOBUFS, a path that has become narrow EMSGSIZE: each is a lost datagram.

Sources: udp(7); RFC 9000 §14 (ICMP is no proof of anything).
"""

from __future__ import annotations

import contextlib
import errno
import socket
from collections import deque
from collections.abc import Iterable, Sequence
from typing import Final, final

import trio

from trunnel.errors import ConfigError
from trunnel.settings import limits
from trunnel.streams.listen import HostPort

_NO_SUCH_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
_MAY_LACK: Final = frozenset({"::1", "::"})

Datagram = tuple[bytes, HostPort]
"""Bytes, and the peer's address."""


@final
class UdpSocket:
    """One bound UDP socket.  Obtained from `open_udp_sockets` or `UdpSocket.bind`."""

    __slots__ = ("_backlog", "_family", "_sock", "_waiting", "address", "lost")

    def __init__(self, sock: socket.socket) -> None:  # noqa: TID251 - non-blocking, waited for with trio
        sock.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with contextlib.suppress(OSError):  # the kernel cuts it to net.core.*mem_max by itself
                sock.setsockopt(socket.SOL_SOCKET, option, limits.UDP_BUFFER)
        self._sock = sock
        self._family = sock.family
        self._backlog: deque[Datagram] = deque()
        self._waiting = trio.Event()
        self.address: HostPort = sock.getsockname()[:2]
        """Where it is bound, with the real port."""
        self.lost = 0
        """Datagrams that the kernel refused, or that exceeded the backlog."""

    @classmethod
    def bind(cls, family: socket.AddressFamily, address: HostPort) -> UdpSocket:
        """Bind a new socket; raises OSError."""
        sock = socket.socket(family, socket.SOCK_DGRAM)  # noqa: TID251 - non-blocking, waited for with trio
        try:
            if family == socket.AF_INET6:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
            sock.bind(address)
            return cls(sock)
        except BaseException:
            sock.close()
            raise

    @classmethod
    def towards(cls, address: HostPort) -> UdpSocket:
        """Bind a free port of the family of *address*, on every local address; raises OSError."""
        if ":" in address[0]:
            return cls.bind(socket.AF_INET6, ("::", 0))
        return cls.bind(socket.AF_INET, ("0.0.0.0", 0))  # noqa: S104 - which address is the routing table's choice

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._sock.fileno() < 0

    @property
    def clogged(self) -> bool:
        """Whether datagrams wait for room in the kernel's buffer."""
        return bool(self._backlog)

    async def wait_readable(self) -> None:
        """Wait until a datagram may lie there.

        Raises:
            trio.ClosedResourceError: The socket is closed, or was meanwhile.

        Cancellation: no effect.
        """
        if self.closed:
            raise trio.ClosedResourceError("the socket is closed")
        await trio.lowlevel.wait_readable(self._sock)

    def receive_batch(self) -> list[Datagram]:
        """Return the datagrams that lie there, at most `DATAGRAM_BATCH`; does not wait."""
        batch: list[Datagram] = []
        receive = self._sock.recvfrom
        for _ in range(limits.DATAGRAM_BATCH):
            try:
                octets, source = receive(limits.DATAGRAM_MAX)
            except BlockingIOError:
                break
            except OSError:  # an earlier datagram met ICMP: it says nothing of the next
                if self.closed:
                    break
                continue
            batch.append((octets, (source[0], source[1])))
        return batch

    def send(self, datagrams: Iterable[Datagram]) -> int:
        """Send *datagrams*, or queue what the kernel does not take now.  Returns how many of them are lost."""
        lost = 0
        send = self._sock.sendto
        for datagram in datagrams:
            if self._backlog:
                lost += self._queue(datagram)
                continue
            try:
                send(*datagram)
            except BlockingIOError:
                lost += self._queue(datagram)
            except OSError:
                lost += 1
        self.lost += lost
        return lost

    def _queue(self, datagram: Datagram) -> bool:
        """Keep *datagram* for `drain`; return whether it was dropped instead."""
        if len(self._backlog) >= limits.DATAGRAM_BACKLOG:
            return True
        self._backlog.append(datagram)
        self._waiting.set()
        return False

    async def drain(self) -> None:
        """Wait until datagrams are queued, and send them; returns when all are sent.

        Raises:
            trio.ClosedResourceError: The socket was closed.

        Cancellation: what is left stays queued.
        """
        await self._waiting.wait()
        if self.closed:
            raise trio.ClosedResourceError("the socket was closed")
        while self._backlog:
            await trio.lowlevel.wait_writable(self._sock)
            waiting, self._backlog = self._backlog, deque()
            self.send(waiting)
        self._waiting = trio.Event()

    def close(self) -> None:
        """Close the socket; what waits in `drain` is dropped.  Idempotent."""
        if self.closed:
            return
        if trio.lowlevel.in_trio_run():  # else nobody can be waiting
            trio.lowlevel.notify_closing(self._sock)
        self._backlog.clear()
        self._sock.close()
        self._waiting.set()  # for whoever waits in `drain`


def open_udp_sockets(addresses: Sequence[str], port: int, *, key: str = "bind_addr") -> list[UdpSocket]:
    """Bind *port* on each of *addresses*.

    Args:
        addresses: IP addresses, at least one, for example 127.0.0.1 and ::1.
        port: 0 to 65535; 0 is a free port, the same for all of them if it can be had.
        key: The setting that errors name.

    Returns:
        The sockets, in order; without those of IPv6 if the host has none.

    Raises:
        ConfigError: An address or the port cannot be had; the text says what to do.
    """
    sockets: list[UdpSocket] = []
    with contextlib.ExitStack() as undo:
        for host in addresses:
            family = socket.AF_INET6 if ":" in host else socket.AF_INET
            try:
                bound = UdpSocket.bind(family, (host, sockets[0].address[1] if sockets else port))
            except OSError as exc:
                if host not in _MAY_LACK or exc.errno not in _NO_SUCH_FAMILY:
                    raise ConfigError(key, _explain(exc, host, port)) from exc
                continue
            undo.callback(bound.close)
            sockets.append(bound)
        if not sockets:
            raise ConfigError(key, "there is no address to bind (this host has no IPv6)")
        undo.pop_all()
    return sockets


def _explain(error: OSError, host: str, port: int) -> str:
    """Return the sentence for people: why *host* and *port* cannot be bound, and what to do."""
    where = f"UDP [{host}]:{port}" if ":" in host else f"UDP {host}:{port}"
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return f"not allowed to bind {where}; choose a port from 1024 on, or give the right as for TCP"
        case errno.EADDRINUSE:
            return f"another program has {where} (`ss -lunp` names it); stop it or choose another port"
        case errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine"
        case _:
            return f"cannot bind {where}: {error.strerror or error}"
