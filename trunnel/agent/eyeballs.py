"""Connect to whichever of several addresses answers first (happy eyeballs, RFC 8305 §5).

Attempts begin in the given order, each `HAPPY_EYEBALLS_DELAY` after the one
before, or at once when that one has failed.  All go on until the first
succeeds; the others are cancelled and their sockets closed.  Which addresses,
and in what order, is `resolve`'s business: nothing is looked up here.
"""

from __future__ import annotations

import errno
import os
from collections.abc import Sequence
from typing import Final, final

import trio

from trunnel.errors import ConnectError
from trunnel.names import ServerAddress
from trunnel.settings import limits
from trunnel.streams.sockets import abort_socket, tune_socket

Place = tuple[str, int]
"""IP address and port."""

_WORDS: Final = {
    errno.ECONNREFUSED: "connection refused",
    errno.ENETUNREACH: "network is unreachable",
    errno.EHOSTUNREACH: "no route to host",
    errno.ETIMEDOUT: "connection timed out",
}
"""The usual failures; Windows has no text for the numbers of its sockets."""


async def connect_any(addresses: Sequence[Place], *, delay: float = limits.HAPPY_EYEBALLS_DELAY) -> trio.SocketStream:
    """Connect to the first of *addresses* that answers.

    Args:
        addresses: IP addresses with ports, best first, at least one.
        delay: Seconds between two attempts, while none fails.

    Returns:
        The connection, with our socket options set; `getpeername` says to whom.

    Raises:
        ConnectError: None answered within `CONNECT_TIMEOUT`; the text has every reason.

    Cancellation: no connection is left.
    """
    if not addresses:
        raise ValueError("no address to connect to")
    race = _Race()
    try:
        with trio.move_on_after(limits.CONNECT_TIMEOUT):
            await race.run(addresses, delay)
    except BaseException:
        if race.winner is not None:
            race.winner.socket.close()
        raise
    if race.winner is None:
        raise ConnectError(_report(addresses, race.failures))
    tune_socket(race.winner.socket)
    return race.winner


@final
class _Race:
    """The attempts of one call."""

    __slots__ = ("failures", "winner")

    def __init__(self) -> None:
        self.winner: trio.SocketStream | None = None
        self.failures: dict[Place, OSError] = {}

    async def run(self, addresses: Sequence[Place], delay: float) -> None:
        """Begin the attempts; return when one has succeeded or all have failed."""
        async with trio.open_nursery() as nursery:
            for place in addresses:
                failed = trio.Event()
                nursery.start_soon(self._attempt, place, failed, nursery.cancel_scope)
                with trio.move_on_after(delay):
                    await failed.wait()

    async def _attempt(self, place: Place, failed: trio.Event, race: trio.CancelScope) -> None:
        try:
            stream = await _connect(place)
        except OSError as exc:
            self.failures[place] = exc
            failed.set()
            return
        if self.winner is None:
            self.winner = stream
            race.cancel()
        else:
            stream.socket.close()


async def _connect(place: Place) -> trio.SocketStream:
    """Connect to one address; raises OSError."""
    sock = trio.socket.socket(trio.socket.AF_INET6 if ":" in place[0] else trio.socket.AF_INET)
    try:
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


def _report(addresses: Sequence[Place], failures: dict[Place, OSError]) -> str:
    """Say why each attempt failed: `connection refused (A, B) / network is unreachable (C)`."""
    places: dict[str, list[str]] = {}
    for place in dict.fromkeys(addresses):
        reason = _reason(failures.get(place))
        places.setdefault(reason, []).append(str(ServerAddress(*place)))
    return " / ".join(f"{reason} ({_listed(where)})" for reason, where in places.items())


def _reason(failure: OSError | None) -> str:
    if failure is None:
        return f"no answer within {limits.CONNECT_TIMEOUT:g} s"
    number = failure.errno or 0
    text = os.strerror(number) if number > 0 else failure.strerror or str(failure)
    return _WORDS.get(number, text.lower())


def _listed(places: Sequence[str]) -> str:
    shown = ", ".join(places[: limits.ADDRESSES_NAMED])
    more = len(places) - limits.ADDRESSES_NAMED
    return f"{shown} and {more} more" if more > 0 else shown
