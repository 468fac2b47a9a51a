"""The data door: who is parked, who is told why not, and who is just reset."""

from __future__ import annotations

import logging

import pytest
import trio
import trio.testing

from tests.relay.house import until
from tests.relay.yard import RELAY, Yard, has_ended, yard
from trunnel import capabilities
from trunnel.errors import ConnectError
from trunnel.names import KeyId
from trunnel.relay import ingress
from trunnel.relay.admission import AdmissionLimits, Room
from trunnel.relay.ingress import Role
from trunnel.relay.parking import room_for_parked
from trunnel.settings import limits
from trunnel.transports.direct import DirectTerms
from trunnel.wire.direct import (
    CHALLENGE_SIZE,
    MAGIC,
    PREFACE_SIZE,
    PROOF_SIZE,
    DirectKeys,
    Preface,
    Refusal,
    read_challenge_untrusted,
    refusal_bytes,
    relay_digest,
    session_tag,
)

NONCE = bytes(range(32))


def preface(built: Yard, *, relay: KeyId = RELAY, session: str | None = None) -> bytes:
    """Return the preface of a connection for the yard's session."""
    return Preface(relay_digest(relay), session_tag(session or built.lot.terms.session), NONCE).encode()


@pytest.fixture(params=["peeking", "reading"])
def road(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """With and without MSG_PEEK and what goes with it."""
    if request.param == "reading":
        monkeypatch.setattr(capabilities, "HAS_MSG_PEEK", False)
    return str(request.param)


# --- parked -----------------------------------------------------------------------------------


@pytest.mark.usefixtures("road")
async def test_a_connection_that_proves_its_session_is_parked() -> None:
    """It is no longer half-open then, and no task waits for it."""
    async with yard() as built:
        tasks = trio.lowlevel.current_statistics().tasks_living
        links = await built.park(3)
        await built.idle()
        assert len(built.lot) == built.lots.parked == 3
        assert trio.lowlevel.current_statistics().tasks_living == tasks
        taken = built.lot.take()
        assert taken is not None
        assert taken.stream.socket.getpeername() == links[-1].stream.socket.getsockname(), "the newest"
        taken.abort()
        assert await has_ended(links[-1].stream)


@pytest.mark.usefixtures("road")
async def test_a_preface_may_come_in_pieces() -> None:
    async with yard() as built:
        stream = await built.dial()
        for octet in preface(built):
            await stream.send_all(bytes([octet]))
            await trio.testing.wait_all_tasks_blocked()
        challenge = await stream.receive_some(CHALLENGE_SIZE)
        assert isinstance(read_challenge_untrusted(bytes(challenge)), bytes)


async def test_each_session_has_its_own_lot() -> None:
    """A session's secret opens no other session's lot."""
    async with yard() as built:
        other = built.open("session-two")
        await built.prove(other.terms)
        await until(lambda: len(other) == 1)
        assert len(built.lot) == 0
        assert other.terms.secret != built.lot.terms.secret
        with pytest.raises(ConnectError):
            await built.prove(DirectTerms(other.terms.secret, RELAY, built.lot.terms.session))
        await built.idle()
        assert len(built.lot) == 0


# --- refused with a reason --------------------------------------------------------------------


async def test_who_means_another_relay_is_told_so() -> None:
    async with yard() as built:
        terms = DirectTerms(built.lot.terms.secret, KeyId.of_spki(b"another"), built.lot.terms.session)
        with pytest.raises(ConnectError, match="another relay"):
            await built.prove(terms)


@pytest.mark.parametrize("ended", [False, True], ids=["never was", "over"])
async def test_a_session_that_is_not_here_is_told_so(ended: bool) -> None:
    async with yard() as built:
        terms = DirectTerms(bytes(32), RELAY, "unknown")
        if ended:
            terms = built.lot.terms
            built.lot.close()
        with pytest.raises(ConnectError, match="does not know the session"):
            await built.prove(terms)


async def test_a_relay_that_drains_says_so() -> None:
    async with yard() as built:
        built.door.draining = True
        with pytest.raises(ConnectError, match="shutting down"):
            await built.prove()


async def test_another_version_is_told_so() -> None:
    async with yard() as built:
        said = bytearray(preface(built))
        said[len(MAGIC)] += 1
        assert await built.tell(bytes(said)) == refusal_bytes(Refusal.VERSION)


@pytest.mark.parametrize("why", ["room", "descriptors"])
async def test_a_full_relay_says_so(why: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is left of descriptors is for agents' carriers."""
    async with yard(room=2) as built:
        if why == "descriptors":
            monkeypatch.setattr(ingress, "room_for", lambda *_: Room.SCARCE)
        else:
            await built.prove(built.open("session-two").terms)
            await until(lambda: built.lots.parked == 1)
            await built.park()
        with pytest.raises(ConnectError, match="as many data connections as it may"):
            await built.prove()


def test_parked_connections_take_a_part_of_the_descriptors_only() -> None:
    assert room_for_parked(None) == room_for_parked(1_000_000) == limits.PARKED_TOTAL
    assert room_for_parked(1_024) == 256


# --- reset without a word ---------------------------------------------------------------------


@pytest.mark.usefixtures("road")
@pytest.mark.parametrize("said", [MAGIC[:1] + b"GET / HTTP/1.1\r\n\r\n", MAGIC[:-1] + b"!" + bytes(200)])
async def test_what_only_begins_like_a_data_connection_is_reset(said: bytes) -> None:
    async with yard() as built:
        assert await built.tell(said) is None
        await built.idle()
        assert built.verdicts == [], "it is no visitor"


async def test_a_wrong_secret_parks_nothing(caplog: pytest.LogCaptureFixture) -> None:
    """The relay proves itself first, so the agent notices; who says something all the same is cut off."""
    caplog.set_level(logging.INFO)
    async with yard() as built:
        with pytest.raises(ConnectError, match="does not know the session's secret"):
            await built.prove(DirectTerms(bytes(32), RELAY, built.lot.terms.session))
        stream = await built.dial(preface(built))
        assert len(await stream.receive_some(CHALLENGE_SIZE)) == CHALLENGE_SIZE
        await stream.send_all(bytes(PROOF_SIZE))
        assert await has_ended(stream)
        await built.idle()
        assert len(built.lot) == 0
    assert "data_connection_refused" in [record.message for record in caplog.records]


async def test_a_recorded_exchange_proves_nothing() -> None:
    """The relay's nonce is another one each time."""
    async with yard() as built:
        first = await built.dial(preface(built))
        challenge = bytes(await first.receive_some(CHALLENGE_SIZE))
        nonce = read_challenge_untrusted(challenge)
        assert isinstance(nonce, bytes)
        proof = DirectKeys.derive(built.lot.terms.secret, NONCE, nonce).proof(preface(built), challenge)
        await first.send_all(proof)
        await until(lambda: len(built.lot) == 1)
        second = await built.dial(preface(built))
        assert await second.receive_some(CHALLENGE_SIZE) != challenge
        await second.send_all(proof)
        assert await has_ended(second)
        await built.idle()
        assert len(built.lot) == 1


@pytest.mark.parametrize("sent", [1, PREFACE_SIZE - 1, PREFACE_SIZE], ids=["a byte", "most of it", "no proof"])
async def test_who_has_not_proven_itself_in_time_is_reset(sent: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """Counted from accept; LOAD-01."""
    monkeypatch.setattr(limits, "DIRECT_PROOF_TIMEOUT", 0.2)
    async with yard() as built:
        begun = trio.current_time()
        stream = await built.dial(preface(built)[:sent])
        if sent == PREFACE_SIZE:
            await stream.receive_some(CHALLENGE_SIZE)
        with pytest.raises(trio.BrokenResourceError):
            await stream.receive_some()
        assert 0.19 < trio.current_time() - begun < 2
        await built.idle()


async def test_unproven_connections_of_one_address_are_capped() -> None:
    """Those that are parked do not count; a place that is given up is free again."""
    async with yard(caps=AdmissionLimits(direct_half_open_per_address=2)) as built:
        await built.park(3)
        held = [await built.dial(preface(built)) for _ in range(2)]
        await until(lambda: built.admission.unproven.total == 2)
        assert await built.tell(preface(built)) is None
        await held[0].aclose()
        await until(lambda: built.admission.unproven.total == 1)
        await built.park()


async def test_a_port_for_visitors_knows_no_data_connections() -> None:
    async with yard(roles=frozenset({Role.VISITORS, Role.CHALLENGES})) as built:
        assert await built.tell(preface(built)) in (b"", None)
        assert built.verdicts == ["not-tls"]


# --- later ------------------------------------------------------------------------------------


async def test_a_session_that_ends_during_the_proof_gets_nothing() -> None:
    async with yard() as built:
        stream = await built.dial(preface(built))
        challenge = bytes(await stream.receive_some(CHALLENGE_SIZE))
        nonce = read_challenge_untrusted(challenge)
        assert isinstance(nonce, bytes)
        built.lot.close()
        keys = DirectKeys.derive(built.lot.terms.secret, NONCE, nonce)
        await stream.send_all(keys.proof(preface(built), challenge))
        assert await has_ended(stream)
        await built.idle()
        assert built.lots.parked == 0


async def test_the_sweep_lets_go_of_the_dead(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that ended, those that were reset, and those on which the agent spoke; nobody else."""
    monkeypatch.setattr(limits, "PARKED_SWEEP", 0.02)
    async with yard() as built:
        links = await built.park(4)
        await links[0].stream.send_eof()
        links[1].abort()
        await links[2].stream.send_all(b"a heartbeat")
        await until(lambda: len(built.lot) == 1)
        assert await has_ended(links[2].stream)
        assert links[3].is_alive()
