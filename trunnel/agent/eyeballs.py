"""Connect to whichever of several addresses answers first (happy eyeballs, RFC 8305 §5).

Attempts begin in the given order, each `HAPPY_EYEBALLS_DELAY` after the one
before, or at once when that one has failed.  All go on until the first
succeeds; the others are cancelled and their sockets closed.  Which addresses,
and in what order, is `resolve`'s business: nothing is looked up here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Awaitable, Callable, Mapping, Sequence
from functools import partial
from typing import Final, Generic, TypeVar, final

import trio

from trunnel import capabilities
from trunnel.errors import ConnectError
from trunnel.names import ServerAddress
from trunnel.settings import limits
from trunnel.streams.sockets import abort_socket, tune_socket

T = TypeVar("T")
Place = tuple[str, int]
"""IP address and port."""

_WORDS: Final = {
    errno.ECONNREFUSED: "connection refused",
    errno.ENETUNREACH: "network is unreachable",
    errno.EHOSTUNREACH: "no route to host",
    errno.ETIMEDOUT: "connection timed out",
}
"""The usual failures; Windows has no text for the numbers of its sockets."""


async def connect_any(
    addresses: Sequence[Place], *, delay: float = limits.HAPPY_EYEBALLS_DELAY, narrow: bool = False
) -> trio.SocketStream:
    """Connect to the first of *addresses* that answers.

    Args:
        addresses: IP addresses with ports, best first, at least one.
        delay: Seconds between two attempts, while none fails.
        narrow: Whether to keep to segments that every path takes (`SEGMENT_NARROW`), both ways.

    Returns:
        The connection, with our socket options set; `getpeername` says to whom.

    Raises:
        ConnectError: None answered within `CONNECT_TIMEOUT`; the text has every reason.

    Cancellation: no connection is left.
    """
    connect = partial(_connect, narrow=narrow)
    stream = await first_of(addresses, connect, discard=_close, delay=delay, timeout=limits.CONNECT_TIMEOUT)
    tune_socket(stream.socket)
    return stream


async def connect_one(place: Place, *, narrow: bool = False) -> trio.SocketStream:
    """Connect to *place* and nowhere else; the socket has trio's options.  The caller bounds the time.

    Raises:
        ConnectError: It does not answer; the text says why.

    Cancellation: no connection is left.
    """
    try:
        return await _connect(place, narrow=narrow)
    except OSError as exc:
        raise ConnectError(f"{_reason(exc)} ({ServerAddress(*place)})") from exc


async def first_of(
    addresses: Sequence[Place],
    attempt: Callable[[Place], Awaitable[T]],
    *,
    discard: Callable[[T], None],
    delay: float = limits.HAPPY_EYEBALLS_DELAY,
    timeout: float,  # noqa: ASYNC109 - the error names it
) -> T:
    """Return what *attempt* gives for the first of *addresses* that answers.

    Args:
        addresses: IP addresses with ports, best first, at least one.
        attempt: Connects to one address; raises OSError or ConnectError.
        discard: Closes what a second attempt opened in the same moment.
        delay: Seconds between two attempts, while none fails.
        timeout: Seconds for all of it.

    Raises:
        ConnectError: None answered in time; the text has every reason.

    Cancellation: nothing is left open.
    """
    if not addresses:
        raise ValueError("no address to connect to")
    race = _Race(attempt, discard)
    try:
        with trio.move_on_after(timeout):
            await race.run(addresses, delay)
    except BaseException:
        for opened in race.opened:
            discard(opened)
        raise
    if not race.opened:
        raise ConnectError(_report(addresses, race.failures, timeout))
    return race.opened[0]


@final
class _Race(Generic[T]):
    """The attempts of one call."""

    __slots__ = ("_attempt", "_discard", "failures", "opened")

    def __init__(self, attempt: Callable[[Place], Awaitable[T]], discard: Callable[[T], None]) -> None:
        self._attempt = attempt
        self._discard = discard
        self.opened: list[T] = []
        """What the winner opened."""
        self.failures: dict[Place, OSError | ConnectError] = {}

    async def run(self, addresses: Sequence[Place], delay: float) -> None:
        """Begin the attempts; return when one has succeeded or all have failed."""
        async with trio.open_nursery() as nursery:
            for place in addresses:
                failed = trio.Event()
                nursery.start_soon(self._try, place, failed, nursery.cancel_scope)
                with trio.move_on_after(delay):
                    await failed.wait()

    async def _try(self, place: Place, failed: trio.Event, race: trio.CancelScope) -> None:
        try:
            opened = await self._attempt(place)
        except (OSError, ConnectError) as exc:
            self.failures[place] = exc
            failed.set()
            return
        if self.opened:
            self._discard(opened)
        else:
            self.opened.append(opened)
            race.cancel()


def _close(stream: trio.SocketStream) -> None:
    stream.socket.close()


async def _connect(place: Place, *, narrow: bool) -> trio.SocketStream:
    """Connect to one address; raises OSError."""
    sock = trio.socket.socket(trio.socket.AF_INET6 if ":" in place[0] else trio.socket.AF_INET)
    try:
        if narrow and capabilities.HAS_TCP_MAXSEG:
            sock.setsockopt(trio.socket.IPPROTO_TCP, trio.socket.TCP_MAXSEG, limits.SEGMENT_NARROW)
        await sock.connect(place)
    except BaseException:
        sock.close()
        raise
    if _is_ourselves(sock):
        abort_socket(sock)
        raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to ourselves")
    return trio.SocketStream(sock)


def _is_ourselves(sock: trio.socket.SocketType) -> bool:
    """Whether TCP's simultaneous open has connected *sock* to itself (RFC 9293 §3.5); nobody listens there."""
    try:
        return bool(sock.getsockname() == sock.getpeername())
    except OSError:  # hung up already, as whoever reads next will find
        return False


def _report(addresses: Sequence[Place], failures: Mapping[Place, OSError | ConnectError], timeout: float) -> str:
    """Say why each attempt failed: `connection refused (A, B) / network is unreachable (C)`."""
    places: dict[str, list[str]] = {}
    for place in dict.fromkeys(addresses):
        failure = failures.get(place)
        reason = f"no answer within {timeout:g} s" if failure is None else _reason(failure)
        places.setdefault(reason, []).append(str(ServerAddress(*place)))
    return " / ".join(f"{reason} ({_listed(where)})" for reason, where in places.items())


def _reason(failure: OSError | ConnectError) -> str:
    if isinstance(failure, ConnectError):
        return str(failure)
    number = failure.errno or 0
    text = os.strerror(number) if number > 0 else failure.strerror or str(failure)
    return _WORDS.get(number, text.lower())


def _listed(places: Sequence[str]) -> str:
    shown = ", ".join(places[: limits.ADDRESSES_NAMED])
    more = len(places) - limits.ADDRESSES_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
