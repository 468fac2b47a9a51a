"""Rows about identity: who may connect, proofs of keys, trust, callbacks, dial targets, files."""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path

import trio
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from cryptography.x509.oid import NameOID
from OpenSSL import SSL

from scripts.rows.hostile import hostile_agent
from scripts.rows.lab import WAIT, Lab, free_port, laboratory
from scripts.rows.registry import Outcome, row
from trunnel.errors import ConnectError
from trunnel.identity.contexts import guard_alpn, guard_server_name, guard_verify
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname, KeyId
from trunnel.streams.tls import TlsRole, TlsStream
from trunnel.transports.alpn import LINK_ALPN_H2

Key = ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey | rsa.RSAPrivateKey


def certificate(key: Key, *, days: tuple[int, int] = (-1, 365), issuer_key: Key | None = None) -> x509.Certificate:
    """Return a certificate for *key* that is valid for *days* around today."""
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "row")])
    now = datetime.now(UTC)
    signer = issuer_key or key
    digest = None if isinstance(signer, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    builder = (
        x509.CertificateBuilder()
        .subject_name(name)
        .issuer_name(name)
        .public_key(key.public_key())
        .serial_number(x509.random_serial_number())
        .not_valid_before(now + timedelta(days=days[0]))
        .not_valid_after(now + timedelta(days=days[1]))
    )
    return builder.sign(signer, digest)


def client_context(key: Key | None, chain: Sequence[x509.Certificate]) -> SSL.Context:
    """Return a client's context that shows *chain*, or no certificate."""
    context = SSL.Context(SSL.TLS_CLIENT_METHOD)
    context.set_alpn_protos([LINK_ALPN_H2])
    if key is not None:
        leaf, *issuers = chain
        context.use_certificate(leaf)
        context.use_privatekey(key)
        for issuer in issuers:
            context.add_extra_chain_cert(issuer)
    return context


async def speaks_http2(lab: Lab, context: SSL.Context) -> bool:
    """Whether the relay lets this client in: it then sends its HTTP/2 preface."""
    raw = await lab.connect(port=lab.agents_port)
    try:
        tls = await TlsStream.handshake(raw, context, role=TlsRole.CLIENT, timeout=WAIT)
    except ConnectError:
        return False
    try:
        return bool(await tls.receive_some(64))
    except trio.BrokenResourceError:
        return False
    finally:
        tls.abort()


@row("SEC-01", limit="beyond loopback no start until told who may connect (exit 2); flags and environment work")
async def no_open_mode() -> Outcome:
    """Start relays on every address: with nothing, with an empty list, with --open, by environment."""
    command = [sys.executable, "-m", "trunnel", "serve", "--bind-addr", "0.0.0.0", "--port", "0", "--json"]
    results: dict[str, bool] = {}
    async with laboratory() as lab:
        state = str(lab.folder / "relay")
        refused = await trio.run_process(
            [*command, "--state-dir", state], capture_stdout=True, capture_stderr=True, check=False
        )
        results["refused"] = refused.returncode == 2 and b"--authorized-agents" in refused.stderr
        listed = lab.folder / "authorized"
        listed.write_text("")
        starts = {
            "empty list": (["--authorized-agents", str(listed)], {}),
            "--open": (["--open"], {}),
            "environment": ([], {"TRUNNEL_AUTHORIZED_AGENTS": str(listed)}),
        }
        for label, (flags, environment) in starts.items():
            results[label] = await starts_up([*command, "--state-dir", state, *flags], environment)
    good = [label for label, passed in results.items() if passed]
    return Outcome(len(good) == len(results), f"{len(good)} of {len(results)} as they should: {', '.join(good)}")


async def starts_up(command: list[str], environment: dict[str, str]) -> bool:
    """Whether a relay listens; it is stopped at once."""
    process = await trio.lowlevel.open_process(command, stdout=-1, stderr=-3, env={**os.environ, **environment})
    if process.stdout is None:
        raise AssertionError("started with a pipe")
    line: bytes | bytearray = b""
    with trio.move_on_after(WAIT):
        line = await process.stdout.receive_some(4096)
    process.terminate()
    await process.wait()
    await process.stdout.aclose()
    return b'"listening"' in line


@row(
    "SEC-02",
    limit="0 accepted without a certificate; EC, Ed25519, RSA, expired and chained keys give the id of their SPKI",
)
async def client_proof() -> Outcome:
    """No certificate, expired, two certificates, RSA, EC, Ed25519.

    Not here: a certificate shown without its key.  No client at hand will sign
    with another key than the one that it shows.
    """
    ec_key = ec.generate_private_key(ec.SECP256R1())
    other = ec.generate_private_key(ec.SECP256R1())
    rsa_key = rsa.generate_private_key(65537, 2048)
    ed_key = ed25519.Ed25519PrivateKey.generate()
    async with laboratory() as lab:
        await lab.start_relay()
        refused = {"none": not await speaks_http2(lab, client_context(None, []))}
        accepted: dict[str, bool] = {}
        cases: dict[str, tuple[Key, list[x509.Certificate]]] = {
            "EC": (ec_key, [certificate(ec_key)]),
            "Ed25519": (ed_key, [certificate(ed_key)]),
            "RSA": (rsa_key, [certificate(rsa_key)]),
            "expired": (ec_key, [certificate(ec_key, days=(-30, -1))]),
            "two": (ec_key, [certificate(ec_key, issuer_key=other), certificate(other)]),
        }
        for label, (key, chain) in cases.items():
            accepted[label] = await speaks_http2(lab, client_context(key, chain))
        ids = await identities(lab)
    wrong = [label for label, good in {**refused, **accepted}.items() if not good]
    figure = f"refused {sum(refused.values())}/1, proven {sum(accepted.values())}/{len(accepted)}, same id {ids}"
    return Outcome(not wrong and ids, figure + (f", wrong: {', '.join(wrong)}" if wrong else ""))


async def identities(lab: Lab) -> bool:
    """Whether the relay calls the key by SHA-256 of its SPKI, whatever certificate shows it."""
    identity = IdentityKey.from_pem(IdentityKey.generate().to_pem())
    spki = identity.private_key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)
    async with hostile_agent(lab, key=identity):
        opened = [event for event in lab.relay.events if event["event"] == "session_opened"]
        if not opened:
            opened = [await lab.relay.event("session_opened")]
    return opened[-1]["agent_id"] == KeyId.of_spki(spki).value == identity.key_id.value


@row("SEC-04", limit="an exception in the SNI, verify or ALPN callback fails the handshake, closes it, logs 1 line")
async def raising_callbacks() -> Outcome:
    """Raise inside every TLS callback."""
    lines: list[logging.LogRecord] = []

    class Counter(logging.Handler):
        def emit(self, record: logging.LogRecord) -> None:
            lines.append(record)

    handler = Counter()
    logging.getLogger("trunnel").addHandler(handler)
    logging.getLogger("trunnel").propagate = False
    key = ec.generate_private_key(ec.SECP256R1())
    shown = certificate(key)

    def boom(*_: object) -> bool:
        raise RuntimeError("raised in a callback")

    failed: dict[str, tuple[bool, int, bool]] = {}
    for name in ("sni", "verify", "alpn"):
        context = SSL.Context(SSL.TLS_SERVER_METHOD)
        context.use_certificate(shown)
        context.use_privatekey(key)
        context.set_session_id(b"row")
        if name == "sni":
            guard_server_name(context, boom)  # type: ignore[arg-type]
        elif name == "verify":
            guard_verify(context, SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, boom)
        else:
            guard_alpn(context, boom)  # type: ignore[arg-type]
        lines.clear()
        failed[name] = await fails(context, key, shown, lines)
    good = [name for name, (refused, count, closed) in failed.items() if refused and count == 1 and closed]
    figure = ", ".join(f"{name}: failed {r}, {c} line, closed {d}" for name, (r, c, d) in failed.items())
    return Outcome(len(good) == len(failed), figure)


async def fails(
    context: SSL.Context, key: Key, shown: x509.Certificate, lines: Sequence[object]
) -> tuple[bool, int, bool]:
    """Shake hands with a server whose callback raises: whether it failed, lines logged, and whether it closed."""
    (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
    async with listener:
        dialled = await trio.open_tcp_stream("127.0.0.1", listener.socket.getsockname()[1])
        accepted = await listener.accept()
    refused: list[bool] = []

    async def server() -> None:
        try:
            await TlsStream.handshake(accepted, context, role=TlsRole.SERVER, timeout=WAIT)
            refused.append(False)
        except ConnectError:
            refused.append(True)

    async def client() -> None:
        try:
            tls = await TlsStream.handshake(
                dialled, client_context(key, [shown]), role=TlsRole.CLIENT, server_name=Hostname("a.b"), timeout=WAIT
            )
            await tls.receive_some()
        except (ConnectError, trio.BrokenResourceError):
            return

    async with trio.open_nursery() as nursery:
        nursery.start_soon(server)
        nursery.start_soon(client)
    return refused == [True], len(lines), accepted.socket.fileno() < 0


@row(
    "SEC-05", limit="a wrong pin, a self-signed relay under --relay-strict, a changed key: exit 3, and no hello to them"
)
async def relay_authentication() -> Outcome:
    """A wrong pin; --relay-strict; a relay that changed its key."""
    async with laboratory() as lab:
        await lab.start_relay()
        origin = await lab.start_origin()
        wrong_pin = KeyId.of_spki(b"another").value
        statuses = {
            "wrong pin": await exit_of(lab, origin, "--relay-pin", wrong_pin, state="pin"),
            "strict": await exit_of(lab, origin, "--relay-strict", state="strict"),
        }
        first = await lab.start_agent(origin, name="known")
        await first.program.stop()
        await lab.relay.stop()
        (lab.folder / "relay" / "relay.key").unlink()
        port = lab.agents_port
        lab.relay = lab.spawn(
            "serve", "--api-port", str(port), "--pub-port", "0", "--state-dir", str(lab.folder / "relay")
        )
        await lab.relay.event("listening")
        statuses["changed key"] = await exit_of(lab, origin, state="known")
        opened = lab.relay.count("session_opened")
    figure = ", ".join(f"{label}: exit {status}" for label, status in statuses.items()) + f"; {opened} hellos sent"
    return Outcome(set(statuses.values()) == {3} and not opened, figure)


async def exit_of(lab: Lab, target: int, *flags: str, state: str) -> int:
    """Run an agent that should end by itself; returns its exit status."""
    where = ["--server", f"127.0.0.1:{lab.agents_port}", "--state-dir", str(lab.folder / state)]
    program = lab.spawn("expose", str(target), *where, *flags)
    with trio.move_on_after(WAIT):
        await program.wait()
    return await program.stop()


@row("SEC-10", limit="whatever a stream's header says, the agent connects to its origin and its relay only")
async def dial_targets() -> Outcome:
    """An audit hook on connect in an agent to which a relay sends headers that name other places."""
    async with laboratory() as lab:
        origin = await lab.start_origin()
        report = lab.folder / "connects"
        hook = lab.folder / "hook"
        hook.mkdir()
        (hook / "sitecustomize.py").write_text(AUDIT.format(report=str(report)))
        os.environ["PYTHONPATH"] = str(hook)
        try:
            await lab.start_relay()
            agent = await lab.start_agent(origin)
        finally:
            del os.environ["PYTHONPATH"]
        elsewhere = free_port()
        attempts = 0
        for host in ("169.254.169.254", "127.0.0.1", "10.0.0.1", "[::1]", agent.hostname):
            for _ in range(20):
                attempts += 1
                raw = await lab.connect()
                place = f"{host}:{elsewhere}"
                request = f"CONNECT {place} HTTP/1.1\r\nHost: {place}\r\nConnection: close\r\n\r\n"
                tls = trio.SSLStream(raw, agent.context(), server_hostname=agent.hostname, https_compatible=True)
                try:
                    await tls.send_all(request.encode())
                    while await tls.receive_some(65536):
                        pass
                except trio.BrokenResourceError:
                    pass
                await trio.aclose_forcefully(tls)
        await agent.program.stop()
        places = {line for line in report.read_text().splitlines() if line}
        allowed = {f"127.0.0.1:{origin}", f"::1:{origin}", f"127.0.0.1:{lab.agents_port}"}
    strange = places - allowed
    return Outcome(not strange and len(places) >= 2, f"{attempts} attempts, connected to {sorted(places)}")


AUDIT = """\
import sys

def hook(event, args):
    if event == "socket.connect" and isinstance(args[1], tuple) and "expose" in sys.orig_argv:
        with open({report!r}, "a") as file:
            file.write(f"{{args[1][0]}}:{{args[1][1]}}\\n")

sys.addaudithook(hook)
"""


@row("SEC-24", limit="keys 0600, folders 0700 whatever the umask; no symlink followed; wider modes refused (exit 2)")
async def files() -> Outcome:
    """Make keys under umask 0; then show the agent a key that others can read, and a link."""
    async with laboratory() as lab:
        await lab.start_relay()
        origin = await lab.start_origin()
        mask = os.umask(0)
        try:
            agent = await lab.start_agent(origin)
        finally:
            os.umask(mask)
        await agent.program.stop()
        modes = {path.name: path.stat().st_mode & 0o777 for path in secrets(agent.state)}
        folder = agent.state.stat().st_mode & 0o777
        key = agent.state / "default.key"
        key.chmod(0o644)
        readable = await exit_of(lab, origin, state="agent")
        key.chmod(0o600)
        linked = lab.folder / "linked"
        linked.mkdir(mode=0o700)
        (linked / "default.key").symlink_to(key)
        link = await exit_of(lab, origin, state="linked")
    figure = f"{len(modes)} secrets {sorted({oct(mode) for mode in modes.values()})}, folder {oct(folder)}, "
    figure += f"readable key: exit {readable}, symlink: exit {link}"
    good = set(modes.values()) == {0o600} and folder == 0o700 and readable == link == 2
    return Outcome(good, figure)


def secrets(state: Path) -> list[Path]:
    """Return every key file of an agent."""
    return [path for path in state.rglob("*.key") if path.is_file()]
