"""A small ACME server of the tests' own, for what pebble lacks: renewal information, limits, being down, spite.

It believes every challenge without looking (pebble looks), checks nonces but
no signatures (pebble checks), and issues under a CA of its own.  What it does
is set by attributes, at any time:

    server.window = (start, end)       renewal information (RFC 9773); None: 404 for it
    server.rate_limit = 3600           a new order is refused: rateLimited, 429, Retry-After
    server.down = True                 503 for everything
    server.processing = 3              an order is "processing" so many times
    server.override = lambda path: Reply(…)   answers of a test's own, by path; None: as usual
"""

from __future__ import annotations

import base64
import itertools
import json
import ssl
import tempfile
from collections.abc import AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, Final, final

import h11
import trio
import trustme
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import NameOID

from trunnel.streams.nursery import bare_nursery

ERROR: Final = "urn:ietf:params:acme:error:"
PROBLEM: Final = "application/problem+json"
TOKEN: Final = "token-of-the-tests-own-server-0123456789"
CHUNK: Final = b" " * 65_536
Json = Any
"""What a client sent; a mistake in it is an exception here, and the test fails."""


@dataclass(frozen=True, kw_only=True)
class Reply:
    """One answer."""

    status: int = 200
    content: object = b""
    """Bytes as they are; anything else becomes JSON."""
    headers: Mapping[str, str] = field(default_factory=dict[str, str])
    endless: bool = False
    """Whether the body never ends."""
    silent: bool = False
    """Whether nothing is answered, ever."""
    cut: bool = False
    """Whether the connection ends instead of an answer."""


def problem(kind: str, detail: str, *, status: int = 400, headers: Mapping[str, str] | None = None) -> Reply:
    """Return a problem document."""
    return Reply(
        status=status,
        content={"type": f"{ERROR}{kind}", "detail": detail, "status": status},
        headers={"content-type": PROBLEM, **(headers or {})},
    )


@final
class Authority:
    """What it issues under."""

    def __init__(self, name: str) -> None:
        self.key = ec.generate_private_key(ec.SECP256R1())
        self.name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, name)])
        now = datetime.now(UTC)
        self.certificate = (
            x509.CertificateBuilder(self.name, self.name, self.key.public_key(), x509.random_serial_number())
            .not_valid_before(now - timedelta(days=1))
            .not_valid_after(now + timedelta(days=10))
            .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
            .add_extension(x509.SubjectKeyIdentifier.from_public_key(self.key.public_key()), critical=False)
            .sign(self.key, hashes.SHA256())
        )

    def issue(self, request: x509.CertificateSigningRequest, begin: datetime, end: datetime) -> x509.Certificate:
        """Issue a certificate for what *request* names."""
        names = request.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        issuer_key = x509.AuthorityKeyIdentifier.from_issuer_public_key(self.key.public_key())
        return (
            x509.CertificateBuilder(self.name, x509.Name([]), request.public_key(), x509.random_serial_number())
            .not_valid_before(begin)
            .not_valid_after(end)
            .add_extension(names, critical=True)
            .add_extension(issuer_key, critical=False)
            .sign(self.key, hashes.SHA256())
        )


@dataclass(kw_only=True)
class _Order:
    names: list[str]
    valid: set[int] = field(default_factory=set[int])
    """Numbers of the names that are proven."""
    chain: bytes = b""
    alternate: bytes = b""
    looks: int = 0
    """How often it still says that it is processing."""


@final
class AriServer:
    """The server; all attributes may be changed while it runs."""

    def __init__(self, base: str, ca: Path, now: Callable[[], datetime]) -> None:
        self._base = base
        self._now = now
        self.directory = f"{base}/directory"
        """URL of the directory."""
        self.ca = ca
        """PEM of the CA of its own HTTPS certificate."""
        self.authority, self.other_authority = Authority("Tests' own root"), Authority("Tests' other root")
        """What it issues under, and what the alternate chain is under."""
        self.validity = timedelta(days=6)
        """Of the certificates."""
        self.has_renewal_info = True
        """Whether the directory has renewalInfo."""
        self.window: tuple[datetime, datetime] | None = None
        """What renewal information says; None: 404."""
        self.explanation: str | None = None
        """Its explanationURL."""
        self.retry_after: int | str | None = None
        """Retry-After of renewal information, and of an order that is processing."""
        self.rate_limit: int | None = None
        """Retry-After of a new order that is refused because of it."""
        self.refuse_replaces: str | None = None
        """The problem with which an order that has `replaces` is refused."""
        self.down = False
        """Whether 503 is all it says."""
        self.processing = 0
        """How often a new order will say that it is processing."""
        self.override: Callable[[str], Reply | None] = lambda _path: None
        """A test's own answers."""
        self.asked: list[str] = []
        """Paths of all requests."""
        self.replaced: list[str] = []
        """What orders said that they replace."""
        self.deactivated: list[str] = []
        """Paths of authorisations that were given up."""
        self.lost: list[str] = []
        """Paths for which the next answer is lost on its way, when all is done."""
        self._keys: set[str] = set()  # of accounts, as JSON
        self._orders: list[_Order] = []
        self._nonces: set[str] = set()
        self._count = itertools.count(1)

    @property
    def issued(self) -> int:
        """How many certificates it issued."""
        return sum(bool(order.chain) for order in self._orders)

    def root(self) -> bytes:
        """Return the PEM of the root that it issues under."""
        return self.authority.certificate.public_bytes(Encoding.PEM)

    def reply(self, path: str, content: bytes) -> Reply:
        """Answer one request."""
        self.asked.append(path)
        overridden = self.override(path)
        if overridden is not None:
            return overridden
        if self.down:
            return Reply(status=503, content=b"down for maintenance", headers={"retry-after": "120"})
        reply = self._signed(path, content) if content else self._get(path)
        if path in self.lost and reply.status < 300:
            self.lost.remove(path)
            return Reply(cut=True)
        return reply

    def _signed(self, path: str, content: bytes) -> Reply:
        signed: dict[str, str] = json.loads(content)
        protected: dict[str, Any] = json.loads(_unb64(signed["protected"]))
        if protected.get("nonce") not in self._nonces:
            return problem("badNonce", "that nonce is not known")
        self._nonces.discard(protected["nonce"])
        if protected["url"] != f"{self._base}{path}":
            return problem("unauthorized", "signed for another URL", status=403)
        payload = _unb64(signed["payload"])
        return self._post(path, json.loads(payload) if payload else None, json.dumps(protected.get("jwk")))

    def nonce(self) -> str:
        """Return a new nonce."""
        nonce = f"nonce-{next(self._count)}"
        self._nonces.add(nonce)
        return nonce

    def _get(self, path: str) -> Reply:
        match path.split("/")[1:]:
            case ["directory"]:
                verbs = {"newNonce": "nonce", "newAccount": "account", "newOrder": "order", "keyChange": "change"}
                verbs |= {"renewalInfo": "renewal"} if self.has_renewal_info else {}
                urls: dict[str, object] = {verb: f"{self._base}/{path}" for verb, path in verbs.items()}
                return Reply(content={**urls, "meta": {"caaIdentities": ["tests.example"]}})
            case ["nonce"]:
                return Reply(status=200)
            case ["renewal", _] if self.window is not None:
                start, end = (moment.isoformat().replace("+00:00", "Z") for moment in self.window)
                info: dict[str, object] = {"suggestedWindow": {"start": start, "end": end}}
                info |= {"explanationURL": self.explanation} if self.explanation else {}
                return Reply(content=info, headers=self._patience())
            case _:
                return problem("malformed", f"nothing at {path}", status=404)

    def _post(self, path: str, payload: Json, key: str) -> Reply:
        word, *numbers = path.split("/")[1:]
        number, index = (int(each) for each in [*numbers, "0", "0"][:2])
        steps: dict[str, Callable[[], Reply]] = {
            "account": lambda: self._account() if numbers else self._new_account(payload, key),
            "change": lambda: self._change(payload),
            "order": lambda: self._order(number) if numbers else self._new_order(payload),
            "authorization": lambda: self._authorization(number, index, payload),
            "challenge": lambda: self._answered(number, index),
            "finalize": lambda: self._finalize(number, payload),
            "certificate": lambda: self._certificate(number),
            "alternate": lambda: Reply(content=self._orders[number].alternate),
        }
        return steps[word]() if word in steps else problem("malformed", f"nothing at {path}", status=404)

    def _account(self, status: int = 200) -> Reply:
        location = {} if status == 200 else {"location": f"{self._base}/account/1"}
        return Reply(status=status, content={"status": "valid"}, headers=location)

    def _new_account(self, payload: Json, key: str) -> Reply:
        if payload.get("onlyReturnExisting") and key not in self._keys:
            return problem("accountDoesNotExist", "no account has that key")
        self._keys.add(key)
        return self._account(status=201)

    def _change(self, inner: Json) -> Reply:
        old = json.dumps(json.loads(_unb64(inner["payload"]))["oldKey"])
        if old not in self._keys:
            return problem("unauthorized", "that is not the account's key", status=401)
        self._keys.remove(old)
        self._keys.add(json.dumps(json.loads(_unb64(inner["protected"]))["jwk"]))
        return self._account()

    def _answered(self, number: int, index: int) -> Reply:
        self._orders[number].valid.add(index)
        return Reply(content=self._challenge(number, index))

    def _certificate(self, number: int) -> Reply:
        link = f'<{self._base}/directory>;rel="index", </alternate/{number}>;rel="alternate"'
        return Reply(content=self._orders[number].chain, headers={"link": link})

    def _patience(self) -> dict[str, str]:
        return {} if self.retry_after is None else {"retry-after": str(self.retry_after)}

    def _new_order(self, payload: Json) -> Reply:
        if self.rate_limit is not None:
            detail = "too many certificates (50) already issued for this exact set of identifiers in the last 168h0m0s"
            return problem("rateLimited", detail, status=429, headers={"retry-after": str(self.rate_limit)})
        if "replaces" in payload:
            if self.refuse_replaces is not None:
                return problem(self.refuse_replaces, "that certificate cannot be replaced", status=409)
            self.replaced.append(payload["replaces"])
        names = [identifier["value"] for identifier in payload["identifiers"]]
        self._orders.append(_Order(names=names, looks=self.processing))
        number = len(self._orders) - 1
        reply = self._order(number)
        return Reply(status=201, content=reply.content, headers={"location": f"/order/{number}"})

    def _order(self, number: int) -> Reply:
        order = self._orders[number]
        status = "ready" if len(order.valid) == len(order.names) else "pending"
        if order.chain:
            status = "processing" if order.looks > 0 else "valid"
            order.looks -= 1
        content: dict[str, object] = {
            "status": status,
            "identifiers": [{"type": "dns", "value": name} for name in order.names],
            "authorizations": [f"{self._base}/authorization/{number}/{index}" for index in range(len(order.names))],
            "finalize": f"{self._base}/finalize/{number}",
        }
        if status == "valid":
            content["certificate"] = f"{self._base}/certificate/{number}"
        return Reply(content=content, headers=self._patience())

    def _authorization(self, number: int, index: int, payload: Json) -> Reply:
        if payload is not None:
            self.deactivated.append(f"/authorization/{number}/{index}")
        order = self._orders[number]
        content = {
            "status": "valid" if index in order.valid else "pending",
            "identifier": {"type": "dns", "value": order.names[index]},
            "challenges": [self._challenge(number, index)],
        }
        return Reply(content=content)

    def _challenge(self, number: int, index: int) -> dict[str, object]:
        status = "valid" if index in self._orders[number].valid else "pending"
        url = f"{self._base}/challenge/{number}/{index}"
        return {"type": "tls-alpn-01", "status": status, "token": TOKEN, "url": url}

    def _finalize(self, number: int, payload: Json) -> Reply:
        request = x509.load_der_x509_csr(_unb64(payload["csr"]))
        now, order = self._now(), self._orders[number]
        for authority in (self.authority, self.other_authority):
            leaf = authority.issue(request, now - timedelta(seconds=1), now + self.validity)
            chain = b"".join(each.public_bytes(Encoding.PEM) for each in (leaf, authority.certificate))
            order.chain, order.alternate = (order.chain, chain) if order.chain else (chain, b"")
        return self._order(number)


def _unb64(text: str) -> bytes:
    return base64.urlsafe_b64decode(text + "=" * (-len(text) % 4))


@asynccontextmanager
async def ari_server(*, now: Callable[[], datetime] = lambda: datetime.now(UTC)) -> AsyncIterator[AriServer]:
    """Run the server on a free port of 127.0.0.1 while the body runs.

    Args:
        now: The time of day by which its certificates begin.
    """
    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost").configure_cert(context)
    with tempfile.TemporaryDirectory() as folder:
        ca = Path(folder) / "ca.pem"
        authority.cert_pem.write_to_path(ca)
        async with bare_nursery() as nursery:
            listeners = await trio.open_ssl_over_tcp_listeners(0, context, host="127.0.0.1", https_compatible=True)
            transport: Any = listeners[0].transport_listener
            port = transport.socket.getsockname()[1]
            server = AriServer(f"https://localhost:{port}", ca, now)

            async def serve(stream: trio.SSLStream[trio.SocketStream]) -> None:
                with suppress(trio.BrokenResourceError, h11.RemoteProtocolError):
                    async with stream:
                        await _serve(stream, server)

            nursery.start_soon(trio.serve_listeners, serve, listeners)
            yield server
            nursery.cancel_scope.cancel()


async def _serve(stream: trio.SSLStream[trio.SocketStream], server: AriServer) -> None:
    """Answer the requests of one connection, one after the other."""
    http = h11.Connection(h11.SERVER)
    while True:
        content, request = b"", None
        while not isinstance(event := http.next_event(), h11.EndOfMessage):
            if event is h11.NEED_DATA:
                http.receive_data(bytes(await stream.receive_some(65_536)))
            elif isinstance(event, h11.Request):
                request = event
            elif isinstance(event, h11.Data):
                content += event.data
            else:
                return
        assert request is not None
        reply = server.reply(request.target.decode(), content)
        if reply.cut:
            return
        if reply.silent:
            await trio.sleep_forever()
        await _answer(stream, http, reply, server.nonce())
        if http.our_state is not h11.DONE:
            return
        http.start_next_cycle()


async def _answer(stream: trio.SSLStream[trio.SocketStream], http: h11.Connection, reply: Reply, nonce: str) -> None:
    body = reply.content if isinstance(reply.content, bytes) else json.dumps(reply.content).encode()
    headers = {"replay-nonce": nonce, **reply.headers}
    if not reply.endless:
        headers["content-length"] = str(len(body))
    events: list[h11.Event] = [h11.Response(status_code=reply.status, headers=list(headers.items()))]
    if http.their_state is h11.DONE and body:
        events.append(h11.Data(data=body))
    await stream.send_all(b"".join(http.send(event) or b"" for event in events))
    while reply.endless:
        await stream.send_all(http.send(h11.Data(data=CHUNK)) or b"")
    await stream.send_all(http.send(h11.EndOfMessage()) or b"")
