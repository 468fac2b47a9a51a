"""Look at a ClientHello without taking it out of the kernel.

TLS that runs on a descriptor needs the hello to be there still, and bytes
that were read cannot be pushed back; so the hello is peeked (`MSG_PEEK`).
A naive loop around an incomplete hello spins, because a socket with unread
bytes is always readable.  What holds here:

* `SO_RCVLOWAT` is raised to what is there plus what the parser still needs:
  the kernel wakes us when the verdict can change, not for each byte.  It is
  back at 1 before anybody else uses the socket, because it survives every
  hand-over and would keep epoll silent.
* A FIN is invisible to a peek (the same bytes come again), but it wakes us:
  `TCP_INFO` tells.  It is asked *before* the peek, so that no byte which came
  ahead of the FIN is missed.
* A wake-up without a new byte (urgent data stops every peek at its mark; a
  kernel short of memory ignores the low-water mark) is followed by
  `PEEK_PAUSE`, so that no peer makes us spin.
* Nothing here has a deadline: the caller's scope does, counted from accept.

Where one of the three is missing the bytes are read (`Peeked.consumed`) and
TLS goes through memory.  Source: socket(7), tcp(7).
"""

from __future__ import annotations

import contextlib
from dataclasses import dataclass
from typing import Final, final

import trio
from trio import socket as tsocket

from trunnel import capabilities
from trunnel.settings.limits import CLIENT_HELLO_RAW_MAX, HTTP_HEAD_PEEK, PEEK_PAUSE
from trunnel.wire.clienthello import ClientHello, ClientHelloParser, Verdict

_ESTABLISHED: Final = 1
_RESET: Final = 7
_FIN_RECEIVED: Final = 8
"""TCP_ESTABLISHED, TCP_CLOSE and TCP_CLOSE_WAIT of Linux's tcp_states.h, as seen before we close anything."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Peeked:
    """What the first bytes of a connection amount to."""

    verdict: Verdict
    """The parser's; NEED_MORE if the peer sent FIN before the hello was complete."""
    hello: ClientHello | None
    """Set for ROUTE, NO_SNI and BAD_NAME."""
    reason: str
    """A sentence for people: why the verdict is what it is."""
    head: bytes
    """The first bytes, at most `HTTP_HEAD_PEEK`: enough to tell HTTP."""
    consumed: bytes = b""
    """Bytes that had to be read; empty when they are still in the kernel."""


async def peek_hello(sock: tsocket.SocketType, parser: ClientHelloParser) -> Peeked:
    """Wait until *parser* knows what the peer's first bytes are.

    Returns:
        1. A final verdict.
        2. NEED_MORE: the peer ended its side before.

    Raises:
        trio.BrokenResourceError: The peer aborted the connection.

    Cancellation: the socket can still be closed; where peeking works nothing
    was read.  Callers bound the time.
    """
    can_peek = capabilities.HAS_MSG_PEEK and capabilities.HAS_RCVLOWAT and capabilities.HAS_TCP_INFO
    try:
        return await (_peek(sock, parser) if can_peek else _read(sock, parser))
    except OSError as exc:
        raise trio.BrokenResourceError(f"the connection was lost while its ClientHello was awaited: {exc}") from exc


async def take_hello(sock: tsocket.SocketType, peeked: Peeked) -> bytes:
    """Read a complete hello out of the kernel, with what waits behind it.

    Args:
        sock: The socket that was peeked at.
        peeked: A result with a hello.

    Returns:
        The stream's first bytes: at least `hello.raw_bytes`, at most
        `CLIENT_HELLO_RAW_MAX`.

    Raises:
        trio.BrokenResourceError: The peer aborted the connection.

    Cancellation: bytes may be lost; close the socket.
    """
    wanted = peeked.hello.raw_bytes if peeked.hello is not None else 0
    raw = peeked.consumed
    try:
        while len(raw) < wanted:  # one turn, but for urgent data: reads stop at its mark
            chunk = await sock.recv(CLIENT_HELLO_RAW_MAX - len(raw))
            if not chunk:
                raise trio.BrokenResourceError("the connection ended inside its ClientHello")
            raw += chunk
    except OSError as exc:
        raise trio.BrokenResourceError(f"the connection was lost while its ClientHello was read: {exc}") from exc
    return raw


async def _peek(sock: tsocket.SocketType, parser: ClientHelloParser) -> Peeked:
    seen = 0
    state = _ESTABLISHED
    try:
        while True:
            head = await sock.recv(CLIENT_HELLO_RAW_MAX, tsocket.MSG_PEEK)
            verdict = parser.feed_untrusted(memoryview(head)[seen:])
            if verdict is not Verdict.NEED_MORE or state == _FIN_RECEIVED or not head:
                return _result(parser, head)
            if state == _RESET:
                raise trio.BrokenResourceError("the connection was reset inside its ClientHello")
            if len(head) == seen:
                await trio.sleep(PEEK_PAUSE)
            seen = len(head)
            _set_low_water(sock, min(seen + parser.needed, CLIENT_HELLO_RAW_MAX))
            await trio.lowlevel.wait_readable(sock)
            state = _state(sock)
    finally:
        if seen:
            with contextlib.suppress(OSError):  # closed meanwhile, by whoever cancelled us
                _set_low_water(sock, 1)


async def _read(sock: tsocket.SocketType, parser: ClientHelloParser) -> Peeked:
    consumed = b""
    while True:
        chunk = await sock.recv(CLIENT_HELLO_RAW_MAX - len(consumed))
        consumed += chunk
        if parser.feed_untrusted(chunk) is not Verdict.NEED_MORE or not chunk:
            return _result(parser, consumed, consumed=consumed)


def _result(parser: ClientHelloParser, head: bytes, *, consumed: bytes = b"") -> Peeked:
    return Peeked(
        verdict=parser.verdict,
        hello=parser.hello,
        reason=parser.reason,
        head=head[:HTTP_HEAD_PEEK],
        consumed=consumed,
    )


def _set_low_water(sock: tsocket.SocketType, count: int) -> None:
    """Let *sock* count as readable from *count* waiting bytes on (or at FIN, or at an error)."""
    sock.setsockopt(tsocket.SOL_SOCKET, tsocket.SO_RCVLOWAT, count)


def _state(sock: tsocket.SocketType) -> int:
    """Return the state of the connection: `struct tcp_info` begins with it, one byte."""
    return sock.getsockopt(tsocket.IPPROTO_TCP, tsocket.TCP_INFO, 1)[0]
