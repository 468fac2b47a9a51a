"""Servers that are down, broken or hostile: an `AcmeError`, in bounded time and memory."""

from __future__ import annotations

import socket
import ssl
from pathlib import Path

import pytest
import trio
from trio.testing import MockClock

from tests.acme.answering import Answering
from tests.acme.ari_server import Reply, ari_server, problem
from tests.acme.clients import A, ari_client, new_key, settings_for
from trunnel.acme.client import open_client
from trunnel.errors import AcmeError, ConfigError
from trunnel.settings import limits
from trunnel.settings.acme import AcmeSettings


def unused_port() -> int:
    with socket.socket() as once:
        once.bind(("127.0.0.1", 0))
        return int(once.getsockname()[1])


async def test_server_that_is_down_is_said_to_be(tmp_path: Path) -> None:
    async with ari_server() as server:
        server.down = True
        with pytest.raises(AcmeError, match="answered 503 to the directory: down for maintenance") as down:
            async with open_client(settings_for(server, tmp_path)):
                pytest.fail("a server that is down has no directory")
    assert down.value.retry_after == 120


async def test_server_that_is_gone_cannot_be_reached(tmp_path: Path, autojump_clock: MockClock) -> None:
    settings = AcmeSettings(directory=f"https://127.0.0.1:{unused_port()}/directory", creds_path=tmp_path)
    with pytest.raises(AcmeError, match="cannot be reached") as gone:
        async with open_client(settings):
            pytest.fail("nobody listens there")
    assert gone.value.retryable


async def test_server_of_another_ca_is_not_believed(tmp_path: Path) -> None:
    async with ari_server() as server, ari_server() as other:
        stranger = AcmeSettings(directory=server.directory, creds_path=tmp_path, ca=other.ca)
        with pytest.raises(AcmeError, match="certificate verify failed"):
            async with open_client(stranger):
                pytest.fail("its certificate is of another CA")
        assert server.asked == []


async def test_connection_that_is_cut_is_tried_again(tmp_path: Path) -> None:
    async with ari_client(tmp_path) as (client, server):
        cuts = iter([True, True, False])
        server.override = lambda path: Reply(cut=True) if path == "/order" and next(cuts, False) else None
        assert await client.obtain([A], new_key(), Answering(0))


HOSTILE: dict[str, tuple[Reply, str]] = {
    "an endless body": (Reply(endless=True), "sent more than"),
    "a compressed body": (Reply(headers={"content-encoding": "gzip"}), "compressed"),
    "a redirect": (Reply(status=302, headers={"location": "/order"}), "answered 302"),
    "no JSON": (Reply(content=b"<html>hello</html>"), "makes no sense"),
    "deep JSON": (Reply(content=b"[" * 200_000), "makes no sense"),
    "a list": (Reply(content=[]), "makes no sense"),
    "a body of control characters": (Reply(status=500, content=b"\x1b[2J\x07"), r"\\x1b\[2J\\x07"),
    "a problem of odd types": (Reply(status=400, content={"type": [1], "detail": {}, "subproblems": [1]}), "no reason"),
    "an unknown status": (Reply(status=199 + 400, content=b""), "answered 599"),
    "nonces that are never good": (problem("badNonce", "never"), "32 nonces"),
}


@pytest.mark.parametrize("case", HOSTILE)
async def test_hostile_answer_is_an_acme_error(tmp_path: Path, case: str) -> None:
    reply, said = HOSTILE[case]
    async with ari_client(tmp_path) as (client, server):
        server.override = lambda path: reply if path == "/order" else None
        with pytest.raises(AcmeError, match=said):
            await client.obtain([A], new_key(), Answering(0))


async def test_server_that_is_silent_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(limits, "ACME_REQUEST_TIMEOUT", 0.5)
    async with ari_client(tmp_path) as (client, server):
        server.override = lambda path: Reply(silent=True) if path == "/order" else None
        with trio.fail_after(10), pytest.raises(AcmeError, match="did not answer within"):
            await client.obtain([A], new_key(), Answering(0))


async def test_directory_by_http_is_refused(tmp_path: Path) -> None:
    settings = AcmeSettings(directory="http://localhost/directory", creds_path=tmp_path)
    with pytest.raises(AcmeError, match="not an https URL"):
        async with open_client(settings):
            pytest.fail("it is not https")


async def test_ca_file_that_is_none_is_a_mistake_of_configuration(tmp_path: Path) -> None:
    ca = tmp_path / "ca.pem"
    settings = AcmeSettings(directory="https://localhost/directory", creds_path=tmp_path, ca=ca)
    for content, said in ((None, "there is no file"), (b"", "holds no certificate"), (b"\xff", "holds no certificate")):
        if content is not None:
            ca.write_bytes(content)
        with pytest.raises(ConfigError, match=said):
            async with open_client(settings):
                pytest.fail("the CA file is of no use")


def test_system_roots_are_trusted_unless_a_ca_is_named() -> None:
    from trunnel.acme.http import _trusting

    context = _trusting(None)
    assert context.verify_mode is ssl.CERT_REQUIRED
    assert context.check_hostname
    assert context.cert_store_stats()["x509_ca"] > 10


@pytest.mark.parametrize("host", ["a..b", "a" * 70 + ".example", "xn--a.example"])
async def test_a_host_that_no_name_can_be_is_not_reached(host: str, tmp_path: Path) -> None:
    """A typo, or any URL in an answer: an error of the try, not of the program."""
    with pytest.raises(AcmeError):
        async with open_client(AcmeSettings(directory=f"https://{host}/directory", creds_path=tmp_path)):
            pytest.fail("there is no such host")


async def test_roots_that_cannot_be_read_now_fail_the_try(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An upgrade of the package has just taken the file away, or no descriptor is left."""
    monkeypatch.setattr("certifi.where", lambda: str(tmp_path / "gone.pem"))
    with pytest.raises(AcmeError, match="roots"):
        async with open_client(AcmeSettings(directory="https://127.0.0.1:1/directory", creds_path=tmp_path)):
            pytest.fail("nobody can be trusted")
