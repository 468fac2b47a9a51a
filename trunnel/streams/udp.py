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
- Two processes may have one socket, while the older finishes what it has: the
  newer reads it and passes on what is not its own (`pass_on`), the older reads
  that (`divert`), and both send (`streams.passage`).

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
from trunnel.streams.listen import HostPort, require_single_family
from trunnel.streams.passage import DISMISSAL, MESSAGE_MAX, Outlet, passage, unpacked

_NO_SUCH_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
_MAY_LACK: Final = frozenset({"::1", "::"})

Datagram = tuple[bytes, HostPort]
"""Bytes, and the peer's address."""


@final
class UdpSocket:
    """One bound UDP socket.  Obtained from `open_udp_sockets` or `UdpSocket.bind`."""

    __slots__ = ("_backlog", "_family", "_inlet", "_outlets", "_quiet", "_sock", "_waiting", "address", "lost")

    def __init__(self, sock: socket.socket) -> None:  # noqa: TID251 - non-blocking, waited for with trio
        sock.setblocking(False)
        for option in (socket.SO_RCVBUF, socket.SO_SNDBUF):
            with contextlib.suppress(OSError):  # the kernel cuts it to net.core.*mem_max by itself
                sock.setsockopt(socket.SOL_SOCKET, option, limits.UDP_BUFFER)
        self._sock = sock
        self._family = sock.family
        self._backlog: deque[Datagram] = deque()
        self._waiting = trio.Event()
        self._inlet: socket.socket | None = None  # noqa: TID251 - read instead of `_sock`, if there is one
        self._quiet: socket.socket | None = None  # noqa: TID251 - keeps an inlet open in which nothing arrives
        self._outlets: list[Outlet] = []
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

    @classmethod
    def adopt(cls, sock: socket.socket, *, key: str) -> UdpSocket:  # noqa: TID251 - as above
        """Return the socket that another process has made and bound; on failure *sock* stays the caller's.

        Raises:
            ConfigError: It is none of UDP, or one IPv6 socket for both families.
        """
        require_single_family(sock, key=key)
        if sock.type != socket.SOCK_DGRAM:
            raise ConfigError(key, "a socket that was given for QUIC is none of UDP")
        return cls(sock)

    def fileno(self) -> int:
        """Return the descriptor, for another process; it stays ours."""
        return self._sock.fileno()

    @property
    def outlets(self) -> tuple[Outlet, ...]:
        """Where datagrams are passed on, the latest first."""
        return tuple(self._outlets)

    def divert(self, inlet: socket.socket) -> None:  # noqa: TID251 - as above
        """Read *inlet*, which is this socket's from now on: another process reads the datagrams.

        It passes them on to those before us as well; we do so again only when it is gone.
        """
        if self._inlet is not None:
            raise ValueError("the socket is diverted already")
        self._inlet = inlet
        self._keep_outlets(limits.PREDECESSORS_MAX - 1)
        trio.lowlevel.notify_closing(self._sock)  # who waits for datagrams is to wait elsewhere

    def pass_on_to(self, outlet: Outlet) -> None:
        """Have `pass_on` know *outlet*, which is this socket's from now on."""
        self._outlets = [outlet, *self._outlets]
        self._keep_outlets(limits.PREDECESSORS_MAX)

    def _keep_outlets(self, count: int) -> None:
        """Keep the latest."""
        while len(self._outlets) > count:
            self._outlets.pop().dismiss()

    def pass_on(self, datagram: bytes, source: HostPort) -> None:
        """Give a datagram that belongs to nobody here to the processes before us, if there are any."""
        if self._inlet is not None:
            return  # whoever passed it on to us has done that
        for outlet in self._outlets:
            outlet.send(datagram, source)
        if any(outlet.over for outlet in self._outlets):
            for outlet in self._outlets:
                if outlet.over:
                    outlet.close()
            self._outlets = [outlet for outlet in self._outlets if not outlet.over]

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
        while not self.closed:
            inlet = self._inlet
            try:
                await trio.lowlevel.wait_readable(self._sock if inlet is None else inlet)
            except trio.ClosedResourceError:
                if inlet is not self._inlet:
                    continue  # diverted meanwhile
                raise
            return
        raise trio.ClosedResourceError("the socket is closed")

    def receive_batch(self) -> list[Datagram]:
        """Return the datagrams that lie there, at most `DATAGRAM_BATCH`; does not wait."""
        if self._inlet is not None:
            return self._receive_passed(self._inlet)
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

    def _receive_passed(self, inlet: socket.socket) -> list[Datagram]:  # noqa: TID251 - as above
        batch: list[Datagram] = []
        for _ in range(limits.DATAGRAM_BATCH):
            try:
                message = inlet.recv(MESSAGE_MAX)
            except BlockingIOError:
                break
            except OSError:
                message = b""
            if message in (b"", DISMISSAL):
                self._leave_inlet(inlet, for_good=message == DISMISSAL)
                break
            batch.append(unpacked(message))
        return batch

    def _leave_inlet(self, inlet: socket.socket, *, for_good: bool) -> None:  # noqa: TID251 - as above
        """Read the socket itself again, because nobody else does; or nothing any more, *for_good*."""
        inlet.close()
        self._inlet = None
        if for_good:
            self._inlet, self._quiet = passage()

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
            with contextlib.suppress(trio.ClosedResourceError):  # diverted, or closed
                await trio.lowlevel.wait_writable(self._sock)
            if self.closed:
                raise trio.ClosedResourceError("the socket was closed")
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
        for outlet in self._outlets:
            outlet.close()
        if self._inlet is not None:
            if trio.lowlevel.in_trio_run():
                trio.lowlevel.notify_closing(self._inlet)
            self._inlet.close()
        if self._quiet is not None:
            self._quiet.close()
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
