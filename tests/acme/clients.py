"""Clients for tests: of pebble, and of the server of the tests' own."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, Final

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from tests.acme.answering import Answering, answering_on_loopback
from tests.acme.ari_server import AriServer, ari_server
from tests.acme.pebble import Pebble, pebble
from trunnel.acme.client import AcmeClient, open_client
from trunnel.names import Hostname
from trunnel.settings.acme import AcmeSettings

A: Final = Hostname("a.example")
B: Final = Hostname("b.example")
Option = Any
"""One of `pebble`'s arguments."""
pebbled: Final = pytest.mark.timeout(60)
"""For tests with pebble."""


def new_key() -> ec.EllipticCurvePrivateKey:
    return ec.generate_private_key(ec.SECP256R1())


@asynccontextmanager
async def pebble_client(
    folder: Path, *, settings: dict[str, Any] | None = None, **options: Option
) -> AsyncIterator[tuple[AcmeClient, Answering, Pebble]]:
    """Open a client of a new pebble, and who answers its challenges."""
    async with answering_on_loopback() as responder, pebble(challenge_port=responder.port, **options) as server:
        wanted = {"directory": server.directory, "creds_path": folder / "acme", "ca": server.ca, **(settings or {})}
        async with open_client(AcmeSettings(**wanted)) as client:
            yield client, responder, server


def settings_for(server: AriServer, folder: Path) -> AcmeSettings:
    return AcmeSettings(directory=server.directory, creds_path=folder / "acme", ca=server.ca)


@asynccontextmanager
async def ari_client(folder: Path) -> AsyncIterator[tuple[AcmeClient, AriServer]]:
    """Open a client of a new server of the tests' own."""
    async with ari_server() as server, open_client(settings_for(server, folder)) as client:
        yield client, server
