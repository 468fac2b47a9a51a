"""Agents on QUIC: the endpoint's carriers led to the agents' door.

aioquic is imported when the relay serves QUIC (`--no-quic` does without).
"""

from __future__ import annotations

import logging
from collections.abc import Awaitable, Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING

import trio
from cryptography import x509

from trunnel.errors import ErrorCode, RemoteProtocolError
from trunnel.identity.keys import extension_of, id_of
from trunnel.names import KeyId
from trunnel.relay.admission import Admission, Admit, Ticket
from trunnel.relay.agents import AgentDoor
from trunnel.relay.certificate import RelayCertificate
from trunnel.relay.credentials import RelayCredentials
from trunnel.streams.udp import UdpSocket
from trunnel.transports.base import Peer
from trunnel.wire.proxyprotocol import Address

if TYPE_CHECKING:
    from trunnel.transports.quic_endpoint import QuicEndpoint
    from trunnel.transports.quic_handshake import QuicCarrier

logger = logging.getLogger(__name__)


def _shown_on(carrier: QuicCarrier) -> KeyId:
    """Return the relay's id by the certificate that it showed on *carrier*."""
    shown: x509.Certificate = carrier.link.connection.configuration.certificate
    return id_of(shown)


async def serve_agents_on_quic(
    sockets: Sequence[UdpSocket],
    certificate: RelayCertificate,
    door: AgentDoor,
    admission: Admission,
    wait_drain: Callable[[], Awaitable[None]],
) -> None:
    """Take agents in on *sockets* until cancelled; none that are new once `wait_drain` has returned.

    Cancellation: every carrier says goodbye, then the sockets are closed.
    """
    from trunnel.transports.quic import open_quic_session
    from trunnel.transports.quic_configuration import QuicCredentials
    from trunnel.transports.quic_endpoint import serve_quic

    def shown(credentials: RelayCredentials) -> QuicCredentials:
        return QuicCredentials(private_key=credentials.leaf.private_key, chain=credentials.leaf.chain)

    def admit(host: str) -> Ticket | None:
        decision = admission.admit_handshake(host)
        return decision.ticket if isinstance(decision, Admit) else None

    async def serve(carrier: QuicCarrier) -> None:
        """Serve one carrier to its end: a task boundary, like those of the ingress."""
        decision = admission.admit_connection(carrier.address[0])
        if not isinstance(decision, Admit):
            carrier.abort("too many connections")
            return
        leaf = carrier.peer_certificates[0]
        with decision.ticket:
            try:
                peer = Peer(key_id=id_of(leaf), address=str(Address(*carrier.address)), extension=extension_of(leaf))
                async with open_quic_session(carrier, peer) as link:
                    await door.greet(link, decision.ticket, _shown_on(carrier))
            except RemoteProtocolError as exc:
                logger.warning("agent_handshake_failed", extra={"peer": carrier.address[0], "reason": exc.reason})
                carrier.abort(exc.reason, code=ErrorCode.PROTOCOL_ERROR)
            except Exception:
                logger.exception("connection_failed", extra={"peer": carrier.address[0]})

    async with trio.open_nursery() as nursery:
        run = partial(
            serve_quic,
            sockets,
            shown(certificate.current),
            serve=serve,
            admit=admit,
            window_max=door.window_max,
        )
        endpoint: QuicEndpoint = await nursery.start(run)
        with certificate.followed(lambda credentials: endpoint.present(shown(credentials))):
            await wait_drain()
        endpoint.close()
