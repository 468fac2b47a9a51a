"""How many carriers, and of which kind: each case of the policy, and that it settles."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from trunnel.agent.pooling import Step, View, carriers_wanted, next_step
from trunnel.settings import limits

NOTHING, ADD, ADD_QUIC, RETIRE = Step.NOTHING, Step.ADD_TCP, Step.ADD_QUIC, Step.RETIRE_TCP
PER = limits.STREAMS_PER_CARRIER


def view(tcp: str = "", quic: str = "", **facts: object) -> View:
    """Return a view; a carrier is `+` if it answers, `-` if it does not."""
    given: dict[str, object] = {"quic_settled": False, "peak": 0, "pool_size": 4, "tcp_allowed": True, **facts}
    return View(tcp=[each == "+" for each in tcp], quic=[each == "+" for each in quic], **given)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("peak", "pool_size", "wanted"),
    [
        (0, 4, 1),
        (1, 4, 2),
        (PER, 4, 2),
        (PER + 1, 4, 3),
        (2 * PER + 1, 4, 4),
        (1_000, 4, 4),
        (1_000, 32, 32),
        (1_000, 1, 1),
        (0, 1, 1),
    ],
)
def test_one_carrier_then_one_more_for_so_many_visitors(peak: int, pool_size: int, wanted: int) -> None:
    assert carriers_wanted(peak, pool_size) == wanted


@pytest.mark.parametrize(
    ("now", "step"),
    [
        # TCP alone
        (view("+"), NOTHING),
        (view("+", peak=1), ADD),
        (view("++", peak=1), NOTHING),
        (view("++"), RETIRE),
        (view("++++", peak=1_000), NOTHING),
        (view("+++++", peak=1_000), RETIRE),
        # a silent one does not count, and is not counted against the pool at once
        (view("-"), ADD),
        (view("-", pool_size=1), ADD),
        (view("-+", pool_size=1), NOTHING),
        (view("--", pool_size=1), NOTHING),
        (view("--------", peak=1_000), NOTHING),
        (view("-------", peak=1_000), ADD),
        (view("----++++", peak=1_000), NOTHING),
        (view("---+++++", peak=1_000), RETIRE),
        # QUIC that answers needs nothing beside it
        (view("", "+"), NOTHING),
        (view("", "+", peak=1_000), NOTHING),
        (view("+", "+"), NOTHING),
        (view("+", "+", quic_settled=True), RETIRE),
        (view("-", "+", quic_settled=True), RETIRE),
        (view("", "+", quic_settled=True), NOTHING),
        (view("", "-+", quic_settled=True), NOTHING),
        # QUIC that is silent, or gone
        (view("", "-"), ADD),
        (view("+", "-"), NOTHING),
        (view("+", "-", peak=1), ADD),
        (view("", ""), ADD),
        # TCP is not to be used: another QUIC connection beside a silent one, and no third
        (view("", "+", peak=1_000, tcp_allowed=False), NOTHING),
        (view("", "-", tcp_allowed=False), ADD_QUIC),
        (view("", "", tcp_allowed=False), ADD_QUIC),
        (view("", "-+", tcp_allowed=False), NOTHING),
        (view("", "--", tcp_allowed=False), NOTHING),
    ],
)
def test_what_to_do_next(now: View, step: Step) -> None:
    assert next_step(now) is step


@given(
    tcp=st.text("+-", max_size=40),
    quic=st.text("+-", max_size=2),
    settled=st.booleans(),
    peak=st.integers(0, 200),
    pool_size=st.integers(1, limits.POOL_SIZE_MAX),
    tcp_allowed=st.booleans(),
)
def test_steps_come_to_an_end_and_leave_a_carrier_that_answers(
    tcp: str, quic: str, *, settled: bool, peak: int, pool_size: int, tcp_allowed: bool
) -> None:
    """No state is left and entered again; a dial gives a carrier that answers, and never too many."""
    tcp = tcp if tcp_allowed else ""
    facts = {"quic_settled": settled, "peak": peak, "pool_size": pool_size, "tcp_allowed": tcp_allowed}
    steps: set[Step] = set()
    while (step := next_step(view(tcp, quic, **facts))) is not NOTHING:
        steps.add(step)
        if step is ADD:
            tcp += "+"
            assert len(tcp) <= 2 * pool_size
        elif step is ADD_QUIC:
            quic += "+"
            assert len(quic) <= 2
        else:
            tcp = tcp.replace("+", "", 1) if "+" in tcp else tcp[1:]
    assert len(steps) <= 1
    assert (ADD_QUIC if tcp_allowed else ADD) not in steps
    assert "+" in tcp + quic or len(tcp) >= 2 * pool_size or (len(quic) == 2 and not tcp_allowed)
