"""The service supervisor's side of `serve`: sockets that systemd has opened, and what it is told.

- Socket activation (sd_listen_fds(3)): descriptors from 3 on, their number in
  LISTEN_FDS, their names in LISTEN_FDNAMES, meant for the process LISTEN_PID.
  The variables are taken away: processes that we start have no such sockets.
- Notification (sd_notify(3)): READY once every listener is accepted from,
  STOPPING when it drains, MAINPID when another process has taken over.  A
  message that cannot be sent is dropped: supervision is not our service.

What each socket is for is `relay.entrances`' affair.
"""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import MutableMapping
from contextlib import suppress
from typing import Final, final

from trunnel import capabilities
from trunnel.errors import ConfigError
from trunnel.relay.entrances import Given
from trunnel.settings import limits

logger = logging.getLogger(__name__)

FIRST_DESCRIPTOR: Final = 3
"""Of those that are passed (SD_LISTEN_FDS_START)."""
_UNNAMED: Final = "unknown"


def given_sockets(environ: MutableMapping[str, str], *, first: int = FIRST_DESCRIPTOR) -> list[Given]:
    """Return the sockets that were opened for this process, once; the variables are gone afterwards.

    Raises:
        ConfigError: A variable makes no sense, or a descriptor is no socket.
    """
    pid, count, names = (environ.pop(f"LISTEN_{name}", "") for name in ("PID", "FDS", "FDNAMES"))
    if pid != str(os.getpid()):
        return []
    if not (count.isascii() and count.isdecimal()) or int(count) > limits.TAKEOVER_SOCKETS_MAX:
        raise ConfigError("relay.sockets", f"LISTEN_FDS is {count!r}, not a number of sockets")
    called = [*names.split(":"), *[""] * int(count)]
    return [_given(first + number, called[number] or _UNNAMED) for number in range(int(count))]


def _given(descriptor: int, name: str) -> Given:
    try:
        os.set_inheritable(descriptor, False)
        return Given(socket.socket(fileno=descriptor), name)  # noqa: TID251 - adopted
    except OSError as exc:
        raise ConfigError("relay.sockets", f"descriptor {descriptor} ({name}) is no socket: {exc.strerror}") from exc


@final
class Notifier:
    """Tells the supervisor how things are; without one, nobody."""

    def __init__(self, address: str) -> None:
        """Tell *address*, as NOTIFY_SOCKET gives it; empty: nobody."""
        self._address = f"\0{address[1:]}" if address.startswith("@") else address

    def ready(self) -> None:
        """Say that everything is accepted from, by this process."""
        self._send(f"READY=1\nMAINPID={os.getpid()}\nSTATUS=Accepting connections")

    def stopping(self) -> None:
        """Say that the service stops."""
        self._send("STOPPING=1\nSTATUS=Draining")

    def succeeded_by(self, pid: int) -> None:
        """Say that another process is the service now."""
        self._send(f"MAINPID={pid}")

    def _send(self, text: str) -> None:
        if not self._address or not capabilities.HAS_UNIX_SOCKETS:
            return
        with (
            suppress(OSError),
            socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as sock,  # noqa: TID251 - one datagram, not waited for
        ):
            sock.setblocking(False)
            sock.sendto(text.encode(), self._address)
