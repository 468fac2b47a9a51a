"""The twelve bytes: golden frames, what is refused by its header, and the writer's order."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunnel.errors import RemoteProtocolError
from trunnel.wire.yamux_frames import (
    ACK,
    FIN,
    HEADER_BYTES,
    RST,
    SYN,
    FrameHeader,
    FrameType,
    FrameWriter,
    GoAwayCode,
    encode_header,
    parse_header_untrusted,
)

GOLDEN = [
    # Written by hand from the specification; they must decode for ever.
    ("00 01 0001 00000001 00000000", FrameHeader(FrameType.WINDOW_UPDATE, SYN, 1, 0)),
    ("00 01 0002 00000001 00000000", FrameHeader(FrameType.WINDOW_UPDATE, ACK, 1, 0)),
    ("00 00 0000 00000001 00000005", FrameHeader(FrameType.DATA, 0, 1, 5)),
    ("00 00 0005 00000003 00000005", FrameHeader(FrameType.DATA, SYN | FIN, 3, 5)),
    ("00 01 0000 00000001 00040000", FrameHeader(FrameType.WINDOW_UPDATE, 0, 1, 262_144)),
    ("00 01 0004 00000001 00000000", FrameHeader(FrameType.WINDOW_UPDATE, FIN, 1, 0)),
    ("00 01 0008 00000001 00000101", FrameHeader(FrameType.WINDOW_UPDATE, RST, 1, 0x101)),
    ("00 02 0001 00000000 7472 6e6c", FrameHeader(FrameType.PING, SYN, 0, 0x7472_6E6C)),
    ("00 02 0002 00000000 ffffffff", FrameHeader(FrameType.PING, ACK, 0, 0xFFFF_FFFF)),
    ("00 03 0000 00000000 00000001", FrameHeader(FrameType.GO_AWAY, 0, 0, GoAwayCode.PROTOCOL_ERROR)),
]


@pytest.mark.parametrize(("wire", "header"), GOLDEN)
def test_golden_headers(wire: str, header: FrameHeader) -> None:
    octets = bytes.fromhex(wire)
    assert len(octets) == HEADER_BYTES
    assert parse_header_untrusted(octets) == header
    assert encode_header(*header) == octets
    assert parse_header_untrusted(b"before" + octets + b"behind", 6) == header


@pytest.mark.parametrize(
    ("wire", "reason"),
    [
        ("01 00 0000 00000001 00000000", "version 1"),
        ("00 04 0000 00000000 00000000", "type 4"),
        ("00 ff 0000 00000001 00000000", "type 255"),
        ("00 00 0010 00000001 00000000", "flags 0x0010"),
        ("00 01 8001 00000001 00000000", "flags 0x8001"),
        ("00 00 0000 00000000 00000000", "type 0 for stream 0"),
        ("00 01 0001 00000000 00000000", "type 1 for stream 0"),
        ("00 02 0001 00000001 00000000", "type 2 for stream 1"),
        ("00 03 0000 00000001 00000000", "type 3 for stream 1"),
    ],
)
def test_headers_without_meaning_are_refused(wire: str, reason: str) -> None:
    with pytest.raises(RemoteProtocolError, match=reason):
        parse_header_untrusted(bytes.fromhex(wire))


@given(st.binary(min_size=HEADER_BYTES, max_size=HEADER_BYTES))
def test_a_header_that_parses_encodes_to_itself(octets: bytes) -> None:
    try:
        header = parse_header_untrusted(octets)
    except RemoteProtocolError:
        return
    assert encode_header(*header) == octets


def test_the_writer_keeps_the_order_of_the_calls_and_counts_answers() -> None:
    writer = FrameWriter()
    writer.frame(FrameType.PING, SYN, 0, 7)
    writer.data(1, memoryview(b"payload"))
    writer.answer(FrameType.WINDOW_UPDATE, ACK, 3, 0)
    assert writer.pending == 3 * HEADER_BYTES + 7
    assert writer.answers == HEADER_BYTES
    assert bytes(writer.take()) == b"".join(
        (
            encode_header(FrameType.PING, SYN, 0, 7),
            encode_header(FrameType.DATA, 0, 1, 7),
            b"payload",
            encode_header(FrameType.WINDOW_UPDATE, ACK, 3, 0),
        )
    )
    assert (writer.pending, writer.answers, bytes(writer.take())) == (0, 0, b"")
