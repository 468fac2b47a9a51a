"""Who we are on QUIC, and how our connections are set up.  aioquic's configurations are made here and nowhere else.

Both ends send a certificate (mutual TLS 1.3).  As in `identity.contexts`, any
certificate is accepted as a *proof of a key*: the caller judges the chain
after the handshake.  No session tickets and no 0-RTT: a ticket would let a
revoked key in without proof.

aioquic logs under the name `quic`, a line or more for each peer's mistake and
with the peer's own words in it.  A stranger must not write our log, so only
its errors come through; what matters is said by our own code, escaped.
"""

from __future__ import annotations

import logging
import ssl
from dataclasses import dataclass
from typing import Final, final

from aioquic.quic.configuration import QuicConfiguration
from cryptography import x509

from trunnel.identity.contexts import ServerKey
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.transports.alpn import LINK_ALPN_QUIC

CONNECTION_ID_LENGTH: Final = 8
"""Bytes of the connection ids that we issue."""

logging.getLogger("quic").setLevel(logging.ERROR)


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class QuicCredentials:
    """A private key and the certificates that show it."""

    private_key: ServerKey
    """Key of the leaf."""
    chain: tuple[x509.Certificate, ...]
    """The leaf first; a link certificate is a chain of one."""
    datagram: int = limits.QUIC_DATAGRAM
    """Bytes of UDP payload sent at most, 1,200 to 1,452."""


def client_configuration(credentials: QuicCredentials, *, server_name: Hostname | None) -> QuicConfiguration:
    """Return the agent's configuration of one connection.

    Args:
        credentials: The agent's.
        server_name: The name that was dialled, sent as SNI; None for an IP address.
    """
    configuration = _configuration(credentials, is_client=True)
    configuration.server_name = None if server_name is None else str(server_name)
    configuration.verify_mode = ssl.CERT_NONE  # judged by the caller: `identity.trust`
    return configuration


def server_configuration(credentials: QuicCredentials) -> QuicConfiguration:
    """Return the relay's configuration, for all its connections."""
    return _configuration(credentials, is_client=False)


def _configuration(credentials: QuicCredentials, *, is_client: bool) -> QuicConfiguration:
    return QuicConfiguration(
        alpn_protocols=[LINK_ALPN_QUIC.decode()],
        certificate=credentials.chain[0],
        certificate_chain=list(credentials.chain[1:]),
        congestion_control_algorithm="cubic",
        connection_id_length=CONNECTION_ID_LENGTH,
        idle_timeout=limits.DEAD_AFTER,
        is_client=is_client,
        max_datagram_size=credentials.datagram,
        private_key=credentials.private_key,
    )
