"""Orders against pebble (validation on, bad nonces on) and against a server of the tests' own."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
import trio
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import rsa

from tests.acme.answering import Answering
from tests.acme.ari_server import Reply, ari_server, problem
from tests.acme.clients import A, B, ari_client, new_key, pebble_client, pebbled, settings_for
from tests.acme.pebble import BLOCKED
from trunnel.acme.certificates import renewal_id
from trunnel.acme.client import open_client
from trunnel.errors import AcmeError
from trunnel.names import Hostname
from trunnel.settings import limits

LONG = Hostname(f"{'x' * 52}.{'y' * 60}.example")
"""Longer than a CN may be."""


def names_of(certificate: x509.Certificate) -> set[str]:
    extension = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName)
    return set(extension.value.get_values_for_type(x509.DNSName))


# --- pebble: issuance --------------------------------------------------------------------------


@pebbled
async def test_certificate_is_issued_by_tls_alpn_with_half_of_all_nonces_refused(tmp_path: Path) -> None:
    """RFC 8555 §7.4, RFC 8737: for the names and key asked, chained to the authority's root, by SAN only."""
    key = new_key()
    async with pebble_client(tmp_path) as (client, responder, server):
        chain = await client.obtain([LONG, B, B], key, responder)
        root = x509.load_pem_x509_certificate(await server.root())
    assert chain[0].public_key() == key.public_key()
    assert names_of(chain[0]) == {LONG.value, B.value}
    chain[-1].verify_directly_issued_by(root)
    assert sorted(responder.asked) == [B, LONG]
    assert responder.contexts == {}


@pebbled
async def test_key_may_be_rsa_and_the_chain_an_alternate_one(tmp_path: Path) -> None:
    """RFC 8555 §7.4.2: the chain under the preferred issuer is chosen; the first one if there is none."""
    key = rsa.generate_private_key(65537, 2048)
    async with pebble_client(tmp_path, sleep=False, environment={"PEBBLE_ALTERNATE_ROOTS": "2"}) as (
        client,
        by,
        server,
    ):
        roots = [x509.load_pem_x509_certificate(await server.root(index)) for index in range(3)]
        wanted = str(roots[2].subject.get_attributes_for_oid(x509.NameOID.COMMON_NAME)[0].value)
        chosen = await client.obtain([A], key, by, preferred_chain=wanted)
        first = await client.obtain([A], key, by, preferred_chain="no such root")
    chosen[-1].verify_directly_issued_by(roots[2])
    first[-1].verify_directly_issued_by(roots[0])


@pebbled
async def test_certificate_is_revoked_once(tmp_path: Path) -> None:
    async with pebble_client(tmp_path, sleep=False) as (client, responder, _):
        chain = await client.obtain([A], new_key(), responder)
        await client.revoke(chain[0])
        await client.revoke(chain[0])
        assert await client.renewal_window(chain[0]) is None


@pebbled
async def test_name_that_does_not_answer_is_refused_with_the_whole_problem(tmp_path: Path) -> None:
    """RFC 8555 §6.7, §8.2: the challenge's problem is the error, and nothing stays behind."""
    async with pebble_client(tmp_path, sleep=False) as (client, responder, server):
        await server.set_servfail(A.value)
        with pytest.raises(AcmeError, match=r"could not validate a\.example: ") as refused:
            await client.obtain([A, B], new_key(), responder)
    assert refused.value.problem is not None
    assert refused.value.type.startswith("urn:ietf:params:acme:error:")
    assert refused.value.problem["detail"]
    assert responder.contexts == {}


@pebbled
async def test_name_that_pebble_blocks_is_a_matter_for_a_person(tmp_path: Path) -> None:
    async with pebble_client(tmp_path, sleep=False) as (client, responder, _):
        with pytest.raises(AcmeError, match="rejectedIdentifier") as refused:
            await client.obtain([Hostname(BLOCKED)], new_key(), responder)
    assert not refused.value.retryable


@pebbled
async def test_cancelled_order_leaves_nothing(tmp_path: Path) -> None:
    """While the authority validates: the responder is left at once, and the next order works."""
    async with pebble_client(tmp_path, sleep=False) as (client, responder, _):
        responder.deaf = True
        async with trio.open_nursery() as nursery:
            nursery.start_soon(client.obtain, [A], new_key(), responder)
            await responder.entered.wait()
            nursery.cancel_scope.cancel()
        assert responder.contexts == {}
        responder.deaf = False
        assert await client.obtain([A], new_key(), responder)


# --- the tests' own server: renewal information, limits, waiting ---------------------------------


async def test_renewal_window_is_what_the_authority_says(tmp_path: Path) -> None:
    """RFC 9773 §4: asked by certificate; how soon again is kept between a minute and a day."""
    start = datetime(2030, 1, 2, 3, 4, 5, tzinfo=UTC)
    async with ari_client(tmp_path) as (client, server):
        chain = await client.obtain([A], new_key(), Answering(0))
        server.window, server.explanation, server.retry_after = (
            (start, start + timedelta(days=2)),
            "https://x.example",
            1,
        )
        window = await client.renewal_window(chain[0])
        assert server.asked[-1] == f"/renewal/{renewal_id(chain[0])}"
    assert window is not None
    assert (window.start, window.end) == server.window
    assert window.explanation_url == "https://x.example"
    assert window.retry_after == limits.ARI_RETRY_MIN


@pytest.mark.parametrize("hours", [0, -1])
async def test_renewal_window_that_ends_before_it_starts_was_not_received(tmp_path: Path, hours: int) -> None:
    start = datetime(2030, 1, 2, tzinfo=UTC)
    async with ari_client(tmp_path) as (client, server):
        chain = await client.obtain([A], new_key(), Answering(0))
        server.window = (start, start + timedelta(hours=hours))
        with pytest.raises(AcmeError, match="renewal window"):
            await client.renewal_window(chain[0])


async def test_authority_that_knows_no_window_is_an_error_and_one_without_the_resource_is_not(tmp_path: Path) -> None:
    async with ari_server() as server:
        async with open_client(settings_for(server, tmp_path)) as client:
            chain = await client.obtain([A], new_key(), Answering(0))
            with pytest.raises(AcmeError, match="renewal information"):
                await client.renewal_window(chain[0])
        server.has_renewal_info = False
        async with open_client(settings_for(server, tmp_path)) as client:
            assert await client.renewal_window(chain[0]) is None


async def test_order_says_what_it_replaces_if_the_authority_wants_to_know(tmp_path: Path) -> None:
    """RFC 9773 §5; and a refusal because of it is no refusal of the certificate."""
    async with ari_server() as server:
        async with open_client(settings_for(server, tmp_path)) as client:
            first = await client.obtain([A], new_key(), Answering(0))
            second = await client.obtain([A], new_key(), Answering(0), replaces=first[0])
            assert server.replaced == [renewal_id(first[0])]
            server.refuse_replaces = "alreadyReplaced"
            assert await client.obtain([A], new_key(), Answering(0), replaces=second[0])
        server.has_renewal_info = False
        async with open_client(settings_for(server, tmp_path)) as client:
            assert await client.obtain([A], new_key(), Answering(0), replaces=second[0])
    assert len(server.replaced) == 1


async def test_rate_limit_carries_the_time_to_wait(tmp_path: Path) -> None:
    """RFC 8555 §6.6: 429 with Retry-After is told to the caller, not waited for."""
    async with ari_client(tmp_path) as (client, server):
        server.rate_limit = 7_200
        with pytest.raises(AcmeError, match="too many certificates") as refused:
            await client.obtain([A], new_key(), Answering(0))
    assert refused.value.retry_after == 7_200
    assert refused.value.type.endswith(":rateLimited")
    assert refused.value.retryable


async def test_order_is_awaited_while_it_is_processed(tmp_path: Path) -> None:
    """RFC 8555 §7.4: asked again after Retry-After, until it is valid."""
    async with ari_client(tmp_path) as (client, server):
        server.processing, server.retry_after = 2, 0
        started = trio.current_time()
        assert await client.obtain([A], new_key(), Answering(0))
        assert trio.current_time() - started >= 2 * limits.ACME_POLL_MIN
        assert server.asked.count("/order/0") >= 3


async def test_order_that_is_processed_for_ever_ends(tmp_path: Path) -> None:
    async with ari_client(tmp_path) as (client, server):
        server.processing = 1_000_000
        with pytest.raises(AcmeError, match="takes too long"):
            await client.obtain([A], new_key(), Answering(0), timeout=2)


async def test_wait_that_is_too_long_is_not_begun(tmp_path: Path) -> None:
    """Retry-After beyond the deadline is handed to the caller at once."""
    async with ari_client(tmp_path) as (client, server):
        server.processing, server.retry_after = 1, 100_000
        with trio.fail_after(10), pytest.raises(AcmeError, match="takes too long") as late:
            await client.obtain([A], new_key(), Answering(0))
    assert late.value.retry_after == 100_000


async def test_authorisations_of_a_failed_order_are_given_up(tmp_path: Path) -> None:
    """RFC 8555 §7.5.2."""
    async with ari_client(tmp_path) as (client, server):
        refused = problem("serverInternal", "no")
        server.override = lambda path: refused if path.startswith("/challenge") else None
        with pytest.raises(AcmeError, match="answer to a challenge"):
            await client.obtain([A, B], new_key(), Answering(0))
    assert server.deactivated == ["/authorization/0/0", "/authorization/0/1"]


# --- servers that are down, broken or hostile ----------------------------------------------------


@pytest.mark.parametrize(
    ("field", "value"),
    [
        ("finalize", "http://localhost/finalize"),
        ("finalize", "https:///finalize"),
        ("authorizations", ["file:///etc/passwd"]),
        ("authorizations", []),
        ("authorizations", ["https://localhost/x"] * 5),
        ("identifiers", [{"type": "dns", "value": "other.example"}]),
        ("identifiers", [{"type": "ip", "value": "192.0.2.1"}]),
        ("status", "happy"),
        ("certificate", "ftp://localhost/"),
    ],
)
async def test_order_that_does_not_fit_is_not_followed(tmp_path: Path, field: str, value: object) -> None:
    order: dict[str, object] = {
        "status": "pending",
        "identifiers": [{"type": "dns", "value": A.value}],
        "authorizations": ["https://localhost/authorization"],
        "finalize": "https://localhost/finalize",
    }
    async with ari_client(tmp_path) as (client, server):
        reply = Reply(status=201, content={**order, field: value}, headers={"location": "/order/0"})
        server.override = lambda path: reply if path == "/order" else None
        with pytest.raises(AcmeError, match="makes no sense"):
            await client.obtain([A], new_key(), Answering(0))
        assert server.asked[-1] == "/order"


@pytest.mark.parametrize("location", [None, "http://localhost/order/0", "https://["])
async def test_order_without_a_place_is_not_followed(tmp_path: Path, location: str | None) -> None:
    async with ari_client(tmp_path) as (client, server):
        usual = server.reply("/directory", b"")
        assert usual.status == 200

        def placed(path: str) -> Reply | None:
            if path != "/order":
                return None
            reply = server._new_order({"identifiers": [{"type": "dns", "value": A.value}]})
            headers = {} if location is None else {"location": location}
            return Reply(status=201, content=reply.content, headers=headers)

        server.override = placed
        with pytest.raises(AcmeError, match="makes no sense"):
            await client.obtain([A], new_key(), Answering(0))


async def test_chain_for_another_key_or_name_is_refused(tmp_path: Path) -> None:
    async with ari_client(tmp_path) as (client, server):
        await client.obtain([A], new_key(), Answering(0))
        other_key, garbage = Reply(content=server._orders[0].chain), Reply(content=b"-----BEGIN CERTIFICATE-----")
        for reply, said in ((other_key, "another key"), (garbage, "not PEM")):
            server.override = lambda path, reply=reply: reply if path.startswith("/certificate") else None  # type: ignore[misc]
            with pytest.raises(AcmeError, match=said):
                await client.obtain([A], new_key(), Answering(0))


@pytest.mark.parametrize(
    "reply",
    [Reply(content=b"-----BEGIN CERTIFICATE-----"), problem("malformed", "no", status=404), Reply(cut=True)],
    ids=["no PEM", "refused", "cut"],
)
async def test_alternate_chain_of_no_use_costs_no_certificate(tmp_path: Path, reply: Reply) -> None:
    async with ari_client(tmp_path) as (client, server):
        server.override = lambda path: reply if path.startswith("/alternate") else None
        chain = await client.obtain([A], new_key(), Answering(0), preferred_chain="Tests' other root")
        assert chain[-1] == server.authority.certificate


async def test_retry_after_as_a_date_is_counted_from_the_servers_own_clock(tmp_path: Path) -> None:
    """RFC 9110 §10.2.3: ours may be ten years wrong."""
    date, until = "Wed, 21 Oct 2020 07:28:00 GMT", "Wed, 21 Oct 2020 07:30:00 GMT"
    headers = {"date": date, "retry-after": until}
    async with ari_client(tmp_path) as (client, server):
        refused = problem("rateLimited", "later", status=429, headers=headers)
        server.override = lambda path: refused if path == "/order" else None
        with pytest.raises(AcmeError) as limited:
            await client.obtain([A], new_key(), Answering(0))
    assert limited.value.retry_after == 120


async def test_order_is_over_in_its_time_whatever_the_server_does(tmp_path: Path) -> None:
    async with ari_client(tmp_path) as (client, server):
        server.override = lambda path: Reply(silent=True) if path == "/order" else None
        with trio.fail_after(10), pytest.raises(AcmeError, match="longer than 1 s"):
            await client.obtain([A], new_key(), Answering(0), timeout=1)


async def test_authority_says_by_what_names_records_mean_it(tmp_path: Path) -> None:
    async with ari_client(tmp_path) as (client, _):
        assert client.issuer_domains == ("tests.example",)
