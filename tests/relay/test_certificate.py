"""What the relay shows: the best there is at the start, and another one from the next handshake on."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from pathlib import Path

import pytest
import trio
import trio.testing

from tests.relay.front import front, rejected
from tests.relay.ownhouse import dial_tcp, own_house, shown_on_quic, shown_on_tcp, visit_own
from tests.relay.papers import Authority, settings
from tests.tunnels import Gate, greet, read_to_end
from trunnel.clock import utc_now
from trunnel.errors import ConfigError, LocalProtocolError, RejectCode
from trunnel.events import Connected, Disconnected
from trunnel.identity.certstore import IssuedStore
from trunnel.identity.keys import IdentityKey
from trunnel.identity.leaf import Leaf, leaf_of
from trunnel.names import Hostname
from trunnel.relay.certificate import RelayCertificate, issued_store, load_certificate
from trunnel.relay.credentials import RelayCredentials, Source, self_signed
from trunnel.settings.agent import TransportChoice
from trunnel.settings.relay import RelaySettings

NAME = Hostname("relay.example")
NOWHERE = "https://127.0.0.1:1/dir"
"""An authority that does not answer."""


def asking(folder: Path, **options: object) -> RelaySettings:
    """Return settings of a relay with a name of its own to be certified."""
    return settings(folder, acme_domains=(NAME,), **options)


def issued(identity: IdentityKey, **period: timedelta) -> Leaf:
    """Return what an authority would issue for the relay's key."""
    pair = Authority().issue(NAME.value, key=identity.private_key, **period)
    return leaf_of(identity.private_key, pair.chain, Path("issued.pem"))


def store(wanted: RelaySettings, leaf: Leaf) -> None:
    kept: IssuedStore = issued_store(wanted, IdentityKey.load_or_create(wanted.key_path))
    kept.save([NAME], leaf.private_key, leaf.chain)


# --- at the start -----------------------------------------------------------------------------


def test_a_relay_keeps_the_key_that_it_made_at_its_first_start(tmp_path: Path) -> None:
    first, second = (load_certificate(settings(tmp_path)).current for _ in range(2))
    assert first.source is Source.SELF_SIGNED
    assert first.relay_id == second.relay_id


def test_before_the_first_issuance_it_is_self_signed(tmp_path: Path) -> None:
    made = load_certificate(asking(tmp_path)).current
    assert made.source is Source.SELF_SIGNED
    assert NAME in made.leaf.names


def test_what_was_issued_is_shown_at_once_with_the_same_id(tmp_path: Path) -> None:
    before = load_certificate(settings(tmp_path)).current
    leaf = issued(IdentityKey.load(tmp_path / "relay.key"))
    store(asking(tmp_path), leaf)
    after = load_certificate(asking(tmp_path)).current
    assert after.source is Source.ACME
    assert after.leaf.chain == leaf.chain
    assert after.relay_id == before.relay_id


def test_what_was_issued_and_has_ended_is_not_shown(tmp_path: Path) -> None:
    identity = IdentityKey.load_or_create(tmp_path / "relay.key")
    store(asking(tmp_path), issued(identity, start=-timedelta(days=90), end=-timedelta(seconds=1)))
    assert load_certificate(asking(tmp_path)).current.source is Source.SELF_SIGNED


def test_what_was_issued_for_another_key_is_not_found(tmp_path: Path) -> None:
    """The operator has put another key in: it has another id, and nothing issued yet."""
    wanted = asking(tmp_path)
    store(wanted, issued(IdentityKey.load_or_create(wanted.key_path)))
    wanted.key_path.unlink()
    fresh = load_certificate(wanted)
    assert fresh.current.source is Source.SELF_SIGNED
    assert fresh.identity is not None
    assert fresh.current.relay_id == fresh.identity.key_id


def test_a_key_that_no_authority_certifies_is_said_at_the_start(tmp_path: Path) -> None:
    from cryptography.hazmat.primitives.asymmetric import ed25519
    from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

    key = ed25519.Ed25519PrivateKey.generate()
    (tmp_path / "relay.key").write_bytes(key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()))
    (tmp_path / "relay.key").chmod(0o600)
    load_certificate(settings(tmp_path))  # self-signed it does
    with pytest.raises(ConfigError, match="Ed25519"):
        load_certificate(asking(tmp_path))


# --- the holder -------------------------------------------------------------------------------


def test_followers_hear_what_is_shown_now_and_each_change_until_they_leave(tmp_path: Path) -> None:
    identity = IdentityKey.generate()
    first, second, third = (self_signed(settings(tmp_path), identity, now=utc_now()) for _ in range(3))
    certificate = RelayCertificate(first, identity)
    heard: list[RelayCredentials] = []
    with certificate.followed(heard.append):
        certificate.replace(second)
    certificate.replace(third)
    assert heard == [first, second]
    assert certificate.current is third


async def test_a_change_can_be_waited_for(tmp_path: Path) -> None:
    identity = IdentityKey.generate()
    certificate = RelayCertificate(self_signed(settings(tmp_path), identity, now=utc_now()), identity)
    seen: list[Source] = []

    async def wait() -> None:
        await certificate.wait_replaced()
        seen.append(certificate.current.source)

    async with trio.open_nursery() as nursery:
        nursery.start_soon(wait)
        await trio.testing.wait_all_tasks_blocked()
        certificate.show_issued(issued(identity))
    assert seen == [Source.ACME]


def test_an_authoritys_certificate_for_another_key_is_never_shown(tmp_path: Path) -> None:
    """Agents would take the relay for an impostor."""
    identity = IdentityKey.generate()
    before = self_signed(settings(tmp_path), identity, now=utc_now())
    certificate = RelayCertificate(before, identity)
    with pytest.raises(LocalProtocolError):
        certificate.show_issued(issued(IdentityKey.generate()))
    assert certificate.current is before


# --- on the wire ------------------------------------------------------------------------------


async def test_the_next_handshake_shows_the_new_one_on_every_listener(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with own_house(tmp_path, monkeypatch, acme_domains=(NAME,), acme_directory=NOWHERE) as (home, own):
        old = own.certificate.current.leaf.chain[0]
        assert await shown_on_tcp(home.relay.agents_port) == await shown_on_quic(home.relay.agents_port) == old
        assert own.certificate.identity is not None
        new = issued(own.certificate.identity)
        own.certificate.show_issued(new)
        assert await shown_on_tcp(home.relay.agents_port) == new.chain[0]
        assert await shown_on_quic(home.relay.agents_port) == new.chain[0]
        visitor = await visit_own(home.relay.visitors_port, NAME.value)
        assert visitor.peer_certificates[0] == new.chain[0]
        visitor.abort()
        assert home.relay.relay_id == own.certificate.identity.key_id


@pytest.mark.parametrize("transport", [TransportChoice.H2, TransportChoice.YAMUX, TransportChoice.QUIC])
async def test_agents_and_their_visitors_stay_and_come_back_over_a_renewal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, transport: TransportChoice
) -> None:
    """They remember the relay's key, and the key stays."""
    gate = Gate()
    async with own_house(tmp_path, monkeypatch, acme_domains=(NAME,), acme_directory=NOWHERE) as (home, own):
        async with trio.open_nursery() as nursery:
            agent, log = await replace(home, nursery=nursery).expose(gate.serve, transport=transport)
            hostname = agent.ready_events[0].hostname
            visitor = await home.visit(hostname)
            await gate.entered.wait()
            assert own.certificate.identity is not None
            own.certificate.show_issued(issued(own.certificate.identity))
            gate.opened.set()
            assert await read_to_end(visitor) == b"inout"
            assert log.of(Disconnected) == []
            nursery.cancel_scope.cancel()
        _, again = await home.expose(greet, transport=transport)
        assert again.of(Connected)[0].relay_id == home.relay.relay_id.value
        assert await home.ask(hostname) == hostname.encode()


async def test_a_handshake_that_began_before_ends_with_what_it_began_with(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No handshake fails because of a renewal, whenever it comes."""
    async with own_house(tmp_path, monkeypatch, acme_domains=(NAME,), acme_directory=NOWHERE) as (home, own):
        identity = own.certificate.identity
        assert identity is not None
        shown: list[int] = []
        leaves = [issued(identity) for _ in range(5)]

        async def dial() -> None:
            for _ in range(10):
                carrier = await dial_tcp(home.relay.agents_port)
                shown.append(carrier.peer_certificates[0].serial_number)
                carrier.abort()
                if len(shown) % 8 == 0:  # others are in the midst of theirs
                    own.certificate.show_issued(leaves[len(shown) // 8 - 1])

        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(dial)
        assert len(shown) == 40
        assert len(set(shown)) >= 4


async def test_an_agent_that_was_shown_a_key_that_changed_since_is_to_come_again() -> None:
    """The welcome names the key that the relay has now, and the agent would take the relay for an impostor."""
    async with front() as place:
        place.door._certificate.replace(self_signed(settings(Path("unused")), IdentityKey.generate(), now=utc_now()))
        answer = rejected(await place.call())
        assert answer.code == RejectCode.DRAINING
        assert answer.retry_after is not None
