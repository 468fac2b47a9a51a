"""TLS-ALPN-01 at the agent: answered here, by whatever road, and never a visitor (RFC 8737)."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing
from OpenSSL import SSL

from tests.agent.offloading import agents_end, crew, with_workers
from tests.agent.stage import (
    LOCAL,
    NAME,
    VISITOR,
    Stage,
    echo,
    origin_of,
    origin_that_must_not_be_called,
    stage,
    terminator,
    visit_over,
)
from tests.streams.bench import read_to_end
from tests.transports.direct_pairs import park, tcp_pair
from trunnel.acme.challenge import ACME_IDENTIFIER_OID, challenge_certificate
from trunnel.agent.challenges import Challenges
from trunnel.agent.forward import OnLink, forward_stream
from trunnel.agent.visit import Visits
from trunnel.clock import utc_now
from trunnel.errors import ConnectError, ErrorCode, RemoteProtocolError
from trunnel.identity.contexts import challenge_context
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.streams.abort import abort_stream
from trunnel.streams.copy import End
from trunnel.streams.tls import TlsStream
from trunnel.transports.base import Stream
from trunnel.transports.direct import offer, wait_taken
from trunnel.wire.direct import Answer
from trunnel.wire.proxyprotocol import StreamKind, visitor_preface

OTHER = Hostname("other.localhost")
ACME = b"acme-tls/1"


def preface(name: Hostname = NAME) -> bytes:
    """Return what a relay says of an authority's connection."""
    return visitor_preface(
        visitor=VISITOR, local=LOCAL, authority=name, alpn=ACME, stream="c", endpoint=name, kind=StreamKind.CHALLENGE
    )


def answer(name: Hostname = NAME, key_authorization: str = "token.thumbprint") -> SSL.Context:
    """Return what proves *name*."""
    return challenge_context(*challenge_certificate(name, key_authorization, utc_now()))


def is_proof(authority: TlsStream) -> bool:
    """Whether the authority was shown a certificate of RFC 8737 §3."""
    (certificate,) = authority.peer_certificates
    return certificate.extensions.get_extension_for_oid(ACME_IDENTIFIER_OID).critical


async def refused(play: Stage, sent: bytes) -> ErrorCode | None:
    """Open a stream that is refused; return why."""
    stream: Stream = await play.open(sent)
    assert await read_to_end(stream) == (b"", End.RESET)
    return stream.reset_code


# --- the registry ---------------------------------------------------------------------------------


def test_an_answer_is_there_while_somebody_asks_for_it() -> None:
    challenges, first, second = Challenges(), answer(), answer()
    assert challenges.context_for(NAME) is None
    with challenges.answering(NAME, first):
        assert challenges.context_for(NAME) is first
        assert challenges.context_for(OTHER) is None
        with challenges.answering(NAME, second):
            assert challenges.context_for(NAME) is second
        assert challenges.context_for(NAME) is first
    assert challenges.context_for(NAME) is None


def test_answers_end_in_any_order() -> None:
    """Two orders for one name, the older one done first."""
    challenges, first, second = Challenges(), answer(), answer()
    one, other = challenges.answering(NAME, first), challenges.answering(NAME, second)
    one.__enter__()
    other.__enter__()
    one.__exit__(None, None, None)
    assert challenges.context_for(NAME) is second
    other.__exit__(None, None, None)
    assert challenges.context_for(NAME) is None


def test_only_so_many_at_a_time_and_for_each_name() -> None:
    """LOAD-04: anybody can connect like an authority, and stall."""
    challenges = Challenges()
    with challenges.answering(NAME, answer()), challenges.answering(OTHER, answer()):
        held = [challenges.admit(NAME) for _ in range(limits.CHALLENGES_ANSWERED)]
        for one in held:
            one.__enter__()
        with pytest.raises(RemoteProtocolError, match="too many"), challenges.admit(NAME):
            pass
        with challenges.admit(OTHER):
            pass
        held[0].__exit__(None, None, None)
        with challenges.admit(NAME):
            pass


# --- in a session ---------------------------------------------------------------------------------


async def test_a_challenge_is_answered_here_and_is_no_visitor(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.INFO)
    challenges = Challenges()
    async with stage(origin_that_must_not_be_called, terminator=terminator(), challenges=challenges) as play:
        with challenges.answering(NAME, answer()):
            authority = await visit_over(await play.open(preface()), NAME, ACME)
            assert authority.alpn == ACME
            assert is_proof(authority)
            assert await read_to_end(authority) == (b"", End.FIN)
            await authority.aclose()
    assert play.events == []
    assert caplog.records == []


async def test_one_that_nobody_expects_is_refused_without_a_word(caplog: pytest.LogCaptureFixture) -> None:
    """Before an order, after it, and for another name of ours."""
    caplog.set_level(logging.INFO)
    challenges = Challenges()
    async with stage(origin_that_must_not_be_called, terminator=terminator(), challenges=challenges) as play:
        assert await refused(play, preface()) is ErrorCode.REFUSED_STREAM
        with challenges.answering(OTHER, answer(OTHER)):
            assert await refused(play, preface()) is ErrorCode.REFUSED_STREAM
            assert await refused(play, preface(OTHER)) is ErrorCode.UNKNOWN_ENDPOINT
        with challenges.answering(NAME, answer()):
            pass
        assert await refused(play, preface()) is ErrorCode.REFUSED_STREAM
    assert play.events == []
    assert [record.message for record in caplog.records] == ["stream_refused"], "the name that is not ours"


async def test_a_visitor_is_never_answered_with_a_proof() -> None:
    """`acme-tls/1` within a stream of a visitor is refused by TLS: the relay says what a stream is."""
    challenges = Challenges()
    async with stage(origin_that_must_not_be_called, terminator=terminator(), challenges=challenges) as play:
        with challenges.answering(NAME, answer()), pytest.raises(ConnectError, match="application protocol"):
            await play.open_tls(ACME)


async def test_who_does_not_offer_acme_gets_no_answer() -> None:
    challenges = Challenges()
    async with stage(origin_that_must_not_be_called, terminator=terminator(), challenges=challenges) as play:
        with challenges.answering(NAME, answer()):
            with pytest.raises(ConnectError, match="application protocol"):
                await visit_over(await play.open(preface()), NAME, b"h2")
            stream = await play.open(preface() + b"GET / HTTP/1.1\r\n\r\n")
            said, end = await read_to_end(stream)
            assert (said[:1] in {b"", b"\x15"}, end) == (True, End.FIN)
            await stream.aclose()
    assert play.events == []


async def test_one_that_stalls_ends_in_time(autojump_clock: trio.testing.MockClock) -> None:
    """LOAD-04: in the middle of the handshake, and after it."""
    challenges = Challenges()
    async with stage(origin_that_must_not_be_called, terminator=terminator(), challenges=challenges) as play:
        with challenges.answering(NAME, answer()):
            stream = await play.open(preface() + b"\x16\x03\x01")
            await read_to_end(stream)
            assert trio.current_time() <= 2 * limits.CHALLENGE_TIMEOUT
            await trio.testing.wait_all_tasks_blocked()
            assert not challenges._open
            await stream.aclose()


async def test_passed_through_it_is_the_origins_affair() -> None:
    challenges = Challenges()
    async with origin_of(echo) as origin, stage(origin, challenges=challenges) as play:
        with challenges.answering(NAME, answer()):
            stream = await play.open(preface() + b"hello")
            assert await stream.receive_some() == b"hello"
            await stream.send_eof()
            await read_to_end(stream)
        await play.closed()


async def test_visitors_that_fill_their_room_do_not_keep_an_authority_out() -> None:
    """A renewal does not fail because a site is busy."""
    challenges = Challenges()
    async with stage(
        origin_that_must_not_be_called, terminator=terminator(), challenges=challenges, visits=Visits(most=0)
    ) as play:
        with challenges.answering(NAME, answer()):
            authority = await visit_over(await play.open(preface()), NAME, ACME)
            assert is_proof(authority)
            await authority.aclose()


# --- on a data connection ---------------------------------------------------------------------


@with_workers
async def test_on_a_data_connection_it_is_answered_here_too_with_or_without_workers() -> None:
    """A worker knows leaves; what proves a name never goes there."""
    challenges = Challenges()
    for way in ("worker", "here"):
        async with (
            crew(way) as workers,
            agents_end(origin_that_must_not_be_called, workers, challenges=challenges) as play,
        ):
            near, far = await tcp_pair()
            agents, relays = await park(near, far)

            async def attend() -> None:
                await forward_stream(OnLink(agents, await wait_taken(agents)), play.forwarding)  # noqa: B023

            with challenges.answering(NAME, answer()):
                play.nursery.start_soon(attend)
                assert await offer(relays, preface(), b"") is Answer.ACCEPTED
                authority = await visit_over(relays.stream, NAME, ACME)
                assert is_proof(authority)
                assert await read_to_end(authority) == (b"", End.FIN)
                await authority.aclose()
            assert play.events == []
            abort_stream(far)
