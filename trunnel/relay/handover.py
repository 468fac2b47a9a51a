"""What two relays say to each other when one takes the other's place, and how sockets travel with it.

    new → old   ask          who it is
    old → new   offer        what is handed over; the descriptors come with it, in the order of the list,
                             then the takeover socket, then the outlets
    new → old   accepting    it accepts connections: stop
    old → new   yielded      the old one has stopped accepting, and drains
    either      withdrawn    it does not come to that, and why

A message is one packet of a Unix SOCK_SEQPACKET socket: JSON, whole or not at
all.  Both ends are programs of one user (`Channel.is_own`), perhaps of two
versions: unknown fields are ignored, `version` grows when that is not enough.

Sources: unix(7) (SCM_RIGHTS, SO_PEERCRED), recvmsg(2) (MSG_CMSG_CLOEXEC).
"""

from __future__ import annotations

import os
import socket
import struct
from collections.abc import Sequence
from contextlib import suppress
from typing import Final, final

import msgspec
import trio

from trunnel.errors import ConfigError
from trunnel.settings import limits

VERSION: Final = 1
"""Of these messages."""
_DESCRIPTOR: Final = struct.Struct("i")
_CREDENTIALS: Final = struct.Struct("3i")  # pid, uid, gid (struct ucred)


class Message(msgspec.Struct, frozen=True, kw_only=True, tag_field="kind"):
    """Any of the messages below."""


@final
class Ask(Message, frozen=True, kw_only=True, tag="ask"):
    """A new relay wants the sockets."""

    version: int


@final
class Socket(msgspec.Struct, frozen=True, kw_only=True):
    """One socket that is handed over."""

    name: str
    """See `relay.entrances`; "" for UDP."""
    supervised: bool = False


@final
class Offer(Message, frozen=True, kw_only=True, tag="offer"):
    """All that the old relay has."""

    sockets: list[Socket]
    outlets: list[int]
    """For each outlet (`streams.passage`) which of the sockets it belongs to; the latest first."""


@final
class Accepting(Message, frozen=True, kw_only=True, tag="accepting"):
    """The new relay accepts."""

    quic: bool
    """Whether it reads the UDP sockets."""


@final
class Yielded(Message, frozen=True, kw_only=True, tag="yielded"):
    """The old relay has stopped accepting."""


@final
class Withdrawn(Message, frozen=True, kw_only=True, tag="withdrawn"):
    """Whoever says so keeps to what it was."""

    reason: str


_DECODER: Final = msgspec.json.Decoder(Ask | Offer | Accepting | Yielded | Withdrawn)


@final
class Channel:
    """One conversation; closed by whoever opened it."""

    __slots__ = ("_sock",)

    def __init__(self, sock: socket.socket) -> None:  # noqa: TID251 - trio has none of SOCK_SEQPACKET
        sock.setblocking(False)
        self._sock = sock

    @property
    def pid(self) -> int:
        """The other process, by the kernel's word."""
        return self._credentials()[0]

    @property
    def is_own(self) -> bool:
        """Whether the other process runs as the same user."""
        return self._credentials()[1] == os.geteuid()

    def _credentials(self) -> tuple[int, int, int]:
        raw = self._sock.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, _CREDENTIALS.size)
        pid, uid, gid = _CREDENTIALS.unpack(raw)
        return pid, uid, gid

    def send(self, message: Message, descriptors: Sequence[int] = ()) -> None:
        """Send at once; raises OSError if the other end is gone (or reads nothing, which ours does)."""
        packet = msgspec.json.encode(message)
        if descriptors:
            socket.send_fds(self._sock, [packet], descriptors)
        else:
            self._sock.send(packet)

    def withdraw(self, reason: str) -> None:
        """Tell the other, if it is there, that nothing comes of it."""
        with suppress(OSError):
            self.send(Withdrawn(reason=reason))

    async def receive(self) -> tuple[Message | None, list[int]]:
        """Wait for a message; None if the other end is gone.

        Returns:
            The message, and the descriptors that came with it, which are the caller's.

        Raises:
            ConfigError: It makes no sense to us: the other is of another version.

        Cancellation: no effect.
        """
        while True:
            await trio.lowlevel.wait_readable(self._sock)
            try:
                packet, descriptors = self._receive_packet()
            except (BlockingIOError, ConnectionResetError):
                continue  # a reset: it has not read our last message; its own last one is still there
            except OSError:
                return None, []
            break
        if not packet:
            return None, []
        try:
            return _DECODER.decode(packet), descriptors
        except msgspec.MsgspecError as exc:
            for descriptor in descriptors:
                os.close(descriptor)
            raise ConfigError("relay.takeover", f"the other relay speaks another language: {exc}") from exc

    def _receive_packet(self) -> tuple[bytes, list[int]]:
        """Return a packet and its descriptors, which no process that we start inherits; raises OSError.

        Not `socket.recv_fds`: it takes flags, and forgets them.
        """
        packet, ancillary, _, _ = self._sock.recvmsg(
            limits.TAKEOVER_MESSAGE_MAX,
            socket.CMSG_SPACE(limits.TAKEOVER_SOCKETS_MAX * _DESCRIPTOR.size),
            socket.MSG_CMSG_CLOEXEC,
        )
        whole = [
            content[: len(content) // _DESCRIPTOR.size * _DESCRIPTOR.size]
            for level, kind, content in ancillary
            if (level, kind) == (socket.SOL_SOCKET, socket.SCM_RIGHTS)
        ]
        return packet, [descriptor for content in whole for (descriptor,) in _DESCRIPTOR.iter_unpack(content)]

    def close(self) -> None:
        """End the conversation.  Idempotent."""
        self._sock.close()
