"""Accounts against pebble: made, kept, bound, re-keyed, lost."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest
import trio

from tests.acme.answering import Answering
from tests.acme.ari_server import Reply, ari_server, problem
from tests.acme.clients import A, B, ari_client, new_key, pebble_client, pebbled, settings_for
from trunnel.acme.account import AccountFile
from trunnel.acme.client import open_client
from trunnel.acme.jws import AccountKey
from trunnel.errors import AcmeError
from trunnel.settings.acme import AcmeSettings

EAB_KID, EAB_KEY = "kid-1", "zWNDZM6eQGHWpSRTPal5eIUYFTu7EajVIoguysqZ9wG44nMEtx3MUAsUDkMTQ12W"


@pebbled
async def test_account_is_one_file_and_serves_again(tmp_path: Path) -> None:
    async with pebble_client(tmp_path, settings={"email": "a@b.example"}, sleep=False) as (client, responder, server):
        url = await client.account_url()
        (path,) = (each for each in (tmp_path / "acme").iterdir() if each.suffix == ".json")
        assert path.stat().st_mode & 0o777 == 0o600
        assert path.parent.stat().st_mode & 0o777 == 0o700
        again = AcmeSettings(
            directory=server.directory, creds_path=tmp_path / "acme", ca=server.ca, email="c@d.example"
        )
        async with open_client(again) as other:
            assert await other.account_url() == url
            await other.obtain([A], new_key(), responder)
    assert '"c@d.example"' in path.read_text()


@pebbled
async def test_external_account_is_bound(tmp_path: Path) -> None:
    eab = {"eab_kid": EAB_KID, "eab_key": EAB_KEY}
    async with pebble_client(tmp_path, settings=eab, eab={EAB_KID: EAB_KEY}, sleep=False) as (client, responder, _):
        assert await client.obtain([A], new_key(), responder)


@pebbled
async def test_account_without_a_needed_binding_is_a_matter_for_a_person(tmp_path: Path) -> None:
    async with pebble_client(tmp_path, eab={EAB_KID: EAB_KEY}, sleep=False) as (client, _, _server):
        with pytest.raises(AcmeError, match="--acme-eab-kid") as refused:
            await client.account_url()
    assert not refused.value.retryable


@pebbled
async def test_account_key_changes_and_the_old_one_is_gone(tmp_path: Path) -> None:
    """RFC 8555 §7.3.5: the account goes on under its URL, with the new key only."""
    async with pebble_client(tmp_path, sleep=False) as (client, responder, server):
        url = await client.account_url()
        file = AccountFile(tmp_path / "acme", server.directory)
        before = file.load_or_create()
        await client.roll_key()
        after = file.load_or_create()
        assert (before.key == after.key, after.url, after.next_key) == (False, url, None)
        assert await client.obtain([A], new_key(), responder)


@pebbled
async def test_change_of_keys_that_was_cut_off_is_settled(tmp_path: Path) -> None:
    """The server knows the new key or the old one; the file has both; the right one is found."""
    async with pebble_client(tmp_path, sleep=False) as (client, _, server):
        url = await client.account_url()
        file = AccountFile(tmp_path / "acme", server.directory)
        old = file.load_or_create()
        await client.roll_key()
        new = file.load_or_create()
        changed = type(new)(directory=old.directory, key=old.key, url=url, next_key=new.key)
        file.save(changed, known=new)
        assert await client.account_url() == url
        assert file.load_or_create().key == new.key
        unchanged = type(new)(directory=old.directory, key=new.key, url=url, next_key=old.key)
        file.save(unchanged, known=new)
        assert await client.account_url() == url
        settled = file.load_or_create()
        assert (settled.key, settled.next_key) == (new.key, None)


@pebbled
async def test_account_that_the_server_forgot_is_made_anew(tmp_path: Path) -> None:
    async with pebble_client(tmp_path, sleep=False) as (client, responder, server):
        url = await client.account_url()
        file = AccountFile(tmp_path / "acme", server.directory)
        held = file.load_or_create()
        lost = type(held)(directory=held.directory, key=held.key, url=f"{url}0")
        file.save(lost, known=held)
        assert await client.obtain([A], new_key(), responder)
        assert await client.account_url() == url


# --- refusals, by the server of the tests' own ---------------------------------------------------


async def test_change_of_keys_that_is_refused_leaves_the_old_one(tmp_path: Path) -> None:
    async with ari_client(tmp_path) as (client, server):
        await client.account_url()
        file = AccountFile(tmp_path / "acme", server.directory)
        before = file.load_or_create()
        server.override = lambda path: problem("serverInternal", "not today") if path == "/change" else None
        with pytest.raises(AcmeError, match="not today"):
            await client.roll_key()
        assert file.load_or_create() == before
        server.override = lambda _path: None
        await client.roll_key()
        assert file.load_or_create().key != before.key


async def test_change_of_keys_whose_answer_is_lost_locks_nobody_out(tmp_path: Path) -> None:
    """The server has changed the key; the repetition is refused, as the old key is nobody's any more."""
    async with ari_client(tmp_path) as (client, server):
        await client.account_url()
        file = AccountFile(tmp_path / "acme", server.directory)
        before = file.load_or_create()
        server.lost.append("/change")
        await client.roll_key()
        assert server.asked.count("/change") == 3, "cut, refused for its nonce, refused for its key"
        after = file.load_or_create()
        assert (after.key == before.key, after.next_key) == (False, None)
        assert await client.obtain([A], new_key(), Answering(0))
        await client.roll_key()


@pytest.mark.parametrize("done", [True, False], ids=["after the server", "before the server"])
async def test_change_of_keys_that_is_cut_off_locks_nobody_out(tmp_path: Path, *, done: bool) -> None:
    """By a crash, or a server that is gone: this client and the next one both go on."""
    async with ari_client(tmp_path) as (client, server):
        url = await client.account_url()
        file = AccountFile(tmp_path / "acme", server.directory)

        def gone(path: str) -> Reply | None:
            if path == "/change" and done and "/change" not in server.asked[:-1]:
                server.lost.append("/change")
                return None
            return Reply(cut=True) if path in ("/change", "/account") else None

        server.override = gone
        with pytest.raises(AcmeError, match="cannot be reached"):
            await client.roll_key()
        assert file.load_or_create().next_key is not None
        server.override = lambda _path: None
        async with open_client(settings_for(server, tmp_path)) as restarted:
            assert await restarted.account_url() == url
        assert await client.obtain([A], new_key(), Answering(0))
        assert file.load_or_create().next_key is None


async def test_authority_without_key_changes_is_told_of(tmp_path: Path) -> None:
    async with ari_server() as server:
        urls = {verb: f"{server.directory}/{verb}" for verb in ("newNonce", "newAccount", "newOrder")}
        server.override = lambda path: Reply(content=urls) if path == "/directory" else None
        async with open_client(settings_for(server, tmp_path)) as client:
            with pytest.raises(AcmeError, match="does not change keys"):
                await client.roll_key()
            with pytest.raises(AcmeError, match="no way to revoke"):
                await client.revoke(server.authority.certificate)


async def test_change_of_keys_that_nobody_can_settle_is_kept(tmp_path: Path) -> None:
    """Both keys stay in the file until the server says which one it knows."""
    async with ari_client(tmp_path) as (client, server):
        await client.account_url()
        file = AccountFile(tmp_path / "acme", server.directory)
        account = file.load_or_create()
        fresh = AccountKey.generate().to_pem().decode()
        both = file.save(msgspec.structs.replace(account, next_key=fresh), known=account)
        server.override = lambda path: problem("serverInternal", "later") if path == "/account" else None
        with pytest.raises(AcmeError, match="later"):
            await client.account_url()
        assert file.load_or_create() == both


@pytest.mark.parametrize(
    ("reply", "said"),
    [
        (Reply(status=201, content={"status": "deactivated"}, headers={"location": "/account/1"}), "is deactivated"),
        (Reply(status=201, content={"status": "valid"}), "without the Location"),
        (Reply(status=201, content=[]), "makes no sense"),
        (problem("unsupportedContact", "no such place"), "refused the account: unsupportedContact"),
    ],
    ids=["deactivated", "nowhere", "nonsense", "refused"],
)
async def test_account_that_cannot_be_used_is_not_kept(tmp_path: Path, reply: Reply, said: str) -> None:
    async with ari_client(tmp_path) as (client, server):
        server.override = lambda path: reply if path == "/account" else None
        with pytest.raises(AcmeError, match=said):
            await client.account_url()
        assert AccountFile(tmp_path / "acme", server.directory).load_or_create().url is None


async def test_contact_of_an_account_that_is_gone_goes_to_a_new_one(tmp_path: Path) -> None:
    async with ari_server() as server:
        settings = settings_for(server, tmp_path)
        async with open_client(settings) as client:
            await client.account_url()
        gone = problem("accountDoesNotExist", "gone")
        server.override = lambda path: gone if path == "/account/1" else None
        async with open_client(msgspec.structs.replace(settings, email="a@b.example")) as client:
            assert await client.account_url()
        server.override = lambda path: problem("serverInternal", "later") if path == "/account/1" else None
        async with open_client(settings) as client:
            with pytest.raises(AcmeError, match="later"):
                await client.account_url()
    assert AccountFile(tmp_path / "acme", server.directory).load_or_create().contact == "a@b.example"


@pebbled
async def test_two_processes_that_begin_at_once_have_one_account(tmp_path: Path) -> None:
    """As relay and agent of one machine do, with one folder: nobody's account is lost, both order with it."""
    async with pebble_client(tmp_path, sleep=False) as (client, responder, server):
        settings = AcmeSettings(directory=server.directory, creds_path=tmp_path / "acme", ca=server.ca)
        async with open_client(settings) as other:
            async with trio.open_nursery() as nursery:
                for each, name in ((client, A), (other, B)):
                    nursery.start_soon(each.obtain, [name], new_key(), responder)
            assert await client.account_url() == await other.account_url()
    assert len(list((tmp_path / "acme").glob("*.json"))) == 1


async def test_key_of_another_process_is_taken_over(tmp_path: Path) -> None:
    """Two clients of one file: after a change by the one the other signs with the new key, too."""
    async with ari_server() as server:
        settings = settings_for(server, tmp_path)
        async with open_client(settings) as first, open_client(settings) as second:
            await first.account_url()
            await second.account_url()
            await first.roll_key()
            await second.account_url()
            assert await first.thumbprint() == await second.thumbprint()


async def test_orders_side_by_side_share_an_account(tmp_path: Path) -> None:
    async with ari_client(tmp_path) as (client, server):
        async with trio.open_nursery() as nursery:
            for _ in range(4):
                nursery.start_soon(client.obtain, [A], new_key(), Answering(0))
        assert server.asked.count("/account") == 1
        assert server.issued == 4
