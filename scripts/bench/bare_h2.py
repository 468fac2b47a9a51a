"""The limit that the HTTP/2 carrier is held against: two hyper-h2 connections, nothing else.

    python -m scripts.bench.bare_h2 receive      prints its port, then bytes and seconds
    python -m scripts.bench.bare_h2 send PORT BYTES

One stream, 64 KiB frames, windows that never close, over the same TLS stream
(`trunnel.streams.tls`) and the same 256 KiB writes as trunnel's carrier.
"""

from __future__ import annotations

import sys
from datetime import UTC, datetime

import trio
from h2.config import H2Configuration
from h2.connection import H2Connection
from h2.events import DataReceived, StreamEnded
from h2.settings import SettingCodes

from trunnel.identity.contexts import link_client_context, link_server_context
from trunnel.identity.keys import IdentityKey, link_certificate
from trunnel.streams.sockets import tune_socket
from trunnel.streams.tls import TlsRole, TlsStream

FRAME = 64 * 1024
BATCH = 256 * 1024
WINDOW = 2**30
ALPN = [b"bare-h2"]


def opened(*, client: bool) -> H2Connection:
    """Return a connection with large frames and windows."""
    h2 = H2Connection(H2Configuration(client_side=client, header_encoding=None))
    h2.initiate_connection()
    h2.update_settings({SettingCodes.MAX_FRAME_SIZE: FRAME, SettingCodes.INITIAL_WINDOW_SIZE: WINDOW})
    h2.increment_flow_control_window(WINDOW)
    return h2


async def receive() -> None:
    """Take one connection and one stream; print bytes and seconds."""
    key = IdentityKey.generate()
    context = link_server_context(key, [link_certificate(key, now=datetime.now(UTC))], alpn=ALPN)
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    print(listener.socket.getsockname()[1], flush=True)
    raw = await listener.accept()
    tune_socket(raw.socket)
    tls = await TlsStream.handshake(raw, context, role=TlsRole.SERVER, timeout=10)
    h2 = opened(client=False)
    total, begun, ended = 0, 0.0, False
    while not ended:
        await tls.send_all(h2.data_to_send())
        chunk = await tls.receive_some(FRAME)
        for event in h2.receive_data(chunk):
            if isinstance(event, DataReceived):
                begun = begun or trio.current_time()
                total += len(event.data)
                h2.acknowledge_received_data(event.flow_controlled_length, event.stream_id)
            ended = ended or isinstance(event, StreamEnded)
    print(total, trio.current_time() - begun, flush=True)
    await tls.aclose()


async def send(port: int, amount: int) -> None:
    """Send *amount* bytes on one stream."""
    key = IdentityKey.generate()
    context = link_client_context(key, link_certificate(key, now=datetime.now(UTC)), alpn=ALPN)
    raw = await trio.open_tcp_stream("127.0.0.1", port)
    tune_socket(raw.socket)
    tls = await TlsStream.handshake(raw, context, role=TlsRole.CLIENT, timeout=10)
    h2 = opened(client=True)
    fields = [(b":method", b"POST"), (b":scheme", b"https"), (b":authority", b"a"), (b":path", b"/")]
    h2.send_headers(1, fields)
    await tls.send_all(h2.data_to_send())
    while h2.max_outbound_frame_size < FRAME:
        h2.receive_data(await tls.receive_some(FRAME))
    frame = bytes(FRAME)
    heard = trio.lowlevel.ParkingLot()
    async with trio.open_nursery() as nursery:

        async def listen() -> None:
            while chunk := await tls.receive_some(FRAME):
                h2.receive_data(chunk)
                heard.unpark_all()

        nursery.start_soon(listen)
        while amount > 0:
            for _ in range(BATCH // FRAME):
                while h2.local_flow_control_window(1) < FRAME:
                    await heard.park()
                h2.send_data(1, frame)
                amount -= FRAME
            await tls.send_all(h2.data_to_send())
        h2.end_stream(1)
        await tls.send_all(h2.data_to_send())


if __name__ == "__main__":
    if sys.argv[1] == "receive":
        trio.run(receive)
    else:
        trio.run(send, int(sys.argv[2]), int(sys.argv[3]))
