"""From an address to a relay that is who it should be; failures have plain reasons."""

from __future__ import annotations

from pathlib import Path

import pytest
import trio

from tests.agent.stage import closed_port
from tests.tunnels import PATIENCE, house
from trunnel.agent.dial import Dialler
from trunnel.clock import utc_now
from trunnel.errors import ConnectError, RelayIdentityError
from trunnel.identity.contexts import link_client_context
from trunnel.identity.keys import IdentityKey, link_certificate
from trunnel.identity.knownrelays import KnownRelays
from trunnel.identity.trust import TrustPolicy
from trunnel.names import KeyId, ServerAddress
from trunnel.transports.alpn import LINK_ALPN_H2


def dialler(folder: Path, port: int, pin: KeyId | None = None) -> Dialler:
    key = IdentityKey.generate()
    return Dialler(
        server=ServerAddress("127.0.0.1", port),
        context=link_client_context(key, link_certificate(key, now=utc_now()), alpn=[LINK_ALPN_H2]),
        policy=TrustPolicy(pin=pin, ca=None, tofu=False, strict=False),
        known=KnownRelays(folder / "known_relays"),
    )


async def test_a_relay_that_is_trusted_gives_a_carrier(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        carrier = await dialler(tmp_path, home.relay.agents_port).dial()
        assert carrier.trust.relay_id == home.relay.relay_id
        assert carrier.address == home.relay.agents[0]
        carrier.stream.abort()


async def test_another_key_than_the_pinned_one_is_no_relay(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        with pytest.raises(RelayIdentityError):
            await dialler(tmp_path, home.relay.agents_port, IdentityKey.generate().key_id).dial()


async def test_nobody_there_is_worth_a_retry(tmp_path: Path) -> None:
    with pytest.raises(ConnectError, match="refused") as raised:
        await dialler(tmp_path, await closed_port()).dial()
    assert raised.value.retryable


async def test_the_visitors_port_is_no_relay(tmp_path: Path) -> None:
    async with house(tmp_path) as home:
        with trio.fail_after(PATIENCE), pytest.raises(ConnectError):
            await dialler(tmp_path, home.relay.visitors_port).dial()
