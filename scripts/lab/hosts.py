"""Hosts on one machine: network namespaces, and the links between them.

    agent ── eth0 10.81.1.2 ── net ── 10.81.2.1 ── eth0 10.81.2.2 ── relay
          (eth1 10.81.3.2, down) ┘

`net` is the network between the two: a router that forwards, loses, rewrites.
Its link to the relay is a veth pair, or the two ends of a `wire`.  No link
leads out of the three namespaces, so no packet leaves them.  TCP runs CUBIC, as on
most systems, whatever this machine prefers: under loss, BBR is another world.

Names carry the id of the process that made them.  A network takes its
namespaces away when it ends; those of a process that was killed are taken
away, with the programs in them, by the next `sweep`.
"""

from __future__ import annotations

import ctypes
import itertools
import os
import re
import shutil
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager, suppress
from pathlib import Path
from typing import TypeVar

import trio

T = TypeVar("T")

PREFIX = "tlab"
NAMESPACES = Path("/run/netns")
RESOLVERS = Path("/etc/netns")
"""`ip netns exec` shows a program the resolv.conf of `/etc/netns/NAME/`."""
HOSTS = ("agent", "net", "relay")
AGENT = "10.81.1.2"
GATEWAY = "10.81.1.1"
ROAMED = "10.81.3.2"
"""The agent's address after it changed networks."""
ROAMED_GATEWAY = "10.81.3.1"
RELAY = "10.81.2.2"
RELAY_IPV6 = "fd81:2::2"
CUBIC = "congctl cubic"
"""On routes, because a namespace may not set what is not allowed to everybody."""
COMMAND_TIMEOUT = 20.0
"""Seconds for one command of ip, nft or tc; they take milliseconds."""
CLONE_NEWNET = 0x40000000
SEGMENTS = 65_535
"""Packets that the kernel may hand to a device as one; its own default."""

_OWNED = re.compile(rf"{PREFIX}-(\d+)-.*")
_numbers = itertools.count(1)


class LabError(Exception):
    """The lab itself failed: a command that should work did not."""


async def run(*words: str, text: str = "") -> str:
    """Run a command with *text* as its input; returns what it printed.

    Raises:
        LabError: it failed.
    """
    with trio.fail_after(COMMAND_TIMEOUT):
        done = await trio.run_process(
            [*words], stdin=text.encode(), capture_stdout=True, capture_stderr=True, check=False
        )
    if done.returncode:
        raise LabError(f"{' '.join(words)} failed: {done.stderr.decode().strip()}\n{text}")
    return done.stdout.decode()


class Network:
    """Three hosts; made by `network`."""

    def __init__(self) -> None:
        self._stem = f"{PREFIX}-{os.getpid()}-{next(_numbers)}"
        self.folder = Path(tempfile.mkdtemp(prefix=f"{self._stem}-"))
        """For state of programs; goes away with the network."""

    def name(self, host: str) -> str:
        """Return the namespace of *host*."""
        return f"{self._stem}-{host}"

    def inside(self, host: str, *words: str) -> list[str]:
        """Return the command that runs *words* on *host*; `ip` executes it in place."""
        return ["ip", "netns", "exec", self.name(host), *words]

    async def run(self, host: str, *words: str, text: str = "") -> str:
        """Run a command on *host*; returns what it printed."""
        return await run(*self.inside(host, *words), text=text)

    async def ip(self, host: str, *lines: str) -> None:
        """Run lines of `ip` on *host*."""
        await run("ip", "-n", self.name(host), "-batch", "-", text="\n".join(lines) + "\n")

    async def sysctl(self, host: str, **values: int | str) -> None:
        """Set kernel parameters of *host*; dots are written as two underscores."""
        words = [f"{key.replace('__', '.')}={value}" for key, value in values.items()]
        await self.run(host, "sysctl", "-qw", *words)

    def socket(self, host: str, kind: int = socket.SOCK_STREAM) -> socket.socket:
        """Return a new IPv4 socket of *host* in this process."""
        return self.enter(host, lambda: socket.socket(socket.AF_INET, kind))

    def enter(self, host: str, act: Callable[[], T]) -> T:
        """Call *act* with this thread on *host*."""
        libc = ctypes.CDLL(None, use_errno=True)

        def switch(path: str | Path) -> None:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
            try:
                if libc.setns(descriptor, CLONE_NEWNET):
                    raise OSError(ctypes.get_errno(), "setns")
            finally:
                os.close(descriptor)

        home = f"/proc/{os.getpid()}/fd/{os.open('/proc/thread-self/ns/net', os.O_RDONLY | os.O_CLOEXEC)}"
        try:
            switch(NAMESPACES / self.name(host))
            try:
                return act()
            finally:
                switch(home)
        finally:
            os.close(int(home.rpartition("/")[2]))

    async def resolver(self, host: str, server: str, *options: str) -> None:
        """Let programs that start on *host* from now on ask the DNS server at *server*."""
        folder = RESOLVERS / self.name(host)
        folder.mkdir(parents=True, exist_ok=True)
        lines = [f"nameserver {server}", *(f"options {option}" for option in options)]
        (folder / "resolv.conf").write_text("\n".join(lines) + "\n")

    async def up(self, *, wired: bool) -> None:
        """Make the hosts and their links; with *wired* the relay's link is left to a wire."""
        links = ["link add agent0 type veth peer name eth0 netns {agent}"]
        links.append("link add agent1 type veth peer name eth1 netns {agent}")
        if not wired:
            links.append("link add relay0 type veth peer name eth0 netns {relay}")
        names = {host: self.name(host) for host in HOSTS}
        await run("ip", "-batch", "-", text="".join(f"netns add {name}\n" for name in names.values()))
        await self.ip("net", *(link.format(**names) for link in links))
        for host in HOSTS:
            await self.ip(host, "link set lo up")
        await self.sysctl("net", net__ipv4__ip_forward=1, net__ipv6__conf__all__forwarding=1)
        await self.ip("agent", f"addr add {AGENT}/24 dev eth0", "addr add fd81:1::2/64 dev eth0 nodad")
        await self.ip("agent", "link set eth0 up", f"route add default via {GATEWAY} {CUBIC}")
        await self.ip("agent", "route add ::/0 via fd81:1::1")
        await self.ip("net", f"addr add {GATEWAY}/24 dev agent0", "addr add fd81:1::1/64 dev agent0 nodad")
        await self.ip("net", "link set agent0 up", f"addr add {ROAMED_GATEWAY}/24 dev agent1", "link set agent1 up")
        if not wired:
            await self.join("relay0", "eth0")
        await self.single_packets("agent", "eth0", "eth1")
        await self.single_packets("net", "agent0", "agent1")

    async def join(self, near: str, far: str) -> None:
        """Give the link between net and relay, whose ends are *near* and *far*, its addresses."""
        await self.ip("net", f"addr add 10.81.2.1/24 dev {near}", f"addr add fd81:2::1/64 dev {near} nodad")
        await self.ip("net", f"link set {near} up")
        await self.ip("relay", f"addr add {RELAY}/24 dev {far}", f"addr add {RELAY_IPV6}/64 dev {far} nodad")
        await self.ip("relay", f"link set {far} up", f"route add default via 10.81.2.1 {CUBIC}")
        await self.ip("relay", "route add ::/0 via fd81:2::1")
        await self.single_packets("relay", far)
        await self.single_packets("net", near)

    async def single_packets(self, host: str, *devices: str, segments: int = 1) -> None:
        """Let *devices* carry packets as they would be on a cable: else a lost "packet" may hold 45."""
        await self.ip(host, *(f"link set dev {device} gso_max_segs {segments}" for device in devices))

    async def whole_segments(self, near: str, far: str) -> None:
        """Undo that on the way to the relay, whose ends are *near* and *far*."""
        await self.single_packets("agent", "eth0", segments=SEGMENTS)
        await self.single_packets("net", "agent0", near, segments=SEGMENTS)
        await self.single_packets("relay", far, segments=SEGMENTS)

    async def roam(self) -> None:
        """Move the agent to another network: address and link gone, others there, a new default route."""
        await self.ip("agent", f"addr del {AGENT}/24 dev eth0", "link set eth0 down")
        await self.ip("agent", f"addr add {ROAMED}/24 dev eth1", "link set eth1 up")
        await self.ip("agent", f"route add default via {ROAMED_GATEWAY} {CUBIC}")

    def down(self) -> None:
        """Take away what `up` made; does nothing the second time."""
        for host in HOSTS:
            _remove(self.name(host))
        shutil.rmtree(self.folder, ignore_errors=True)


def _remove(name: str) -> None:
    """Take one namespace away; what still runs in it, only its own programs, is killed."""
    if (NAMESPACES / name).exists():
        found = os.popen(f"ip netns pids {name}").read()
        for pid in found.split():
            with suppress(ProcessLookupError):
                os.kill(int(pid), signal.SIGKILL)
        os.system(f"ip netns del {name}")
    shutil.rmtree(RESOLVERS / name, ignore_errors=True)


def sweep() -> int:
    """Take away what labs left that were killed; returns how many namespaces."""
    swept = 0
    for path in [*NAMESPACES.glob(f"{PREFIX}-*"), *Path(tempfile.gettempdir()).glob(f"{PREFIX}-*")]:
        owner = _OWNED.fullmatch(path.name)
        if owner is None or _is_lab(int(owner[1])):
            continue
        if path.parent == NAMESPACES:
            _remove(path.name)
            swept += 1
        else:
            shutil.rmtree(path, ignore_errors=True)
    return swept


def _is_lab(pid: int) -> bool:
    try:
        return b"scripts.lab" in Path(f"/proc/{pid}/cmdline").read_bytes()
    except FileNotFoundError:
        return False


@asynccontextmanager
async def network(*, wired: bool = False) -> AsyncIterator[Network]:
    """Open three hosts; they are gone at the end."""
    made = Network()
    try:
        await made.up(wired=wired)
        yield made
    finally:
        made.down()


def absent_programs() -> list[str]:
    """Return which programs that a lab needs are not on this machine."""
    return [name for name in ("ip", "nft", "tc", "ss", "sysctl", "conntrack", "setpriv") if shutil.which(name) is None]
