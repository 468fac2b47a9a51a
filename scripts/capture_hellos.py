"""Record the ClientHellos of the TLS clients on this machine into `tests/data/clienthellos`.

Each client is pointed at a listener on loopback that reads one hello and never
answers.  A client that is not installed keeps its old recording.  Names are
made up, so nothing in the files tells about the machine that made them.

Run as `python -m scripts.capture_hellos`; `index.tsv` is written from what is
then in the folder, so look at the difference before you commit it.
"""

from __future__ import annotations

import shutil
import socket
import ssl
import subprocess
import sys
import tempfile
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Final

from OpenSSL import SSL

from trunnel.wire.clienthello import ClientHello, ClientHelloParser, Verdict

FOLDER: Final = Path(__file__).resolve().parents[1] / "tests" / "data" / "clienthellos"
NAME: Final = "visitor.example"
MANY: Final = ",".join(f"protocol-{number}" for number in range(60))
"""Enough protocols to need more than one record of 512 bytes."""
WAIT: Final = 60.0
"""Seconds for a client to start and connect; `go run` compiles first."""
COLUMNS: Final = ("file", "server_name", "alpn", "versions", "records", "bytes")

Command = Callable[[int, Path], Sequence[str]]
"""From port and scratch folder to an argument list."""

GO: Final = """package main

import (
	"crypto/tls"
	"os"
)

func main() {
	protocols := []string{"h2", "http/1.1"}
	tls.Dial("tcp", os.Args[1], &tls.Config{ServerName: "visitor.example", NextProtos: protocols})
}
"""
NODE: Final = """
require('tls').connect({
  host: '127.0.0.1', port: +process.argv[1], servername: 'visitor.example', ALPNProtocols: ['http/1.1'],
})
"""


def _curl(*options: str) -> Command:
    def command(port: int, _scratch: Path) -> Sequence[str]:
        return ["curl", "-sk", "--resolve", f"{NAME}:{port}:127.0.0.1", *options, f"https://{NAME}:{port}/"]

    return command


def _s_client(*options: str) -> Command:
    return lambda port, _scratch: ["openssl", "s_client", "-connect", f"127.0.0.1:{port}", *options]


def _chromium(host: str) -> Command:
    return lambda port, scratch: [
        *("chromium", "--headless", "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run"),
        *("--disable-background-networking", f"--user-data-dir={scratch}"),
        *("--host-resolver-rules=MAP * 127.0.0.1", f"https://{host}:{port}/"),
    ]


def _go(port: int, scratch: Path) -> Sequence[str]:
    source = scratch / "dial.go"
    source.write_text(GO, encoding="utf-8")
    return ["go", "run", str(source), f"127.0.0.1:{port}"]


CLIENTS: Final[dict[str, Command]] = {
    "curl": _curl(),
    "curl-tls12-http11": _curl("--http1.1", "--tls-max", "1.2"),
    "openssl-s_client": _s_client("-servername", NAME),
    "openssl-s_client-alpn-status": _s_client("-servername", NAME, "-alpn", "h2,http/1.1", "-status"),
    "openssl-s_client-no-name": _s_client("-noservername"),
    "openssl-s_client-trailing-dot": _s_client("-servername", f"{NAME}."),
    "openssl-s_client-address": _s_client("-servername", "192.0.2.1"),
    "openssl-s_client-upper-case": _s_client("-servername", NAME.upper()),
    "openssl-s_client-tls12": _s_client("-servername", NAME, "-tls1_2"),
    "openssl-s_client-acme": _s_client("-servername", NAME, "-alpn", "acme-tls/1"),
    "openssl-s_client-small-records": _s_client("-servername", NAME, "-max_send_frag", "512", "-alpn", MANY),
    "node": lambda port, _scratch: ["node", "-e", NODE, str(port)],
    "go": _go,
    "chromium": _chromium(NAME),
    "chromium-address": _chromium("127.0.0.1"),
}


def record_command(command: Command) -> bytes:
    """Run a client against a listener of ours and return the first hello that it sends."""
    with socket.create_server(("127.0.0.1", 0)) as listener, tempfile.TemporaryDirectory() as scratch:
        listener.settimeout(WAIT)
        arguments = command(listener.getsockname()[1], Path(scratch))
        client = subprocess.Popen(
            arguments, stdin=subprocess.PIPE, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
        )
        try:
            connection, _ = listener.accept()
            with connection:
                connection.settimeout(WAIT)
                return read_hello(connection)
        finally:
            client.terminate()
            with suppress(subprocess.TimeoutExpired):
                client.communicate(timeout=WAIT / 6)


def read_hello(connection: socket.socket) -> bytes:
    """Read up to the end of the record that completes the hello."""
    parser = ClientHelloParser()
    stream = b""
    while parser.hello is None:
        chunk = connection.recv(65536)
        stream += chunk
        verdict = parser.feed_untrusted(chunk)
        if not chunk or (verdict is not Verdict.NEED_MORE and parser.hello is None):
            raise ValueError(f"no hello: {parser.reason}")
    return stream[: parser.hello.raw_bytes]


def record_python() -> bytes:
    """Return the hello of Python's own `ssl`."""
    context = ssl.create_default_context()
    context.set_alpn_protocols(["h2", "http/1.1"])
    outgoing = ssl.MemoryBIO()
    client = context.wrap_bio(ssl.MemoryBIO(), outgoing, server_hostname=NAME)
    with suppress(ssl.SSLWantReadError):
        client.do_handshake()
    return outgoing.read()


def record_pyopenssl() -> bytes:
    """Return the hello of pyOpenSSL, which brings the newest OpenSSL: it is longer than a packet."""
    client = SSL.Connection(SSL.Context(SSL.TLS_CLIENT_METHOD), None)
    client.set_connect_state()
    client.set_tlsext_host_name(NAME.encode())
    with suppress(SSL.WantReadError):
        client.do_handshake()
    return client.bio_read(1 << 16)


def describe(path: Path) -> tuple[str, ...]:
    """Return a row of the index for a recorded hello."""
    parser = ClientHelloParser()
    parser.feed_untrusted(path.read_bytes())
    hello = parser.hello
    if not isinstance(hello, ClientHello):
        raise TypeError(f"{path.name}: {parser.reason}")
    return (
        path.name,
        (hello.raw_server_name or b"").decode("ascii"),
        ",".join(protocol.decode("latin-1") for protocol in hello.alpn),
        ",".join(f"{version:#06x}" for version in hello.versions),
        str(hello.records),
        str(hello.raw_bytes),
    )


def main() -> None:
    """Record what can be recorded, and write the index."""
    FOLDER.mkdir(parents=True, exist_ok=True)
    (FOLDER / "python.bin").write_bytes(record_python())
    (FOLDER / "pyopenssl.bin").write_bytes(record_pyopenssl())
    for name, command in CLIENTS.items():
        program = command(0, Path(tempfile.gettempdir()))[0]
        if shutil.which(program) is None:
            print(f"{name}: {program} is not installed", file=sys.stderr)
            continue
        try:
            (FOLDER / f"{name}.bin").write_bytes(record_command(command))
        except (OSError, ValueError) as exc:
            print(f"{name}: {exc}", file=sys.stderr)
    rows = [COLUMNS, *(describe(path) for path in sorted(FOLDER.glob("*.bin")))]
    (FOLDER / "index.tsv").write_text("".join("\t".join(row) + "\n" for row in rows), encoding="utf-8")


if __name__ == "__main__":
    main()
