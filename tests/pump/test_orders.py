"""The packets between supervisor and worker: they say what they are given, and nothing else passes."""

from __future__ import annotations

import math
import struct

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunnel.pump.employed import _ENDS
from trunnel.pump.orders import (
    ORDER_MAX,
    ORDERS_PER_PACKET,
    REPORT_BATCH,
    REPORT_SIZE,
    Finish,
    News,
    Order,
    Report,
    Verb,
    decode_orders,
    decode_reports,
)
from trunnel.settings import limits
from trunnel.streams.copy import End

GOOD = Order(Verb.TAKE, 1).encode()
SECONDS = st.floats(0, allow_nan=False)
COUNTS = st.integers(0, 2**64 - 1)
NUMBERS = st.integers(0, 2**32 - 1)
ORDERS = st.builds(
    Order,
    st.sampled_from([verb for verb in Verb if verb is not Verb.LEAF]),
    NUMBERS,
    st.integers(0, limits.PUMP_STREAMS_MAX - 1),
    st.integers(0, 1),
    SECONDS,
    SECONDS,
    SECONDS,
    SECONDS,
    st.just(b""),
)
REPORTS = st.builds(
    Report,
    st.sampled_from(News),
    NUMBERS,
    st.sampled_from(Finish),
    st.sampled_from(Finish),
    SECONDS,
    COUNTS,
    COUNTS,
    st.text(st.characters(codec="ascii", exclude_characters="\0"), max_size=64).map(str.encode),
)


@given(orders=st.lists(ORDERS, max_size=3))
def test_orders_arrive_in_order(orders: list[Order]) -> None:
    packet = b"".join(order.encode() for order in orders)
    assert decode_orders(packet) == orders
    assert len(GOOD) * ORDERS_PER_PACKET <= ORDER_MAX


@given(payload=st.binary(max_size=2000))
def test_an_order_with_a_payload_has_a_packet_of_its_own(payload: bytes) -> None:
    order = Order(Verb.LEAF, 0, payload=payload)
    assert decode_orders(order.encode()) == [order]


@given(reports=st.lists(REPORTS, max_size=5))
def test_reports_arrive_in_order(reports: list[Report]) -> None:
    packet = b"".join(report.encode() for report in reports)
    assert len(packet) == REPORT_SIZE * len(reports)
    assert decode_reports(packet) == reports


def test_no_deadline_is_infinity() -> None:
    assert decode_orders(Order(Verb.TAKE, 1, total=math.inf).encode())[0].total == math.inf


@pytest.mark.parametrize(
    "packet", [b"\1", b"\0" + Order(Verb.TAKE, 1).encode()[1:], Order(Verb.TAKE, 1).encode() + b"\1"]
)
def test_what_is_no_order_is_a_bug_and_raises(packet: bytes) -> None:
    with pytest.raises((struct.error, ValueError)):
        decode_orders(packet)


@pytest.mark.parametrize("packet", [b"\1", b"\0" * REPORT_SIZE, Report(News.DONE).encode() + b"\0"])
def test_what_is_no_report_is_a_bug_and_raises(packet: bytes) -> None:
    with pytest.raises((struct.error, ValueError)):
        decode_reports(packet)


def test_a_full_batch_fits_into_a_packet_of_the_kernel() -> None:
    """A sequenced packet has to fit into the send buffer: 208 KiB by default, doubled bookkeeping counted."""
    assert REPORT_BATCH * REPORT_SIZE <= 64 * 1024


def test_every_finish_is_an_end() -> None:
    """What never ended when the other side was gone counts as cancelled, as in `streams.copy`."""
    assert {finish: _ENDS[finish] for finish in Finish} == {
        Finish.NOT: End.CANCELLED,
        **{Finish[end.name]: end for end in End},
    }
