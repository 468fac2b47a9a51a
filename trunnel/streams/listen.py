"""Listening TCP sockets, one for each bind address, and errors that say what to do.

* One family a socket: IPv6 ones are V6ONLY, so that a peer's address is
  always of its own family and no `::ffff:` form reaches a limit or a log.
* Port 0 means one free port for all addresses together: the first socket
  takes it, the others follow; where one cannot, the whole is tried anew.
* A host without IPv6 may lack `::1` and `::` if another address was bound;
  any other failure is the configuration's and raises before anything starts.
* A socket may also be given: by the relay that ran before, or by a supervisor
  (`adopt_listener`).  It stays open in every process that has it, so nobody who
  waits to be accepted is reset when one of them closes its own.
* `accept_nowait` does not wait, so that an accept loop takes several
  connections in one turn; with one a turn, a busy relay accepts as rarely as
  its scheduler comes round.

Sources: RFC 3493 §5.3 (IPV6_V6ONLY), accept(2).
"""

from __future__ import annotations

import contextlib
import errno
import socket
import sys
from collections.abc import Sequence
from typing import Final, final

import trio
from trio import socket as tsocket

from trunnel import capabilities
from trunnel.errors import ConfigError
from trunnel.settings.limits import LISTEN_BACKLOG, PORT_ATTEMPTS

HostPort = tuple[str, int]
"""An IP address, without scope, and a port."""

_NO_SUCH_FAMILY: Final = frozenset({errno.EAFNOSUPPORT, errno.EADDRNOTAVAIL, errno.EPROTONOSUPPORT})
_MAY_LACK: Final = frozenset({"::1", "::"})


def host_port(address: tuple[str | int, ...]) -> HostPort:
    """Return host (an IPv6 scope cut off) and port of an address as sockets give it."""
    return str(address[0]).partition("%")[0], int(address[1])


@final
class TcpListener:
    """One listening socket.  Obtained from `open_listeners` or `adopt_listener`."""

    __slots__ = ("_sock", "address")

    def __init__(self, sock: socket.socket) -> None:  # noqa: TID251 - non-blocking, waited for with trio
        sock.setblocking(False)
        self._sock = sock
        self.address = host_port(sock.getsockname())
        """Where it listens, with the real port."""

    @classmethod
    def bind(cls, family: socket.AddressFamily, address: HostPort) -> TcpListener:
        """Bind and listen; raises OSError."""
        return cls(socket.create_server(address, family=family, backlog=LISTEN_BACKLOG, dualstack_ipv6=False))

    def fileno(self) -> int:
        """Return the socket's descriptor, for another process; it stays ours."""
        return self._sock.fileno()

    @property
    def closed(self) -> bool:
        """Whether `close` was called."""
        return self._sock.fileno() < 0

    async def wait_readable(self) -> None:
        """Wait until a connection may wait to be accepted.

        Raises:
            trio.ClosedResourceError: The listener is closed, or was meanwhile.

        Cancellation: no effect.
        """
        if self.closed:
            raise trio.ClosedResourceError("the listener is closed")
        await trio.lowlevel.wait_readable(self._sock)

    def accept_nowait(self) -> tuple[tsocket.SocketType, HostPort] | None:
        """Accept one connection.

        Returns:
            1. Its socket and the peer's address.
            2. None: no connection waits.

        Raises:
            OSError: accept(2) failed; most of its errors concern one connection only.
        """
        try:
            sock, peer = self._sock.accept()
        except BlockingIOError:
            return None
        return tsocket.from_stdlib_socket(sock), host_port(peer)

    def close(self) -> None:
        """Stop listening; if nobody else has the socket, the kernel resets what was not accepted.  Idempotent."""
        if self.closed:
            return
        if trio.lowlevel.in_trio_run():  # else nobody can be waiting
            trio.lowlevel.notify_closing(self._sock)
        self._sock.close()


def open_listeners(addresses: Sequence[str], port: int, *, key: str = "bind_addr") -> list[TcpListener]:
    """Listen on each of *addresses*, all on the same port.

    Args:
        addresses: IP addresses, at least one, for example 127.0.0.1 and ::1.
        port: 0 to 65535; 0 is one free port for all of them.
        key: The setting that errors name.

    Returns:
        The listeners, in order; without those of IPv6 if the host has none.

    Raises:
        ConfigError: An address or the port cannot be had; the text says what to do.
    """
    places = [_parse_address(text, key) for text in addresses]
    attempts = PORT_ATTEMPTS if port == 0 else 1
    while True:
        attempts -= 1
        try:
            return _open_all(places, port, key)
        except ConfigError as exc:
            in_use = isinstance(exc.__cause__, OSError) and exc.__cause__.errno == errno.EADDRINUSE
            if not in_use or not attempts:
                raise


def adopt_listener(sock: socket.socket, *, key: str) -> TcpListener:  # noqa: TID251 - as above
    """Return the listener of a socket that another process has made; on failure *sock* stays the caller's.

    Raises:
        ConfigError: It is none that listens for TCP over IP, or one IPv6 socket for both families.
    """
    require_single_family(sock, key=key)
    if not sock.getsockopt(socket.SOL_SOCKET, socket.SO_ACCEPTCONN):
        raise ConfigError(key, "a socket that was given does not listen")
    sock.listen(LISTEN_BACKLOG)  # again: its maker may have chosen a short queue
    return TcpListener(sock)


def require_single_family(sock: socket.socket, *, key: str) -> None:  # noqa: TID251 - as above
    """Raise ConfigError unless *sock* is one of IPv4 alone or of IPv6 alone: see the head."""
    if sock.family not in (socket.AF_INET, socket.AF_INET6):
        raise ConfigError(key, f"a socket that was given is not one of IP ({sock.family!r})")
    if sock.family == socket.AF_INET6 and not sock.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY):
        raise ConfigError(
            key, "a socket that was given serves IPv4 and IPv6 at once; give one for each (BindIPv6Only=ipv6-only)"
        )


def _parse_address(text: str, key: str) -> tuple[socket.AddressFamily, str]:
    family = socket.AF_INET6 if ":" in text else socket.AF_INET
    try:
        socket.inet_pton(family, text.partition("%")[0])
    except OSError as exc:
        raise ConfigError(key, f"{text!r} is not an IP address (0.0.0.0 and :: mean every address)") from exc
    return family, text


def _open_all(places: Sequence[tuple[socket.AddressFamily, str]], port: int, key: str) -> list[TcpListener]:
    """Open one listener a place; a free port found by the first holds for the rest."""
    listeners: list[TcpListener] = []
    with contextlib.ExitStack() as undo:
        for family, host in places:
            try:
                listener = TcpListener.bind(family, (host, listeners[0].address[1] if listeners else port))
            except OSError as exc:
                if host not in _MAY_LACK or exc.errno not in _NO_SUCH_FAMILY:
                    raise ConfigError(key, _explain(exc, host, port)) from exc
                continue
            undo.callback(listener.close)
            listeners.append(listener)
        if not listeners:
            raise ConfigError(key, "there is no address to listen on (this host has no IPv6)")
        undo.pop_all()
    return listeners


def _explain(error: OSError, host: str, port: int) -> str:
    """Return the sentence for people: why *host* and *port* cannot be listened on, and what to do."""
    where = f"[{host}]:{port}" if ":" in host else f"{host}:{port}"
    match error.errno:
        case errno.EACCES | errno.EPERM:
            return (
                f"not allowed to listen on {where}; give the right "
                f"(`sysctl net.ipv4.ip_unprivileged_port_start={port}`, "
                f"`setcap cap_net_bind_service=+ep {sys.executable}`, or in a systemd unit "
                "AmbientCapabilities=CAP_NET_BIND_SERVICE), or choose a port from 1024 on and forward to it"
            )
        case errno.EADDRINUSE:
            return f"another program listens on {where} (`ss -ltnp` names it); stop it or choose another port"
        case errno.EADDRNOTAVAIL:
            return f"{host} is not an address of this machine"
        case _:
            return f"cannot listen on {where}: {error.strerror}"


def descriptor_limit() -> int | None:
    """Return how many descriptors this process may have (the soft RLIMIT_NOFILE), None if unlimited or unknown."""
    if not capabilities.HAS_RLIMIT:
        return None
    import resource  # noqa: PLC0415 - only where HAS_RLIMIT says so

    soft, _hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    return None if soft == resource.RLIM_INFINITY else soft
