"""Debian's `pebble`, an ACME server for tests, as a real process, with `pebble-challtestsrv` as its DNS.

Both are started on free ports and ended with the block.  Every name has the
address 127.0.0.1 unless a test says otherwise, so pebble's validation of
TLS-ALPN-01 comes to `challenge_port` on this machine.  Without the programs
the test is skipped (`tests.peers`).

Pebble 2.4 has no renewal information (RFC 9773) and no rate limits: for those
see `tests.acme.ari_server`.
"""

from __future__ import annotations

import json
import os
import socket
import ssl
import subprocess
import tempfile
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, final

import httpx
import trio
import trustme

from tests.peers import require_program
from trunnel.streams.nursery import bare_nursery

PATIENCE = 15.0
"""Seconds for anything that should take one."""
ATTEMPTS = 5
"""Sets of free ports tried: another test may take one between our look and pebble's."""
SLEEP_MAX = 2
"""Pebble waits a random whole number of seconds below this before it validates."""
BLOCKED = "blocked.example"
"""The one name for which pebble issues nothing."""
NAME = "localhost"
"""The name in pebble's own certificate."""


class DiedEarlyError(Exception):
    """A program ended before it served; its output is the text."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Pebble:
    """One running pebble with its DNS server."""

    directory: str
    """URL of the directory."""
    ca: Path
    """PEM of the CA of pebble's own HTTPS certificate."""
    dns_server: str
    """`127.0.0.1:PORT`, UDP and TCP, of the DNS that pebble asks."""
    management: str
    """URL of pebble's management interface."""
    dns_management: str
    """URL of the management interface of its DNS."""
    output: list[str]
    """Lines that both programs wrote so far."""

    async def root(self, index: int = 0) -> bytes:
        """Return the PEM of the root that pebble issues under; *index* > 0: an alternate one."""
        context = ssl.create_default_context(cafile=self.ca)
        async with httpx.AsyncClient(verify=context, trust_env=False, timeout=PATIENCE) as http:
            answer = await http.get(f"{self.management}/roots/{index}")
        return answer.raise_for_status().content

    async def add_a(self, name: str, address: str = "127.0.0.1") -> None:
        """Give *name* an address (besides those that it has)."""
        await self._tell("add-a", host=_absolute(name), addresses=[address])

    async def add_cname(self, name: str, target: str) -> None:
        """Make *name* an alias of *target*."""
        await self._tell("set-cname", host=_absolute(name), target=_absolute(target))

    async def add_txt(self, name: str, value: str) -> None:
        """Give *name* one more text."""
        await self._tell("set-txt", host=_absolute(name), value=value)

    async def clear_a(self, name: str) -> None:
        """Take the addresses of *name* away; it has the default one again."""
        await self._tell("clear-a", host=_absolute(name))

    async def clear_cname(self, name: str) -> None:
        """Make *name* no alias any more."""
        await self._tell("clear-cname", host=_absolute(name))

    async def clear_txt(self, name: str) -> None:
        """Take all texts of *name* away."""
        await self._tell("clear-txt", host=_absolute(name))

    async def set_servfail(self, name: str) -> None:
        """Make every question about *name* fail."""
        await self._tell("set-servfail", host=_absolute(name))

    async def clear_servfail(self, name: str) -> None:
        """Answer questions about *name* again."""
        await self._tell("clear-servfail", host=_absolute(name))

    async def _tell(self, verb: str, **fields: object) -> None:
        async with httpx.AsyncClient(trust_env=False, timeout=PATIENCE) as http:
            (await http.post(f"{self.dns_management}/{verb}", json=fields)).raise_for_status()


def _absolute(name: str) -> str:
    return name if name.endswith(".") else f"{name}."


@asynccontextmanager
async def pebble(
    *,
    challenge_port: int,
    strict: bool = True,
    nonce_reject: int = 50,
    validity: int | None = None,
    eab: Mapping[str, str] | None = None,
    sleep: bool = True,
    environment: Mapping[str, str] | None = None,
) -> AsyncIterator[Pebble]:
    """Run pebble while the body runs.

    Args:
        challenge_port: Where TLS-ALPN-01 is validated, on 127.0.0.1.
        strict: Pebble's `-strict`.
        nonce_reject: Percentage of good nonces that are refused with badNonce.
        validity: Seconds that its certificates last; None: its own five years.
        eab: Key identifier -> MAC key (base64url); if given, accounts must be bound.
        sleep: Whether it waits up to a second before it validates.
        environment: More of pebble's variables, such as PEBBLE_ALTERNATE_ROOTS.
    """
    programs = (str(require_program("pebble")), str(require_program("pebble-challtestsrv")))
    variables = {"PEBBLE_WFE_NONCEREJECT": str(nonce_reject), "PEBBLE_AUTHZREUSE": "0", **(environment or {})}
    variables |= {"PEBBLE_VA_SLEEPTIME": str(SLEEP_MAX)} if sleep else {"PEBBLE_VA_NOSLEEP": "1"}
    settings: dict[str, object] = {"tlsPort": challenge_port, "httpPort": challenge_port, "ocspResponderURL": ""}
    settings |= {"externalAccountBindingRequired": eab is not None, "externalAccountMACKeys": dict(eab or {})}
    settings["domainBlocklist"] = [BLOCKED]
    if validity is not None:
        settings["certificateValidityPeriod"] = validity
    with tempfile.TemporaryDirectory() as folder:
        async with bare_nursery() as nursery:
            flags = ("-strict",) if strict else ()
            yield await _started(nursery, Path(folder), programs, (settings, variables, flags))
            nursery.cancel_scope.cancel()


async def _started(
    nursery: trio.Nursery,
    folder: Path,
    programs: tuple[str, str],
    wanted: tuple[dict[str, object], dict[str, str], Sequence[str]],
) -> Pebble:
    """Start both programs, with other ports if somebody was faster."""
    settings, variables, flags = wanted
    authority = trustme.CA()
    authority.cert_pem.write_to_path(folder / "ca.pem")
    own = authority.issue_cert(NAME, "127.0.0.1")
    own.cert_chain_pems[0].write_to_path(folder / "cert.pem")
    own.private_key_pem.write_to_path(folder / "key.pem")
    for attempt in range(1, ATTEMPTS + 1):
        acme, management, dns, dns_management = _free_ports(4)
        settings |= {
            "listenAddress": f"127.0.0.1:{acme}",
            "managementListenAddress": f"127.0.0.1:{management}",
            "certificate": str(folder / "cert.pem"),
            "privateKey": str(folder / "key.pem"),
        }
        (folder / "pebble.json").write_text(json.dumps({"pebble": settings}))
        dns_command = [programs[1], "-dns01", f"127.0.0.1:{dns}", "-management", f"127.0.0.1:{dns_management}"]
        dns_command += ["-defaultIPv6", "", "-defaultIPv4", "127.0.0.1"]
        dns_command += ["-http01", "", "-https01", "", "-tlsalpn01", ""]
        command = [programs[0], "-config", str(folder / "pebble.json"), "-dnsserver", f"127.0.0.1:{dns}", *flags]
        output: list[str] = []
        try:
            await nursery.start(_run, dns_command, {}, (dns_management,), output)
            await nursery.start(_run, command, variables, (acme, management), output)
        except (DiedEarlyError, trio.TooSlowError):
            if attempt == ATTEMPTS:
                raise
            continue
        return Pebble(
            directory=f"https://{NAME}:{acme}/dir",
            ca=folder / "ca.pem",
            dns_server=f"127.0.0.1:{dns}",
            management=f"https://{NAME}:{management}",
            dns_management=f"http://127.0.0.1:{dns_management}",
            output=output,
        )
    raise AssertionError("unreachable")


def _free_ports(count: int) -> list[int]:
    """Return ports that are free for TCP and UDP at this moment."""
    held: list[socket.socket] = []
    try:
        while len(held) < 2 * count:
            stream, datagram = socket.socket(), socket.socket(type=socket.SOCK_DGRAM)
            held += [stream, datagram]
            stream.bind(("127.0.0.1", 0))
            datagram.bind(stream.getsockname())
        return [each.getsockname()[1] for each in held[::2]]
    except OSError:
        return _free_ports(count)
    finally:
        for each in held:
            each.close()


async def _run(
    command: Sequence[str],
    variables: Mapping[str, str],
    ports: Sequence[int],
    output: list[str],
    *,
    task_status: trio.TaskStatus[None],
) -> None:
    """Run one program; it counts as started when all its ports accept."""
    run = partial(trio.run_process, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, check=False)
    async with bare_nursery() as nursery:
        process: trio.Process = await nursery.start(partial(run, command, env={**os.environ, **variables}))
        ended = trio.Event()
        nursery.start_soon(_read, process, output, ended)
        with trio.fail_after(PATIENCE):
            for port in ports:
                await _accepting(port, ended, output)
        task_status.started()


async def _read(process: trio.Process, output: list[str], ended: trio.Event) -> None:
    """Keep what a program writes, so that it never blocks."""
    stdout: Any = process.stdout
    rest = b""
    async for chunk in stdout:
        *lines, rest = (rest + chunk).split(b"\n")
        output.extend(line.decode("utf-8", "replace") for line in lines)
    ended.set()


async def _accepting(port: int, ended: trio.Event, output: list[str]) -> None:
    """Wait until *port* accepts; a refusal on loopback comes at once, so it is simply asked again."""
    while not ended.is_set():
        try:
            stream = await trio.open_tcp_stream("127.0.0.1", port)
        except OSError:
            await trio.lowlevel.checkpoint()
        else:
            await stream.aclose()
            return
    raise DiedEarlyError("\n".join(output))
