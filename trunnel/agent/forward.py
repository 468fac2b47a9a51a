"""One stream at the agent: whose it is, before anybody serves it.

    preface (PROXY v2)      malformed: refused BAD_PREFACE; late: DEADLINE
    canary                  answered here: no origin, no event
    endpoint                not ours: refused UNKNOWN_ENDPOINT
    a challenge             answered here (`challenges`) if one is expected, else refused REFUSED_STREAM;
                            the origin's own affair where TLS is passed through
    a visitor               accepted, and served by `visit`

A stream comes by one of two roads, and `Source` is what they have in common: a
stream inside the session (`InSession`), which is refused by a reset, and a data
connection that the relay has taken (`OnLink`), which is accepted or refused by
a sealed answer.  What is checked, and who serves, is the same for both.

The preface names an endpoint and addresses, never a place to dial (SEC-10).
It is read by exact lengths, so that not a byte of the visitor is read with it.

`forward_stream` is a task boundary: what goes wrong for one visitor ends that
visitor's stream, is logged here, and never reaches the session.
"""

from __future__ import annotations

import logging
from typing import Final, Protocol, final

import trio

from trunnel.agent.challenges import answer_challenge
from trunnel.agent.visit import Forwarding, Visit
from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.streams.abort import wait_stream_delivered
from trunnel.transports.base import Stream
from trunnel.transports.direct import DirectLink, answer
from trunnel.wire.control import DataPath
from trunnel.wire.direct import Answer
from trunnel.wire.proxyprotocol import Preface, ProxyParser, StreamKind, read_preface_untrusted

logger = logging.getLogger(__name__)

_ANSWERS: Final = {said.code: said for said in Answer}
"""What a data connection is answered for each reason to refuse it."""


class Source(Protocol):
    """A road that streams come by."""

    @property
    def data_path(self) -> DataPath:
        """Which one."""
        ...

    @property
    def stream(self) -> trio.abc.HalfCloseableStream:
        """The stream; once `preface` was read it stands at the first byte behind it."""
        ...

    async def preface(self) -> Preface:
        """Return what the relay says of the stream.

        Raises:
            RemoteProtocolError: It is malformed, cut off or late; `code` says which.
            trio.BrokenResourceError: The stream broke before.
        """
        ...

    async def accept(self) -> None:
        """Tell the relay that it is served here; raises trio.BrokenResourceError."""
        ...

    async def refuse(self, code: ErrorCode) -> None:
        """Tell the relay why it is not, as far as that still goes, and end it."""
        ...

    def abort(self, code: ErrorCode) -> None:
        """End it now.  Idempotent."""
        ...


@final
class InSession:
    """A stream inside the session."""

    __slots__ = ("_stream",)

    def __init__(self, stream: Stream) -> None:
        """Own *stream*, which was just accepted."""
        self._stream = stream

    @property
    def data_path(self) -> DataPath:
        """See `Source`."""
        return DataPath.SESSION

    @property
    def stream(self) -> Stream:
        """See `Source`."""
        return self._stream

    async def preface(self) -> Preface:
        """See `Source`."""
        parser = ProxyParser(versions=(2,))
        with trio.move_on_after(limits.PREFACE_TIMEOUT):
            while True:
                chunk = await self._stream.receive_some(parser.needed)
                if not chunk:
                    raise RemoteProtocolError("the stream ended within its preface", code=ErrorCode.BAD_PREFACE)
                header = parser.feed_untrusted(chunk)
                if header is not None:
                    return read_preface_untrusted(header)
        raise RemoteProtocolError("the preface did not come in time", code=ErrorCode.DEADLINE)

    async def accept(self) -> None:
        """See `Source`: here, that it is not reset says so."""

    async def refuse(self, code: ErrorCode) -> None:
        """See `Source`."""
        self._stream.reset(code)

    def abort(self, code: ErrorCode) -> None:
        """See `Source`."""
        self._stream.reset(code)


@final
class OnLink:
    """A data connection that the relay has taken for a visitor."""

    __slots__ = ("_header", "_link")

    def __init__(self, link: DirectLink, header: bytes) -> None:
        """Own *link*; *header* is what `wait_taken` returned."""
        self._link = link
        self._header: bytes | None = header  # None: it was answered

    @property
    def data_path(self) -> DataPath:
        """See `Source`."""
        return DataPath.DIRECT

    @property
    def stream(self) -> trio.SocketStream:
        """See `Source`."""
        return self._link.stream

    async def preface(self) -> Preface:
        """See `Source`."""
        parser = ProxyParser(versions=(2,))
        header = parser.feed_untrusted(self._header or b"")
        if header is None or parser.leftover:
            raise RemoteProtocolError("the sealed record is no PROXY header", code=ErrorCode.BAD_PREFACE)
        return read_preface_untrusted(header)

    async def accept(self) -> None:
        """See `Source`."""
        self._header = None
        await answer(self._link, Answer.ACCEPTED)

    async def refuse(self, code: ErrorCode) -> None:
        """See `Source`: after the answer, only an abort is left."""
        try:
            if self._header is not None:
                self._header = None
                await answer(self._link, _ANSWERS.get(code, Answer.FAILED))
                await wait_stream_delivered(self._link.stream)
        except trio.BrokenResourceError:
            pass  # the relay has given it up
        finally:
            self._link.abort()

    def abort(self, code: ErrorCode) -> None:
        """See `Source`: a TCP connection carries no code."""
        del code
        self._link.abort()


async def forward_stream(source: Source, forwarding: Forwarding) -> None:
    """Serve what comes from *source*; owns its stream.

    Raises:
        trio.Cancelled: And nothing else; bugs and a handler's exceptions are logged.

    Cancellation: the stream was reset.
    """
    try:
        try:
            await _forward(source, forwarding)
        except RemoteProtocolError as exc:
            logger.warning("stream_refused", extra={"reason": exc.reason, "code": exc.code.name})
            await source.refuse(exc.code)
    except (trio.BrokenResourceError, trio.ClosedResourceError) as exc:
        logger.debug("stream_lost", extra={"reason": str(exc)})
        source.abort(ErrorCode.CANCEL)
    except Exception:
        logger.exception("stream_failed")
        source.abort(ErrorCode.INTERNAL_ERROR)
    except BaseException:
        source.abort(ErrorCode.CANCEL)
        raise


async def _forward(source: Source, forwarding: Forwarding) -> None:
    preface = await source.preface()
    if preface.kind is StreamKind.CANARY:
        await source.accept()
        await _answer_canary(source.stream)
        return
    hostname = _endpoint_of(preface, forwarding)
    if preface.kind is StreamKind.CHALLENGE and forwarding.terminator is not None:
        await _answer_challenge(source, hostname, forwarding)
        return
    _check_room(forwarding)
    await source.accept()
    await Visit(source.stream, preface, hostname, data_path=source.data_path, forwarding=forwarding).run()


async def _answer_canary(stream: trio.abc.HalfCloseableStream) -> None:
    """Send back what the relay's canary stream says: it has come as far as a visitor would.

    Raises:
        RemoteProtocolError: It says more than a canary does, or nothing in time.
        trio.BrokenResourceError: The stream broke.
    """
    said = b""
    with trio.move_on_after(limits.CANARY_TIMEOUT):
        while chunk := await stream.receive_some(limits.CANARY_BYTES_MAX + 1):
            said += chunk
            if len(said) > limits.CANARY_BYTES_MAX:
                raise RemoteProtocolError("a canary stream of too many bytes", code=ErrorCode.ENHANCE_YOUR_CALM)
        await stream.send_all(said)
        await stream.aclose()
        return
    raise RemoteProtocolError("the canary stream did not end in time", code=ErrorCode.DEADLINE)


async def _answer_challenge(source: Source, hostname: Hostname, forwarding: Forwarding) -> None:
    """Answer an authority that validates *hostname*, if somebody has asked it to; strangers can come, so few words."""
    try:
        with forwarding.challenges.admit(hostname) as context:
            await source.accept()
            await answer_challenge(source.stream, context)
    except RemoteProtocolError as exc:
        logger.debug("challenge_refused", extra={"reason": exc.reason})
        await source.refuse(exc.code)


def _endpoint_of(preface: Preface, forwarding: Forwarding) -> Hostname:
    """Return the endpoint asked for; raise RemoteProtocolError if it is not ours."""
    if preface.endpoint is None or preface.endpoint not in forwarding.endpoints:
        raise RemoteProtocolError(f"{preface.endpoint} is not served here", code=ErrorCode.UNKNOWN_ENDPOINT)
    return preface.endpoint


def _check_room(forwarding: Forwarding) -> None:
    """Raise RemoteProtocolError if one more visitor is too many."""
    if len(forwarding.visits.open) >= forwarding.visits.most:
        raise RemoteProtocolError("more visitors than were agreed on", code=ErrorCode.REFUSED_STREAM)
