"""Datagrams of strangers: what opens a connection, what gets an answer, and what gets nothing."""

from __future__ import annotations

import pytest
from aioquic._buffer import Buffer
from aioquic.quic.connection import QuicConnection
from aioquic.quic.packet import QuicPacketType, pull_quic_header
from hypothesis import given
from hypothesis import strategies as st

from tests.transports.quic_pairs import credentials_of
from trunnel.transports.quic_configuration import CONNECTION_ID_LENGTH, client_configuration
from trunnel.transports.quic_strangers import VERSIONS, Doorkeeper, Newcomer, Reply, destination_untrusted

HERE = ("192.0.2.7", 40_000)
NOW = 5_000.0


def dial() -> QuicConnection:
    """Return a client that has not sent anything yet."""
    quic = QuicConnection(configuration=client_configuration(credentials_of("agent"), server_name=None))
    quic.connect(("198.51.100.1", 443), NOW)
    return quic


def first_of(quic: QuicConnection) -> bytes:
    """Return the next datagram of *quic*."""
    return quic.datagrams_to_send(NOW)[0][0]


INITIAL = first_of(dial())


def test_an_initial_opens_a_connection() -> None:
    quic = dial()
    initial = first_of(quic)
    verdict = Doorkeeper().judge_untrusted(initial, HERE, must_prove=False, now=NOW)
    assert isinstance(verdict, Newcomer)
    assert verdict.original_id == destination_untrusted(initial) == quic.original_destination_connection_id
    assert not verdict.proved


def test_a_retry_is_answered_once_from_the_same_address_and_in_time() -> None:
    door, quic = Doorkeeper(), dial()
    original = quic.original_destination_connection_id
    retry = door.judge_untrusted(first_of(quic), HERE, must_prove=True, now=NOW)
    assert isinstance(retry, Reply)
    assert len(retry.octets) < 200
    quic.receive_datagram(retry.octets, ("198.51.100.1", 443), NOW)
    second = first_of(quic)
    for must_prove in (True, False):
        verdict = door.judge_untrusted(second, HERE, must_prove=must_prove, now=NOW + 29)
        assert verdict == Newcomer(original_id=original, retry_id=destination_untrusted(second))
        assert verdict.proved
    for wrong in (("192.0.2.8", HERE[1]), (HERE[0], 40_001), ("2001:db8::7", HERE[1])):
        assert door.judge_untrusted(second, wrong, must_prove=True, now=NOW) is None
    assert door.judge_untrusted(second, HERE, must_prove=True, now=NOW + 31) is None
    assert Doorkeeper().judge_untrusted(second, HERE, must_prove=True, now=NOW) is None, "a token of another relay"


def test_an_unknown_version_is_told_what_we_speak() -> None:
    """Only what holds for every version is read: ids of up to 255 bytes, no fixed bit (RFC 8999)."""
    for length in (0, 8, 20, 255):
        destination, source = bytes(length), b"s" * length
        octets = b"\x80\x1a\x2a\x3a\x4a" + bytes([length]) + destination + bytes([length]) + source
        verdict = Doorkeeper().judge_untrusted(octets.ljust(1_200, b"\xff"), HERE, must_prove=True, now=NOW)
        assert isinstance(verdict, Reply)
        assert verdict.octets[1:5] == bytes(4)
        assert verdict.octets[5:] == bytes([length]) + source + bytes([length]) + destination + b"".join(
            version.to_bytes(4, "big") for version in VERSIONS
        )


@pytest.mark.parametrize(
    "octets",
    [
        pytest.param(b"", id="empty"),
        pytest.param(INITIAL[:1_199], id="too small a datagram"),
        pytest.param(b"\x40" + bytes(1_199), id="short header"),
        pytest.param(INITIAL[:1] + bytes(4) + INITIAL[5:], id="version negotiation"),
        pytest.param(bytes([INITIAL[0] | 0x10]) + INITIAL[1:], id="0-RTT"),
        pytest.param(bytes([INITIAL[0] | 0x20]) + INITIAL[1:], id="handshake"),
        pytest.param(bytes([INITIAL[0] | 0x30]) + INITIAL[1:], id="retry"),
        pytest.param(bytes([INITIAL[0] & ~0x40]) + INITIAL[1:], id="no fixed bit"),
        pytest.param((INITIAL[:5] + b"\x07" + INITIAL[7:]).ljust(1_200, b"\0"), id="short connection id"),
        pytest.param((INITIAL[:5] + b"\x15" + INITIAL[6:]).ljust(1_200, b"\0"), id="long connection id"),
        pytest.param(INITIAL[:5] + b"\xff" + INITIAL[6:], id="cut connection id"),
    ],
)
def test_anything_else_is_dropped(octets: bytes) -> None:
    assert Doorkeeper().judge_untrusted(octets, HERE, must_prove=False, now=NOW) is None


@given(st.binary(max_size=40))
def test_destinations_are_found_as_aioquic_finds_them(octets: bytes) -> None:
    found = destination_untrusted(octets)
    try:
        header = pull_quic_header(Buffer(data=octets), CONNECTION_ID_LENGTH)
    except ValueError:
        return
    assert found == header.destination_cid


def test_a_retry_is_one_that_a_client_believes() -> None:
    verdict = Doorkeeper().judge_untrusted(INITIAL, HERE, must_prove=True, now=NOW)
    assert isinstance(verdict, Reply)
    header = pull_quic_header(Buffer(data=verdict.octets), CONNECTION_ID_LENGTH)
    assert header.packet_type is QuicPacketType.RETRY
    assert len(header.source_cid) == CONNECTION_ID_LENGTH
