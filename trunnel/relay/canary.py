"""A visitor that the relay makes itself: shows whether a session serves, over a road that visitors take.

In the session, the stream is placed as visitors' are (`open_visit`), has a
preface as theirs have, crosses the same carrier and the agent's `forward`, and
is answered there.  On the direct path, a parked connection is taken as a
visitor's is, and a worker pumps between it and a socket that we hold the other
end of.  So a canary fails when visitors would: no carrier, a path that takes
bytes and delivers none, an agent that accepts no streams, a worker that is stuck.
"""

from __future__ import annotations

import secrets
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Final

import trio
from trio import socket as tsocket

from trunnel.errors import ErrorCode, SessionClosed
from trunnel.pump import Workers, pump
from trunnel.relay.sessions import AgentSession
from trunnel.relay.taking import wait_taken
from trunnel.relay.visitors import open_visit
from trunnel.settings import limits
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import CopyLimits
from trunnel.streams.nursery import bare_nursery
from trunnel.streams.sockets import abort_socket
from trunnel.wire.control import DataPath
from trunnel.wire.direct import Answer
from trunnel.wire.proxyprotocol import StreamKind, visitor_preface

_TOKEN_BYTES: Final = 12
_FIRST: Final = 6
"""Characters of the token that go with the header, as a visitor's hello does; the rest is pumped."""
_LIMITS: Final = CopyLimits(
    first_byte=limits.CANARY_TIMEOUT,
    idle=limits.CANARY_TIMEOUT,
    half_closed=limits.CANARY_TIMEOUT,
    first_byte_from="right",
)


async def run_canary(
    session: AgentSession, path: DataPath = DataPath.SESSION, *, workers: Workers | None = None
) -> str:
    """Send one canary through *session*; returns why it failed, or an empty text.

    Args:
        session: Whose visitors it stands for.
        path: The road that it takes.
        workers: Who pumps visitors of that road.

    Cancellation: the canary stream was reset.
    """
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    header = visitor_preface(visitor=None, local=None, authority=None, alpn=None, stream=token, kind=StreamKind.CANARY)
    with trio.move_on_after(limits.CANARY_TIMEOUT):
        try:
            if path is DataPath.DIRECT:
                answer = await _over_direct(session, header, token.encode(), workers)
            else:
                stream = await open_visit(session, header + token.encode(), timeout=limits.CANARY_TIMEOUT)
                answer = await _answer(stream, limit=len(token))
        except (SessionClosed, trio.BrokenResourceError, trio.TooSlowError) as exc:
            return str(exc) or "no carrier took the canary stream in time"
        return "" if answer == token.encode() else "the canary stream came back changed"
    return f"the canary stream did not come back within {limits.CANARY_TIMEOUT:.0f} s"


async def _over_direct(session: AgentSession, header: bytes, token: bytes, workers: Workers | None) -> bytes:
    """Return what comes back of *token* on a data connection; raises trio.BrokenResourceError if none serves."""
    if session.lot is None:
        raise trio.BrokenResourceError("the session has no data connections")
    taken = await wait_taken(session.lot, header, token[:_FIRST], patience=limits.DIRECT_WAIT)
    if taken is None:
        raise trio.BrokenResourceError("no data connection was there, or none answered")
    if taken.answer is not Answer.ACCEPTED:
        taken.link.abort()
        raise trio.BrokenResourceError(f"the agent refused the canary: {taken.answer.name}")
    with _socket_pair() as (near, far):
        async with bare_nursery() as nursery:
            nursery.start_soon(_pump, far, taken.link.stream, workers)
            await near.send_all(token[_FIRST:])
            answer = await _answer(near, limit=len(token))
    return answer


async def _pump(near: trio.SocketStream, far: trio.SocketStream, workers: Workers | None) -> None:
    await pump(near, far, _LIMITS, workers=workers)


@contextmanager
def _socket_pair() -> Iterator[tuple[trio.SocketStream, trio.SocketStream]]:
    """Have two ends of one connection within this machine, aborted in the end."""
    near, far = tsocket.socketpair()
    try:
        yield trio.SocketStream(near), trio.SocketStream(far)
    finally:
        abort_socket(near)
        abort_socket(far)


async def _answer(stream: trio.abc.HalfCloseableStream, *, limit: int) -> bytes:
    """End *stream* and return what comes back on it, at most *limit* bytes and one."""
    answer = b""
    try:
        await stream.send_eof()
        while len(answer) <= limit and (chunk := await stream.receive_some(limit + 1)):
            answer += chunk
        await stream.aclose()
    except BaseException:
        abort_stream(stream, ErrorCode.CANCEL)
        raise
    return answer
