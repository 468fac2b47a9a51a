"""Fuzz targets for PROXY headers, control messages and host names.

Invariants: nothing but `RemoteProtocolError` leaves a parser; the result does
not depend on how the bytes were cut; no byte behind a message is lost; what
was accepted can be written again and reads back as the same value; and no
parser keeps more than its limit.
"""

from __future__ import annotations

from collections.abc import Iterator

from trunnel.errors import ErrorCode, LocalProtocolError, RemoteProtocolError
from trunnel.names import HOSTNAME_MAX, Hostname, is_ip_literal, parse_hostname_untrusted
from trunnel.settings.limits import CONTROL_MESSAGE_MAX, PROXY_HEADER_MAX
from trunnel.wire.control import Message, Phase, advance_untrusted
from trunnel.wire.control_codec import LENGTH, ControlDecoder, encode
from trunnel.wire.proxyheader import INET, PROXY, V2_MAGIC, measure_v2_untrusted, parse_v1_untrusted, parse_v2_untrusted
from trunnel.wire.proxyprotocol import (
    Preface,
    ProxyHeader,
    ProxyParser,
    TlvType,
    encode_v1,
    encode_v2,
    read_preface_untrusted,
    visitor_preface,
)
from trunnel.wire.proxytlv import SSL_HEAD, TLV_HEAD, parse_ssl_untrusted, parse_tlvs_untrusted, walk_tlvs_untrusted

Refusal = tuple[str, ErrorCode]
"""Reason and code: a refusal as a value."""


def _pieces(wire: bytes) -> Iterator[bytes]:
    """Cut *wire* into pieces whose sizes depend on its bytes: 1 to 16."""
    at = 0
    while at < len(wire):
        size = 1 + wire[at] % 16
        yield wire[at : at + size]
        at += size


def _proxy_outcome(chunks: Iterator[bytes]) -> tuple[ProxyHeader, bytes] | Refusal | None:
    parser = ProxyParser()
    rest = b""
    try:
        for chunk in chunks:
            if parser.header is not None:
                rest += chunk
            elif parser.feed_untrusted(chunk) is not None:
                rest = parser.leftover
            else:
                assert 0 < parser.needed <= PROXY_HEADER_MAX
    except RemoteProtocolError as exc:
        return exc.reason, exc.code
    return None if parser.header is None else (parser.header, rest)


def fuzz_proxy_header(data: bytes) -> None:
    """Check PROXY headers, v1 and v2, and the preface of a stream."""
    whole = _proxy_outcome(iter([data]))
    assert _proxy_outcome(_pieces(data)) == whole
    _check_parts(data)
    if whole is None or isinstance(whole[0], str):
        return
    header, rest = whole
    assert isinstance(rest, bytes)
    assert data.endswith(rest)
    _check_properties(header)
    for checksum in (False, True):
        try:
            wire = encode_v2(header, checksum=checksum)
        except ValueError:
            # Canonical form and checksum may be longer than what came, by one address or one TLV.
            assert len(data) - len(rest) > PROXY_HEADER_MAX - 64
            continue
        assert _proxy_outcome(iter([wire])) == (header, b"")
    addresses = ProxyHeader(header.source, header.destination)
    assert _proxy_outcome(iter([encode_v1(addresses)])) == (addresses, b"")


def _check_parts(data: bytes) -> None:
    """Give *data* to each part of the parser by itself, as the part that it reads."""
    for part in (
        parse_v1_untrusted,
        parse_ssl_untrusted,
        lambda block: parse_tlvs_untrusted(block, 0),
        lambda block: list(walk_tlvs_untrusted(block, 0)),
        lambda block: measure_v2_untrusted(V2_MAGIC + block[:4].ljust(4, b"\0")),
        lambda block: parse_v2_untrusted(V2_MAGIC + bytes([PROXY, INET, *len(block).to_bytes(2, "big")]) + block),
    ):
        try:
            part(data)
        except RemoteProtocolError as exc:
            refusal = exc.code
        else:
            refusal = ErrorCode.BAD_PREFACE
        assert refusal is ErrorCode.BAD_PREFACE


def _check_properties(header: ProxyHeader) -> None:
    """Read every property, and the preface; what is a preface must come out of our encoder again."""
    assert header.authority is None or header.authority.encode() == header.first(TlvType.AUTHORITY)
    if header.ssl is not None:
        nested = sum(TLV_HEAD.size + len(tlv.value) for tlv in header.ssl.fields)
        assert len(header.first(TlvType.SSL) or b"") == SSL_HEAD.size + nested
    try:
        preface = read_preface_untrusted(header)
    except RemoteProtocolError as exc:
        refusal = exc.code
    else:
        assert _reread(preface) == preface
        refusal = ErrorCode.BAD_PREFACE
    assert refusal is ErrorCode.BAD_PREFACE


def _reread(preface: Preface) -> Preface:
    """Return *preface* written and read again."""
    wire = visitor_preface(
        visitor=preface.visitor,
        local=preface.local,
        authority=preface.authority,
        alpn=preface.alpn,
        stream=preface.stream,
        kind=preface.kind,
        endpoint=preface.endpoint,
    )
    header = ProxyParser(versions=(2,)).feed_untrusted(wire)
    assert header is not None
    return read_preface_untrusted(header)


def _control_outcome(chunks: Iterator[bytes]) -> tuple[list[Message], Refusal | int]:
    """Return the messages and the refusal, or the bytes that wait for more."""
    decoder = ControlDecoder()
    messages: list[Message] = []
    for chunk in chunks:
        try:
            messages += decoder.feed_untrusted(chunk)
        except RemoteProtocolError as exc:
            return messages, (exc.reason, exc.code)
        assert decoder.pending < LENGTH.size + CONTROL_MESSAGE_MAX
    return messages, decoder.pending


def fuzz_control(data: bytes) -> None:
    """Check control messages: *data* as a stream, and *data* as the body of one message."""
    _check_control_stream(data)
    if 0 < len(data) <= CONTROL_MESSAGE_MAX:
        _check_control_stream(LENGTH.pack(len(data)) + data)


def _check_control_stream(wire: bytes) -> None:
    messages, end = _control_outcome(iter([wire]))
    in_pieces, end_in_pieces = _control_outcome(_pieces(wire))
    assert end_in_pieces == end
    assert in_pieces == messages or isinstance(end, tuple)  # a refusal takes its chunk's messages with it
    _check_order(in_pieces)
    for message in in_pieces:
        try:
            again = encode(message)
        except LocalProtocolError:
            # Shorter on the wire than in our spelling, for example without the optional fields.
            assert len(wire) > CONTROL_MESSAGE_MAX // 2
            continue
        assert _control_outcome(iter([again])) == ([message], 0)


def _check_order(messages: list[Message]) -> None:
    """Follow the conversation from both ends; once it has ended nothing is received."""
    for phase in (Phase.EXPECT_HELLO, Phase.EXPECT_ANSWER):
        for message in messages:
            try:
                phase = advance_untrusted(phase, message)  # noqa: PLW2901 - the phase is what the messages move
            except RemoteProtocolError:
                break
            assert phase not in (Phase.EXPECT_HELLO, Phase.EXPECT_ANSWER)


def fuzz_hostname(data: bytes) -> None:
    """Check host names, in particular that only ASCII is folded."""
    try:
        name = parse_hostname_untrusted(data)
    except RemoteProtocolError:
        return
    assert name == parse_hostname_untrusted(name.value.encode("ascii")) == Hostname.parse(name.value)
    assert name.value.encode("ascii") in (data.lower(), data.lower()[:-1])
    assert 0 < len(name.value) <= HOSTNAME_MAX
    assert not is_ip_literal(name.value)
