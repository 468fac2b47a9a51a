"""What this platform can do, found out once.

The relay runs on Linux; the agent also on macOS and Windows.  Code that uses
something which one of them lacks asks the flag here, through the module
(`capabilities.HAS_FLOCK`), and has a fallback for False.  Never ask for the
name of the platform elsewhere: tests switch single flags off by monkeypatch
and so run the fallbacks on Linux.
"""

from __future__ import annotations

import importlib.util
import os
import socket
import ssl
import sys
from typing import Final

HAS_FLOCK: Final = importlib.util.find_spec("fcntl") is not None
"""`fcntl.flock`: a lock on an open file that ends with the process."""
HAS_MSVCRT_LOCKING: Final = importlib.util.find_spec("msvcrt") is not None
"""`msvcrt.locking`: the same on Windows, for a range of bytes."""
HAS_POSIX_MODES: Final = os.name == "posix"
"""Files have an owner and 0600 means something; signal 0 asks whether a process lives."""
HAS_NOFOLLOW: Final = hasattr(os, "O_NOFOLLOW")
"""Opening can refuse a symbolic link by itself, without a look (and a race) before."""
HAS_FOLDER_FSYNC: Final = os.name == "posix"
"""A folder can be opened and flushed, so that a rename survives a power cut."""
HAS_HARD_LINKS: Final = hasattr(os, "link")
"""A finished file can be given its name only if nobody has it yet."""
HAS_SYSTEM_CERTIFICATES: Final = hasattr(ssl, "enum_certificates")
"""The system keeps its trusted roots in a store of its own (Windows), not in a file."""
HAS_UNIX_SOCKETS: Final = os.name == "posix" and hasattr(socket, "AF_UNIX")
"""`unix:PATH` can be dialled (Windows has the constant in C, Python and trio do not use it)."""
HAS_OUTQ: Final = sys.platform == "linux" and importlib.util.find_spec("termios") is not None
"""`SIOCOUTQ` tells how many bytes of a socket the peer has not acknowledged yet."""
HAS_SELECT_ON_FILES: Final = os.name == "posix"
"""`select` takes any descriptor, so that a full pipe is noticed before it blocks (Windows: sockets only)."""
HAS_MSG_PEEK: Final = hasattr(socket, "MSG_PEEK")
"""Bytes of a socket can be looked at and stay there for TLS that runs on the descriptor."""
HAS_RCVLOWAT: Final = sys.platform == "linux" and hasattr(socket, "SO_RCVLOWAT")
"""`SO_RCVLOWAT` holds back readiness until so many bytes wait (elsewhere poll ignores it, or it cannot be set)."""
HAS_TCP_INFO: Final = sys.platform == "linux" and hasattr(socket, "TCP_INFO")
"""`TCP_INFO` tells the state of a connection, so that a FIN behind unread bytes can be seen."""
HAS_NOTSENT_LOWAT: Final = hasattr(socket, "TCP_NOTSENT_LOWAT")
"""`TCP_NOTSENT_LOWAT` bounds the bytes that the kernel holds unsent."""
HAS_KEEPALIVE_TIMES: Final = all(hasattr(socket, f"TCP_KEEP{name}") for name in ("IDLE", "INTVL", "CNT"))
"""The times of TCP keepalive can be set for each socket; the system's own begin after two hours."""
HAS_RLIMIT: Final = importlib.util.find_spec("resource") is not None
"""`resource.getrlimit` tells how many descriptors the process may have."""
HAS_NETLINK: Final = sys.platform == "linux" and hasattr(socket, "AF_NETLINK")
"""The kernel tells of changed addresses and routes on a netlink socket (elsewhere: look now and then)."""
HAS_TCP_MAXSEG: Final = sys.platform != "win32" and hasattr(socket, "TCP_MAXSEG")
"""The size of segments can be bounded before connecting."""
HAS_ROUTE_FILES: Final = sys.platform == "linux"
"""`/proc/net/route` and `/proc/net/ipv6_route` list the routes."""
HAS_USER_TIMEOUT: Final = hasattr(socket, "TCP_USER_TIMEOUT")
"""`TCP_USER_TIMEOUT` ends a connection whose peer has not acknowledged for so long, probes of keepalive included."""
HAS_PUMP: Final = (
    all(hasattr(os, name) for name in ("splice", "memfd_create", "sched_getaffinity"))
    and bool(sys.executable)
    and not hasattr(sys, "frozen")
)
"""Two sockets can be given to a process of our own that splices (Linux, Python not frozen into one file)."""
HAS_SOCKET_FILES: Final = os.name == "posix"
"""`read` and `write` work on sockets (Windows keeps them apart from files)."""
HAS_SOCKET_PASSING: Final = sys.platform == "linux" and all(
    hasattr(socket, name) for name in ("AF_UNIX", "SOCK_SEQPACKET", "SO_PEERCRED", "send_fds")
)
"""Sockets can be given to another process that the kernel vouches for (SCM_RIGHTS, SO_PEERCRED)."""
