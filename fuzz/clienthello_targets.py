"""Fuzz targets for the ClientHello.

Invariants: any bytes get a verdict and never an exception; verdict, reason,
position and hello do not depend on how the bytes were cut; `needed` never
promises too much; what follows a hello changes nothing; nothing is kept beyond
the limits; and no TLS server sees another name than we do (`fuzz.differential`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import cache
from random import Random

from fuzz.clienthello_mutations import mutate
from fuzz.clienthello_oracle import StdlibOracle, quiet_callbacks
from fuzz.differential import DifferentialReport, seeds
from tests.wire import hello_builder as build
from trunnel.errors import RemoteProtocolError
from trunnel.settings.limits import CLIENT_HELLO_MAX, CLIENT_HELLO_RAW_MAX, CLIENT_HELLO_RECORDS_MAX
from trunnel.wire.alert import alert_for
from trunnel.wire.clienthello import ClientHello, ClientHelloParser, Verdict
from trunnel.wire.der import check_name_untrusted, check_request_extensions_untrusted, check_responder_id_untrusted

WITH_HELLO = frozenset({Verdict.ROUTE, Verdict.NO_SNI, Verdict.BAD_NAME})
"""Verdicts on a hello that is well-formed."""

Outcome = tuple[Verdict, str, int, ClientHello | None]


def outcome(parser: ClientHelloParser) -> Outcome:
    """Return everything that a parser tells."""
    return parser.verdict, parser.reason, parser.raw_bytes, parser.hello


def feed(chunks: Iterator[bytes]) -> ClientHelloParser:
    """Return a parser that was fed all of *chunks*, also after its verdict."""
    parser = ClientHelloParser()
    for chunk in chunks:
        parser.feed_untrusted(chunk)
    return parser


def _pieces(stream: bytes) -> Iterator[bytes]:
    """Cut *stream* into pieces whose sizes depend on its bytes: 1 to 64."""
    at = 0
    while at < len(stream):
        size = 1 + stream[at] % 64
        yield stream[at : at + size]
        at += size


def _check_needed(stream: bytes) -> None:
    """Feed `needed` less one byte: no verdict; one byte more at a time until it may fall."""
    parser = ClientHelloParser()
    at = 0
    while at < len(stream) and parser.verdict is Verdict.NEED_MORE:
        needed = parser.needed
        assert needed >= 1
        at += needed - 1
        if at > len(stream):
            return
        assert parser.feed_untrusted(stream[at - needed + 1 : at]) is Verdict.NEED_MORE, "needed promised too much"
        parser.feed_untrusted(stream[at : at + 1])
        at += 1


def _check_consistent(parser: ClientHelloParser) -> None:
    hello = parser.hello
    assert (hello is not None) == (parser.verdict in WITH_HELLO)
    assert (alert_for(parser.verdict) is None) == (
        parser.verdict in (Verdict.ROUTE, Verdict.NEED_MORE, Verdict.NOT_TLS)
    )
    assert parser.raw_bytes <= CLIENT_HELLO_RAW_MAX
    if hello is not None:
        assert (hello.server_name is not None) == (parser.verdict is Verdict.ROUTE)
        assert (hello.raw_server_name is None) == (parser.verdict is Verdict.NO_SNI)
        assert hello.message_bytes <= CLIENT_HELLO_MAX
        assert hello.records <= CLIENT_HELLO_RECORDS_MAX
        assert hello.raw_bytes == parser.raw_bytes


def fuzz_clienthello(data: bytes) -> None:
    """Any bytes as a visitor's stream."""
    whole = feed(iter([data]))
    expected = outcome(whole)
    _check_consistent(whole)
    assert outcome(feed(_pieces(data))) == expected, "the verdict depends on the cuts"
    assert outcome(feed(data[at : at + 1] for at in range(min(len(data), CLIENT_HELLO_RAW_MAX)))) == expected
    _check_needed(data)
    if whole.verdict is not Verdict.NEED_MORE:
        assert outcome(feed(iter([data[: whole.raw_bytes], b"\x00more"]))) == expected, "later bytes change the verdict"
    assert len(data) < CLIENT_HELLO_RAW_MAX or whole.verdict is not Verdict.NEED_MORE


def fuzz_clienthello_message(data: bytes) -> None:
    """Any bytes as a handshake message: what it means does not depend on the records around it."""
    message = b"\x01" + build.vector(3, data[: CLIENT_HELLO_MAX - 4])
    one = feed(iter([build.record(message)]))
    many = feed(iter([build.in_records_of(message, 1 + len(message) // 200)]))
    assert (one.verdict, one.reason) == (many.verdict, many.reason)
    if one.hello is not None and many.hello is not None:
        assert one.hello.raw_server_name == many.hello.raw_server_name
        assert (one.hello.alpn, one.hello.versions) == (many.hello.alpn, many.hello.versions)


def fuzz_clienthello_mutated(data: bytes) -> None:
    """A mutated hello, chosen by *data*: gets past the first lengths, where random bytes do not."""
    fuzz_clienthello(_mutation(data))


def fuzz_clienthello_differential(data: bytes) -> None:
    """The same, held against OpenSSL."""
    with quiet_callbacks():
        why = DifferentialReport().judge(_mutation(data), _oracle())
    assert why is None, why


def fuzz_clienthello_sighting(data: bytes) -> None:
    """Any bytes as a stream, held against OpenSSL: the corpus keeps what was once seen differently."""
    with quiet_callbacks():
        why = DifferentialReport().judge(data, _oracle())
    assert why is None, why


def fuzz_der(data: bytes) -> None:
    """Any bytes as each DER shape: taken or refused, and a shape with a byte more or less is another."""
    for check in (check_name_untrusted, check_responder_id_untrusted, check_request_extensions_untrusted):
        if _taken(check, data):
            assert not _taken(check, data + b"\x00")
            assert not _taken(check, data[:-1])


def _taken(check: Callable[[bytes], None], octets: bytes) -> bool:
    try:
        check(octets)
    except RemoteProtocolError:
        return False
    return True


def _mutation(data: bytes) -> bytes:
    rng = Random(data)  # noqa: S311 - reproducible on purpose
    return mutate(rng.choice(_seeds()), rng)


@cache
def _seeds() -> list[bytes]:
    return seeds()


@cache
def _oracle() -> StdlibOracle:
    return StdlibOracle()
