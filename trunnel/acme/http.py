"""HTTP for ACME, on httpx and trio: everything is capped, and nothing is left running.

- https only, TLS 1.2 or newer, the authority's certificate verified against
  the system's roots, or against the one CA that the settings name;
- redirects are not followed: ACME has none, and a signed request is signed for
  its URL;
- an answer has at most `ACME_ANSWER_MAX` bytes, not compressed, and the whole
  exchange `ACME_REQUEST_TIMEOUT` seconds, however slowly its bytes come;
- a connection that breaks is tried `ACME_TRANSPORT_TRIES` times.  That is safe:
  a signed request that did arrive is refused the second time by its nonce, and
  is then sent with another;
- the environment is not asked for proxies.

httpx reads bodies through async generators.  One that is left in the middle
would be finished by the garbage collector, outside any task; so a body that
is too long is not left but cancelled, and the cancellation goes through all of
them.
"""

from __future__ import annotations

import re
import ssl
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Final, final

import certifi
import httpx
import msgspec
import trio

from trunnel.acme.answer import Answer, date_untrusted, retry_after_untrusted
from trunnel.acme.messages import check_url_untrusted, escaped
from trunnel.errors import AcmeError, ConfigError, RemoteProtocolError
from trunnel.identity.files import read_guarded
from trunnel.settings import limits
from trunnel.version import VERSION

JOSE: Final = "application/jose+json"
"""Type of every signed request (RFC 8555 §6.2)."""
_NONCE: Final = re.compile(r"[A-Za-z0-9_-]+", re.ASCII)
"""Base64url; another one is no nonce (RFC 8555 §6.5.1)."""
_HEADERS: Final = {"user-agent": f"trunnel/{VERSION}", "accept-encoding": "identity", "accept-language": "en"}


@final
class Exchange:
    """Requests and answers of one server."""

    def __init__(self, http: httpx.AsyncClient, now: Callable[[], datetime]) -> None:
        self._http = http
        self._now = now
        self.nonces: list[str] = []
        """Nonces that came with answers and were not used yet, the latest last."""

    async def get(self, url: str) -> Answer:
        """GET *url*; raises as `post`."""
        return await self._send("GET", url, None)

    async def head(self, url: str) -> Answer:
        """HEAD *url*; raises as `post`."""
        return await self._send("HEAD", url, None)

    async def post(self, url: str, signed: Mapping[str, str]) -> Answer:
        """POST a signed request; raises AcmeError if no answer came, or one that is too long."""
        return await self._send("POST", url, msgspec.json.encode(signed))

    async def _send(self, method: str, url: str, content: bytes | None) -> Answer:
        try:
            check_url_untrusted(url)
        except RemoteProtocolError as exc:
            raise AcmeError(f"the certificate authority: {exc.reason}") from exc
        for tries in range(1, limits.ACME_TRANSPORT_TRIES + 1):
            try:
                return await self._once(method, url, content)
            except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError, OSError, UnicodeError) as exc:
                if tries == limits.ACME_TRANSPORT_TRIES or not isinstance(exc, httpx.TransportError):
                    raise _no_answer(url, exc) from exc
                await trio.sleep(limits.ACME_TRANSPORT_PAUSE * tries)
        raise AssertionError("the loop returns or raises")

    async def _once(self, method: str, url: str, content: bytes | None) -> Answer:
        """Send one request and read its whole answer; raises AcmeError when it takes too long."""
        headers = {} if content is None else {"content-type": JOSE}
        with trio.move_on_after(limits.ACME_REQUEST_TIMEOUT):
            async with self._http.stream(method, url, content=content, headers=headers) as response:
                body = await _read_capped(response)
                return self._answer(url, response, body)
        raise AcmeError(
            f"the certificate authority at {_host(url)} did not answer within {limits.ACME_REQUEST_TIMEOUT:.0f} s"
        )

    def _answer(self, url: str, response: httpx.Response, body: bytes) -> Answer:
        """Put together what the rest needs, and keep the nonce."""
        nonce = response.headers.get("replay-nonce", "")
        if len(nonce) <= limits.ACME_NONCE_MAX and _NONCE.fullmatch(nonce):
            self.nonces = [*self.nonces, nonce][-limits.ACME_NONCES_KEPT :]
        served = date_untrusted(response.headers.get("date")) or self._now()
        return Answer(
            status=response.status_code,
            body=body,
            url=url,
            location=response.headers.get("location"),
            retry_after=retry_after_untrusted(response.headers.get("retry-after"), now=served),
            links=tuple(response.headers.get_list("link")),
        )


@asynccontextmanager
async def open_exchange(ca: Path | None, *, now: Callable[[], datetime]) -> AsyncIterator[Exchange]:
    """Open connections as they are needed; close them after the body.

    Args:
        ca: PEM file of the one CA to trust; None: the system's roots.
        now: The time of day.

    Raises:
        ConfigError: `ca` cannot be read, or holds no certificate.
        AcmeError: The system's roots cannot be read now.
    """
    async with httpx.AsyncClient(
        verify=_trusting(ca),
        trust_env=False,
        follow_redirects=False,
        timeout=limits.ACME_REQUEST_TIMEOUT,
        headers=_HEADERS,
    ) as http:
        yield Exchange(http, now)


def _trusting(ca: Path | None) -> ssl.SSLContext:
    """Return the TLS of a client; the standard library's, because httpx takes no other."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.minimum_version = ssl.TLSVersion.TLSv1_2
    if ca is None:
        try:
            context.load_default_certs()
            context.load_verify_locations(certifi.where())
        except OSError as exc:  # no descriptor left, or an upgrade has just taken the file away
            raise AcmeError(f"the roots that authorities are trusted by cannot be read: {exc}") from exc
        return context
    pem = read_guarded(ca, limit=limits.CA_FILE_MAX, secret=False)
    if pem is None:
        raise ConfigError("acme_ca", f"there is no file {ca}")
    try:
        context.load_verify_locations(cadata=pem.decode("ascii"))
    except (ssl.SSLError, ValueError) as exc:
        raise ConfigError("acme_ca", f"{ca} holds no certificate in PEM form") from exc
    return context


async def _read_capped(response: httpx.Response) -> bytes:
    """Read a body; raises AcmeError if it is longer than an answer may be, or compressed."""
    if response.headers.get("content-encoding", "identity").lower() != "identity":
        raise AcmeError(f"the certificate authority at {_host(str(response.url))} compressed what was not to be")
    body = bytearray()
    with trio.CancelScope() as reading:
        async for chunk in response.aiter_raw():
            if len(body) + len(chunk) > limits.ACME_ANSWER_MAX:
                reading.cancel()
                continue
            body += chunk
    if reading.cancel_called:
        raise AcmeError(
            f"the certificate authority at {_host(str(response.url))} sent more than {limits.ACME_ANSWER_MAX:,} bytes"
        )
    return bytes(body)


def _no_answer(url: str, error: Exception) -> AcmeError:
    """Return the error for a request without an answer, with what the system says of it."""
    said = str(error)
    cause: BaseException | None = error
    while cause is not None and not isinstance(cause, OSError):  # TLS's errors are OSErrors, too
        cause = cause.__cause__ or cause.__context__
    if cause is not None:
        said = str(cause)
    return AcmeError(
        f"the certificate authority at {_host(url)} cannot be reached: {escaped(said) or type(error).__name__}"
    )


def _host(url: str) -> str:
    """Return the host and port of *url*, for people."""
    return escaped(url.removeprefix("https://").partition("/")[0])
