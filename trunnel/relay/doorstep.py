"""The socket by which relays of one state folder find each other: `takeover.sock`.

It belongs to the present relay, is handed over with the others, and is taken
away by a relay that stops without a successor.  One of a relay that was killed
stays: nobody answers there, and the next relay puts its own in its place.  If a
relay answers, a second one that was started beside it does not start.

Only the user whose folder it is can connect: the folder is 0700, the socket
0600.  The kernel's word on the peer is asked for besides (`handover.Channel`).
A path in a Unix address has at most 107 bytes, so it is reached through the
folder's descriptor (proc(5)).
"""

from __future__ import annotations

import errno
import logging
import os
import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Final, final

import trio

from trunnel import capabilities
from trunnel.errors import ConfigError
from trunnel.relay.handover import Channel
from trunnel.settings import limits

logger = logging.getLogger(__name__)

NAME: Final = "takeover.sock"
"""In the state folder."""
_NOBODY: Final = frozenset({errno.ENOENT, errno.ECONNREFUSED, errno.ENOTSOCK, errno.EPROTOTYPE})
_MODE: Final = 0o600


@contextmanager
def _address(folder: Path) -> Iterator[str]:
    """Yield the socket's address, whatever the length of the folder's path; raises OSError."""
    descriptor = os.open(folder, os.O_PATH | os.O_DIRECTORY)
    try:
        yield f"/proc/self/fd/{descriptor}/{NAME}"
    finally:
        os.close(descriptor)


def _new_socket() -> socket.socket:  # noqa: TID251 - as below
    return socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # noqa: TID251 - trio has none of SOCK_SEQPACKET


def knock(folder: Path) -> Channel | None:
    """Connect to the relay of *folder*, or return None if there is none.

    Raises:
        ConfigError: One is there and cannot be spoken to.
    """
    sock = _new_socket()
    try:
        sock.setblocking(False)
        with _address(folder) as address:
            sock.connect(address)
    except OSError as exc:
        sock.close()
        if exc.errno in _NOBODY:
            return None
        raise ConfigError("relay.takeover", f"{folder / NAME}: {exc.strerror}") from exc
    return Channel(sock)


@final
class Doorstep:
    """The present relay's takeover socket."""

    def __init__(self, folder: Path, sock: socket.socket) -> None:  # noqa: TID251 - as above
        """Take *sock*, which listens in *folder*."""
        sock.setblocking(False)
        self._folder = folder
        self._sock = sock

    @classmethod
    def lay(cls, folder: Path) -> Doorstep | None:
        """Listen in *folder*; None, with a line in the log, where that is not possible.

        Raises:
            ConfigError: A relay runs with this folder: two would overwrite what the other one keeps there.
        """
        if not capabilities.HAS_SOCKET_PASSING:
            return None
        try:
            other = knock(folder)
        except ConfigError as exc:
            logger.warning("no_takeover", extra={"reason": str(exc)})
            return None
        if other is not None:
            with closing(other):
                pid = other.pid
            reason = f"process {pid} is a relay with this folder already ({folder}): take its place by --takeover, "
            raise ConfigError("relay.state_dir", f"{reason}or name another folder")
        sock = _new_socket()
        try:
            (folder / NAME).unlink(missing_ok=True)
            with _address(folder) as address:
                sock.bind(address)
            (folder / NAME).chmod(_MODE)
            sock.listen(limits.TAKEOVER_BACKLOG)  # who knocks before we accept waits, and finds that we are here
        except OSError as exc:
            sock.close()
            logger.warning("no_takeover", extra={"reason": f"{folder / NAME}: {exc.strerror}"})
            return None
        return cls(folder, sock)

    def fileno(self) -> int:
        """Return the descriptor, for another process; it stays ours."""
        return self._sock.fileno()

    def open(self) -> None:
        """Let processes knock, who are told that it is us (the kernel notes who listened last); raises OSError."""
        self._sock.listen(limits.TAKEOVER_BACKLOG)

    async def accept(self) -> Channel:
        """Wait for a process that knocks.  Cancellation: no effect."""
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                sock, _ = self._sock.accept()
            except OSError as exc:
                if exc.errno not in (errno.EAGAIN, errno.ECONNABORTED):
                    logger.warning("takeover_accept_failed", extra={"error": exc.strerror})
                    await trio.sleep(limits.ACCEPT_PAUSE)
                continue
            return Channel(sock)

    def leave(self) -> None:
        """Close our end: the socket is a successor's.  Idempotent."""
        self._sock.close()

    def remove(self) -> None:
        """Close it and take it away, unless it was left to somebody.  Idempotent."""
        if self._sock.fileno() >= 0:
            try:
                (self._folder / NAME).unlink(missing_ok=True)
            except OSError as exc:
                logger.warning("takeover_socket_stays", extra={"error": exc.strerror})
            self._sock.close()
