"""The one table of options: flag, environment variable, TOML key and help of each.

An option `bind-addr` is the flag `--bind-addr`, the variable
`TRUNNEL_BIND_ADDR` and the TOML key `bind_addr`, always.  `field` is the field
of the settings object that its value goes to; the few options without one are
worked out in `settings.load` (they are short for others).

A new option is one line here and one field in `settings.relay` or `.agent`.
One that is a secret (or may hold one) can also be read from a file that
`TRUNNEL_<OPTION>_FILE` names: other processes may read an environment.
"""

from __future__ import annotations

from typing import Final

from trunnel.names import Hostname, KeyId, ServerAddress, Target
from trunnel.settings import values
from trunnel.settings.acme_options import ACME_OPTIONS, CERTIFICATES
from trunnel.settings.agent import DataChoice, ProxyProtocolVersion, TransportChoice
from trunnel.settings.option import ENVIRONMENT_PREFIX, Flag, Option, Shape, choice, limit, switch
from trunnel.settings.output import LogFormat, LogLevel
from trunnel.settings.via import ViaAddress

__all__ = ["ENVIRONMENT_PREFIX", "Flag", "Option", "Shape"]

_WHERE: Final = "Where it listens"
_WHO: Final = "Who may connect"
_TRUST: Final = "Trust in the relay"
_ORIGIN: Final = "The local service"
_KEY: Final = "The agent's key"
_OUTPUT: Final = "Output and files"

STATE_DIR: Final = Option(
    "state-dir", "Folder of keys and certificates.", values.parse_path, "DIR", field="state_dir", panel=_OUTPUT
)
AUTHORIZED_AGENTS: Final = Option(
    "authorized-agents",
    "File of agents that may connect, one a line: ID [NAME...] [# label]; `authorized` in the state folder "
    "if that exists.",
    values.parse_path,
    "FILE",
    field="authorized_agents",
    panel=_WHO,
)
CONFIG: Final = Option("config", "Configuration file (TOML).", values.parse_path, "FILE", panel=_OUTPUT)

JSON: Final = switch("json", "Events as one JSON object a line.", field="json", panel=_OUTPUT)

OUTPUT_OPTIONS: Final = (
    JSON,
    choice("log-level", "Least level of the log on standard error.", LogLevel, panel=_OUTPUT),
    choice("log-format", "Form of the log.", LogFormat, panel=_OUTPUT),
)
"""Options of every program that runs until it is stopped."""

RELAY_OPTIONS: Final = (
    Option(
        "domain",
        "Public relay for this domain: listens on every address, port 443, names under the domain.",
        Hostname.parse,
        "NAME",
        Shape.MANY,
        panel=_WHERE,
    ),
    Option("port", "One port for agents and visitors.", values.parse_listen_port, "N", field="port", panel=_WHERE),
    Option(
        "bind-addr",
        "IP address to listen on; repeat for more.",
        values.parse_address,
        "ADDR",
        Shape.MANY,
        field="bind_addrs",
        panel=_WHERE,
    ),
    Option("api-port", "Port for agents.", values.parse_listen_port, "N", field="api_port", panel=_WHERE),
    Option("pub-port", "Port for visitors.", values.parse_listen_port, "N", field="pub_port", panel=_WHERE),
    Option(
        "alpn-port",
        "One more port for challenges and visitors.",
        values.parse_listen_port,
        "N",
        field="alpn_port",
        panel=_WHERE,
    ),
    Option(
        "public-port",
        "Port that visitors use, where a forward makes it differ from the bound one.",
        values.parse_public_port,
        "N",
        field="public_port",
        panel=_WHERE,
    ),
    Option(
        "domain-suffix",
        "Suffix of agents' public names, without the rest of what --domain means; repeat for more.",
        Hostname.parse,
        "NAME",
        Shape.MANY,
        field="domain_suffixes",
        panel=_WHERE,
    ),
    AUTHORIZED_AGENTS,
    switch("quic", "Let agents come over QUIC, on UDP (they may by default).", field="quic", panel=_WHERE),
    switch("direct", "Let agents bring data connections (they may by default).", field="direct", panel=_WHERE),
    switch("open", "Let any agent connect.", field="open", panel=_WHO),
    Option(
        "tls-cert",
        "Certificate chain (PEM) shown to agents.",
        values.parse_existing_file,
        "FILE",
        field="tls_cert",
        panel=_WHO,
    ),
    Option("tls-key", "Its private key (PEM).", values.parse_existing_file, "FILE", field="tls_key", panel=_WHO),
    Option(
        "acme-domain",
        "Name of the relay itself, to get a certificate for; repeat for more.",
        Hostname.parse,
        "NAME",
        Shape.MANY,
        field="acme_domains",
        panel=CERTIFICATES,
    ),
    switch(
        "acme",
        "Get a certificate for the names of --domain; done by default on port 443, agrees to the authority's terms.",
        panel=CERTIFICATES,
    ),
    *ACME_OPTIONS,
    limit("issuances-per-week", "Certificates of all agents for one domain in a week.", values.parse_count, "N"),
    switch("own-names", "Let agents bring names that DNS proves (they may by default).", field="own_names", panel=_WHO),
    Option(
        "dns-server",
        "Resolver that is asked about agents' own names, by IP address; repeat for more.",
        values.parse_dns_server,
        "HOST[:PORT]",
        Shape.MANY,
        field="dns_servers",
        panel=_WHO,
    ),
    switch(
        "takeover",
        "Take the sockets over from the relay that runs with this state folder, which then drains.",
        field="takeover",
        panel=_WHERE,
    ),
    limit("hello-timeout", "Time from accept to a complete ClientHello.", values.parse_seconds, "TIME"),
    limit("first-byte-timeout", "Time a stream may wait for the first byte back.", values.parse_seconds, "TIME"),
    limit("idle-timeout", "Time without a byte after which a stream ends.", values.parse_seconds, "TIME"),
    limit("drain-grace", "Time that streams may go on after the first signal.", values.parse_seconds, "TIME"),
    limit(
        "half-open-per-address",
        "Connections of one address without a complete ClientHello.",
        values.parse_count,
        "N",
    ),
    limit("visitors-per-address", "Visitors of one address.", values.parse_count, "N"),
    limit("visitors-total", "Visitors in all.", values.parse_count, "N"),
    limit("agents-max", "Agents in all.", values.parse_count, "N"),
    limit("streams-per-session", "Visitors of one agent at a time.", values.parse_count, "N"),
    limit("stream-window", "Size to which a stream's receive window may grow.", values.parse_window, "SIZE"),
    STATE_DIR,
)
"""Options of `trunnel serve`."""

KEY_OPTIONS: Final = (
    Option(
        "key-name",
        "Which key of the state folder; one running agent a key.",
        values.parse_key_name,
        "NAME",
        field="key_name",
        panel=_KEY,
    ),
    Option("primary-key", "A key file elsewhere.", values.parse_path, "FILE", field="key_file", panel=_KEY),
    Option(
        "primary-cert-extension-hex",
        "Bytes for an extension of the agent's certificate.",
        values.parse_hex,
        "HEX",
        field="cert_extension",
        panel=_KEY,
    ),
)
"""Options that say which key an agent has."""

AGENT_OPTIONS: Final = (
    Option("local", "The same as TARGET.", Target.parse, "TARGET", panel=_ORIGIN),
    Option(
        "server",
        "The relay, or several; without it, the one on this machine.",
        ServerAddress.parse,
        "HOST[:PORT]",
        Shape.MANY,
        field="servers",
        panel="The relay",
    ),
    Option(
        "name",
        "Which name to show, of those the relay's list gives this agent.",
        values.parse_label,
        "NAME",
        field="name",
        panel="The relay",
    ),
    Option(
        "hostname",
        "A name of yours that DNS leads to the relay; repeat for more.",
        Hostname.parse,
        "NAME",
        Shape.MANY,
        field="hostnames",
        panel="The relay",
    ),
    Option(
        "join",
        "An invitation from `trunnel invite`; other users of this machine may see a command line.",
        values.parse_token,
        "STRING",
        field="join",
        panel="The relay",
        secret=True,
    ),
    Option(
        "domain-suffix",
        "Which of the relay's suffixes to show.",
        Hostname.parse,
        "NAME",
        field="domain_suffix",
        panel="The relay",
    ),
    switch("share", "Let other agents with the same key serve beside this one.", field="share", panel="The relay"),
    choice("transport", "How the relay is reached.", TransportChoice, panel="The relay"),
    switch("force-h2", "The same as --transport h2.", panel="The relay"),
    Option(
        "pool-size",
        "TCP connections to a relay at most; they grow with the visitors.",
        values.parse_pool_size,
        "N",
        field="pool_size",
        panel="The relay",
    ),
    Option(
        "via",
        "Reach the relay through this server: http://, socks5:// or socks5h://.",
        ViaAddress.parse,
        "URL",
        panel="The relay",
        secret=True,
    ),
    choice("data", "The road of visitors' bytes.", DataChoice, panel="The relay"),
    Option(
        "relay-pin",
        "Accept only the relay with this key, as `trunnel serve` prints it.",
        KeyId.parse_pin,
        "SPKI",
        field="relay_pin",
        panel=_TRUST,
    ),
    Option(
        "relay-ca",
        "Accept only a relay with a certificate of this CA (PEM).",
        values.parse_existing_file,
        "FILE",
        field="relay_ca",
        panel=_TRUST,
    ),
    switch("relay-tofu", "Trust a relay on first use, wherever it is.", field="relay_tofu", panel=_TRUST),
    switch("relay-strict", "Never trust a relay on first use.", field="relay_strict", panel=_TRUST),
    switch(
        "tls-passthrough",
        "The service speaks TLS itself; hand it the visitor's.",
        field="tls_passthrough",
        panel=_ORIGIN,
    ),
    Option(
        "alpn",
        "Protocols to agree on with visitors, best first, such as h2,http/1.1.",
        values.parse_alpn,
        "PROTOCOL",
        Shape.MANY,
        field="alpn",
        panel=_ORIGIN,
    ),
    choice("proxy-protocol", "Send the service a PROXY header.", ProxyProtocolVersion, panel=_ORIGIN),
    Option(
        "cert-pem",
        "Certificate chain and key (PEM) that visitors of its names see.",
        values.parse_existing_file,
        "FILE",
        field="cert_pem",
        panel=CERTIFICATES,
    ),
    switch(
        "acme",
        "Get certificates for the public names; agrees to the authority's terms.",
        field="acme",
        panel=CERTIFICATES,
    ),
    *ACME_OPTIONS,
    Option(
        "verify-every",
        "Time between visits to the own public address that check the key shown there; 0 is never.",
        values.parse_seconds_or_never,
        "TIME",
        field="verify_every",
        panel=CERTIFICATES,
    ),
    *KEY_OPTIONS,
    Option(
        "secondary-key",
        "Key file of a second endpoint, with an id and a self-signed certificate of its own; made if missing.",
        values.parse_path,
        "FILE",
        field="secondary_key",
        panel=_KEY,
    ),
    Option(
        "secondary-local",
        "The second endpoint's service; the same one by default.",
        Target.parse,
        "TARGET",
        field="secondary_local",
        panel=_KEY,
    ),
    Option(
        "secondary-cert-extension-hex",
        "Bytes for an extension of the second endpoint's certificate.",
        values.parse_hex,
        "HEX",
        field="secondary_cert_extension",
        panel=_KEY,
    ),
    limit("origin-connect-timeout", "Time to connect to the local service.", values.parse_seconds, "TIME"),
    limit("first-byte-timeout", "Time a stream may wait for its first byte.", values.parse_seconds, "TIME"),
    limit("idle-timeout", "Time without a byte after which a stream ends.", values.parse_seconds, "TIME"),
    limit("drain-grace", "Time that streams may go on after the first signal.", values.parse_seconds, "TIME"),
    limit("stream-window", "Size to which a stream's receive window may grow.", values.parse_window, "SIZE"),
    STATE_DIR,
)
"""Options of `trunnel expose`."""

VARIABLES: Final = frozenset(
    name
    for option in (CONFIG, *OUTPUT_OPTIONS, *RELAY_OPTIONS, *AGENT_OPTIONS)
    for name in (option.variable, option.file_variable)
    if name
)
"""Every environment variable that means something to one of the programs."""
