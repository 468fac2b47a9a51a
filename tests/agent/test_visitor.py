"""A handler in the same program instead of an origin."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from tests.agent.stage import NAME, PREFACE, VISITOR, stage, terminator
from tests.streams.bench import read_to_end
from trunnel.agent.visitor import VisitorInfo
from trunnel.errors import ErrorCode
from trunnel.streams.copy import End


async def test_a_handler_serves_visitors_without_a_socket() -> None:
    """It gets plaintext, the visitor's address, and the names."""
    known: list[VisitorInfo] = []

    async def handler(stream: trio.abc.HalfCloseableStream, visitor: VisitorInfo) -> None:
        known.append(visitor)
        while chunk := await stream.receive_some():
            await stream.send_all(bytes(chunk).upper())

    async with stage(handler, terminator=terminator()) as play:
        visitor = await play.open_tls(b"http/1.1")
        await visitor.send_all(b"hello")
        await visitor.send_eof()
        assert await read_to_end(visitor) == (b"HELLO", End.FIN)
        record = await play.closed()
    assert known == [VisitorInfo(address=VISITOR, hostname=NAME, alpn=b"http/1.1", stream="stream-1")]
    assert (record.bytes_in, record.bytes_out, record.visitor_end, record.origin_end) == (5, 5, "fin", "fin")


async def test_a_handler_that_raises_ends_its_visitor_only(caplog: pytest.LogCaptureFixture) -> None:
    """Logged with its traceback; the next visitor is served."""

    async def handler(stream: trio.abc.HalfCloseableStream, visitor: VisitorInfo) -> None:
        if await stream.receive_some() == b"fail":
            raise ZeroDivisionError("a bug of the handler")
        await stream.send_all(b"fine")

    async with stage(handler) as play:
        bad, good = await play.open(), await play.open()
        await bad.send_all(b"fail")
        assert await read_to_end(bad) == (b"", End.RESET)
        assert bad.reset_code is ErrorCode.INTERNAL_ERROR
        await good.send_all(b"work")
        assert await read_to_end(good) == (b"fine", End.FIN)
    (logged,) = [each for each in caplog.records if each.levelno >= logging.ERROR]
    assert logged.exc_info is not None
    assert logged.exc_info[0] is ZeroDivisionError


async def test_a_handler_may_meet_a_visitor_that_vanishes() -> None:
    """The broken stream leaves the handler quietly; the record tells who broke."""

    async def handler(stream: trio.abc.HalfCloseableStream, visitor: VisitorInfo) -> None:
        await stream.receive_some()
        await stream.receive_some()

    async with stage(handler) as play:
        stream = await play.open(PREFACE + b"x")
        await trio.testing.wait_all_tasks_blocked()
        stream.reset(ErrorCode.PEER_ABORTED)
        record = await play.closed()
    assert (record.bytes_in, record.visitor_end, record.origin_end) == (1, "reset", "error")
