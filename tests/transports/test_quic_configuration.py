"""What QUIC connections are set up with."""

from __future__ import annotations

import logging
import ssl
import subprocess
import sys

import pytest

from tests.transports.quic_pairs import credentials_of, quic_agent, quic_relay
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.transports.quic_configuration import QuicCredentials, client_configuration, server_configuration


def test_both_ends_show_a_certificate_and_speak_our_protocol() -> None:
    credentials = credentials_of("agent")
    name = Hostname.parse("relay.example.com")
    client, server = client_configuration(credentials, server_name=name), server_configuration(credentials)
    for configuration in (client, server):
        assert configuration.certificate is credentials.chain[0]
        assert configuration.private_key is credentials.private_key
        assert configuration.alpn_protocols == ["trunnel-quic/1"]
        assert configuration.congestion_control_algorithm == "cubic"
        assert configuration.max_datagram_size == limits.QUIC_DATAGRAM
        assert configuration.idle_timeout == limits.DEAD_AFTER
        assert configuration.session_ticket is None
    assert (client.is_client, server.is_client) == (True, False)
    assert client.server_name == "relay.example.com"
    assert client.verify_mode == ssl.CERT_NONE
    assert client_configuration(credentials, server_name=None).server_name is None


def test_chains_go_out_whole() -> None:
    one, two = credentials_of("one"), credentials_of("two")
    chained = QuicCredentials(private_key=one.private_key, chain=(*one.chain, *two.chain))
    assert server_configuration(chained).certificate_chain == list(two.chain)


async def test_strangers_do_not_write_our_log(caplog: pytest.LogCaptureFixture) -> None:
    """What peers say is logged by aioquic; nothing of it is seen."""
    with caplog.at_level(logging.DEBUG, logger=""):
        async with quic_relay() as relay, quic_agent(relay.address) as agent:
            (await relay.session()).abort("a\nforged line")
            await agent.wait_closed()
    assert [record for record in caplog.records if record.name.startswith("quic")] == []


def test_no_asyncio_comes_with_it() -> None:
    """Everything runs on trio."""
    look = "import sys, trunnel.transports.quic, trunnel.transports.quic_endpoint; print('asyncio' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", look], capture_output=True, check=True).stdout.strip() == b"False"
