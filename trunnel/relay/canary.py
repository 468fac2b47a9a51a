"""A visitor that the relay makes itself: shows whether a session serves, over the road that visitors take.

The stream is placed as visitors' are (`open_visit`), has a preface as theirs
have, crosses the same carrier and the agent's `forward`, and is answered
there.  So it fails when visitors would: no carrier, a carrier that takes bytes
and delivers none, an agent that accepts no streams.
"""

from __future__ import annotations

import secrets
from typing import Final

import trio

from trunnel.errors import ErrorCode, SessionClosed
from trunnel.relay.sessions import AgentSession
from trunnel.relay.visitors import open_visit
from trunnel.settings import limits
from trunnel.streams.abort import abort_stream
from trunnel.transports.base import Stream
from trunnel.wire.proxyprotocol import StreamKind, visitor_preface

_TOKEN_BYTES: Final = 12


async def run_canary(session: AgentSession) -> str:
    """Send one canary through *session*; returns why it failed, or an empty text.

    Cancellation: the canary stream was reset.
    """
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    preface = visitor_preface(visitor=None, local=None, authority=None, alpn=None, stream=token, kind=StreamKind.CANARY)
    answer = b""
    with trio.move_on_after(limits.CANARY_TIMEOUT):
        try:
            stream = await open_visit(session, preface + token.encode(), timeout=limits.CANARY_TIMEOUT)
            answer = await _answer(stream, limit=len(token))
        except (SessionClosed, trio.BrokenResourceError, trio.TooSlowError) as exc:
            return str(exc) or "no carrier took the canary stream in time"
        return "" if answer == token.encode() else "the canary stream came back changed"
    return f"the canary stream did not come back within {limits.CANARY_TIMEOUT:.0f} s"


async def _answer(stream: Stream, *, limit: int) -> bytes:
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
