"""Where a PROXY header ends, and the preface of a stream."""

from __future__ import annotations

from collections.abc import Iterable

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from fuzz.wire_targets import fuzz_proxy_header
from tests.wire.proxy_cases import INET_BLOCK, MAGIC, NO_ADDRESS, V4, V6, decode, drive_header, tlv, v2
from tests.wire.three_way import (
    Parsed,
    check_refused,
    check_split_invariance,
    check_three_ways,
    drive_until_done,
    octets,
)
from trunnel.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from trunnel.names import Hostname
from trunnel.settings.limits import PROXY_HEADER_MAX, PROXY_UNIQUE_ID_MAX, PROXY_V1_MAX
from trunnel.wire.proxyprotocol import (
    Address,
    Preface,
    ProxyHeader,
    ProxyParser,
    SslTlv,
    StreamKind,
    Tlv,
    TlvType,
    encode_v1,
    encode_v2,
    read_preface_untrusted,
    visitor_preface,
)
from trunnel.wire.proxytlv import walk_tlvs_untrusted


@pytest.mark.parametrize(
    "wire", [b"X", b"GET / HTTP/1.1\r\n\r\n", b"\x16\x03\x01", b"PROXX", b"\r\n\r\n\x00\r\nQUIT\r"]
)
def test_what_is_no_header_is_refused_at_the_first_byte_that_shows_it(wire: bytes) -> None:
    """A peer that speaks first and then waits gets its answer at once."""
    assert check_refused(drive_header, wire, reason="does not begin").code is ErrorCode.BAD_PREFACE


@pytest.mark.parametrize("length", [0, 1, PROXY_HEADER_MAX - 17, PROXY_HEADER_MAX - 16, PROXY_HEADER_MAX - 15, 0xFFFF])
def test_the_length_is_judged_before_anything_is_kept(length: int) -> None:
    """Lengths at 0, 1, max-1, max, max+1 and the largest: accepted to the limit, refused from 16 bytes beyond it."""
    parser = ProxyParser()
    start = v2(b"", command=0x20, length=length)
    if length + 16 > PROXY_HEADER_MAX:
        with pytest.raises(RemoteProtocolError, match="over"):
            parser.feed_untrusted(start + bytes(100))
        assert len(parser._buffer) <= PROXY_HEADER_MAX
        return
    assert (parser.feed_untrusted(start) is None) is (length > 0)
    assert parser.needed == length
    if length:
        assert parser.feed_untrusted(bytes(length) + b"rest") == NO_ADDRESS
        assert parser.leftover == b"rest"


def test_no_more_than_the_limit_is_kept_of_a_large_chunk() -> None:
    parser = ProxyParser()
    chunk = b"PROXY UNKNOWN\r\n" + bytes(1_000_000)
    assert parser.feed_untrusted(chunk) == NO_ADDRESS
    assert parser.leftover == bytes(1_000_000)


def test_a_header_of_another_version_is_refused() -> None:
    for versions, wire in (((2,), b"PROXY UNKNOWN\r\n"), ((1,), v2(INET_BLOCK))):
        parser = ProxyParser(versions=versions)
        for _ in range(2):
            with pytest.raises(RemoteProtocolError, match="does not begin"):
                parser.feed_untrusted(wire)


def test_feeding_a_whole_header_more_is_a_bug_of_ours() -> None:
    parser = ProxyParser()
    parser.feed_untrusted(b"PROXY UNKNOWN\r\n")
    with pytest.raises(LocalProtocolError):
        parser.feed_untrusted(b"more")


def test_a_parser_that_refused_keeps_refusing() -> None:
    parser = ProxyParser()
    reasons = set()
    for chunk in octets(b"PROXY TCP4 nonsense\r\nand more"):
        try:
            parser.feed_untrusted(chunk)
        except RemoteProtocolError as exc:
            reasons.add(exc.reason)
    assert len(reasons) == 1


LINES = [b"PROXY UNKNOWN\r\n", b"PROXY UNKNOWN x y\r\n", encode_v1(ProxyHeader(*V4)), encode_v1(ProxyHeader(*V6))]
BLOCKS = [
    v2(b"", command=0x20),
    v2(INET_BLOCK),
    v2(INET_BLOCK + tlv(5, b"id"), family=0x11),
    encode_v2(ProxyHeader(*V6)),
]


@pytest.mark.parametrize(
    ("wire", "versions"),
    [
        *((line, versions) for line in LINES for versions in ((1,), (1, 2))),
        *((block, versions) for block in BLOCKS for versions in ((2,), (1, 2))),
    ],
)
def test_reading_what_is_needed_ends_exactly_at_the_end(wire: bytes, versions: tuple[int, ...]) -> None:
    """`needed` lets a caller read from a socket without taking a byte of what follows."""
    parser = ProxyParser(versions=versions)
    at = 0
    while parser.header is None:
        step = parser.needed
        assert 0 < step <= len(wire) - at
        parser.feed_untrusted(wire[at : at + step])
        at += step
    assert (at, parser.needed, parser.leftover) == (len(wire), 0, b"")


# --- the preface of a stream ------------------------------------------------------------------

NAME = Hostname("demo.example.com")
STREAM = tlv(0xE0, b"\x00") + tlv(5, b"stream-1")


def read(wire: bytes) -> Preface:
    """Read a preface as an agent does."""
    header = ProxyParser(versions=(2,)).feed_untrusted(wire)
    assert header is not None
    return read_preface_untrusted(header)


def drive_preface(chunks: Iterable[bytes]) -> Parsed:
    """Run an agent's parser and read the preface."""
    parser = ProxyParser(versions=(2,))
    parsed = drive_until_done(parser.feed_untrusted, lambda: parser.leftover, chunks)
    assert isinstance(parsed.value, ProxyHeader)
    return Parsed(read_preface_untrusted(parsed.value), parsed.rest)


def test_a_preface_carries_what_the_agent_needs_ahead_of_the_hello() -> None:
    preface = Preface(
        stream="stream-1",
        visitor=V4[0],
        local=V4[1],
        authority=NAME,
        endpoint=NAME,
        alpn=b"h2",
        kind=StreamKind.VISITOR,
    )
    wire = visitor_preface(
        visitor=V4[0],
        local=V4[1],
        authority=NAME,
        alpn=b"h2",
        stream="stream-1",
        endpoint=NAME,
        kind=StreamKind.VISITOR,
    )
    assert TlvType.CRC32C not in {kind for kind, _, _ in walk_tlvs_untrusted(wire, 28)}, "TLS has its own"
    check_three_ways(drive_preface, wire, preface)


def test_the_relays_own_probe_has_no_visitor() -> None:
    wire = visitor_preface(visitor=None, local=None, authority=None, alpn=None, stream="c", kind=StreamKind.CANARY)
    assert read(wire) == Preface(
        stream="c", visitor=None, local=None, authority=None, endpoint=None, alpn=None, kind=StreamKind.CANARY
    )


@pytest.mark.parametrize(
    ("block", "reason"),
    [
        (b"", "stream id"),
        (tlv(0xE0, b"\x00"), "stream id"),
        (tlv(0xE0, b"\x00") + tlv(5, b""), "stream id"),
        (tlv(0xE0, b"\x00") + tlv(5, b"a b"), "stream id"),
        (tlv(0xE0, b"\x00") + tlv(5, b"a\n"), "stream id"),
        (tlv(0xE0, b"\x00") + tlv(5, b"a" * 65), "stream id"),
        (tlv(5, b"id"), "stream kind"),
        (tlv(5, b"id") + tlv(0xE0, b""), "stream kind"),
        (tlv(5, b"id") + tlv(0xE0, b"\x03"), "stream kind"),
        (tlv(5, b"id") + tlv(0xE0, b"\x00\x00"), "stream kind"),
        (STREAM + tlv(5, b"stream-1"), "twice"),
        (STREAM + tlv(2, b"a") + tlv(2, b"a"), "twice"),
        (STREAM + tlv(1, b"a") + tlv(1, b"a"), "twice"),
        (STREAM + tlv(1, b""), "ALPN"),
        (STREAM + tlv(1, bytes(256)), "ALPN"),
        (STREAM + tlv(2, b""), "host name"),
        (STREAM + tlv(2, b"1.2.3.4"), "host name"),
        (STREAM + tlv(2, b"a\nb"), "host name"),
        (STREAM + tlv(0xE1, b"a..b"), "host name"),
        (STREAM + tlv(0xE1, b"\xff"), "host name"),
    ],
)
def test_a_malformed_preface_is_refused_with_its_code(block: bytes, reason: str) -> None:
    refusal = check_refused(drive_preface, v2(INET_BLOCK + block), reason=reason)
    assert refusal.code is ErrorCode.BAD_PREFACE


def test_unknown_vectors_do_not_disturb_a_preface() -> None:
    assert read(v2(INET_BLOCK + STREAM + tlv(0xEA, b"later") + tlv(0x99, b"") * 2)).stream == "stream-1"


@pytest.mark.parametrize("stream", ["", "a b", "ä", "a" * 65, "a\n"])
def test_a_stream_id_of_another_form_is_not_written(stream: str) -> None:
    with pytest.raises(ValueError, match="stream id"):
        visitor_preface(visitor=None, local=None, authority=None, alpn=None, stream=stream)


@pytest.mark.parametrize("alpn", [b"", bytes(256)])
def test_an_alpn_name_of_another_length_is_not_written(alpn: bytes) -> None:
    with pytest.raises(ValueError, match="ALPN"):
        visitor_preface(visitor=None, local=None, authority=None, alpn=alpn, stream="s")


def test_the_largest_preface_fits() -> None:
    longest = Hostname(".".join(["a" * 63] * 3 + ["a" * 61]))
    wire = visitor_preface(
        visitor=V6[0], local=V6[1], authority=longest, alpn=bytes(255), stream="s" * 64, endpoint=longest
    )
    assert len(wire) < PROXY_HEADER_MAX
    assert read(wire).endpoint == longest


# --- properties -------------------------------------------------------------------------------

PORTS = st.integers(0, 65535)
ENDS = st.builds(lambda ip, port: Address.from_sockname((str(ip), port)), st.ip_addresses(), PORTS)
VECTORS = st.lists(
    st.one_of(
        st.builds(Tlv, st.integers(0, 255).filter(lambda kind: kind not in (2, 3, 4, 5, 0x20)), st.binary(max_size=40)),
        st.builds(Tlv, st.just(TlvType.AUTHORITY), st.text(st.characters(codec="utf-8"), max_size=20).map(str.encode)),
        st.builds(Tlv, st.just(TlvType.UNIQUE_ID), st.binary(max_size=PROXY_UNIQUE_ID_MAX)),
        st.builds(
            lambda client, verify, cn: SslTlv(client=client, verify=verify, fields=(Tlv(0x22, cn),)).to_tlv(),
            st.integers(0, 255),
            st.integers(0, 2**32 - 1),
            st.binary(max_size=20),
        ),
    ),
    max_size=6,
    unique_by=lambda vector: vector.kind,
).map(tuple)
HEADERS = st.one_of(st.builds(ProxyHeader, ENDS, ENDS, VECTORS), st.builds(ProxyHeader, st.none(), st.none(), VECTORS))


@given(HEADERS, st.booleans())
def test_what_is_written_reads_back_the_same(header: ProxyHeader, checksum: bool) -> None:
    wire = encode_v2(header, checksum=checksum)
    assert decode(wire) == header
    assert encode_v2(decode(wire), checksum=checksum) == wire
    line = encode_v1(header)
    assert len(line) <= PROXY_V1_MAX
    assert decode(line) == ProxyHeader(header.source, header.destination)
    assert encode_v1(decode(line)) == line or b"TCP6" in line  # of two mapped addresses IPv4 is the canonical form


@given(
    HEADERS.map(encode_v2) | HEADERS.map(encode_v1) | st.binary(max_size=200),
    st.lists(st.integers(0, 300)),
    st.binary(),
)
def test_the_result_does_not_depend_on_the_cuts(wire: bytes, cuts: list[int], behind: bytes) -> None:
    assert check_split_invariance(drive_header, wire + behind, cuts) is not None


@st.composite
def damaged_headers(draw: st.DrawFn) -> bytes:
    """Draw a valid header with some bytes changed, cut out or put in."""
    wire = bytearray(draw(HEADERS.map(lambda header: encode_v2(header, checksum=False)) | HEADERS.map(encode_v1)))
    for _ in range(draw(st.integers(0, 4))):
        at = draw(st.integers(0, len(wire)))
        wire[at : at + draw(st.integers(0, 2))] = draw(st.binary(max_size=2))
    return bytes(wire)


@given(
    damaged_headers()
    | st.binary(max_size=100).map(lambda tail: MAGIC + tail)
    | st.binary().map(lambda t: b"PROXY " + t)
)
@example(v2(INET_BLOCK + tlv(2, b"a") * 2 + STREAM))
@example(b"PROXY TCP6 ::ffff:1.2.3.4 ::1 1 2\r\n")
def test_hostile_bytes_meet_the_invariants_of_the_fuzz_target(wire: bytes) -> None:
    fuzz_proxy_header(wire)
