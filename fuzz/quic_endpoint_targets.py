"""Fuzz targets for what any stranger may send to the relay's UDP port.

Invariants: nothing is raised; an answer is shorter than what it answers, and
a newcomer's datagram is as large as an Initial's; noise leaves no connection
behind, and a connection goes on whatever comes to its id.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from functools import cache
from typing import cast

import trio
from aioquic.quic.connection import QuicConnection

from trunnel.identity.keys import IdentityKey, link_certificate
from trunnel.streams.listen import HostPort
from trunnel.streams.udp import Datagram, UdpSocket
from trunnel.transports.quic_configuration import QuicCredentials, client_configuration
from trunnel.transports.quic_endpoint import QuicEndpoint
from trunnel.transports.quic_handshake import QuicCarrier
from trunnel.transports.quic_link import QuicLink
from trunnel.transports.quic_strangers import (
    INITIAL_DATAGRAM_MIN,
    Doorkeeper,
    Newcomer,
    Reply,
    destination_untrusted,
)

STRANGER: HostPort = ("192.0.2.1", 1_234)
NOW = 1_000.0


@cache
def _credentials() -> QuicCredentials:
    key = IdentityKey.generate()
    return QuicCredentials(private_key=key.private_key, chain=(link_certificate(key, now=datetime.now(UTC)),))


@cache
def _initial() -> bytes:
    """Return the first datagram of an honest agent."""
    quic = QuicConnection(configuration=client_configuration(_credentials(), server_name=None))
    quic.connect(("198.51.100.1", 443), NOW)
    return quic.datagrams_to_send(NOW)[0][0]


class _Wire:
    """A socket that keeps what is sent."""

    clogged = False

    def __init__(self) -> None:
        self.address: HostPort = ("198.51.100.1", 443)
        self.sent: list[bytes] = []

    def send(self, datagrams: Iterable[Datagram]) -> int:
        """Keep *datagrams*."""
        self.sent += [octets for octets, _ in datagrams]
        return 0

    def pass_on(self, datagram: bytes, source: HostPort) -> None:
        """Have nobody before us."""


class _Place:
    """A place that costs nothing."""

    def release(self) -> None:
        """Nothing to give back."""


def fuzz_quic_strangers(data: bytes) -> None:
    """Check the verdict on one datagram, as it came and filled up to an Initial's size."""
    door = Doorkeeper()
    for datagram in (data, data.ljust(INITIAL_DATAGRAM_MIN, b"\0")):
        destination = destination_untrusted(datagram)
        for must_prove in (False, True):
            verdict = door.judge_untrusted(datagram, STRANGER, must_prove=must_prove, now=NOW)
            if verdict is not None:
                assert len(datagram) >= INITIAL_DATAGRAM_MIN
            if isinstance(verdict, Reply):
                assert len(verdict.octets) < len(datagram)
            if isinstance(verdict, Newcomer):
                assert not must_prove
                assert not verdict.proved
                assert verdict.original_id == destination


def fuzz_quic_endpoint(data: bytes) -> None:
    """Send noise to an endpoint: by itself, over an honest Initial, and to the connection that this has opened."""
    trio.run(_endpoint, data)


async def _endpoint(data: bytes) -> None:
    wire = _Wire()
    socket = cast("UdpSocket", wire)
    served: list[QuicCarrier] = []
    endpoint = QuicEndpoint([socket], _credentials(), start=served.append, admit=lambda _: _Place(), window_max=1 << 20)
    now = trio.current_time()

    def take(datagram: bytes) -> QuicLink | None:
        before = sum(map(len, wire.sent))
        link = endpoint.take_untrusted(datagram, STRANGER, socket, now)
        endpoint.settle([] if link is None else [link], now)
        assert sum(map(len, wire.sent)) - before <= 3 * len(datagram), "more comes out than a stranger may cause"
        return link

    take(data)
    take(data.ljust(INITIAL_DATAGRAM_MIN, b"\0"))
    at = 7 + len(data) % 64
    take(_initial()[:at] + data + _initial()[at + len(data) :])
    honest = take(_initial())
    if honest is not None and not honest.connection.ending:
        for octets in (data, _initial()[:5] + data, b"\x40" + honest.connection.host_cid + data):
            take(octets)
        assert endpoint.statistics().connections >= 1
    assert not served, "nobody has proved a key"
