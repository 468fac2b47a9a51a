"""Certificates and challenges through real relays: by either of two, on both roads, beside visitors."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

import trunnel
from tests.agent.leaves import issued_leaf, write_pem
from tests.agent.stage import echo, origin_of
from tests.agent.test_challenges import ACME, answer, is_proof
from tests.streams.bench import read_to_end
from tests.tunnels import House, greet, house, until, visit
from trunnel.agent.exposure import Exposure
from trunnel.errors import ConnectError
from trunnel.events import Ready
from trunnel.names import Hostname
from trunnel.settings.agent import DataChoice
from trunnel.streams.tls import TlsStream


@asynccontextmanager
async def two_relays(folder: Path, data: DataChoice) -> AsyncIterator[tuple[Exposure, list[tuple[House, str]]]]:
    """An agent at two relays; yields each relay with the agent's name there."""
    async with (
        house(folder / "one", domain_suffixes=(Hostname("one.localhost"),)) as one,
        house(folder / "two", domain_suffixes=(Hostname("two.localhost"),)) as two,
        origin_of(echo) as origin,
    ):
        servers = tuple(trunnel.ServerAddress("localhost", each.relay.agents_port) for each in (one, two))
        agent, log = await one.expose(origin.target, servers=servers, data=data)
        await until(lambda: len({ready.relay for ready in log.of(Ready)}) == len(servers))
        named = {ready.relay: ready.hostname for ready in log.of(Ready)}
        yield agent, [(each, named[str(server)]) for each, server in zip((one, two), servers, strict=True)]


async def ended(stream: TlsStream) -> None:
    """Be done, in order."""
    await stream.send_eof()
    await read_to_end(stream)
    await stream.aclose()


@pytest.mark.parametrize("data", [DataChoice.SESSION, DataChoice.DIRECT])
async def test_a_challenge_comes_through_whichever_relay_while_visitors_are_served(
    data: DataChoice, tmp_path: Path
) -> None:
    async with two_relays(tmp_path, data) as (agent, places):
        challenges = agent.first._served.challenges
        for place, name in places:
            with pytest.raises(ConnectError):
                await place.visit(name, ACME)
            with challenges.answering(Hostname(name), answer(Hostname(name))):
                authority = await place.visit(name, ACME)
                assert is_proof(authority)
                visitor = await place.visit(name, b"http/1.1")
                await visitor.send_all(b"hello")
                assert await visitor.receive_some() == b"hello"
            for stream in (authority, visitor):
                await ended(stream)


@pytest.mark.parametrize("data", [DataChoice.SESSION, DataChoice.DIRECT])
async def test_an_issued_leaf_is_shown_through_both_relays_and_announced(data: DataChoice, tmp_path: Path) -> None:
    async with two_relays(tmp_path, data) as (agent, places):
        names = [name for _, name in places]
        leaf = issued_leaf(*names)
        agent.first._served.show_issued(leaf)
        for place, name in places:
            visitor = await place.visit(name, b"http/1.1")
            assert visitor.peer_certificates == leaf.chain
            await ended(visitor)
        await until(lambda: {event.fingerprint for event in agent.ready_events} == {leaf.fingerprint})
        assert {event.certificate for event in agent.ready_events} == {str(leaf.path)}


async def test_a_persons_certificate_is_shown_and_followed(tmp_path: Path) -> None:
    """`--cert-pem`, from settings to the visitor."""
    async with house(tmp_path) as place:
        first, second = issued_leaf("*.localhost", kind="RSA"), issued_leaf("*.localhost")
        pem = write_pem(tmp_path / "mine.pem", first)
        agent, log = await place.expose(greet, cert_pem=pem)
        ready = log.of(Ready)[0]
        assert (ready.certificate, ready.fingerprint) == (str(pem), first.fingerprint)
        visitor = await visit(place.relay.visitors_port, ready.hostname, b"http/1.1")
        assert visitor.peer_certificates == first.chain
        write_pem(pem, second)
        await until(lambda: {event.fingerprint for event in agent.ready_events} == {second.fingerprint})
        later = await visit(place.relay.visitors_port, ready.hostname, b"http/1.1")
        assert later.peer_certificates == second.chain
        await visitor.send_all(b"hi")
        for stream in (visitor, later):
            await ended(stream)
