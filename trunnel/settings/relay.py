"""What a relay is told, once, at start: frozen and typed; see `settings.load` for where it comes from."""

from __future__ import annotations

import ipaddress
from collections.abc import Iterator
from pathlib import Path
from typing import final

from trunnel.errors import ConfigError
from trunnel.names import Hostname, ServerAddress
from trunnel.settings import limits
from trunnel.settings.acme import AcmeOptions, AcmeSettings
from trunnel.settings.problems import raise_together

LOOPBACK = ("127.0.0.1", "::1")


@final
class RelaySettings(AcmeOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `trunnel serve`; the defaults are those of a newcomer's laptop.

    Ports: 0 means "any free port".  With `port` set, one listener serves
    agents, visitors and challenges; `api_port` and `pub_port` are then not used.
    """

    state_dir: Path
    """Folder of the relay's key and certificate, mode 0700."""
    domain_suffixes: tuple[Hostname, ...] = (Hostname("localhost"),)
    """Suffixes under which agents get `<id>.<suffix>` and `<name>.<suffix>`; the first is shown."""
    bind_addrs: tuple[str, ...] = LOOPBACK
    """IP addresses to listen on.  A missing IPv6 on the host is tolerated for the defaults."""
    port: int | None = None
    """The one port for everything, or None for separate ports."""
    api_port: int = 4433
    """Port for agents."""
    pub_port: int = 8443
    """Port for visitors."""
    alpn_port: int | None = None
    """One more port for challenges and visitors (for example 443 behind a forward), or None."""
    public_port: int | None = None
    """Port that visitors use if it differs from the bound one (behind a port forward)."""
    quic: bool = True
    """Whether agents may come over QUIC: UDP at the agents' port."""
    direct: bool = True
    """Whether agents may bring data connections, one for each visitor: over TCP at the agents' port."""
    authorized_agents: Path | None = None
    """File of agents that may connect, one a line: `ID [NAME…] [# label]`."""
    open: bool = False
    """Let any key connect (each gets only `<id>.<suffix>`)."""
    tls_cert: Path | None = None
    """Certificate chain (PEM) shown to agents; self-signed from the relay's key if absent."""
    tls_key: Path | None = None
    """Private key (PEM) of `tls_cert`."""
    acme_domains: tuple[Hostname, ...] = ()
    """Names of the relay itself for which it gets a certificate by ACME."""
    issuances_per_week: int = limits.ISSUANCES_PER_WEEK
    """Certificates that all agents together may get for one registered domain in a week."""
    own_names: bool = True
    """Whether agents may bring names of their own, which DNS has to prove."""
    dns_servers: tuple[ServerAddress, ...] = ()
    """Who is asked about agents' own names; the system's resolvers by default."""
    takeover: bool = False
    """Take the listening sockets over from the relay that runs with the same state folder."""
    hello_timeout: float = limits.HELLO_TIMEOUT
    """Seconds from accept to a complete ClientHello."""
    first_byte_timeout: float = limits.FIRST_BYTE_TIMEOUT
    """Seconds an established stream may wait for the first byte back."""
    idle_timeout: float = limits.IDLE_TIMEOUT
    """Seconds without a byte after which a stream ends."""
    drain_grace: float = limits.DRAIN_GRACE
    """Seconds that streams may go on after the first signal."""
    half_open_per_address: int = limits.HALF_OPEN_PER_ADDRESS
    """Connections of one address (IPv6: a /64) that have not sent a complete hello."""
    visitors_per_address: int = limits.VISITORS_PER_ADDRESS
    """Routed visitors of one address."""
    visitors_total: int = limits.VISITORS_TOTAL
    """Routed visitors in all."""
    agents_max: int = limits.AGENTS_MAX
    """Sessions in all."""
    streams_per_session: int = limits.STREAMS_PER_SESSION
    """Visitors of one session at a time."""
    stream_window: int = limits.STREAM_WINDOW_MAX
    """Bytes to which a stream's receive window may grow, at most 16 MiB."""

    def __post_init__(self) -> None:
        """Check what spans fields; raises ConfigError, so that no unsafe relay can be described."""
        raise_together([*_problems_of_addresses(self), *_problems_of_access(self), *self.acme_problems("relay")])

    @property
    def authority(self) -> AcmeSettings | None:
        """The authority that the relay's own certificate comes from, if any."""
        return self.acme_settings(self.state_dir) if self.acme_domains else None

    @property
    def key_path(self) -> Path:
        """The relay's identity key."""
        return self.state_dir / "relay.key"

    @property
    def authorized_path(self) -> Path:
        """The list of agents: the one that was named, or `authorized` in the state folder, there or not."""
        return self.authorized_agents or self.state_dir / "authorized"

    @property
    def invitations_path(self) -> Path:
        """The invitations that have been made."""
        return self.state_dir / "invitations"

    @property
    def beyond_loopback(self) -> bool:
        """Whether other machines can reach a listener."""
        return any(not ipaddress.ip_address(address).is_loopback for address in self.bind_addrs)


def _problems_of_addresses(settings: RelaySettings) -> Iterator[ConfigError]:
    """Yield what is wrong with where the relay listens and which names it serves."""
    if not settings.domain_suffixes:
        yield ConfigError("relay.domain_suffix", "at least one suffix is needed, for example localhost")
    if not settings.bind_addrs:
        yield ConfigError("relay.bind_addr", "at least one address is needed, for example 127.0.0.1")
    for address in settings.bind_addrs:
        try:
            ipaddress.ip_address(address)
        except ValueError:
            yield ConfigError("relay.bind_addr", f"{address!r} is not an IP address")
    if settings.port is None and settings.api_port == settings.pub_port != 0:
        yield ConfigError("relay.pub_port", f"agents and visitors both on {settings.pub_port}: use port for that")


def _problems_of_access(settings: RelaySettings) -> Iterator[ConfigError]:
    """Yield what is wrong with who may connect and how the relay proves itself."""
    if settings.authorized_agents is not None and settings.open:
        yield ConfigError("relay.open", "choose: the agents of authorized_agents, or open to any agent")
    if (settings.tls_cert is None) != (settings.tls_key is None):
        yield ConfigError("relay.tls_cert", "tls_cert and tls_key go together")
    if settings.tls_cert is not None and settings.acme_domains:
        yield ConfigError("relay.acme_domain", "choose: a certificate of yours (tls_cert), or one by ACME")
    if settings.authorized_agents is not None or settings.open:
        return
    try:
        exposed = settings.beyond_loopback
    except ValueError:
        return  # told by _problems_of_addresses
    if exposed:
        yield ConfigError("relay.authorized_agents", WHO_MAY_CONNECT.format(addresses=", ".join(settings.bind_addrs)))


WHO_MAY_CONNECT = """\
refusing to listen beyond this machine ({addresses}) before it is said which agents may connect
Run `trunnel invite --address HOST` here, which prints what to run where the agent is, or `trunnel id` there and then
`trunnel authorize ID` here, and start this again;
or name a list: --authorized-agents FILE (one agent a line: ID [NAME...] [# label]; it may be empty);
or let any agent connect: --open"""
"""Why a relay does not start, and the exact commands that make it start."""
