"""Fuzz targets for what proxies answer, and for what people write about them.

Invariants: nothing but `RemoteProtocolError` leaves a client; how the bytes
were cut does not matter; who reads no more than `needed` never reads behind
the answer; what is kept and what is shown is bounded and printable.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from functools import partial

from trunnel.errors import ErrorCode, InvalidName, RemoteProtocolError
from trunnel.names import ServerAddress
from trunnel.settings.limits import VIA_HEAD_MAX, VIA_REASON_MAX
from trunnel.settings.via import Credentials, ViaAddress, is_exempt, masked
from trunnel.wire.hop import HopClient, Refusal
from trunnel.wire.httpconnect import ConnectClient
from trunnel.wire.socks5 import Socks5Client

SERVER = ServerAddress("relay.example", 443)
WHO = Credentials("user", "password")
SENT_MAX = 600
"""Bytes of a greeting, a password and a request."""
SHOWN_MAX = VIA_REASON_MAX + 200
"""Characters of a refusal: the proxy's words and ours."""

Ending = tuple[bytes, Refusal | None, int] | tuple[str, ErrorCode] | None
"""What was sent, the refusal and how many bytes were used; or an error; None if it wants more."""


def _octets(wire: bytes) -> Iterable[bytes]:
    return (wire[at : at + 1] for at in range(len(wire)))


def _drive(client: Socks5Client | ConnectClient, chunks: Iterable[bytes]) -> Ending:
    sent = client.start()
    given = 0
    try:
        for chunk in chunks:
            if not client.needed:
                break
            given += len(chunk)
            sent += client.feed_untrusted(chunk)
    except RemoteProtocolError as exc:
        return exc.reason, exc.code
    assert len(sent) <= SENT_MAX
    return None if client.needed else (sent, client.refusal, given - len(client.leftover))


def _drive_exactly(client: HopClient, wire: bytes) -> Ending:
    """Read as `agent.via` does."""
    sent = client.start()
    at = 0
    try:
        while (count := client.needed) and at < len(wire):
            sent += client.feed_untrusted(wire[at : at + count])
            at = min(len(wire), at + count)
    except RemoteProtocolError as exc:
        return exc.reason, exc.code
    return None if client.needed else (sent, client.refusal, at)


def _check(make: Callable[[], Socks5Client | ConnectClient], wire: bytes) -> None:
    whole = _drive(make(), [wire])
    assert _drive(make(), _octets(wire)) == whole
    assert _drive_exactly(make(), wire) == whole
    if whole is None or isinstance(whole[0], str):
        return
    refusal = whole[1]
    assert refusal is None or isinstance(refusal, Refusal)
    if refusal is not None:
        assert refusal.reason.isprintable()
        assert len(refusal.reason) <= SHOWN_MAX


def fuzz_socks5(data: bytes) -> None:
    """Check a SOCKS 5 proxy's answers, with and without credentials."""
    for credentials in (None, WHO):
        _check(partial(Socks5Client, SERVER, credentials=credentials), data)


def fuzz_http_connect(data: bytes) -> None:
    """Check an HTTP proxy's answers, with and without credentials."""
    for credentials in (None, WHO):
        for wire in (data, b"HTTP/1.1 200" + data):
            _check(partial(ConnectClient, SERVER, credentials=credentials), wire[: 2 * VIA_HEAD_MAX])


def fuzz_via(data: bytes) -> None:
    """What is written as a proxy's address parses and prints, or is refused without its password."""
    text = data.decode("utf-8", "surrogateescape")
    assert masked(text).isprintable()
    is_exempt("relay.example", text)
    is_exempt("10.0.0.1", text)
    try:
        via = ViaAddress.parse(text)
    except InvalidName as refused:
        assert str(refused).isprintable()
        return
    if via.credentials is None:
        assert ViaAddress.parse(str(via)) == via
    else:
        assert str(via).endswith(f":***@{via.address}")
