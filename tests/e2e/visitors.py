"""Visitors: curl, openssl and Python's ssl, each told where a site is and which certificate to trust.

Names are never resolved: a visitor connects to 127.0.0.1 and sends the name as
SNI.  None of them trusts anything but the certificate that the agent wrote, so
a test that gets an answer has also proven whose key ended the TLS.
"""

from __future__ import annotations

import ssl
import subprocess
from collections.abc import Sequence

import trio

from tests.e2e.programs import Site, run_command
from tests.peers import require_program

LOOPBACK = "127.0.0.1"


def curl_command(site: Site, *words: object, path: str = "/") -> list[str]:
    """Return a curl command line for *path* of *site*."""
    resolve = f"{site.hostname}:{site.port}:{LOOPBACK}"
    base = [str(require_program("curl")), "--silent", "--show-error", "--noproxy", "*", "--max-time", "60"]
    trust = ["--cacert", site.certificate] if site.certificate else []
    return [*base, *trust, "--resolve", resolve, *map(str, words), site.url + path]


async def curl(site: Site, *words: object, path: str = "/") -> str:
    """Ask for *path* of *site*; returns what curl printed, fails as curl does."""
    return (await run_command(*curl_command(site, *words, path=path))).stdout.decode()


async def s_client(site: Site, *words: str, request: bytes = b"") -> subprocess.CompletedProcess[bytes]:
    """Run `openssl s_client` against *site*; it verifies chain and name, and reads until the end."""
    trust = ["-CAfile", site.certificate, "-verify_hostname", site.hostname, "-verify_return_error"]
    return await run_command(
        require_program("openssl"),
        *("s_client", "-connect", f"{LOOPBACK}:{site.port}", "-servername", site.hostname, "-ign_eof"),
        *(trust if site.certificate else []),
        *words,
        given=request,
        check=False,
    )


def tls_context(site: Site, *, alpn: Sequence[str] = ()) -> ssl.SSLContext:
    """Return a context that trusts the site's certificate and nothing else."""
    context = ssl.create_default_context(cafile=site.certificate)
    if alpn:
        context.set_alpn_protocols(list(alpn))
    return context


async def open_visit(
    site: Site, *, alpn: Sequence[str] = (), context: ssl.SSLContext | None = None
) -> trio.SSLStream[trio.SocketStream]:
    """Connect to *site* by TLS and shake hands; the caller closes it."""
    raw = await trio.open_tcp_stream(LOOPBACK, site.port)
    chosen = context or tls_context(site, alpn=alpn)
    visit = trio.SSLStream(raw, chosen, server_hostname=site.hostname)
    try:
        await visit.do_handshake()
    except BaseException:
        await trio.aclose_forcefully(raw)
        raise
    return visit


def get(site: Site, path: str = "/") -> bytes:
    """Return a request for *path*, the last on its connection."""
    return f"GET {path} HTTP/1.1\r\nHost: {site.hostname}\r\nConnection: close\r\n\r\n".encode()


async def read_to_end(stream: trio.abc.ReceiveStream) -> bytes:
    """Return all that comes until the end."""
    return b"".join([chunk async for chunk in stream])
