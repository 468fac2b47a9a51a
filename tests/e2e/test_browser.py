"""A headless Chromium renders the origin's page, script and all.

The browser is told to accept one key: the one of the certificate that the
agent wrote (`--ignore-certificate-errors-spki-list`).  Had anything else on
the way ended the TLS, it would show its warning page instead.
"""

from __future__ import annotations

import base64
import hashlib
from pathlib import Path

import trio
from cryptography import x509

from tests.e2e.origins import Exchange, serve_web
from tests.e2e.programs import Programs, Site, run_command
from tests.peers import require_program
from trunnel.identity.keys import spki_of

PAGE = b"""<!doctype html>
<title>behind the tunnel</title>
<p id="said">nothing yet</p>
<img src="/picture.svg" onload="document.body.dataset.picture = this.naturalWidth">
<script>
  fetch("/greeting").then(answer => answer.text()).then(text => document.getElementById("said").textContent = text)
</script>
"""
PICTURE = b'<svg xmlns="http://www.w3.org/2000/svg" width="17" height="17"></svg>'
GREETING = b"fetched through the tunnel"
QUIET = (
    *("--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-dev-shm-usage"),
    *("--disable-background-networking", "--disable-component-update", "--disable-sync", "--disable-extensions"),
)
"""A browser that shows nothing, asks nobody and updates nothing."""


async def serve_page(exchange: Exchange) -> None:
    """The page, what it fetches, and nothing for what browsers ask by themselves."""
    match exchange.path:
        case "/":
            await exchange.answer(PAGE, kind="text/html")
        case "/picture.svg":
            await exchange.answer(PICTURE, kind="image/svg+xml")
        case "/greeting":
            await exchange.answer(GREETING)
        case _:
            await exchange.answer(b"")


def pin_of(certificate: Path) -> str:
    """Return the key of a certificate as Chromium names keys."""
    leaf = x509.load_pem_x509_certificate(certificate.read_bytes())
    return base64.b64encode(hashlib.sha256(spki_of(leaf)).digest()).decode()


async def render(site: Site, profile: Path) -> str:
    """Open the site in Chromium; returns the document as it is once the network is idle."""
    ran = await run_command(
        require_program("chromium", "chromium-browser", "google-chrome"),
        *QUIET,
        f"--user-data-dir={profile}",
        f"--ignore-certificate-errors-spki-list={pin_of(Path(site.certificate))}",
        "--host-resolver-rules=MAP * 127.0.0.1",
        "--virtual-time-budget=10000",  # its own clock: it stands still while requests are under way
        "--dump-dom",
        site.url,
    )
    return ran.stdout.decode()


async def test_a_browser_renders_the_page_and_what_it_fetches(
    programs: Programs, nursery: trio.Nursery, tmp_path: Path
) -> None:
    agent = await programs.expose(await serve_web(nursery, serve_page), await programs.serve())
    document = await render(agent.site, tmp_path / "profile")
    assert f'<p id="said">{GREETING.decode()}</p>' in document
    assert 'data-picture="17"' in document
