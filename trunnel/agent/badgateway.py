"""Answer for an origin that is down: a short 502 page for HTTP/1, a plain close for all else.

Called with the visitor's TLS ended and nothing of it read.  The first bytes
tell whether the visitor speaks HTTP/1 (`wire.httphead`); who says nothing in
time gets an end of file like any other protocol, so that a client which waits
for the server to speak first is not left hanging (HOST-11).

The request's head is read before the answer, and after it the rest until the
visitor's end, for a bounded time: closing with bytes unread would abort the
connection, and the abort may overtake the page.  Nothing of the request is
used but whether its method is HEAD.

The cause comes from `agent.origin` and names only what the agent was told to
expose; it is escaped all the same.
"""

from __future__ import annotations

import html
from typing import Final, final

import trio

from trunnel.settings import limits
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import Counter, End
from trunnel.wire.httphead import HttpVerdict, looks_like_http1_untrusted

_HEAD_END: Final = b"\r\n\r\n"
_PAGE: Final = """\
<!DOCTYPE html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width">
<title>502: the origin is not there</title>
<style>
  body {{ font: 1.1rem/1.5 system-ui, sans-serif; max-width: 36rem; margin: 15vh auto; padding: 0 1rem;
         color: #222; background: #fafafa }}
  h1 {{ font-size: 1.4rem }}
  code {{ display: block; padding: .8rem 1rem; background: #eee; border-radius: .4rem; overflow-wrap: anywhere }}
  @media (prefers-color-scheme: dark) {{ body {{ color: #ddd; background: #1c1c1c }} code {{ background: #333 }} }}
</style>
<h1>The tunnel works, the origin does not answer</h1>
<p>Your request came through to the agent, which could not reach the service behind it:</p>
<code>{cause}</code>
<p>Once the service is up, just load this page again.</p>
</html>
"""


def bad_gateway(cause: str, *, with_body: bool = True) -> bytes:
    """Return the whole 502 response.

    Args:
        cause: The sentence to show; any text, it is escaped.
        with_body: False in answer to HEAD.

    Source: RFC 9110 §15.6.3, §9.3.2.
    """
    body = _PAGE.format(cause=html.escape(cause)).encode("utf-8", "replace")
    head = (
        "HTTP/1.1 502 Bad Gateway\r\n"
        "Content-Type: text/html; charset=utf-8\r\n"
        f"Content-Length: {len(body)}\r\n"
        "Cache-Control: no-store\r\n"
        "Content-Security-Policy: default-src 'none'; style-src 'unsafe-inline'\r\n"
        "X-Content-Type-Options: nosniff\r\n"
        "Connection: close\r\n"
        "\r\n"
    )
    return head.encode("ascii") + (body if with_body else b"")


async def answer_for_origin(
    stream: trio.abc.HalfCloseableStream, *, cause: str, sniff_until: float, counter: Counter
) -> End:
    """Tell the visitor on *stream* that the origin is down, in its own protocol if that is HTTP/1.

    Owns *stream*: it is closed on return, and aborted on any exception.

    Args:
        stream: The visitor's plaintext, unread.
        cause: Why the origin is down.
        sniff_until: Time on trio's clock until which the visitor may take to speak.
        counter: Counts the visitor's bytes on the left, ours on the right.

    Returns:
        How the visitor's bytes ended: FIN, RESET, or CANCELLED if they had not.

    Cancellation: *stream* was aborted.
    """
    try:
        end = await _answer(_Reader(stream, counter), cause, sniff_until)
        with trio.move_on_after(limits.CLOSE_TIMEOUT):
            await stream.aclose()
    except trio.BrokenResourceError:
        end = End.RESET
        abort_stream(stream)
    except BaseException:
        abort_stream(stream)
        raise
    return end


@final
class _Reader:
    """Reads the head of a request, and counts."""

    def __init__(self, stream: trio.abc.HalfCloseableStream, counter: Counter) -> None:
        self.stream = stream
        self.head = bytearray()
        self.ended = False
        self._counter = counter

    async def more(self) -> bytes | bytearray:
        """Read a chunk; b"" at the end."""
        chunk = await self.stream.receive_some(limits.HTTP_HEAD_MAX)
        self._counter.left_bytes += len(chunk)
        self.ended = not chunk
        return chunk

    async def is_http(self) -> bool:
        """Read until it is clear whether the visitor speaks HTTP/1."""
        while not self.ended:
            verdict = looks_like_http1_untrusted(bytes(self.head[: limits.HTTP_HEAD_PEEK]))
            if verdict is not HttpVerdict.NEED_MORE:
                return verdict is HttpVerdict.YES
            self.head += await self.more()
        return False

    async def finish_head(self) -> None:
        """Read to the end of the head, or as much of it as is bearable."""
        while _HEAD_END not in self.head and len(self.head) < limits.HTTP_HEAD_MAX and not self.ended:
            self.head += await self.more()

    async def send(self, response: bytes) -> None:
        """Send the response and its end, then read away what still comes."""
        await self.stream.send_all(response)
        self._counter.right_bytes += len(response)
        await self.stream.send_eof()
        while not self.ended:
            await self.more()


async def _answer(reader: _Reader, cause: str, sniff_until: float) -> End:
    """Send the page, or nothing."""
    is_http = False
    with trio.CancelScope(deadline=sniff_until):
        is_http = await reader.is_http()
    if is_http:
        with trio.move_on_after(limits.CLOSE_TIMEOUT):
            await reader.finish_head()
        with trio.move_on_after(limits.CLOSE_TIMEOUT):
            await reader.send(bad_gateway(cause, with_body=not reader.head.startswith(b"HEAD ")))
    return End.FIN if reader.ended else End.CANCELLED
