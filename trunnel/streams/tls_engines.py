"""How OpenSSL's ciphertext reaches the wire: two engines below `trunnel.streams.tls`.

- `SocketEngine`: OpenSSL reads and writes the descriptor itself, trio waits
  for it.  No copy of the ciphertext ever reaches Python: 2.3 times as fast.
- `MemoryEngine`: OpenSSL reads and writes memory, we carry it over any
  `trio.abc.HalfCloseableStream`: TLS inside a tunnel stream, or behind bytes
  that were already read from a socket.

Both give the stream the same four verbs.  `wait_input` and `wait_output` are
for WantRead and WantWrite; `flush` ends a write; `wait_writable` is a hint.

Rules kept here, once for both:

- A descriptor, and one direction of a stream, admits one waiting task, but a
  TLS read may have to write and a TLS write to read (KeyUpdate, RFC 8446
  §4.6.3).  `Turnstile` lets the second task wait for the first and look again.
- OpenSSL keeps the *number* of the descriptor.  After it is closed the number
  may be another connection's, so `check_open` comes before every call.
- What OpenSSL wanted to send and we could not, cannot be encrypted again: from
  then on nothing may be sent (`trio.BrokenResourceError`).
"""

from __future__ import annotations

import contextlib
import math
from abc import ABC, abstractmethod
from collections.abc import Awaitable, Callable
from typing import ClassVar, Final, Protocol, cast, final, runtime_checkable

import trio
from OpenSSL import SSL

from trunnel.errors import ErrorCode
from trunnel.settings import limits
from trunnel.streams.sockets import abort_socket


@final
class Turnstile:
    """Lets one task through at a time; the others wait until it is back, and do nothing themselves."""

    __slots__ = ("_back",)

    def __init__(self) -> None:
        self._back: trio.Event | None = None

    @property
    def busy(self) -> bool:
        """Whether a task is inside."""
        return self._back is not None

    async def run(self, operation: Callable[[], Awaitable[None]]) -> bool:
        """Run *operation*, or wait for the task that runs one here.

        Returns:
            True if this task ran it; False if another task's run ended,
            however it ended: the caller looks at the state again.

        Cancellation: of the running task, as *operation* says; of a waiting one, no effect.
        """
        if self._back is not None:
            await self._back.wait()
            return False
        self._back = back = trio.Event()
        try:
            await operation()
        finally:
            self._back = None
            back.set()
        return True


class Engine(ABC):
    """What `TlsStream` asks of both engines."""

    __slots__ = ("_input", "_output", "closed", "connection", "transport")

    name: ClassVar[str]
    batch: ClassVar[int]
    """Bytes of plaintext for one call of OpenSSL."""

    def __init__(self, connection: SSL.Connection, transport: trio.abc.HalfCloseableStream) -> None:
        self._input = Turnstile()
        self._output = Turnstile()
        self.connection = connection
        self.transport = transport
        self.closed = False
        """OpenSSL must not be called any more."""

    def check_open(self) -> None:
        """Raise trio.ClosedResourceError if OpenSSL must not be called any more."""
        if self.closed:
            raise trio.ClosedResourceError("this TLS stream is closed")

    @abstractmethod
    async def wait_input(self) -> None:
        """Return when OpenSSL may find more to read.

        Cancellation: nothing that was received is lost.
        """

    @abstractmethod
    async def wait_output(self) -> None:
        """Return when OpenSSL may write more."""

    @abstractmethod
    async def wait_writable(self) -> None:
        """Return when a send might not block.

        Cancellation: no effect.
        """

    @abstractmethod
    async def flush(self) -> None:
        """Return when what OpenSSL wrote is with the transport.

        Raises:
            trio.BrokenResourceError: It will never be.

        Cancellation: nothing can be sent any more.
        """

    async def flush_aside(self) -> None:
        """Send what OpenSSL wrote by itself (KeyUpdate, an alert), for a reader.

        A peer that reads no more may still have sent: what cannot be sent is
        the next sender's trouble.  And a sender that waits for the peer is
        not waited for, because the peer may wait for us to read.
        """
        if not self._output.busy:
            with contextlib.suppress(trio.BrokenResourceError):
                await self.flush()


@final
class SocketEngine(Engine):
    """OpenSSL on the descriptor of a `trio.SocketStream`."""

    __slots__ = ("_socket",)

    name = "socket"
    batch = limits.WRITE_BATCH

    def __init__(self, context: SSL.Context, transport: trio.SocketStream) -> None:
        self._socket = transport.socket
        connection = SSL.Connection(context, self._socket)  # type: ignore[arg-type]  # it calls fileno() only
        super().__init__(connection, transport)

    def check_open(self) -> None:
        """See `Engine`; a socket that someone else closed counts as well."""
        if self.closed or self._socket.fileno() < 0:
            raise trio.ClosedResourceError("this TLS stream is closed")

    async def wait_input(self) -> None:
        """See `Engine`."""
        await self._input.run(self._readable)

    async def wait_output(self) -> None:
        """See `Engine`."""
        await self._output.run(self._writable)

    async def wait_writable(self) -> None:
        """See `Engine`."""
        await self._output.run(self._writable)

    async def flush(self) -> None:
        """Do nothing: a write that returned is in the kernel."""

    async def _readable(self) -> None:
        await trio.lowlevel.wait_readable(self._socket.fileno())

    async def _writable(self) -> None:
        await trio.lowlevel.wait_writable(self._socket.fileno())


@final
class MemoryEngine(Engine):
    """OpenSSL in memory, its ciphertext carried over any half-closeable stream."""

    __slots__ = ("_output_lost",)

    name = "memory"
    batch = limits.TLS_MEMORY_BATCH

    def __init__(self, context: SSL.Context, transport: trio.abc.HalfCloseableStream, *, prefix: bytes) -> None:
        super().__init__(SSL.Connection(context), transport)
        self._output_lost = False
        if prefix:
            self.connection.bio_write(prefix)

    async def wait_input(self) -> None:
        """See `Engine`."""
        await self.flush_aside()
        await self._input.run(self._receive)

    async def wait_output(self) -> None:
        """See `Engine`; memory is never full, so OpenSSL does not ask."""
        await self.flush()

    async def wait_writable(self) -> None:
        """See `Engine`."""
        await self._output.run(self.transport.wait_send_all_might_not_block)

    async def flush(self) -> None:
        """See `Engine`."""
        while not await self._output.run(self._send):
            pass

    async def _receive(self) -> None:
        ciphertext = await self.transport.receive_some(limits.TLS_MEMORY_CIPHERTEXT)
        if ciphertext:
            self.connection.bio_write(ciphertext)
        else:
            self.connection.bio_shutdown()

    async def _send(self) -> None:
        if self._output_lost:
            raise trio.BrokenResourceError("an earlier TLS record was not sent whole")
        while ciphertext := self._take_output():
            self._output_lost = True
            await self.transport.send_all(ciphertext)
            self._output_lost = False

    def _take_output(self) -> bytes:
        try:
            return self.connection.bio_read(limits.TLS_MEMORY_CIPHERTEXT)
        except SSL.WantReadError:
            return b""


@runtime_checkable
class _Resettable(Protocol):
    """A tunnel stream (`transports.base.Stream`)."""

    def reset(self, code: ErrorCode) -> None: ...


@runtime_checkable
class _Abortable(Protocol):
    """TLS inside TLS."""

    def abort(self, code: ErrorCode) -> None: ...


@runtime_checkable
class _Closeable(Protocol):
    """A stream in memory."""

    def close(self) -> None: ...


def hard_close(transport: trio.abc.AsyncResource, code: ErrorCode) -> None:
    """Abort *transport* now: RST on a socket, a reset on a stream that has one.

    A stream that can only be closed by awaiting is left to `aclose`.
    """
    if isinstance(transport, trio.SocketStream):
        abort_socket(transport.socket)
    elif isinstance(transport, trio.StapledStream):
        stapled = cast("trio.StapledStream[trio.abc.SendStream, trio.abc.ReceiveStream]", transport)
        hard_close(stapled.send_stream, code)
        hard_close(stapled.receive_stream, code)
    elif isinstance(transport, _Resettable):
        transport.reset(code)
    elif isinstance(transport, _Abortable):
        transport.abort(code)
    elif isinstance(transport, _Closeable):
        transport.close()


async def close_after_alert(transport: trio.abc.HalfCloseableStream) -> None:
    """Close so that the peer can read the alert: FIN, then read until its FIN, at most `CLOSE_TIMEOUT`.

    Closing with bytes unread would send RST, and RST overtakes the alert.

    Cancellation: closed at once.
    """
    try:
        with trio.move_on_after(limits.CLOSE_TIMEOUT), contextlib.suppress(*GONE):
            await transport.send_eof()
            while await transport.receive_some(limits.TLS_MEMORY_CIPHERTEXT):
                pass
    finally:
        await trio.aclose_forcefully(transport)


def cancelled_already() -> bool:
    """Whether the next checkpoint would raise trio.Cancelled."""
    return trio.current_effective_deadline() == -math.inf


GONE: Final = (trio.BrokenResourceError, trio.ClosedResourceError)
"""How a transport says that it is of no more use."""
