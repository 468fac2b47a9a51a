"""Admission: caps hold, counts are exact, and a ticket counts once."""

from __future__ import annotations

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from trunnel.names import Hostname
from trunnel.relay.admission import (
    Admission,
    AdmissionLimits,
    Admit,
    Decision,
    Refuse,
    RefuseReason,
    Room,
    Ticket,
    peer_keys,
    room_for,
)
from trunnel.settings.limits import RESERVED_DESCRIPTORS

CAPS = AdmissionLimits(
    half_open_per_address=2,
    half_open_total=12,
    visitors_per_address=2,
    visitors_total=5,
    challenges_per_name=2,
    handshakes_total=3,
)
HOSTS = (
    "192.0.2.1",
    "192.0.2.2",
    "::ffff:192.0.2.1",
    *(f"2001:db8:1:{net}::{host}" for net in range(6) for host in (1, 2)),
    "2001:db8:2::1",
)
NAMES = (Hostname("a.example"), Hostname("b.example"))


def admitted(decision: Decision) -> Ticket:
    assert isinstance(decision, Admit)
    return decision.ticket


def test_the_cap_of_an_address_refuses_it_and_nobody_else() -> None:
    admission = Admission(CAPS)
    for _ in range(2):
        admitted(admission.admit_connection("192.0.2.1"))
    assert admission.admit_connection("192.0.2.1") == Refuse(RefuseReason.HALF_OPEN_ADDRESS)
    admitted(admission.admit_connection("192.0.2.2"))


def test_a_mapped_address_is_the_ipv4_address() -> None:
    assert peer_keys("::ffff:192.0.2.1") == peer_keys("192.0.2.1")


def test_ipv6_is_counted_by_64() -> None:
    """SEC-29: another address of the same /64 does not help."""
    admission = Admission(CAPS)
    for host in ("2001:db8:1:1::1", "2001:db8:1:1:ffff::2"):
        admitted(admission.admit_connection(host))
    assert admission.admit_connection("2001:db8:1:1::3") == Refuse(RefuseReason.HALF_OPEN_ADDRESS)


def test_ipv6_is_counted_by_48_too() -> None:
    """SEC-29: a /48 has 65,536 networks; together they may have four times what one may."""
    admission = Admission(CAPS)
    for net in range(8):
        admitted(admission.admit_connection(f"2001:db8:1:{net}::1"))
    assert admission.admit_connection("2001:db8:1:8::1") == Refuse(RefuseReason.HALF_OPEN_ADDRESS)
    admitted(admission.admit_connection("2001:db8:2::1"))


def test_totals_refuse_everybody() -> None:
    admission = Admission(AdmissionLimits(half_open_total=1, visitors_total=1, handshakes_total=1))
    admitted(admission.admit_connection("192.0.2.1"))
    admitted(admission.admit_visitor("192.0.2.1"))
    admitted(admission.admit_handshake("192.0.2.1"))
    host = "192.0.2.2"
    decisions = (admission.admit_connection(host), admission.admit_visitor(host), admission.admit_handshake(host))
    assert decisions == (
        Refuse(RefuseReason.HALF_OPEN_TOTAL),
        Refuse(RefuseReason.VISITORS_TOTAL),
        Refuse(RefuseReason.HANDSHAKES_TOTAL),
    )


def test_handshakes_of_one_address_do_not_use_up_anothers() -> None:
    """A stranger that stalls 32 handshakes must not keep agents elsewhere out."""
    admission = Admission(AdmissionLimits(handshakes_per_address=2))
    for _ in range(2):
        admitted(admission.admit_handshake("192.0.2.1"))
    assert admission.admit_handshake("192.0.2.1") == Refuse(RefuseReason.HANDSHAKES_ADDRESS)
    admitted(admission.admit_handshake("192.0.2.2"))


def test_unproven_data_connections_are_capped_for_each_address() -> None:
    """One address cannot fill every handshake's place with them; a place that is given back is free."""
    admission = Admission(AdmissionLimits(direct_half_open_per_address=2))
    ticket = admitted(admission.admit_data("192.0.2.1"))
    admitted(admission.admit_data("192.0.2.1"))
    assert admission.admit_data("192.0.2.1") == Refuse(RefuseReason.DATA_ADDRESS)
    admitted(admission.admit_data("192.0.2.2"))
    ticket.release()
    admitted(admission.admit_data("192.0.2.1"))


def test_challenges_are_capped_for_each_name() -> None:
    """LOAD-04: one name's challenges do not use up another's."""
    admission = Admission(CAPS)
    for _ in range(2):
        admitted(admission.admit_challenge(NAMES[0], "192.0.2.1"))
    assert admission.admit_challenge(NAMES[0], "192.0.2.2") == Refuse(RefuseReason.CHALLENGES_NAME)
    admitted(admission.admit_challenge(NAMES[1], "192.0.2.1"))


@pytest.mark.parametrize("crowd", [["192.0.2.1", "192.0.2.1"], ["2001:db8:0:1::1", "2001:db8:0:2::1"]])
def test_one_address_leaves_room_for_an_authoritys_challenges(crowd: list[str]) -> None:
    """Whoever stalls does not keep the name's owner from a certificate; a site of IPv6 is one address here."""
    admission = Admission(AdmissionLimits(challenges_per_name=3, challenges_per_address=2))
    stalled = [admitted(admission.admit_challenge(NAMES[0], host)) for host in crowd]
    assert admission.admit_challenge(NAMES[0], crowd[-1]) == Refuse(RefuseReason.CHALLENGES_ADDRESS)
    admitted(admission.admit_challenge(NAMES[0], "192.0.2.9"))
    stalled[0].release()
    admitted(admission.admit_challenge(NAMES[0], crowd[-1]))


def test_a_crowd_for_one_name_is_none_for_another() -> None:
    admission = Admission(AdmissionLimits(challenges_per_address=1))
    for name in NAMES:
        ticket = admitted(admission.admit_challenge(name, "2001:db8:0:1::1"))
        assert admission.admit_challenge(name, "2001:db8:0:2::1") == Refuse(RefuseReason.CHALLENGES_ADDRESS)
        ticket.release()
        admitted(admission.admit_challenge(name, "2001:db8:0:2::1"))
    assert admission.challenges.total == len(NAMES)


def test_a_ticket_is_given_back_once() -> None:
    admission = Admission(CAPS)
    other = admitted(admission.admit_connection("192.0.2.1"))
    with admitted(admission.admit_connection("192.0.2.1")) as ticket:
        ticket.release()
        ticket.release()
    assert ticket.released
    assert not other.released
    assert admission.half_open.total == 1


@pytest.mark.parametrize(
    ("descriptor", "limit", "room"),
    [
        (10_000, None, Room.AMPLE),
        (511 - RESERVED_DESCRIPTORS, 512, Room.AMPLE),
        (512 - RESERVED_DESCRIPTORS, 512, Room.SCARCE),
        (511 - RESERVED_DESCRIPTORS // 2, 512, Room.SCARCE),
        (512 - RESERVED_DESCRIPTORS // 2, 512, Room.NONE),
        (10, 20, Room.AMPLE),
        (600, 512, Room.NONE),
    ],
)
def test_descriptors_are_kept_in_reserve(descriptor: int, limit: int | None, room: Room) -> None:
    """LOAD-05: visitors are refused first, and never the last descriptor is given away."""
    assert room_for(descriptor, limit) is room


class Churn(RuleBasedStateMachine):
    """Tickets come and go in any order; the model is the list of those that are out."""

    def __init__(self) -> None:
        super().__init__()
        self.admission = Admission(CAPS)
        self.connections: list[tuple[str, Ticket]] = []
        self.visitors: list[tuple[str, Ticket]] = []
        self.challenges: list[tuple[Hostname, Ticket]] = []

    @staticmethod
    def out(held: list[tuple[str, Ticket]], host: str, position: int) -> int:
        """Count the tickets out that share the key of *host* at *position*."""
        keys = peer_keys(host)
        return sum(peer_keys(other)[position : position + 1] == keys[position : position + 1] for other, _ in held)

    def full(self, held: list[tuple[str, Ticket]], host: str, cap: int) -> bool:
        site = len(peer_keys(host)) > 1 and self.out(held, host, 1) >= cap * 4
        return site or self.out(held, host, 0) >= cap

    @rule(host=st.sampled_from(HOSTS))
    def connect(self, host: str) -> None:
        full = self.full(self.connections, host, CAPS.half_open_per_address)
        full = full or len(self.connections) >= CAPS.half_open_total
        decision = self.admission.admit_connection(host)
        assert isinstance(decision, Refuse) == full
        if isinstance(decision, Admit):
            self.connections.append((host, decision.ticket))

    @rule(host=st.sampled_from(HOSTS))
    def visit(self, host: str) -> None:
        full = self.full(self.visitors, host, CAPS.visitors_per_address) or len(self.visitors) >= CAPS.visitors_total
        decision = self.admission.admit_visitor(host)
        assert isinstance(decision, Refuse) == full
        if isinstance(decision, Admit):
            self.visitors.append((host, decision.ticket))

    @rule(name=st.sampled_from(NAMES))
    def challenge(self, name: Hostname) -> None:
        full = sum(held == name for held, _ in self.challenges) >= CAPS.challenges_per_name
        decision = self.admission.admit_challenge(name, f"192.0.2.{len(self.challenges)}")
        assert isinstance(decision, Refuse) == full
        if isinstance(decision, Admit):
            self.challenges.append((name, decision.ticket))

    @rule(choice=st.randoms(use_true_random=False), twice=st.booleans())
    def leave(self, choice: object, twice: bool) -> None:
        """Somebody leaves, perhaps saying so twice."""
        held = [kind for kind in (self.connections, self.visitors, self.challenges) if kind]
        if held:
            kind = choice.choice(held)  # type: ignore[attr-defined]
            _, ticket = kind.pop(choice.randrange(len(kind)))  # type: ignore[attr-defined]
            for _ in range(1 + twice):
                ticket.release()

    @invariant()
    def counts_are_exact(self) -> None:
        assert self.admission.half_open.total == len(self.connections)
        assert self.admission.visitors.total == len(self.visitors)
        assert self.admission.challenges.total == len(self.challenges)
        assert self.admission.half_open.keys == len({key for host, _ in self.connections for key in peer_keys(host)})


TestChurn = Churn.TestCase
