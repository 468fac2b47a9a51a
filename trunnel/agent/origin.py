"""Dial the origin: the one target that the agent's own configuration names, and nothing else.

No argument of `connect` comes from the wire, so no peer can make the agent
connect elsewhere (SEC-10): an `Origin` is made from a `Target` once, and every
visitor dials that.

- A bare port means loopback, 127.0.0.1 and ::1: development servers listen on
  either.  The family that answered last is tried first; the other one follows
  as soon as the first has failed, or after `HAPPY_EYEBALLS_DELAY` if it hangs
  (RFC 8305 §5).
- A host name goes through trio's own happy eyeballs, and is looked up anew for
  each visitor: an origin may move.
- A connection to ourselves is a refusal.  Where nobody listens on a port of
  the ephemeral range, TCP's simultaneous open can connect a socket to itself
  (RFC 9293 §3.5); the visitor would get an echo.
- Nothing is remembered about failures: an origin that comes back serves the
  next visitor, without a restart.

`OriginState` events are sent when what is known changes, not for each visitor.
"""

from __future__ import annotations

import errno
import socket
from collections.abc import Sequence
from typing import Final, cast, final

import trio

from trunnel import capabilities
from trunnel.errors import ConnectError
from trunnel.events import EventSink, OriginState, ignore_events
from trunnel.names import Target
from trunnel.settings import limits
from trunnel.streams.sockets import abort_socket, tune_socket

_LOOPBACK: Final = ("127.0.0.1", "::1")
"""What a target without a host stands for."""
_UNREACHABLE: Final = frozenset({errno.ENETUNREACH, errno.EHOSTUNREACH})


@final
class Origin:
    """The origin of one agent, dialled anew for each visitor; tasks may share it."""

    __slots__ = ("_connect_timeout", "_events", "_loopback", "_state", "target")

    def __init__(
        self,
        target: Target,
        *,
        connect_timeout: float = limits.ORIGIN_CONNECT_TIMEOUT,
        events: EventSink = ignore_events,
    ) -> None:
        """Remember what to dial.

        Args:
            target: From the configuration.
            connect_timeout: Seconds, > 0, for name look-up and connecting, all addresses together.
            events: Told when the origin is found up or down, once a change.
        """
        self.target = target
        self._connect_timeout = connect_timeout
        self._events = events
        self._loopback: tuple[str, ...] = _LOOPBACK
        self._state: OriginState | None = None

    @property
    def connect_timeout(self) -> float:
        """Seconds that `connect` takes at most."""
        return self._connect_timeout

    @property
    def state(self) -> OriginState | None:
        """What was reported last; None before the first attempt has ended."""
        return self._state

    async def connect(self) -> trio.SocketStream:
        """Connect to the origin.

        Raises:
            ConnectError: It cannot be reached; the text is the cause, for people.

        Cancellation: no effect, no connection is left.
        """
        deadline = trio.current_time() + self._connect_timeout
        try:
            stream = await self._dial_as_before()
            if stream is None:
                with trio.fail_at(deadline):
                    stream = await self._dial()
        except trio.TooSlowError as exc:
            cause = f"{self.target} did not answer: timed out after {self._connect_timeout:g} s"
            self._report("down", cause)
            raise ConnectError(cause) from exc
        except OSError as exc:
            cause = self._explain(exc)
            self._report("down", cause)
            raise ConnectError(cause) from exc
        tune_socket(stream.socket)
        self._report("up", "")
        return stream

    async def _dial_as_before(self) -> trio.SocketStream | None:
        """Connect to where the last visitor's connection went; None if there is no such place, or not at once.

        Nearly every visitor is served so: one attempt is far cheaper than a race of several.
        A race that has to follow begins with the other family.
        """
        if self.target.path is not None or self.target.host is not None:
            return None
        before, *others = self._loopback
        with trio.move_on_after(min(limits.HAPPY_EYEBALLS_DELAY, self._connect_timeout)):
            try:
                return await _connect_loopback(before, self.target.port or 0)
            except OSError:
                pass
        self._loopback = (*others, before)
        return None

    async def _dial(self) -> trio.SocketStream:
        """Connect by the way that fits the target; raises OSError."""
        if self.target.path is not None:
            if not capabilities.HAS_UNIX_SOCKETS:
                raise OSError(errno.EAFNOSUPPORT, "this system has no unix sockets")
            return await trio.open_unix_socket(self.target.path)
        port = self.target.port or 0
        if self.target.host is not None:
            return await _dial_name(self.target.host, port)
        stream = await _race(self._loopback, port)
        answered = stream.socket.getpeername()[0]
        self._loopback = (answered, *(host for host in _LOOPBACK if host != answered))
        return stream

    def _explain(self, exc: OSError) -> str:
        """Say what *exc* means for the person who runs the origin."""
        target = self.target
        if isinstance(exc, socket.gaierror):
            return f"the name {target.host} is not known ({exc.strerror})"
        if isinstance(exc, ConnectionRefusedError):
            return f"nothing listens on {target} (connection refused)"
        if isinstance(exc, FileNotFoundError):
            return f"{target.path} does not exist (no such socket)"
        if isinstance(exc, PermissionError):
            return f"the system does not let us connect to {target} (permission denied)"
        if exc.errno in _UNREACHABLE:
            return f"there is no route to {target}"
        return f"cannot connect to {target} ({exc.strerror or exc})"

    def _report(self, state: str, cause: str) -> None:
        """Send an event if this is news."""
        news = OriginState(state=state, cause=cause)
        if news != self._state:
            self._state = news
            self._events(news)


async def _dial_name(host: str, port: int) -> trio.SocketStream:
    """Connect to a host name or an address; raises OSError."""
    try:
        stream = await trio.open_tcp_stream(host, port, happy_eyeballs_delay=limits.HAPPY_EYEBALLS_DELAY)
    except OSError as exc:
        raise _most_telling(_attempts_of(exc)) from exc
    try:
        return _unless_ourselves(stream)
    except OSError:
        stream.socket.close()
        raise


async def _connect_loopback(host: str, port: int) -> trio.SocketStream:
    """Connect to one loopback address; raises OSError."""
    sock = trio.socket.socket(trio.socket.AF_INET6 if ":" in host else trio.socket.AF_INET)
    try:
        await sock.connect((host, port))
        return _unless_ourselves(trio.SocketStream(sock))
    except BaseException:
        sock.close()
        raise


def _unless_ourselves(stream: trio.SocketStream) -> trio.SocketStream:
    """Return *stream*, or raise ConnectionRefusedError if its other end is itself."""
    if stream.socket.getsockname() == stream.socket.getpeername():
        abort_socket(stream.socket)  # a FIN would leave TIME_WAIT, and the origin could not bind its port
        raise ConnectionRefusedError(errno.ECONNREFUSED, "connected to ourselves")
    return stream


async def _race(hosts: Sequence[str], port: int) -> trio.SocketStream:
    """Connect to each of *hosts* once the one before has failed or hangs; return the first success.

    Raises:
        OSError: All failed; the most telling of their errors.

    Cancellation: no connection is left.
    """
    failures: list[OSError] = []
    winners: list[trio.SocketStream] = []

    async def attempt(host: str, failed: trio.Event) -> None:
        try:
            winners.append(await _connect_loopback(host, port))
        except OSError as exc:
            failures.append(exc)
            failed.set()
        else:
            nursery.cancel_scope.cancel()

    try:
        async with trio.open_nursery() as nursery:
            for host in hosts:
                failed = trio.Event()
                nursery.start_soon(attempt, host, failed)
                with trio.move_on_after(limits.HAPPY_EYEBALLS_DELAY):
                    await failed.wait()
    except BaseException:
        _close(winners)
        raise
    _close(winners[1:])
    if not winners:
        raise _most_telling(failures)
    return winners[0]


def _close(streams: Sequence[trio.SocketStream]) -> None:
    for stream in streams:
        stream.socket.close()


def _attempts_of(exc: OSError) -> list[OSError]:
    """Return the failures of the single addresses, which trio hides behind one error."""
    cause = exc.__cause__
    if isinstance(cause, OSError):
        return [cause]
    if isinstance(cause, BaseExceptionGroup):
        group = cast("BaseExceptionGroup[BaseException]", cause)
        return [failure for failure in group.exceptions if isinstance(failure, OSError)] or [exc]
    return [exc]


def _most_telling(failures: Sequence[OSError]) -> OSError:
    """Return the one of several failures to show: a refusal says most."""
    return next((failure for failure in failures if isinstance(failure, ConnectionRefusedError)), failures[0])
