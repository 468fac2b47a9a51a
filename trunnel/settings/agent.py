"""What an agent is told, once, at start: frozen and typed; see `settings.load` for where it comes from."""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import final

import msgspec

from trunnel.errors import ConfigError
from trunnel.names import Hostname, KeyId, ServerAddress
from trunnel.settings import limits
from trunnel.settings.problems import raise_together
from trunnel.settings.via import ViaAddress

LOOPBACK_RELAY = ServerAddress("localhost", 4433)
"""Where `trunnel serve` without options listens for agents."""


@final
class TransportChoice(StrEnum):
    """`--transport`: the carrier to use."""

    AUTO = "auto"
    QUIC = "quic"
    H2 = "h2"
    YAMUX = "yamux"


@final
class DataChoice(StrEnum):
    """`--data`: the road of visitors' bytes."""

    AUTO = "auto"
    DIRECT = "direct"
    SESSION = "session"


@final
class ProxyProtocolVersion(StrEnum):
    """`--proxy-protocol`: the header that the origin gets ahead of each visitor's bytes."""

    V1 = "v1"
    V2 = "v2"


@final
class AgentSettings(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """Settings of `trunnel expose`, the target apart."""

    state_dir: Path
    """Folder of keys, leaf certificates and known relays, mode 0700."""
    servers: tuple[ServerAddress, ...] = ()
    """The relays, each with a supervisor of its own; none means the one on loopback, looked for during 3 s."""
    name: str | None = None
    """A label that the authorised file gives this agent; picks `NAME.<suffix>` as the address shown."""
    key_name: str = "default"
    """Which key of the state folder; one running agent a key."""
    key_file: Path | None = None
    """A key file elsewhere (`--primary-key`); overrides `key_name`."""
    cert_extension: bytes = b""
    """Bytes for extension 1.3.6.1.4.1.65535.1 of the link certificate."""
    domain_suffix: Hostname | None = None
    """Which of the relay's suffixes to show; the relay's first if None."""
    relay_pin: KeyId | None = None
    """Accept only a relay with this key."""
    relay_ca: Path | None = None
    """Accept only a relay with a certificate of this CA for the dialled name."""
    relay_tofu: bool = False
    """Trust on first use even beyond loopback and private addresses."""
    relay_strict: bool = False
    """Never trust on first use."""
    transport: TransportChoice = TransportChoice.AUTO
    """The carrier."""
    pool_size: int = limits.POOL_SIZE
    """TCP connections of one session at most; one is held, more come with the visitors."""
    vias: dict[ServerAddress, ViaAddress] = {}
    """The HTTP CONNECT or SOCKS5 server through which a relay is reached; no QUIC then."""
    data: DataChoice = DataChoice.AUTO
    """The road of visitors' bytes."""
    share: bool = False
    """Let other agents with the same key serve beside this one."""
    tls_passthrough: bool = False
    """The origin speaks TLS itself; the agent does not terminate."""
    alpn: tuple[str, ...] = ("http/1.1",)
    """ALPN protocols that the agent selects from, in order of preference."""
    proxy_protocol: ProxyProtocolVersion | None = None
    """PROXY header to the origin."""
    origin_connect_timeout: float = limits.ORIGIN_CONNECT_TIMEOUT
    """Seconds to connect to the origin."""
    first_byte_timeout: float = limits.FIRST_BYTE_TIMEOUT
    """Seconds a stream may wait for the origin's first byte."""
    idle_timeout: float = limits.IDLE_TIMEOUT
    """Seconds without a byte after which a stream ends."""
    drain_grace: float = limits.DRAIN_GRACE
    """Seconds that streams may go on after the first signal."""
    stream_window: int = limits.STREAM_WINDOW_MAX
    """Bytes to which a stream's receive window may grow, at most 16 MiB."""

    def __post_init__(self) -> None:
        """Check what spans fields; raises ConfigError."""
        problems: list[ConfigError] = []
        if self.relay_pin is not None and self.relay_ca is not None:
            problems.append(ConfigError("agent.relay_pin", "choose: a pin (relay_pin) or a CA (relay_ca)"))
        if self.relay_tofu and self.relay_strict:
            problems.append(ConfigError("agent.relay_tofu", "relay_tofu and relay_strict contradict each other"))
        if self.data is DataChoice.DIRECT and self.proxy_protocol is not None:
            reason = "nothing vouches for visitors' addresses on data connections: leave out --proxy-protocol, or this"
            problems.append(ConfigError("agent.data", reason))
        if self.vias and self.transport is TransportChoice.QUIC:
            problems.append(ConfigError("agent.via", "QUIC does not go through it: choose another transport"))
        if not 1 <= self.pool_size <= limits.POOL_SIZE_MAX:
            problems.append(ConfigError("agent.pool_size", f"1 to {limits.POOL_SIZE_MAX} connections"))
        if len(set(self.servers)) != len(self.servers):
            problems.append(ConfigError("agent.server", "the same relay is named twice"))
        if not self.alpn:
            problems.append(ConfigError("agent.alpn", "at least one protocol is needed, for example http/1.1"))
        raise_together(problems)

    @property
    def key_path(self) -> Path:
        """The agent's identity key."""
        return self.key_file or self.state_dir / f"{self.key_name}.key"

    @property
    def relay_addresses(self) -> tuple[ServerAddress, ...]:
        """The relays to dial."""
        return self.servers or (LOOPBACK_RELAY,)
