"""A stream at the agent: whose it is, and canaries; before anybody serves it."""

from __future__ import annotations

import pytest
import trio
import trio.testing
from hypothesis import given
from hypothesis import strategies as st

from tests.agent.stage import (
    LOCAL,
    NAME,
    PREFACE,
    VISITOR,
    echo,
    origin_of,
    origin_that_must_not_be_called,
    stage,
    terminator,
)
from tests.streams.bench import read_to_end
from trunnel.agent.visit import Visits
from trunnel.errors import ErrorCode
from trunnel.settings import limits
from trunnel.streams.copy import End
from trunnel.wire.proxyprotocol import StreamKind, visitor_preface

# --- the preface -----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("preface", "code"),
    [
        (b"GET / HTTP/1.1\r\n\r\n", ErrorCode.BAD_PREFACE),
        (b"PROXY TCP4 1.2.3.4 5.6.7.8 1 2\r\n", ErrorCode.BAD_PREFACE),
        (PREFACE.replace(b"app.localhost", b"bad.localhost"), ErrorCode.UNKNOWN_ENDPOINT),
        (
            visitor_preface(visitor=VISITOR, local=LOCAL, authority=NAME, alpn=None, stream="s"),
            ErrorCode.UNKNOWN_ENDPOINT,
        ),
    ],
)
async def test_a_stream_that_is_not_for_us_is_reset_with_its_reason(preface: bytes, code: ErrorCode) -> None:
    """And the origin is not dialled for it."""
    async with stage(origin_that_must_not_be_called) as play:
        stream = await play.open(preface)
        assert await read_to_end(stream) == (b"", End.RESET)
        assert stream.reset_code is code
        assert play.events == []


async def test_a_challenge_is_refused_by_who_ends_tls_here() -> None:
    """It is for the origin's certificate, and there is none."""
    challenge = visitor_preface(
        visitor=VISITOR, local=LOCAL, authority=NAME, alpn=None, stream="s", endpoint=NAME, kind=StreamKind.CHALLENGE
    )
    async with stage(origin_that_must_not_be_called, terminator=terminator()) as play:
        stream = await play.open(challenge)
        assert await read_to_end(stream) == (b"", End.RESET)
        assert stream.reset_code is ErrorCode.REFUSED_STREAM
        assert play.events == []


async def test_a_preface_that_does_not_come_is_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    """A relay that opens a stream and says nothing holds nothing for long."""
    async with stage(origin_that_must_not_be_called) as play:
        stream = await play.open(PREFACE[:-1])
        assert await read_to_end(stream) == (b"", End.RESET)
        assert stream.reset_code is ErrorCode.DEADLINE
        assert trio.current_time() == pytest.approx(limits.PREFACE_TIMEOUT)


async def test_a_preface_that_is_cut_off_is_malformed() -> None:
    """An end within it is not an end."""
    async with stage(origin_that_must_not_be_called) as play:
        stream = await play.open(PREFACE[:-1])
        await stream.send_eof()
        assert await read_to_end(stream) == (b"", End.RESET)
        assert stream.reset_code is ErrorCode.BAD_PREFACE


@pytest.mark.parametrize("cut", [1, 15, 16, 17, len(PREFACE) - 1])
async def test_a_preface_may_come_in_pieces_and_no_byte_of_the_visitor_is_lost(cut: int) -> None:
    """The bytes behind it belong to the visitor, wherever the pieces are cut."""
    async with origin_of(echo) as origin, stage(origin) as play:
        stream = await play.open(PREFACE[:cut])
        await trio.testing.wait_all_tasks_blocked()
        await stream.send_all(PREFACE[cut:] + b"first bytes")
        await stream.send_eof()
        assert await read_to_end(stream) == (b"first bytes", End.FIN)


@given(preface=st.binary(max_size=200) | st.builds(bytes.__add__, st.just(PREFACE[:40]), st.binary(max_size=200)))
def test_no_preface_makes_the_agent_fail_or_dial(preface: bytes) -> None:
    """SEC-10: arbitrary heads end in a reset; the handler is never called, nothing is raised."""

    async def play_once() -> None:
        async with stage(origin_that_must_not_be_called) as play:
            stream = await play.open(preface)
            await stream.send_eof()
            assert await read_to_end(stream) == (b"", End.RESET)
            assert stream.reset_code in {ErrorCode.BAD_PREFACE, ErrorCode.UNKNOWN_ENDPOINT, ErrorCode.REFUSED_STREAM}

    trio.run(play_once)


# --- canaries ----------------------------------------------------------------------------------------

CANARY = visitor_preface(visitor=None, local=None, authority=None, alpn=None, stream="c", kind=StreamKind.CANARY)


@pytest.mark.parametrize("said", [b"", b"token", b"x" * limits.CANARY_BYTES_MAX])
async def test_a_canary_gets_back_what_it_says(said: bytes) -> None:
    """No origin, no TLS, no event, no visitor: only the way to here is examined."""
    visits = Visits()
    async with stage(origin_that_must_not_be_called, terminator=terminator(), visits=visits) as play:
        stream = await play.open(CANARY + said)
        await stream.send_eof()
        assert await read_to_end(stream) == (said, End.FIN)
        assert play.events == []
        assert visits.peak == 0


async def test_a_canary_may_come_in_single_bytes() -> None:
    async with stage(origin_that_must_not_be_called) as play:
        stream = await play.open(b"")
        for octet in CANARY + b"token":
            await stream.send_all(bytes([octet]))
            await trio.testing.wait_all_tasks_blocked()
        await stream.send_eof()
        assert await read_to_end(stream) == (b"token", End.FIN)


async def test_nothing_comes_back_before_a_canary_has_ended() -> None:
    """A token that crossed half of the way proves nothing of the end."""
    async with stage(origin_that_must_not_be_called) as play:
        stream = await play.open(CANARY + b"token")
        await trio.testing.wait_all_tasks_blocked()
        assert stream.unread == 0  # type: ignore[attr-defined]


async def test_a_canary_that_says_too_much_is_reset() -> None:
    """Whether or not it has ended."""
    async with stage(origin_that_must_not_be_called) as play:
        stream = await play.open(CANARY + b"x" * (limits.CANARY_BYTES_MAX + 1))
        assert await read_to_end(stream) == (b"", End.RESET)
        assert stream.reset_code is ErrorCode.ENHANCE_YOUR_CALM


async def test_a_canary_that_does_not_end_is_a_deadline(autojump_clock: trio.testing.MockClock) -> None:
    async with stage(origin_that_must_not_be_called) as play:
        stream = await play.open(CANARY + b"token")
        assert await read_to_end(stream) == (b"", End.RESET)
        assert stream.reset_code is ErrorCode.DEADLINE
        assert trio.current_time() == pytest.approx(limits.CANARY_TIMEOUT)


async def test_a_canary_that_is_taken_back_harms_nobody() -> None:
    async with origin_of(echo) as origin, stage(origin) as play:
        canary = await play.open(CANARY + b"tok")
        await trio.testing.wait_all_tasks_blocked()
        canary.reset(ErrorCode.CANCEL)
        stream = await play.open()
        await stream.send_all(b"hello")
        await stream.send_eof()
        assert await read_to_end(stream) == (b"hello", End.FIN)
