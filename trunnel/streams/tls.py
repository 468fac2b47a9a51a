"""TLS over a socket or over any stream, as a `trio.abc.HalfCloseableStream`.

One class for both roles and both engines (`trunnel.streams.tls_engines`): the
socket engine where the transport is a fresh `trio.SocketStream`, the memory
engine elsewhere.  Contexts come from `trunnel.identity.contexts` only; what
they promise and this file relies on: whole writes (no partial write), moving
write buffers, no renegotiation.

How TLS ends (RFC 8446 §6.1), and what it becomes here:

    the peer's close_notify          b"", and we may still send
    end of stream without it         trio.BrokenResourceError (truncation), or
                                     b"" if `tolerate_truncation`; `truncated` is set
    alert, bad record, reset         trio.BrokenResourceError with the reason as its cause
    `send_eof`                       our close_notify; reading goes on
    `aclose`                         our close_notify within `CLOSE_TIMEOUT`, then the transport is closed
    `abort`, or a cancelled `aclose` no close_notify: a stream that was cut must not look complete

TLS 1.2 peers may answer a close_notify by closing at once (RFC 5246 §7.2.1):
there, half-close is best effort.  `SSL_shutdown` is called once and only
writes, so nothing that is on its way to us is lost by `send_eof`.

Sending: OpenSSL has encrypted a record before it knows that the socket is
full, and must then be called again with the same bytes.  So a send that was
cancelled or failed leaves the stream broken for sending, for good; receiving
goes on.  `_sending` is BROKEN while a send runs and OPEN again once it has
succeeded: no path can forget it.

Receiving: one call decrypts several records (up to `TLS_RECORDS_PER_READ`), so
that what is above runs once for 64 KiB and not for every 16.

With TLS 1.3 a client's handshake is complete before the server has looked at
its certificate (RFC 8446 §4.4.2.4): a refusal arrives with the first read.

A callback of the context that failed leaves its exception as the connection's
application value (`get_app_data`); the handshake then fails, and says so in
one line of log.
"""

from __future__ import annotations

import contextlib
import logging
from collections.abc import Callable
from enum import Enum
from functools import partial
from typing import TypeVar, final

import trio
from cryptography import x509
from OpenSSL import SSL

from trunnel.errors import ConnectError, ErrorCode, RemoteProtocolError
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.streams.conflict import ConflictDetector
from trunnel.streams.tls_engines import (
    GONE,
    Engine,
    MemoryEngine,
    SocketEngine,
    cancelled_already,
    close_after_alert,
    hard_close,
)
from trunnel.streams.tls_peer import Incoming, certificates_of, explain

logger = logging.getLogger(__name__)

T = TypeVar("T")


class TlsRole(Enum):
    """Which end of the handshake we are."""

    CLIENT = "client"
    SERVER = "server"


class _Sending(Enum):
    OPEN = "open"
    FINISHED = "close_notify was sent"
    BROKEN = "a send is running, was cancelled or failed"


@final
class TlsStream(trio.abc.HalfCloseableStream):
    """One TLS connection.  Made by `handshake`; owns its transport."""

    __slots__ = (
        "_connection",
        "_engine",
        "_incoming",
        "_intact",
        "_receiver",
        "_sender",
        "_sending",
        "peer_certificates",
    )

    def __init__(self, engine: Engine, *, tolerate_truncation: bool) -> None:
        """Not for callers: `handshake` is the constructor."""
        self._engine = engine
        self._connection = engine.connection
        self._incoming = Incoming(engine.connection, tolerate_truncation=tolerate_truncation)
        self._sender = ConflictDetector("another task is sending on this TLS stream")
        self._receiver = ConflictDetector("another task is receiving on this TLS stream")
        self._sending = _Sending.OPEN
        self._intact = True
        self.peer_certificates: tuple[x509.Certificate, ...] = ()
        """What the peer sent, leaf first; it has proved that it holds the leaf's key, nothing else."""

    @classmethod
    async def handshake(  # noqa: PLR0913 - the one place where a TLS stream is described
        cls,
        transport: trio.SocketStream | trio.abc.HalfCloseableStream,
        context: SSL.Context,
        *,
        role: TlsRole,
        server_name: Hostname | None = None,
        prefix: bytes = b"",
        timeout: float,  # noqa: ASYNC109 - a stranger is at the other end: no handshake without a deadline
        tolerate_truncation: bool = False,
    ) -> TlsStream:
        """Run the handshake over *transport*, which the stream then owns.

        Args:
            transport: A connected stream that nobody else uses.
            context: From `trunnel.identity.contexts`, of the same role.
            role: Which end we are.
            server_name: SNI to send, by clients only.
            prefix: Bytes already read from *transport*; selects the memory engine.
            timeout: Seconds, > 0, for the whole handshake.
            tolerate_truncation: Take the end of the transport for the end of
                the peer's bytes, even without close_notify.

        Raises:
            ConnectError: It failed: timeout, loss, an alert, a refused
                certificate, a callback.  The text names the alert.  Our own
                alert was sent, and the transport is closed.

        Cancellation: the transport is aborted.

        Source: RFC 8446 §4, RFC 5246 §7.4.
        """
        engine: Engine
        if isinstance(transport, trio.SocketStream) and not prefix:
            engine = SocketEngine(context, transport)
        else:
            engine = MemoryEngine(context, transport, prefix=prefix)
        stream = cls(engine, tolerate_truncation=tolerate_truncation)
        try:
            with trio.fail_after(timeout):
                await stream._shake_hands(role, server_name)
        except trio.TooSlowError as exc:
            await stream._abandon()
            raise ConnectError(f"the TLS handshake took longer than {timeout:g} s") from exc
        except ConnectError:
            await stream._close_refused()
            raise
        except BaseException:
            await stream._abandon()
            raise
        return stream

    async def _shake_hands(self, role: TlsRole, server_name: Hostname | None) -> None:
        connection = self._connection
        if role is TlsRole.SERVER:
            connection.set_accept_state()
        else:
            connection.set_connect_state()
            if server_name is not None:
                connection.set_tlsext_host_name(server_name.value.encode("ascii"))
        try:
            await self._drive(connection.do_handshake)
            await self._engine.flush()
            self.peer_certificates = certificates_of(connection)
        except (*GONE, RemoteProtocolError) as exc:
            raise self._handshake_error(exc) from exc

    def _handshake_error(self, exc: BaseException) -> ConnectError:
        """Say why the handshake failed; a failed callback is our bug and goes to the log."""
        failure: object = self._connection.get_app_data()
        if isinstance(failure, Exception):
            logger.error("tls_callback_failed", exc_info=failure)
            return ConnectError("the TLS handshake failed: one of our callbacks raised an exception")
        return ConnectError(f"the TLS handshake failed: {exc}")

    async def _abandon(self) -> None:
        """Close after a handshake that did not end: without a word, and without waiting."""
        self.abort()
        with trio.move_on_after(0, shield=True):
            await self._engine.transport.aclose()

    async def _close_refused(self) -> None:
        """Close after a failed handshake, so that our alert arrives."""
        with trio.move_on_after(limits.CLOSE_TIMEOUT), contextlib.suppress(*GONE):
            await self._engine.flush()
        self._engine.closed = True
        if self._incoming.refused:
            await close_after_alert(self._engine.transport)
        else:
            await trio.aclose_forcefully(self._engine.transport)

    @property
    def transport(self) -> trio.abc.HalfCloseableStream:
        """The stream below; to look at its addresses, not to use it."""
        return self._engine.transport

    @property
    def engine(self) -> str:
        """`socket` or `memory`."""
        return self._engine.name

    @property
    def alpn(self) -> bytes | None:
        """The protocol agreed on (RFC 7301), or None."""
        return self._connection.get_alpn_proto_negotiated() or None

    @property
    def truncated(self) -> bool:
        """Whether the peer's bytes ended without its close_notify."""
        return self._incoming.truncated

    @property
    def tls_version(self) -> str:
        """`TLSv1.3` or `TLSv1.2`."""
        return self._connection.get_protocol_version_name()

    async def _drive(self, step: Callable[[], T]) -> T:
        """Call *step* until OpenSSL need not wait, and return its result.

        Raises:
            trio.BrokenResourceError: OpenSSL gave up; the cause says why.
            trio.ClosedResourceError: The stream is closed.
        """
        while True:
            self._engine.check_open()
            try:
                return step()
            except SSL.WantReadError:
                wait = self._engine.wait_input
            except SSL.WantWriteError:
                wait = self._engine.wait_output
            except SSL.Error as exc:
                cause = explain(exc)
                raise trio.BrokenResourceError(str(cause)) from cause
            await wait()

    def _check_sendable(self) -> None:
        self._engine.check_open()
        if self._sending is _Sending.FINISHED:
            raise trio.ClosedResourceError("send_eof was called on this TLS stream")
        if self._sending is _Sending.BROKEN:
            raise trio.BrokenResourceError("an earlier send on this TLS stream was cancelled or failed")

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        """Encrypt and send *data*; OpenSSL gets `Engine.batch` bytes a call.

        Raises:
            trio.BrokenResourceError: The connection is lost, or an earlier send was cancelled or failed.
            trio.ClosedResourceError: After `send_eof`, `aclose` or `abort`.
            trio.BusyResourceError: Another task is sending.

        Cancellation: an unknown part was sent; the stream is broken for
        sending, receiving goes on.
        """
        with self._sender:
            self._check_sendable()
            await trio.lowlevel.checkpoint_if_cancelled()
            with memoryview(data) as given, given.cast("B") as payload:
                self._sending = _Sending.BROKEN
                batch = self._engine.batch
                for start in range(0, len(payload), batch):
                    if start:
                        await trio.lowlevel.checkpoint()
                    await self._send_part(payload[start : start + batch])
                self._sending = _Sending.OPEN
            await trio.lowlevel.cancel_shielded_checkpoint()

    async def _send_part(self, part: memoryview) -> None:
        """Hand *part* to OpenSSL; our contexts take it whole, one in partial-write mode takes a record a call."""
        while part:
            sent = await self._drive(partial(self._connection.send, part))
            await self._engine.flush()
            part = part[sent:]

    async def wait_send_all_might_not_block(self) -> None:
        """Wait until the transport might take bytes; raises as `send_all` does.

        Cancellation: no effect.
        """
        with self._sender:
            self._check_sendable()
            await trio.lowlevel.checkpoint()
            self._engine.check_open()
            await self._engine.wait_writable()

    async def send_eof(self) -> None:
        """Send close_notify: the peer reads an end, and we go on reading.  Idempotent.

        Raises: as `send_all`.

        Cancellation: as `send_all`.

        Source: RFC 8446 §6.1.
        """
        with self._sender:
            self._engine.check_open()
            await trio.lowlevel.checkpoint()
            if self._sending is not _Sending.FINISHED:
                self._check_sendable()
                await self._finish_sending()

    async def _finish_sending(self) -> None:
        self._sending = _Sending.BROKEN
        await self._drive(self._connection.shutdown)
        await self._engine.flush()
        self._sending = _Sending.FINISHED

    async def receive_some(self, max_bytes: int | None = None) -> bytes:
        """Return plaintext as soon as there is some, at most *max_bytes* (default `TLS_READ`).

        Returns:
            b"" once the peer has sent close_notify (or has just closed, if
            `tolerate_truncation`); else 1 to *max_bytes* bytes.

        Raises:
            trio.BrokenResourceError: Truncation (cause `RemoteProtocolError`),
                an alert or a bad record (the same), or a lost connection
                (cause `OSError`, or what the transport says).  What came before is returned first.
            trio.ClosedResourceError: After `aclose` or `abort`.
            trio.BusyResourceError: Another task is receiving.

        Cancellation: no effect, nothing is lost.
        """
        wanted = limits.TLS_READ if max_bytes is None else int.__index__(max_bytes)
        if wanted < 1:
            raise ValueError("max_bytes must be >= 1")
        with self._receiver:
            self._engine.check_open()
            await trio.lowlevel.checkpoint_if_cancelled()
            try:
                plaintext = await self._receive(wanted)
            except trio.BrokenResourceError:
                self._intact = False
                raise
            await trio.lowlevel.cancel_shielded_checkpoint()
            return plaintext

    async def _receive(self, wanted: int) -> bytes:
        plaintext = await self._drive(partial(self._incoming.read, wanted))
        failure = self._incoming.failure
        if plaintext or failure is None:
            return plaintext
        with trio.move_on_after(limits.CLOSE_TIMEOUT):
            await self._engine.flush_aside()  # the alert that says why we stop reading
        raise trio.BrokenResourceError(str(failure)) from failure

    def abort(self, code: ErrorCode = ErrorCode.CANCEL) -> None:
        """Close now, without close_notify: RST on a socket, `reset(code)` on a tunnel stream.  Idempotent.

        A transport that can only be closed by awaiting is closed by `aclose`.
        """
        if not self._engine.closed:
            self._engine.closed = True
            self._sending = _Sending.BROKEN
            hard_close(self._engine.transport, code)

    async def aclose(self) -> None:
        """Say goodbye with close_notify, then close the transport; takes at most twice `CLOSE_TIMEOUT`.

        There is no close_notify after `abort`, after a send or a read that
        broke, or while another task sends: what was cut must not look
        complete.  Whoever still wants an end there calls `send_eof`.

        Cancellation: closed at once, without close_notify if it was not sent yet.
        """
        forced = cancelled_already() or self._engine.closed
        if not forced and self._intact and self._sending is not _Sending.BROKEN:
            with trio.move_on_after(limits.CLOSE_TIMEOUT, shield=True) as goodbye, contextlib.suppress(*GONE):
                if self._sending is _Sending.OPEN:
                    await self._finish_sending()
                self._engine.check_open()
                self._incoming.discard()
            forced = goodbye.cancelled_caught
        self._engine.closed = True
        if forced:
            await trio.aclose_forcefully(self._engine.transport)
        else:
            with trio.move_on_after(limits.CLOSE_TIMEOUT, shield=True):
                await self._engine.transport.aclose()
        await trio.lowlevel.checkpoint()
