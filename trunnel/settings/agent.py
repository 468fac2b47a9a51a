"""What an agent is told, once, at start: frozen and typed; see `settings.load` for where it comes from."""

from __future__ import annotations

from collections.abc import Iterator
from enum import StrEnum
from pathlib import Path
from typing import final

import msgspec

from trunnel.errors import ConfigError, InvalidName
from trunnel.names import Hostname, KeyId, ServerAddress, Target
from trunnel.settings import limits
from trunnel.settings.acme import AcmeOptions, AcmeSettings
from trunnel.settings.invitation import JoinString
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
class AgentSettings(AcmeOptions, frozen=True, kw_only=True, forbid_unknown_fields=True):
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
    hostnames: tuple[Hostname, ...] = ()
    """Names of the agent's own, each led here by DNS: a CNAME or a TXT record proves it."""
    join: str | None = None
    """The string of an invitation: which relay, its pin, and a secret that lets this key in once.  Secret."""
    secondary_key: Path | None = None
    """Key file of a second endpoint, with an id and sessions of its own."""
    secondary_local: Target | None = None
    """Where the second endpoint's visitors are served; the first one's target by default."""
    secondary_cert_extension: bytes = b""
    """Bytes for extension 1.3.6.1.4.1.65535.1 of the second endpoint's link certificate."""
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
    vias: dict[ServerAddress, ViaAddress] = msgspec.field(default_factory=dict[ServerAddress, ViaAddress])
    """The HTTP CONNECT or SOCKS5 server through which a relay is reached; no QUIC then."""
    data: DataChoice = DataChoice.AUTO
    """The road of visitors' bytes."""
    share: bool = False
    """Let other agents with the same key serve beside this one."""
    tls_passthrough: bool = False
    """The origin speaks TLS itself; the agent does not terminate."""
    cert_pem: Path | None = None
    """Certificate chain and key (PEM) for visitors who ask for a name in it; read again when it changes."""
    acme: bool = False
    """Get certificates by ACME for the public names; saying which authority or account says so, too."""
    verify_every: float = limits.VERIFY_EVERY
    """Seconds between visits to the own public addresses that check the key shown there; 0: never."""
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
        raise_together([*_problems_of_the_relay(self), *_problems_of_the_origin(self), *self.acme_problems("agent")])

    @property
    def acme_wanted(self) -> bool:
        """Whether certificates come by ACME."""
        return self.acme or self.acme_mentioned

    @property
    def authority(self) -> AcmeSettings | None:
        """The authority that certificates come from, if any."""
        return self.acme_settings(self.state_dir) if self.acme_wanted else None

    @property
    def key_path(self) -> Path:
        """The agent's identity key."""
        return self.key_file or self.state_dir / f"{self.key_name}.key"

    @property
    def relay_addresses(self) -> tuple[ServerAddress, ...]:
        """The relays to dial."""
        return self.servers or (LOOPBACK_RELAY,)

    @property
    def invitation(self) -> JoinString | None:
        """The invitation with which the key comes, if any."""
        return None if self.join is None else JoinString.parse(self.join)


def _problems_of_the_relay(settings: AgentSettings) -> Iterator[ConfigError]:
    """Yield what is wrong with how relays are reached and trusted."""
    if settings.relay_pin is not None and settings.relay_ca is not None:
        yield ConfigError("agent.relay_pin", "choose: a pin (relay_pin) or a CA (relay_ca)")
    if settings.relay_tofu and settings.relay_strict:
        yield ConfigError("agent.relay_tofu", "relay_tofu and relay_strict contradict each other")
    if settings.join is not None:
        yield from _problems_of_joining(settings)
    if settings.vias and settings.transport is TransportChoice.QUIC:
        yield ConfigError("agent.via", "QUIC does not go through it: choose another transport")
    if not 1 <= settings.pool_size <= limits.POOL_SIZE_MAX:
        yield ConfigError("agent.pool_size", f"1 to {limits.POOL_SIZE_MAX} connections")
    if len(set(settings.servers)) != len(settings.servers):
        yield ConfigError("agent.server", "the same relay is named twice")
    if len(settings.hostnames) > limits.CONTROL_HOSTNAMES_MAX:
        yield ConfigError("agent.hostname", f"at most {limits.CONTROL_HOSTNAMES_MAX} names")


def _problems_of_joining(settings: AgentSettings) -> Iterator[ConfigError]:
    """Yield what would let anybody but the inviting relay learn the secret (`settings.joined` fills both fields in)."""
    if settings.relay_ca is not None:
        yield ConfigError("agent.join", "the invitation says which key the relay has: leave out --relay-ca")
        return
    try:
        invitation = settings.invitation
    except InvalidName as exc:
        yield ConfigError("agent.join", str(exc))
        return
    if invitation is not None and (settings.servers, settings.relay_pin) != ((invitation.server,), invitation.relay):
        reason = f"it is to {invitation.server} with the key {invitation.relay}: servers and relay_pin must say so"
        yield ConfigError("agent.join", reason)


def _problems_of_the_origin(settings: AgentSettings) -> Iterator[ConfigError]:
    """Yield what is wrong with how visitors are served."""
    if settings.data is DataChoice.DIRECT and settings.proxy_protocol is not None:
        reason = "nothing vouches for visitors' addresses on data connections: leave out --proxy-protocol, or this"
        yield ConfigError("agent.data", reason)
    if settings.tls_passthrough and (settings.acme_wanted or settings.cert_pem is not None):
        reason = "the service shows a certificate of its own then: leave out --acme... and --cert-pem"
        yield ConfigError("agent.tls_passthrough", reason)
    if settings.share and settings.acme_wanted:
        reason = "an authority's challenge may reach another agent with this key: give all of them one --cert-pem"
        yield ConfigError("agent.share", reason)
    if settings.secondary_key is None and (settings.secondary_local is not None or settings.secondary_cert_extension):
        yield ConfigError("agent.secondary_key", "the second endpoint needs a key file: --secondary-key FILE")
    if not settings.alpn:
        yield ConfigError("agent.alpn", "at least one protocol is needed, for example http/1.1")
