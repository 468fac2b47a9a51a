"""The parser apart from its verdicts: what it tells, keeps, needs and costs."""

from __future__ import annotations

import gc
import sys
import tracemalloc
from dataclasses import replace
from types import FrameType

import pytest

from fuzz.clienthello_targets import feed, outcome
from tests.wire import hello_builder as build
from tests.wire.hello_builder import EMPTY_RECORD, NAME, Hello, in_records_of, record
from trunnel.names import Hostname
from trunnel.settings.limits import (
    CLIENT_HELLO_MAX,
    CLIENT_HELLO_RAW_MAX,
    CLIENT_HELLO_RECORDS_MAX,
    EMPTY_RECORDS_MAX,
)
from trunnel.wire.clienthello import ClientHello, ClientHelloParser, Verdict

PLAIN = Hello()
STREAM = PLAIN.stream()


def parsed(stream: bytes) -> ClientHello:
    """Return the hello in a stream that has one."""
    hello = feed(iter([stream])).hello
    assert hello is not None
    return hello


class TestWhatItTells:
    """A hello is reported whole, and a refusal with its reason."""

    def test_a_routed_hello_carries_name_protocols_versions_and_sizes(self) -> None:
        assert parsed(STREAM) == ClientHello(
            server_name=Hostname("a.example"),
            raw_server_name=NAME,
            alpn=(b"h2", b"http/1.1"),
            versions=(0x0304, 0x0303),
            message_bytes=len(PLAIN.message()),
            records=1,
            raw_bytes=len(STREAM),
        )

    def test_the_name_is_canonical_beside_the_name_as_sent(self) -> None:
        hello = parsed(PLAIN.with_name(b"A.Example.").stream())
        assert (hello.server_name, hello.raw_server_name) == (Hostname("a.example"), b"A.Example.")

    def test_an_agent_that_dials_an_address_is_known_by_its_protocol(self) -> None:
        """Without SNI there is still ALPN: that is how agents are told from visitors."""
        agent = replace(PLAIN, extensions=(*build.BASE[:4], build.alpn(b"trunnel-h2/1")))
        parser = feed(iter([agent.stream()]))
        assert parser.verdict is Verdict.NO_SNI
        assert parser.hello is not None
        assert parser.hello.alpn == (b"trunnel-h2/1",)
        assert parser.hello.versions == (0x0304, 0x0303)

    def test_a_bad_name_still_carries_the_rest(self) -> None:
        hello = parsed(PLAIN.with_name(b"192.0.2.1").stream())
        assert (hello.server_name, hello.raw_server_name) == (None, b"192.0.2.1")
        assert hello.alpn == (b"h2", b"http/1.1")

    def test_records_are_counted_with_the_empty_ones(self) -> None:
        assert parsed(EMPTY_RECORD + in_records_of(PLAIN.message(), 100)).records == 1 + -(-len(PLAIN.message()) // 100)

    def test_a_refusal_says_why_in_words(self) -> None:
        assert feed(iter([b"SSH-2.0-x"])).reason == "record type 83 instead of 22 (handshake)"
        assert "NUL" in feed(iter([PLAIN.with_name(b"a\x00b").stream()])).reason

    def test_a_refusal_has_no_hello(self) -> None:
        assert feed(iter([PLAIN.with_name(b"").stream()])).hello is None

    def test_nothing_fed_is_need_more(self) -> None:
        parser = ClientHelloParser()
        assert (parser.verdict, parser.hello, parser.raw_bytes, parser.needed) == (Verdict.NEED_MORE, None, 0, 1)

    @pytest.mark.parametrize("kind", [bytes, bytearray, memoryview])
    def test_any_buffer_may_be_fed(self, kind: type[bytes | bytearray | memoryview]) -> None:
        assert ClientHelloParser().feed_untrusted(kind(STREAM)) is Verdict.ROUTE

    def test_a_chunk_may_be_reused_once_it_was_fed(self) -> None:
        chunk = bytearray(STREAM[:-1])
        parser = ClientHelloParser()
        parser.feed_untrusted(chunk)
        chunk[:] = bytes(len(chunk))
        assert parser.feed_untrusted(STREAM[-1:]) is Verdict.ROUTE


class TestRefusalsComeEarly:
    """What can be refused is refused without waiting for more."""

    @pytest.mark.parametrize(
        ("stream", "verdict"),
        [
            (b"G", Verdict.NOT_TLS),
            (b"\x80", Verdict.NOT_TLS),
            (b"\x16\x02\x00\x00\x05", Verdict.NOT_TLS),
            (b"\x16\x03\x01\x40\x01", Verdict.TOO_LARGE),
            (b"\x16\x03\x01\x00\x05\x02\x00\x00\x01", Verdict.NOT_TLS),
            (b"\x16\x03\x01\x00\x05\x01\x00\x3f\xfd", Verdict.TOO_LARGE),
        ],
        ids=["first-byte", "sslv2", "major", "record-length", "message-type", "message-length"],
    )
    def test_refused_with_the_byte_that_shows_it(self, stream: bytes, verdict: Verdict) -> None:
        """A refusal waits for nothing: it falls with the last of these bytes, not before."""
        parser = ClientHelloParser()
        assert parser.feed_untrusted(stream[:-1]) is Verdict.NEED_MORE
        assert parser.feed_untrusted(stream[-1:]) is verdict
        assert parser.raw_bytes == len(stream)

    def test_a_final_verdict_stays(self) -> None:
        parser = feed(iter([b"GET / HTTP/1.1"]))
        assert parser.feed_untrusted(STREAM) is Verdict.NOT_TLS


class TestNeeded:
    """`needed` is right for SO_RCVLOWAT."""

    def test_needed_is_how_the_ingress_sleeps(self) -> None:
        """Waking only for `needed` bytes takes a handful of wake-ups for an ordinary hello."""
        parser, at, wakes = ClientHelloParser(), 0, 0
        while parser.verdict is Verdict.NEED_MORE:
            step = parser.needed
            parser.feed_untrusted(STREAM[at : at + step])
            at, wakes = at + step, wakes + 1
        assert (parser.verdict, at, wakes) == (Verdict.ROUTE, len(STREAM), 4)

    @pytest.mark.parametrize("size", [1, 3, 4, 5, 32, 100])
    def test_needed_never_asks_beyond_the_verdict(self, size: int) -> None:
        """The bytes asked for never pass the byte that decides, however the message is fragmented."""
        stream = in_records_of(PLAIN.message(), size)
        parser, at = ClientHelloParser(), 0
        while parser.verdict is Verdict.NEED_MORE:
            assert at + parser.needed <= len(stream)
            at += parser.needed
            parser.feed_untrusted(stream[parser.raw_bytes : at])
        assert (parser.verdict, at) == (Verdict.ROUTE, len(stream))

    def test_the_rest_of_the_last_record_is_waited_for(self) -> None:
        parser = ClientHelloParser()
        parser.feed_untrusted(record(PLAIN.message() + bytes(50))[: len(STREAM)])
        assert (parser.verdict, parser.needed) == (Verdict.NEED_MORE, 50)


class TestBounds:
    """Nothing grows beyond the limits."""

    def test_the_verdict_has_fallen_within_the_raw_limit(self) -> None:
        """A peek buffer of CLIENT_HELLO_RAW_MAX bytes always decides."""
        endless = in_records_of(PLAIN.padded(CLIENT_HELLO_MAX).message(), 3)
        assert feed(iter([endless[:CLIENT_HELLO_RAW_MAX]])).verdict is Verdict.TOO_LARGE
        widest = PLAIN.padded(CLIENT_HELLO_MAX).message()
        size = -(-len(widest) // CLIENT_HELLO_RECORDS_MAX)
        stream = in_records_of(widest, size)
        assert len(stream) <= CLIENT_HELLO_RAW_MAX
        assert feed(iter([stream])).verdict is Verdict.ROUTE

    def test_a_last_record_that_is_mostly_something_else_is_too_large(self) -> None:
        message = PLAIN.padded(CLIENT_HELLO_MAX).message()
        stream = record(message[:-1]) + record(message[-1:] + bytes(4000))
        assert feed(iter([stream])).verdict is Verdict.TOO_LARGE

    def test_empty_records_count_as_records(self) -> None:
        rounds = CLIENT_HELLO_RECORDS_MAX // (EMPTY_RECORDS_MAX + 1) + 1
        message = PLAIN.message()
        stream = b"".join(EMPTY_RECORD * EMPTY_RECORDS_MAX + record(message[at : at + 1]) for at in range(rounds))
        assert feed(iter([stream])).verdict is Verdict.TOO_LARGE

    def test_memory_is_bounded_and_given_back(self) -> None:
        """While it waits a parser holds little more than the message; afterwards nothing of it."""
        stream = PLAIN.padded(CLIENT_HELLO_MAX).stream()
        gc.collect()
        tracemalloc.start()
        try:
            before, _ = tracemalloc.get_traced_memory()
            parser = ClientHelloParser()
            for at in range(len(stream) - 1):
                parser.feed_untrusted(stream[at : at + 1])
            waiting, peak = tracemalloc.get_traced_memory()
            parser.feed_untrusted(stream[-1:])
            decided, _ = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert parser.verdict is Verdict.ROUTE
        assert peak - before < 2 * CLIENT_HELLO_MAX
        assert waiting - before < 2 * CLIENT_HELLO_MAX
        assert decided - before < CLIENT_HELLO_MAX / 4


def lines_run(stream: bytes, chunk: int) -> int:
    """Return how many lines of Python the parser runs for *stream*: its cost, without a clock."""
    count = 0

    def trace(frame: FrameType, event: str, _argument: object) -> object:
        nonlocal count
        if "trunnel" not in frame.f_code.co_filename:
            return None
        count += event == "line"
        return trace

    parser = ClientHelloParser()
    previous = sys.gettrace()
    sys.settrace(trace)  # type: ignore[arg-type]
    try:
        for at in range(0, len(stream), chunk):
            parser.feed_untrusted(stream[at : at + chunk])
    finally:
        sys.settrace(previous)
    assert parser.verdict is not Verdict.NEED_MORE
    return count


class TestCost:
    """Work is linear, counted in lines run and not by a clock."""

    @pytest.mark.parametrize("chunk", [1, 7, 1 << 15])
    @pytest.mark.parametrize(
        "shape",
        [
            lambda size: PLAIN.padded(size).stream(),
            lambda size: in_records_of(PLAIN.padded(size).message(), 80),
            lambda size: PLAIN.adding(*((0x5000 + at, b"") for at in range(size // 4))).stream(),
            lambda size: PLAIN.replacing(*build.alpn(*[b"x"] * (size // 2))).stream(),
            lambda size: PLAIN.replacing(build.STATUS_REQUEST, responders(size // 8)).stream(),
            lambda size: PLAIN.replacing(*build.key_shares(*[(build.X25519, bytes(32))] * (size // 36))).stream(),
            lambda size: PLAIN.adding(build.pre_shared_keys(*[b"x"] * (size // 40))).stream(),
        ],
        ids=["padding", "records", "extensions", "protocols", "responders", "shares", "psk"],
    )
    def test_twice_the_bytes_cost_twice_the_steps(self, shape: object, chunk: int) -> None:
        """Work is linear in the bytes, whatever they hold and however they come."""
        assert callable(shape)
        small, large = (lines_run(shape(size), chunk) for size in (3_000, 6_000))
        assert large <= 2.2 * small

    def test_chunks_do_not_multiply_the_cost(self) -> None:
        """One byte at a time adds a constant a byte, not a second parse."""
        stream = PLAIN.padded(4_000).stream()
        assert lines_run(stream, 1) <= lines_run(stream, len(stream)) + 60 * len(stream)


def responders(count: int) -> bytes:
    """Return a status_request with many responder ids."""
    ids = b"".join(build.vector(2, b"\xa2\x02\x04\x00") for _ in range(count))
    return b"\x01" + build.vector(2, ids) + build.vector(2, b"")


def test_two_parsers_share_nothing() -> None:
    """Half a hello in one parser does not show in another."""
    first, second = ClientHelloParser(), ClientHelloParser()
    first.feed_untrusted(STREAM[:100])
    second.feed_untrusted(STREAM)
    first.feed_untrusted(STREAM[100:])
    assert outcome(first) == outcome(second)
