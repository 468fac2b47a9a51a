"""Data connections over real sockets: proved, parked, taken; and what becomes of those that break a rule."""

from __future__ import annotations

import pytest
import trio
import trio.testing

from tests.transports.direct_pairs import (
    FIRST,
    HEADER,
    PATIENCE,
    TERMS,
    Middle,
    both_ends,
    is_closed,
    link_of,
    park,
    parked,
    reads,
    relay_admits,
    take,
)
from trunnel.errors import ConnectError, LocalProtocolError, RemoteProtocolError
from trunnel.names import KeyId
from trunnel.settings import limits
from trunnel.transports.direct import (
    DirectRefused,
    DirectTerms,
    admit,
    answer,
    offer,
    prove,
    read_preface,
    refuse,
    wait_taken,
)
from trunnel.wire.direct import (
    CHALLENGE_SIZE,
    MAGIC,
    PREFACE_SIZE,
    PROOF_SIZE,
    Answer,
    DirectKeys,
    Preface,
    Refusal,
    session_tag,
)

STRANGER = DirectTerms(b"x" * 32, TERMS.relay, TERMS.session)
"""The right names with a wrong secret."""


# --- what works -------------------------------------------------------------------------------


async def test_a_connection_is_proved_parked_taken_and_then_the_visitors() -> None:
    """Both directions carry bytes as they are once it is taken; bytes at its heels stay in the kernel."""
    async with parked() as (agent, relay):
        assert relay.is_alive()
        assert agent.is_alive()
        assert 0 < agent.rtt < PATIENCE
        assert 0 < relay.rtt < PATIENCE
        assert await take(agent, relay) == (HEADER, Answer.ACCEPTED)
        assert await reads(agent.stream, len(FIRST)) == FIRST
        await agent.stream.send_all(b"answer")
        await agent.stream.send_eof()
        assert await reads(relay.stream, 6) == b"answer"
        assert await relay.stream.receive_some() == b""


async def test_the_first_bytes_may_be_none_and_the_header_the_longest() -> None:
    async with parked() as (agent, relay), trio.open_nursery() as nursery:
        nursery.start_soon(offer, relay, bytes(limits.PROXY_HEADER_MAX), b"")
        assert await wait_taken(agent) == bytes(limits.PROXY_HEADER_MAX)
        await answer(agent, Answer.ACCEPTED)


@pytest.mark.parametrize("code", [Answer.UNKNOWN_ENDPOINT, Answer.DRAINING, 200])
async def test_an_agent_may_decline(code: int) -> None:
    """The cause reaches the relay; an unknown one is a failure."""
    async with parked() as (agent, relay):
        _, said = await take(agent, relay, code=code)
        assert said is Answer.from_wire(code)
        assert said is not Answer.ACCEPTED


async def test_nothing_depends_on_how_the_bytes_are_cut() -> None:
    """Every message arrives a byte at a time: the whole exchange, the header, the answer."""
    async with both_ends() as (agent, left), both_ends() as (right, relay), trio.open_nursery() as nursery:
        middle = Middle()
        nursery.start_soon(middle.carry, left, right)
        nursery.start_soon(middle.carry, right, left)
        links = await park(agent, relay)
        assert await take(*links, first=b"hello") == (HEADER, Answer.ACCEPTED)
        assert await reads(agent, 5) == b"hello"
        assert sum(map(len, middle.passed)) > PREFACE_SIZE + CHALLENGE_SIZE + PROOF_SIZE + len(HEADER)
        nursery.cancel_scope.cancel()


@pytest.mark.parametrize("cut", [1, 8, 9, 40, PREFACE_SIZE - 1])
async def test_a_preface_may_have_been_read_in_part(cut: int) -> None:
    async with both_ends() as (near, far):
        preface = Preface(TERMS.relay_digest, TERMS.session_tag, b"n" * 32)
        await near.send_all(preface.encode()[cut:])
        assert await read_preface(far, prefix=preface.encode()[:cut]) == preface


# --- what is refused before parking -----------------------------------------------------------


@pytest.mark.parametrize("refusal", [refusal for refusal in Refusal if refusal], ids=lambda refusal: refusal.name)
async def test_a_refusal_reaches_the_agent_with_its_reason(refusal: Refusal) -> None:
    async with both_ends() as (near, far), trio.open_nursery() as nursery:

        async def refuse_it() -> None:
            await read_preface(far)
            await refuse(far, refusal)
            assert is_closed(far)

        nursery.start_soon(refuse_it)
        with pytest.raises(DirectRefused, match=refusal.reason[:20]) as caught:
            await prove(near, TERMS, timeout=PATIENCE)
        assert caught.value.refusal is refusal
    assert is_closed(near)


async def test_refusing_somebody_who_has_gone_is_no_error() -> None:
    async with both_ends() as (near, far):
        link_of(near).abort()
        await refuse(far, Refusal.FULL)
        assert is_closed(far)


async def test_another_version_is_refused_by_name() -> None:
    """The relay says so, whatever follows the version."""
    async with both_ends() as (near, far):
        await near.send_all(MAGIC + b"\x02")
        with pytest.raises(RemoteProtocolError, match="version 2"):
            await read_preface(far)
        assert await reads(near, CHALLENGE_SIZE) == bytes([Refusal.VERSION]) + bytes(CHALLENGE_SIZE - 1)
        assert is_closed(far)


@pytest.mark.parametrize("said", [b"\x16\x03\x01", b"\xf7trunneX", MAGIC + b"\x01" + bytes(50)], ids=repr)
async def test_what_is_no_preface_ends_the_connection(said: bytes) -> None:
    """At the first wrong byte, or at an end inside it."""
    async with both_ends() as (near, far):
        await near.send_all(said)
        await near.send_eof()
        with pytest.raises((RemoteProtocolError, trio.BrokenResourceError)):
            await read_preface(far)
        assert is_closed(far)


async def test_an_agent_with_another_secret_is_not_admitted() -> None:
    """It finds out by itself, from the relay's MAC, and sends no proof."""
    async with both_ends() as (near, far), trio.open_nursery() as nursery:

        async def relays_side() -> None:
            with pytest.raises(trio.BrokenResourceError):
                await relay_admits(far)

        nursery.start_soon(relays_side)
        with pytest.raises(ConnectError, match="secret"):
            await prove(near, STRANGER, timeout=PATIENCE)
        assert is_closed(near)
    assert is_closed(far)


@pytest.mark.parametrize("bit", [0, 100, 255])
async def test_a_wrong_proof_is_not_admitted(bit: int) -> None:
    async with both_ends() as (near, far), trio.open_nursery() as nursery:

        async def relays_side() -> None:
            with pytest.raises(RemoteProtocolError, match="secret"):
                await relay_admits(far)

        nursery.start_soon(relays_side)
        preface = Preface(TERMS.relay_digest, TERMS.session_tag, b"n" * 32).encode()
        await near.send_all(preface)
        challenge = await reads(near, CHALLENGE_SIZE)
        proof = bytearray(DirectKeys.derive(TERMS.secret, b"n" * 32, challenge[1:33]).proof(preface, challenge))
        proof[bit // 8] ^= 1 << bit % 8
        await near.send_all(proof)
    assert is_closed(far)


async def test_a_recorded_exchange_proves_nothing() -> None:
    """Whoever sends again what an agent once sent meets another nonce."""
    recorded: list[bytes] = []
    async with both_ends() as (agent, left), both_ends() as (right, relay), trio.open_nursery() as nursery:
        middle = Middle(recorded)
        nursery.start_soon(middle.carry, left, right)
        nursery.start_soon(Middle().carry, right, left)
        await park(agent, relay)
        nursery.cancel_scope.cancel()
    said = b"".join(recorded)
    assert len(said) == PREFACE_SIZE + PROOF_SIZE
    async with both_ends() as (near, far):
        await near.send_all(said)
        with pytest.raises(RemoteProtocolError, match="secret"):
            await relay_admits(far)
        assert is_closed(far)


async def test_a_challenge_is_not_taken_for_a_proof() -> None:
    """What the relay said, sent back to it, is of the other direction."""
    async with both_ends() as (near, far), trio.open_nursery() as nursery:

        async def relays_side() -> None:
            with pytest.raises(RemoteProtocolError):
                await relay_admits(far)

        nursery.start_soon(relays_side)
        await near.send_all(Preface(TERMS.relay_digest, TERMS.session_tag, b"n" * 32).encode())
        challenge = await reads(near, CHALLENGE_SIZE)
        await near.send_all(challenge[-PROOF_SIZE:])


@pytest.mark.parametrize(
    "said", [b"", b"\0", bytes(CHALLENGE_SIZE - 1), bytes(CHALLENGE_SIZE), b"\x63" + bytes(64)], ids=len
)
async def test_a_relay_that_breaks_off_or_knows_nothing_is_a_failed_dial(said: bytes) -> None:
    async with both_ends() as (near, far):
        await far.send_all(said)
        await far.send_eof()
        with pytest.raises(ConnectError):
            await prove(near, TERMS, timeout=PATIENCE)
        assert is_closed(near)


async def test_a_relay_that_says_nothing_is_a_failed_dial(autojump_clock: trio.testing.MockClock) -> None:
    autojump_clock.autojump_threshold = 0.02
    async with both_ends() as (near, _far):
        with pytest.raises(ConnectError, match="within 3 s"):
            await prove(near, TERMS, timeout=3)
        assert is_closed(near)


async def test_a_connection_is_admitted_to_no_other_session() -> None:
    """Not even with the same secret: that would be a bug of the caller."""
    for terms in (
        DirectTerms(TERMS.secret, TERMS.relay, "s-2"),
        DirectTerms(TERMS.secret, KeyId.of_spki(b"another relay"), TERMS.session),
    ):
        async with both_ends() as (_near, far):
            preface = Preface(TERMS.relay_digest, TERMS.session_tag, b"n" * 32)
            with pytest.raises(LocalProtocolError):
                await admit(far, preface, terms)
            assert is_closed(far)


def test_terms_show_no_secret_and_take_no_short_one() -> None:
    assert TERMS.secret.hex()[:6] not in repr(TERMS)
    assert repr(TERMS.secret)[2:10] not in repr(TERMS)
    assert TERMS.session_tag == session_tag(TERMS.session)
    with pytest.raises(ValueError, match="31 bytes"):
        DirectTerms(bytes(31), TERMS.relay, TERMS.session)
