"""Possession of a key is proven, nothing else (SEC-02); nothing resumes (SEC-03); callbacks fail closed (SEC-04)."""

from __future__ import annotations

import logging
import sys
from collections.abc import Callable, Sequence
from datetime import UTC, datetime

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from OpenSSL import SSL, crypto
from OpenSSL._util import lib

from tests.streams.tls_forge import HANDSHAKE, Forge, KeyLog, certificate_message, messages
from tests.streams.tls_pairs import (
    ALPN,
    HOST,
    Identity,
    Transports,
    client_identity,
    link_client,
    link_server,
    make_identity,
    make_leaf,
    memory_transports,
    refused_client,
    server_identity,
    settle,
    shake_hands,
    tcp_transports,
    tls_pair,
    visitor_client,
    visitor_server,
)
from trunnel.errors import ConnectError
from trunnel.identity.contexts import (
    guard_alpn,
    guard_server_name,
    guard_verify,
    link_client_context,
    link_server_context,
    visitor_context,
)
from trunnel.identity.keys import IdentityKey, id_of, link_certificate
from trunnel.names import Hostname
from trunnel.streams.tls import TlsRole, TlsStream
from trunnel.streams.tls_engines import MemoryEngine

both_engines = pytest.mark.parametrize("transports", [memory_transports, tcp_transports])


def any_client(identity: Identity, *chain: x509.Certificate) -> SSL.Context:
    """Return a client that shows whatever certificate, unlike `link_client_context`."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.use_certificate(identity.certificate)
    for certificate in chain:
        context.add_extra_chain_cert(certificate)
    context.use_privatekey(identity.key)
    return context


# --- SEC-02 ----------------------------------------------------------------------------------------

IDENTITIES: dict[str, Callable[[], Identity]] = {
    "P-256": make_identity,
    "P-384": lambda: make_identity(ec.generate_private_key(ec.SECP384R1())),
    "Ed25519": lambda: make_identity(ed25519.Ed25519PrivateKey.generate()),
    "RSA": lambda: make_identity(rsa.generate_private_key(65537, 2048)),
    "expired": lambda: make_identity(valid=(-20, -10)),
    "not yet valid": lambda: make_identity(valid=(10, 20)),
}


@pytest.mark.parametrize("kind", list(IDENTITIES))
@both_engines
async def test_any_certificate_proves_its_key(transports: Transports, kind: str) -> None:
    identity = IDENTITIES[kind]()
    async with tls_pair(await transports(), client=any_client(identity)) as (_, server):
        assert server.peer_certificates == (identity.certificate,)


@both_engines
async def test_of_two_certificates_the_first_is_the_proven_one(transports: Transports) -> None:
    """A chain that claims another's certificate proves nothing about it."""
    identity, other = make_identity(), make_identity()
    async with tls_pair(await transports(), client=any_client(identity, other.certificate)) as (_, server):
        assert server.peer_certificates == (identity.certificate, other.certificate)


def test_a_certificate_without_its_key_cannot_be_presented() -> None:
    with pytest.raises(SSL.Error):
        link_client_context(ec.generate_private_key(ec.SECP256R1()), client_identity().certificate, alpn=[ALPN])


@pytest.mark.parametrize("stolen", [False, True])
@both_engines
async def test_a_certificate_of_another_key_is_refused(transports: Transports, stolen: bool) -> None:
    """CertificateVerify is by the client's own key, the certificate is the victim's.

    The client's flight is opened and sealed again; with its own certificate
    it is accepted (the control), with the victim's the signature is wrong.
    """
    left, right = await transports()
    thief, victim = make_identity(), make_identity()
    context = any_client(thief)
    keylog = KeyLog(context)
    connection = SSL.Connection(context)
    connection.set_connect_state()

    async def client() -> None:
        with pytest.raises(SSL.WantReadError):
            connection.do_handshake()
        await left.send_all(connection.bio_read(65536))
        while True:
            connection.bio_write(await left.receive_some())
            try:
                connection.do_handshake()
                break
            except SSL.WantReadError:
                pass
        flight = Forge(keylog, b"CLIENT_HANDSHAKE_TRAFFIC_SECRET").open(connection.bio_read(65536))
        certificate, verify, finished = messages(flight)
        shown = (victim if stolen else thief).certificate.public_bytes(serialization.Encoding.DER)
        assert (certificate == certificate_message(shown)) is not stolen
        forge = Forge(keylog, b"CLIENT_HANDSHAKE_TRAFFIC_SECRET")
        await left.send_all(forge.record(certificate_message(shown) + verify + finished, HANDSHAKE))
        while await left.receive_some():
            pass
        await left.aclose()

    async def server() -> None:
        handshake = TlsStream.handshake(right, link_server(), role=TlsRole.SERVER, timeout=5)
        if stolen:
            with pytest.raises(ConnectError, match="bad signature"):
                await handshake
        else:
            stream = await handshake
            assert stream.peer_certificates == (thief.certificate,)
            await stream.aclose()

    await settle(client, server)


async def test_identity_keys_and_link_certificates_fit() -> None:
    """Both ends from `identity.keys`: each sees the other's id, and the extension travels."""
    now = datetime.now(UTC)
    relay, agent = IdentityKey.generate(), IdentityKey.generate()
    server = link_server_context(relay, [link_certificate(relay, now=now)], alpn=[ALPN])
    client = link_client_context(agent, link_certificate(agent, now=now, extension=b"\x01\x02"), alpn=[ALPN])
    async with tls_pair(await memory_transports(), client=client, server=server) as (agent_end, relay_end):
        assert id_of(relay_end.peer_certificates[0]) == agent.key_id
        assert id_of(agent_end.peer_certificates[0]) == relay.key_id


async def test_a_relay_with_a_chain_shows_all_of_it() -> None:
    leaf, issuer = make_identity(rsa.generate_private_key(65537, 2048)), make_identity()
    server = link_server_context(leaf.key, [leaf.certificate, issuer.certificate], alpn=[ALPN])
    async with tls_pair(await memory_transports(), server=server) as (client, _):
        assert client.peer_certificates == (leaf.certificate, issuer.certificate)


@both_engines
async def test_a_certificate_that_cannot_be_read_fails_the_handshake(transports: Transports) -> None:
    """OpenSSL takes a certificate of version 6, `cryptography` does not: a refusal, no surprise."""
    left, right = await transports()
    identity = make_identity()
    der = identity.certificate.public_bytes(serialization.Encoding.DER)
    der = der.replace(b"\xa0\x03\x02\x01\x02", b"\xa0\x03\x02\x01\x05", 1)
    strange = crypto.load_certificate(crypto.FILETYPE_ASN1, der)
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    with pytest.warns(DeprecationWarning, match="X509"):
        context.use_certificate(strange)
    context.use_privatekey(identity.key)

    async def client() -> None:
        with pytest.raises((ConnectError, trio.BrokenResourceError)):
            await refused_client(left, context)

    async def server() -> None:
        with pytest.raises(ConnectError, match="cannot be read"):
            await TlsStream.handshake(right, link_server(), role=TlsRole.SERVER, timeout=5)

    await settle(client, server)


@both_engines
async def test_a_chain_of_a_mebibyte_is_refused(transports: Transports) -> None:
    """LOAD-17: OpenSSL stops at 100 KiB."""
    left, right = await transports()
    identity, filler = make_identity(), make_identity()
    context = any_client(identity, *[filler.certificate] * (1024 * 1024 // 400))

    async def client() -> None:
        with pytest.raises((ConnectError, trio.BrokenResourceError)):
            await refused_client(left, context)

    async def server() -> None:
        with pytest.raises(ConnectError, match="excessive message size"):
            await TlsStream.handshake(right, link_server(), role=TlsRole.SERVER, timeout=5)

    await settle(client, server)


# --- SEC-03 ----------------------------------------------------------------------------------------


async def saved_session(client: SSL.Context, server: SSL.Context) -> SSL.Session:
    """Return the session of a connection that has read the server's tickets.

    Both ends say goodbye: OpenSSL itself never resumes a session that was cut.
    """
    stream, peer = await shake_hands(await memory_transports(), client=client, server=server)
    session = stream._connection.get_session()
    assert session is not None
    await stream.aclose()
    await peer.aclose()
    return session


async def resumed(client: SSL.Context, server: SSL.Context, session: SSL.Session) -> bool:
    """Whether a second connection, with *session*, is resumed."""
    left, right = await memory_transports()
    outcome: list[bool] = []

    async def offers() -> None:
        engine = MemoryEngine(client, left, prefix=b"")
        engine.connection.set_session(session)
        stream = TlsStream(engine, tolerate_truncation=False)
        await stream._shake_hands(TlsRole.CLIENT, None)
        assert await stream.receive_some() == b"!"
        outcome.append(bool(lib.SSL_session_reused(engine.connection._ssl)))
        await stream.aclose()

    async def accepts() -> None:
        stream = await TlsStream.handshake(right, server, role=TlsRole.SERVER, timeout=5)
        await stream.send_all(b"!")
        assert await stream.receive_some() == b""
        outcome.append(bool(lib.SSL_session_reused(stream._connection._ssl)))
        await stream.aclose()

    await settle(offers, accepts)
    assert outcome[0] == outcome[1]
    return outcome[0]


async def test_a_link_never_resumes() -> None:
    """A revoked key must not come back on a ticket: every handshake proves the key again."""
    session = await saved_session(link_client(), link_server())
    assert not await resumed(link_client(), link_server(), session)


async def test_a_visitor_does_resume() -> None:
    """The control of the test above: the same steps do resume where tickets are given."""
    client = visitor_client()
    session = await saved_session(client, visitor_server())
    assert await resumed(client, visitor_server(), session)


# --- ALPN ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("ours", "offered", "chosen"),
    [
        ((b"h2", b"http/1.1"), [b"http/1.1", b"h2"], b"h2"),
        ((b"http/1.1",), [b"h2", b"http/1.1"], b"http/1.1"),
        ((b"http/1.1",), [], None),
    ],
)
async def test_the_server_takes_the_first_of_its_own_list(
    ours: tuple[bytes, ...], offered: list[bytes], chosen: bytes | None
) -> None:
    async with tls_pair(
        await memory_transports(), client=visitor_client(alpn=offered), server=visitor_server(ours)
    ) as (client, server):
        assert client.alpn == server.alpn == chosen


async def test_a_refused_protocol_leaves_nothing_on_the_shared_context() -> None:
    """What callbacks raise is kept on the context; the next connection must not find it."""
    server = visitor_context(make_leaf(server_identity()), alpn=[b"http/1.1"])
    for _ in range(2):
        left, right = await memory_transports()

        async def client(left: trio.abc.HalfCloseableStream = left) -> None:
            with pytest.raises(ConnectError):
                await TlsStream.handshake(left, visitor_client(alpn=[b"h2"]), role=TlsRole.CLIENT, timeout=5)

        async def refuses(right: trio.abc.HalfCloseableStream = right) -> None:
            with pytest.raises(ConnectError, match="no application protocol"):
                await TlsStream.handshake(right, server, role=TlsRole.SERVER, timeout=5)

        await settle(client, refuses)
        helper = server._alpn_select_helper
        assert helper is not None
        assert helper._problems == []
        async with tls_pair(await memory_transports(), client=visitor_client(), server=server) as (good, _):
            assert good.alpn is None


async def test_a_context_can_be_chosen_by_name() -> None:
    """How a renewed certificate comes into use: contexts are frozen once used."""
    renewed = make_identity(name="b.example")
    other = visitor_context(make_leaf(renewed), alpn=[b"http/1.1"])
    server = visitor_context(
        make_leaf(server_identity()), alpn=[b"http/1.1"], by_name=lambda name: other if name == b"b.example" else None
    )
    for name, identity in (("b.example", renewed), ("a.example", server_identity())):
        async with tls_pair(
            await memory_transports(), client=visitor_client(), server=server, server_name=Hostname(name)
        ) as (client, _):
            assert client.peer_certificates == (identity.certificate,)


# --- SEC-04 ----------------------------------------------------------------------------------------


class CallbackBug(Exception):
    """What the callbacks below raise."""


def buggy_verify(*_: object) -> bool:
    raise CallbackBug("verify")


def buggy_alpn(_offered: Sequence[bytes]) -> bytes | None:
    raise CallbackBug("alpn")


def buggy_name(_name: bytes | None) -> SSL.Context | None:
    raise CallbackBug("sni")


def raw_server(version: int) -> SSL.Context:
    context = SSL.Context(SSL.TLS_SERVER_METHOD)
    context.set_max_proto_version(version)
    context.set_session_id(b"test")
    context.use_certificate(server_identity().certificate)
    context.use_privatekey(server_identity().key)
    return context


def with_buggy_verify(context: SSL.Context) -> None:
    guard_verify(context, SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, buggy_verify)


def with_buggy_alpn(context: SSL.Context) -> None:
    guard_alpn(context, buggy_alpn)


def with_buggy_name(context: SSL.Context) -> None:
    guard_server_name(context, buggy_name)


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION])
@pytest.mark.parametrize("install", [with_buggy_verify, with_buggy_alpn, with_buggy_name])
@both_engines
async def test_a_callback_that_raises_fails_the_handshake(
    transports: Transports,
    install: Callable[[SSL.Context], None],
    version: int,
    caplog: pytest.LogCaptureFixture,
    capfd: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """One line of log with the exception; closed; silent on standard error; the context stays usable."""
    hooked: list[object] = []
    monkeypatch.setattr(sys, "excepthook", lambda *args: hooked.append(args))
    context = raw_server(version)
    install(context)
    left, right = await transports()
    client_context = any_client(client_identity())
    client_context.set_alpn_protos([b"http/1.1"])

    async def client() -> None:
        with pytest.raises((ConnectError, trio.BrokenResourceError), match="alert"):
            await refused_client(left, client_context, server_name=HOST)

    async def server() -> None:
        with pytest.raises(ConnectError, match="callbacks raised") as caught:
            await TlsStream.handshake(right, context, role=TlsRole.SERVER, timeout=5)
        assert caught.value.__cause__ is not None

    with caplog.at_level(logging.DEBUG, "trunnel"):
        await settle(client, server)
    with pytest.raises(trio.ClosedResourceError):
        await right.receive_some()
    (record,) = caplog.records
    assert record.levelname == "ERROR"
    assert record.exc_info is not None
    assert isinstance(record.exc_info[1], CallbackBug)
    assert hooked == []
    assert capfd.readouterr().err == ""
    assert context._verify_helper is None or context._verify_helper._problems == []
    assert context._alpn_select_helper is None or context._alpn_select_helper._problems == []
