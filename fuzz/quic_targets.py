"""Fuzz targets for QUIC (FUZZ-05): decrypted payloads into a live connection, and datagrams of strangers.

Invariants: nothing is raised; the connection goes on or is closing with a
code, and then says so; buffers, streams, events and what is sent are bounded;
the ledger of what is buffered is exact.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager

from tests.transports.quic_wire import CLIENT, Wire
from trunnel.settings import limits
from trunnel.transports.quic_credit import CreditedConnection
from trunnel.transports.quic_guard import GuardedConnection

OPENED = 3
"""Streams that the relay's end opens before the noise comes."""
DATAGRAM = 1_200
ANSWER_MAX = 64 * limits.KIB
"""Bytes that one packet of a peer makes us send at most."""


@contextmanager
def quiet() -> Iterator[None]:
    """Keep what hostile bytes have logged out of the way."""
    loggers = [logging.getLogger(name) for name in ("quic", "trunnel.transports.quic_guard")]
    levels = [each.level for each in loggers]
    try:
        for each in loggers:
            each.setLevel(logging.CRITICAL)
        yield
    finally:
        for each, level in zip(loggers, levels, strict=True):
            each.setLevel(level)


@quiet()
def fuzz_quic_payload(data: bytes) -> None:
    """The first bit chooses the end; then packets, each a length and a payload."""
    if not data:
        return
    wire = Wire()
    wire.open(OPENED)
    wire.settle()
    end = wire.ends[data[0] & 1]
    at = 1
    while at < len(data) and end.ending is None:
        size = data[at] * 4
        wire.forge(end, data[at + 1 : at + 1 + size])
        at += 1 + size
        _check(end)
    wire.settle()
    for each in wire.ends:
        _check(each)


def _check(end: CreditedConnection) -> None:
    answers = [datagram for datagram, _ in end.datagrams_to_send(end._table.now)]  # noqa: SLF001  the ledger
    assert sum(map(len, answers)) <= ANSWER_MAX
    if end.ending is not None:
        assert end.ending.error_code >= 0
        assert end.datagrams_to_send(end._table.now) == []  # noqa: SLF001
        return
    table = end._table  # noqa: SLF001
    streams = dict.values(table)
    assert len(table) <= limits.STREAMS_PER_SESSION + OPENED + 1
    assert sum(len(stream.receiver._buffer) for stream in streams) <= limits.SESSION_CREDIT  # noqa: SLF001
    assert all(len(stream.receiver._ranges) <= limits.QUIC_RANGES_MAX for stream in streams)  # noqa: SLF001
    assert table.buffered == sum(len(stream.sender._buffer) for stream in streams)  # noqa: SLF001
    assert 0 <= table.unsent <= table.buffered
    assert all(0 <= end.room(stream_id) <= limits.QUIC_UNSENT_STREAM for stream_id in table)


@quiet()
def fuzz_quic_datagram(data: bytes) -> None:
    """Whatever a stranger sends, before and after the handshake."""
    for connect in (False, True):
        wire = Wire(connect=connect)
        if not connect:
            wire.flush()
        server: GuardedConnection = wire.server
        for datagram in (data, data.ljust(DATAGRAM, b"\0")):
            server.receive_untrusted(datagram, CLIENT, wire.now)
            assert sum(len(answer) for answer, _ in server.datagrams_to_send(wire.now)) <= ANSWER_MAX
        assert connect <= (server.ending is None), "a stranger cannot end a connection that stands"
