"""An origin that is down: a page for HTTP/1, a clean close for all else, both in time."""

from __future__ import annotations

import http.client
import io

import pytest
import trio
import trio.testing

from tests.agent.stage import closed_port, stage, terminator
from tests.streams.bench import read_to_end
from trunnel.agent.badgateway import bad_gateway
from trunnel.agent.origin import Origin
from trunnel.names import Target
from trunnel.settings import limits
from trunnel.streams.copy import End


class Canned:
    """As much of a socket as `http.client` reads from."""

    def __init__(self, response: bytes) -> None:
        self._response = response

    def makefile(self, _mode: str) -> io.BytesIO:
        return io.BytesIO(self._response)


def parse(response: bytes, method: str = "GET") -> tuple[http.client.HTTPResponse, str]:
    """Parse a response as an HTTP client does; nothing may come behind it."""
    parsed = http.client.HTTPResponse(Canned(response), method=method)  # type: ignore[arg-type]
    parsed.begin()
    return parsed, parsed.read().decode()


def test_the_page_is_whole_and_shows_the_cause_escaped() -> None:
    """No cause can become markup, or a header."""
    parsed, body = parse(bad_gateway('<script>alert("x")</script>\r\nSet-Cookie: a=b & {cause}'))
    assert parsed.status == 502
    assert int(parsed.headers["Content-Length"]) == len(body.encode())
    assert parsed.headers["Content-Type"] == "text/html; charset=utf-8"
    assert parsed.headers["Connection"] == "close"
    assert parsed.headers["Cache-Control"] == "no-store"
    assert "Set-Cookie" not in parsed.headers
    assert "&lt;script&gt;alert(&quot;x&quot;)" in body
    assert "<script" not in body
    assert "a=b &amp; {cause}" in body


def test_head_gets_the_same_head_without_a_body() -> None:
    """RFC 9110 §9.3.2."""
    whole, headless = bad_gateway("down"), bad_gateway("down", with_body=False)
    assert whole.startswith(headless)
    assert headless.endswith(b"\r\n\r\n")


@pytest.mark.parametrize(
    ("request_", "pieces"),
    [  # whole, in pieces, with a body, with a head too long to read, without a wish for a body
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 1),
        (b"GET / HTTP/1.1\r\nHost: x\r\n\r\n", 7),
        (b"POST /upload HTTP/1.1\r\nHost: x\r\nContent-Length: 200000\r\n\r\n" + b"u" * 200_000, 3),
        (b"GET / HTTP/1.1\r\nX-Long: " + b"y" * 2 * limits.HTTP_HEAD_MAX + b"\r\n\r\n", 2),
        (b"HEAD / HTTP/1.1\r\nHost: x\r\n\r\n", 1),
    ],
    ids=["whole", "pieces", "body", "endless-head", "head"],
)
async def test_an_http_visitor_gets_the_page_and_a_clean_end(request_: bytes, pieces: int) -> None:
    """Whatever it still sends: the page is not lost to a reset."""
    async with stage(None, terminator=terminator()) as play:
        visitor = await play.open_tls(b"http/1.1")

        async def upload() -> None:
            size = len(request_) // pieces + 1
            for start in range(0, len(request_), size):
                await visitor.send_all(request_[start : start + size])
                await trio.testing.wait_all_tasks_blocked()
            await visitor.send_eof()

        async with trio.open_nursery() as uploading:
            uploading.start_soon(upload)
            response, end = await read_to_end(visitor)
        parsed, body = parse(response, request_.split()[0].decode())
        assert (parsed.status, end) == (502, End.FIN)
        if request_.startswith(b"HEAD"):
            assert body == ""
        else:
            assert "nothing listens on localhost:" in body
            assert "(connection refused)" in body
        await visitor.aclose()
        record = await play.closed()
    assert (record.visitor_end, record.origin_end) == ("fin", "error")
    assert (record.bytes_in, record.bytes_out) == (len(request_), len(response))


@pytest.mark.parametrize("greeting", [b"", b"EHLO mail.example.org\r\n", b"SSH-2.0-OpenSSH_9.2\r\n", b"PRI * HTTP/2.0"])
async def test_who_does_not_speak_http_gets_a_clean_close_in_time(greeting: bytes) -> None:
    """HOST-11: within the connect timeout and 100 ms, and no page in the wrong language."""
    async with stage(None, terminator=terminator()) as play:
        visitor = await play.open_tls()
        started = trio.current_time()
        if greeting:
            await visitor.send_all(greeting)
        assert await read_to_end(visitor) == (b"", End.FIN)
        assert trio.current_time() - started < 0.3 + 0.1
        await visitor.aclose()
        record = await play.closed()
    assert (record.bytes_in, record.bytes_out) == (len(greeting), 0)


async def test_after_a_dial_that_took_its_whole_time_the_page_comes_at_once() -> None:
    """HOST-11: the request lies there already."""

    async def hang(*_: object) -> None:
        await trio.sleep_forever()

    origin = Origin(Target(port=await closed_port()), connect_timeout=0.2)
    with pytest.MonkeyPatch.context() as patch:
        with trio.socket.socket() as sock:
            patch.setattr(type(sock), "connect", hang)
        async with stage(origin, terminator=terminator()) as play:
            visitor = await play.open_tls()
            await visitor.send_all(b"GET / HTTP/1.1\r\n\r\n")
            started = trio.current_time()
            response, end = await read_to_end(visitor)
            assert trio.current_time() - started < 0.2 + 0.1
            assert end is End.FIN
            assert b"timed out after 0.2 s" in response


async def test_a_visitor_that_goes_on_for_ever_is_left_in_time(autojump_clock: trio.testing.MockClock) -> None:
    """It gets its page, and then a bounded time to end."""
    autojump_clock.autojump_threshold = 0.01
    async with stage(None, terminator=terminator()) as play:
        visitor = await play.open_tls()
        await visitor.send_all(b"GET / HTTP/1.1\r\n\r\n")
        response, end = await read_to_end(visitor)
        assert response.startswith(b"HTTP/1.1 502 ")
        assert end is End.FIN
        started = trio.current_time()
        record = await play.closed()
        assert trio.current_time() - started <= limits.CLOSE_TIMEOUT + 0.1
    assert record.visitor_end == "cancelled"


async def test_a_visitor_that_vanishes_meanwhile_is_no_error() -> None:
    """Nobody is left to be told."""
    async with stage(None, terminator=terminator()) as play:
        visitor = await play.open_tls()
        await visitor.send_all(b"GET ")
        await trio.testing.wait_all_tasks_blocked(0.01)  # the agent waits for more
        visitor.abort()
        record = await play.closed()
    assert (record.visitor_end, record.origin_end) == ("reset", "error")
