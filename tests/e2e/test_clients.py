"""Real clients reach the origin through relay and agent, and trust the agent's key alone."""

from __future__ import annotations

import hashlib
from pathlib import Path

import pytest
import trio

from tests.e2e.origins import Exchange, greet, serve_web
from tests.e2e.programs import Programs, Site
from tests.e2e.visitors import curl, get, open_visit, read_to_end, s_client

MIB = 2**20


@pytest.fixture
async def site(programs: Programs, nursery: trio.Nursery) -> Site:
    """A web server's public address."""
    agent = await programs.expose(await serve_web(nursery, answer), await programs.serve())
    return agent.site


async def answer(exchange: Exchange) -> None:
    """Hash what is posted; greet otherwise."""
    if exchange.method != "POST":
        await greet(exchange)
        return
    digest = hashlib.sha256()
    length = await exchange.read_body(digest.update)
    await exchange.answer(f"{length} {digest.hexdigest()}".encode())


async def test_curl_gets_posts_and_keeps_its_connection(site: Site, tmp_path: Path) -> None:
    """curl: a page, a second one on the same connection, and a body of 1 MiB that arrives as it was sent."""
    assert await curl(site, path="/first") == "GET /first on 1\n"
    both = await curl(site, "--http1.1", f"{site.url}/second", path="/first")
    assert both == "GET /second on 2\nGET /first on 2\n"

    posted = hashlib.shake_256(b"posted").digest(MIB)
    (tmp_path / "posted").write_bytes(posted)
    said = await curl(site, "--data-binary", f"@{tmp_path / 'posted'}")
    assert said == f"{MIB} {hashlib.sha256(posted).hexdigest()}"


async def test_openssl_verifies_the_leaf_by_the_name_it_sent(site: Site) -> None:
    """`s_client -verify_return_error` with the agent's certificate as the only trust, TLS 1.2 and 1.3."""
    for number, version in enumerate(("1.2", "1.3"), start=1):
        flag = f"-tls{version.replace('.', '_')}"
        ran = await s_client(site, flag, "-alpn", "h2,http/1.1", request=get(site, "/openssl"))
        printed = ran.stdout.decode()
        assert ran.returncode == 0, printed
        assert "Verification: OK" in printed
        assert f"Verified peername: {site.hostname}" in printed
        assert "ALPN protocol: http/1.1" in printed
        assert f"New, TLSv{version}, Cipher" in printed
        assert f"GET /openssl on {number}\n" in printed


async def test_python_gets_a_page_and_a_clean_end(site: Site) -> None:
    """Python's ssl, which takes an end without close_notify for what it is: cut off."""
    async with await open_visit(site, alpn=["h2", "http/1.1"]) as visit:
        await visit.send_all(get(site, "/python"))
        head, _, body = (await read_to_end(visit)).partition(b"\r\n\r\n")
        assert head.startswith(b"HTTP/1.1 200 OK")
        assert body == b"GET /python on 1\n"
        assert visit.selected_alpn_protocol() == "http/1.1"
