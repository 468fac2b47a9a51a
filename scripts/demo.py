"""The demo: a relay, an agent and a web server on this machine, and a visitor that checks them.

    python -m scripts.demo          runs until Ctrl-C, with a line to paste into curl
    python -m scripts.demo --once   makes one visit and exits with 0

Two real processes of the command line, every port ephemeral, all state in a
folder that is removed at the end.  The visitor trusts nothing but the leaf
certificate that the agent printed, and checks that the key it meets is proven
by the agent's id: what the relay passes on, it cannot have read.
"""

from __future__ import annotations

import argparse
import http.server
import json
import ssl
import subprocess
import sys
import tempfile
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from socket import create_connection

from cryptography import x509

from trunnel.identity.certstore import leaf_proves
from trunnel.identity.keys import IdentityKey
from trunnel.names import KeyId

PAGE = b"Hello from behind the tunnel.\n"
TIMEOUT = 20.0
"""Seconds for anything that should take one."""


class Origin(http.server.BaseHTTPRequestHandler):
    """A web server with one page."""

    def do_GET(self) -> None:
        """Answer every path with the page."""
        self.send_response(200)
        self.send_header("Content-Type", "text/plain; charset=utf-8")
        self.send_header("Content-Length", str(len(PAGE)))
        self.end_headers()
        self.wfile.write(PAGE)

    def log_message(self, format: str, *args: object) -> None:  # noqa: A002 - the base class's name
        """Say nothing."""


@contextmanager
def origin() -> Iterator[int]:
    """Run the web server; yields its port."""
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Origin)
    thread = threading.Thread(target=server.serve_forever)
    thread.start()
    try:
        yield server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


@contextmanager
def program(*arguments: str) -> Iterator[subprocess.Popen[str]]:
    """Run one `trunnel` command with `--json`; it is asked to stop at the end."""
    command = [sys.executable, "-m", "trunnel", *arguments, "--json", "--log-level", "warning"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as process:
        try:
            yield process
        finally:
            process.terminate()
            process.communicate(timeout=TIMEOUT)


def await_event(process: subprocess.Popen[str], kind: str) -> dict[str, str]:
    """Read events until one of *kind*; exits if the program ended before."""
    if process.stdout is None:
        raise AssertionError("programs are started with a pipe")
    for line in process.stdout:
        event = json.loads(line)
        if event["event"] == kind:
            return dict(event)
    raise SystemExit(f"the program ended with {process.wait()} before it said {kind!r}")


def visit(ready: dict[str, str], port: int) -> None:
    """Be a visitor: check the certificate, its key, and the body."""
    context = ssl.create_default_context(cafile=ready["certificate"])
    with (
        create_connection(("127.0.0.1", port), timeout=TIMEOUT) as raw,
        context.wrap_socket(raw, server_hostname=ready["hostname"]) as tls,
    ):
        leaf = x509.load_der_x509_certificate(tls.getpeercert(binary_form=True) or b"")
        tls.sendall(f"GET / HTTP/1.1\r\nHost: {ready['hostname']}\r\nConnection: close\r\n\r\n".encode())
        answer = b"".join(iter(lambda: tls.recv(65536), b""))
    if not answer.endswith(b"\r\n\r\n" + PAGE):
        raise SystemExit(f"not the page: {answer!r}")
    key = IdentityKey.load(Path(ready["state_dir"]) / "default.key")
    if not leaf_proves(leaf, KeyId.parse(ready["agent_id"]), key.spki):
        raise SystemExit("the leaf key is not proven by the agent's id")


def main() -> int:
    """Run the demo; returns the exit code."""
    parser = argparse.ArgumentParser(prog="make demo", description="Relay, agent and web server on this machine.")
    parser.add_argument("--once", action="store_true", help="make one visit, say so, and exit")
    once = parser.parse_args().once
    with tempfile.TemporaryDirectory(prefix="trunnel-demo-") as folder, origin() as web:
        state = Path(folder)
        relay_flags = ["--api-port", "0", "--pub-port", "0", "--state-dir", str(state / "relay")]
        with program("serve", *relay_flags) as relay:
            listening = await_event(relay, "listening")
            server = listening["agents"][0]
            agent_state = state / "agent"
            agent_flags = ["--server", server, "--relay-pin", listening["relay_id"], "--state-dir", str(agent_state)]
            with program("expose", str(web), *agent_flags) as agent:
                ready = {**await_event(agent, "ready"), "state_dir": str(agent_state)}
                port = int(ready["port"])
                visit(ready, port)
                print(f"relay   {server} for agents, port {port} for visitors")
                print(f"agent   {ready['agent_id']}")
                print(f"url     {ready['url']}")
                print("visit   200, the page arrived, and the key of its TLS is proven by the agent's id")
                if not once:
                    there = f"{ready['hostname']}:{port}"
                    print(f"try     curl --resolve {there}:127.0.0.1 --cacert {ready['certificate']} {ready['url']}")
                    print("        (Ctrl-C ends the demo)", flush=True)
                    try:
                        relay.wait()
                    except KeyboardInterrupt:
                        print()
    return 0


if __name__ == "__main__":
    sys.exit(main())
