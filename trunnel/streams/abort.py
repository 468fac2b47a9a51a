"""End a stream abnormally, whatever it is made of.

`abort_stream` is synchronous, so that it works while a scope is being
cancelled; `wait_stream_delivered` is what to await before, when the abort
follows bytes that the peer should still get.  Streams of a transport need no
waiting: there an abort stays behind the bytes sent before it.
"""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import trio

from trunnel.errors import ErrorCode
from trunnel.streams.sockets import abort_socket, wait_delivered


@runtime_checkable
class Resettable(Protocol):
    """A stream of `trunnel.transports`."""

    def reset(self, code: ErrorCode = ...) -> None:
        """Abort both directions now."""
        ...


@runtime_checkable
class Abortable(Protocol):
    """TLS over something that can be aborted; the code reaches the peer where that carries codes."""

    def abort(self, code: ErrorCode = ...) -> None:
        """Abort both directions now."""
        ...


@runtime_checkable
class Closable(Protocol):
    """A stream in memory: it has no abort, but closes at once."""

    def close(self) -> None:
        """Close now."""
        ...


def abort_stream(stream: object, code: ErrorCode = ErrorCode.CANCEL) -> None:
    """Abort both directions of *stream* now; what was not sent yet is lost.  Idempotent.

    Args:
        stream: A socket stream, a stream of a transport, TLS over either, or
            one of `trio.testing`'s (those can only be closed).
        code: What the peer is told, where the stream carries a code.

    Raises:
        TypeError: *stream* is of a kind that cannot be aborted.
    """
    match stream:
        case trio.SocketStream():
            abort_socket(stream.socket)
        case Resettable():
            stream.reset(code)
        case Abortable():
            stream.abort(code)
        case trio.StapledStream():
            abort_stream(stream.send_stream, code)
            abort_stream(stream.receive_stream, code)
        case Closable():
            stream.close()
        case _:
            raise TypeError(f"cannot abort a {type(stream).__name__}")


async def wait_stream_delivered(stream: object) -> None:
    """Wait, for a bounded time, until the peer has what was sent on *stream*.

    Only sockets need it, bare or under TLS.  Cancellation: no effect.
    """
    socket_stream = _socket_under(stream)
    if socket_stream is not None:
        await wait_delivered(socket_stream.socket)


def _socket_under(stream: object) -> trio.SocketStream | None:
    """Return the socket stream that *stream* is or runs on, or None."""
    while stream is not None and not isinstance(stream, trio.SocketStream):
        stream = getattr(stream, "transport", None)
    return stream
