"""Several leaves behind one door: the name that a visitor asks for chooses, and a new set disturbs nobody."""

from __future__ import annotations

import logging
from functools import cache
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from OpenSSL import SSL

from tests.streams.tls_pairs import (
    AnyKey,
    make_identity,
    memory_transports,
    shake_hands,
    tcp_transports,
    visitor_client,
)
from trunnel.errors import ConfigError
from trunnel.identity.leaf import Leaf, leaf_of
from trunnel.identity.shown import ShownLeaves, choose
from trunnel.names import Hostname

ALPN = (b"h2", b"http/1.1")


@cache
def leaf(*names: str, number: int = 0, kind: str = "P-256") -> Leaf:
    """Return a leaf for *names*, another one for each *number*."""
    key: AnyKey | None = rsa.generate_private_key(65_537, 2_048) if kind == "RSA" else None
    identity = make_identity(key, name=names[0])
    made = leaf_of(identity.key, (identity.certificate,), Path(f"{names[0]}.{number}.pem"))
    assert [*map(str, made.names), *(f"*.{name}" for name in made.wildcards)] == list(names)
    return made


STANDARD, ONE, WILD = leaf("a.example"), leaf("b.example"), leaf("*.c.example")


async def shown_to(shown: ShownLeaves, name: str | None, *, version: int = SSL.TLS1_3_VERSION) -> str:
    """Return the path of the leaf that a visitor is shown who asks for *name*."""
    client, server = await shake_hands(
        await memory_transports(),
        client=visitor_client(version=version, alpn=[b"http/1.1"]),
        server=shown.context,
        server_name=None if name is None else Hostname(name),
    )
    found = client.peer_certificates
    assert client.alpn == b"http/1.1"
    for end in (client, server):
        end.abort()
    return next(str(leaf.path) for leaf in shown.leaves if leaf.chain == found)


@pytest.mark.parametrize("version", [SSL.TLS1_2_VERSION, SSL.TLS1_3_VERSION], ids=["1.2", "1.3"])
async def test_the_name_chooses_and_the_first_leaf_is_for_everybody_else(version: int) -> None:
    shown = ShownLeaves([STANDARD, ONE, WILD], alpn=ALPN)
    asked = [None, "a.example", "b.example", "x.c.example", "c.example", "x.y.c.example", "unknown.example"]
    seen = [await shown_to(shown, name, version=version) for name in asked]
    first, second, third = (str(leaf.path) for leaf in (STANDARD, ONE, WILD))
    assert seen == [first, first, second, third, first, first, first]
    assert seen == [str(choose(shown.leaves, Hostname(name or "none.example")).path) for name in asked]


async def test_of_two_for_a_name_the_earlier_is_shown_and_the_first_leaf_last() -> None:
    newer = leaf("b.example", number=1)
    shown = ShownLeaves([leaf("b.example", number=2), newer, ONE], alpn=ALPN)
    assert await shown_to(shown, "b.example") == str(newer.path)


async def test_rsa_leaves_are_shown_beside_others() -> None:
    """A person's certificate; TLS picks a signature that fits the key."""
    shown = ShownLeaves([STANDARD, leaf("r.example", kind="RSA")], alpn=ALPN)
    assert [await shown_to(shown, name) for name in ("r.example", "a.example")] == [
        "r.example.0.pem",
        "a.example.0.pem",
    ]


@pytest.mark.parametrize("sni", [b"", b"\xff\xfe", b"b.example\x01", b"a" * 300], ids=["empty", "bytes", "dot", "long"])
def test_what_is_no_host_name_is_shown_the_first_leaf(sni: bytes) -> None:
    """SEC: a stranger's bytes; nothing is raised into OpenSSL."""
    assert ShownLeaves([STANDARD, ONE], alpn=())._by_name(sni) is None


async def test_case_and_final_dot_of_a_name_do_not_matter() -> None:
    shown = ShownLeaves([STANDARD, ONE], alpn=())
    assert shown._by_name(b"B.Example.") is shown._by_name(b"b.example") is not None


async def test_a_new_set_counts_from_the_next_client_hello_on() -> None:
    """And a handshake that runs ends with what it began with; connections that are open go on."""
    shown = ShownLeaves([STANDARD, ONE], alpn=ALPN)
    newer = leaf("b.example", number=1)
    client, server = await shake_hands(
        await tcp_transports(), client=visitor_client(), server=shown.context, server_name=Hostname("b.example")
    )
    running = SSL.Connection(shown.context)
    running.set_accept_state()
    visitor = SSL.Connection(visitor_client())
    visitor.set_tlsext_host_name(b"b.example")
    visitor.set_connect_state()
    step(visitor)
    running.bio_write(visitor.bio_read(65_536))
    step(running)  # it has answered the hello

    shown.replace([leaf("a.example", number=1), newer])
    visitor.bio_write(running.bio_read(65_536))
    visitor.do_handshake()
    running.bio_write(visitor.bio_read(65_536))
    running.do_handshake()
    certificate = visitor.get_peer_certificate(as_cryptography=True)
    assert certificate == ONE.chain[0]
    assert await shown_to(shown, "b.example") == str(newer.path)
    await client.send_all(b"still here")
    assert await server.receive_some() == b"still here"
    assert client.peer_certificates == ONE.chain
    for end in (client, server):
        end.abort()


def step(connection: SSL.Connection) -> None:
    """Go on with a handshake that needs its peer next."""
    with pytest.raises(SSL.WantReadError):
        connection.do_handshake()


async def test_leaves_that_stay_keep_their_contexts() -> None:
    """So a renewal costs one context, and takes nobody else's tickets away."""
    shown = ShownLeaves([STANDARD, ONE, WILD], alpn=ALPN)
    before = {name: shown._by_name(name) for name in (b"b.example", b"x.c.example")}
    first = shown.context
    shown.replace([STANDARD, leaf("b.example", number=1), WILD])
    assert shown.context is first
    assert shown._by_name(b"x.c.example") is before[b"x.c.example"]
    assert shown._by_name(b"b.example") is not before[b"b.example"]
    assert await shown_to(shown, "b.example") == "b.example.1.pem"


def test_what_openssl_does_not_take_changes_nothing() -> None:
    shown = ShownLeaves([STANDARD, ONE], alpn=ALPN)
    broken = Leaf(private_key=ONE.private_key, chain=WILD.chain, path=Path("mine.pem"), fingerprint="", names=())
    with pytest.raises(ConfigError, match=r"mine\.pem or its key"):
        shown.replace([STANDARD, broken])
    assert shown.leaves == (STANDARD, ONE)
    with pytest.raises(ValueError, match="nothing to show"):
        shown.replace([])


async def test_nothing_is_logged_for_visitors_of_any_name(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    shown = ShownLeaves([STANDARD, ONE], alpn=ALPN)
    for name in (None, "b.example", "unknown.example"):
        await shown_to(shown, name)
    assert [record.message for record in caplog.records if record.levelno > logging.DEBUG] == []
