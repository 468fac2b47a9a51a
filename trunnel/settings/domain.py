"""What `--domain NAME` stands for: a relay on a public host, by one word.

    suffix NAME · every address · port 443 for all · a certificate for NAME by ACME

Each can be said otherwise.  The certificate is asked for only where that can
work: visitors come by port 443 (RFC 8737 §3), other machines reach the relay,
and a public authority may certify the name.  `--acme` asks in any case,
`--no-acme` in none.
"""

from __future__ import annotations

import ipaddress
from collections.abc import Mapping, Sequence
from typing import Final, cast

from trunnel.errors import ConfigError
from trunnel.names import Hostname
from trunnel.settings.acme import certifiable

EVERY_ADDRESS: Final = ("0.0.0.0", "::")  # noqa: S104 - it is what is asked for
PUBLIC_PORT: Final = 443
"""The port of a relay that is told its domain; the one that authorities connect to."""


def fields_of_domain(parsed: Mapping[str, object]) -> dict[str, object]:
    """Return the fields of `RelaySettings` that follow from `domain` and `acme`, where nothing else says them.

    Args:
        parsed: The values of options, by name.

    Raises:
        ConfigError: A certificate is wanted, and no name is there to get it for.
    """
    domains = cast("tuple[Hostname, ...]", parsed.get("domain", ()))
    fields: dict[str, object] = {}
    if domains:
        more = cast("tuple[Hostname, ...]", parsed.get("domain-suffix", ()))
        fields["domain_suffixes"] = tuple(dict.fromkeys((*domains, *more)))
        fields["bind_addrs"] = parsed.get("bind-addr", EVERY_ADDRESS)
        if "api-port" not in parsed and "pub-port" not in parsed:
            fields["port"] = parsed.get("port", PUBLIC_PORT)
    if _certificate_wanted(parsed, {**parsed, **fields}, domains):
        fields["acme_domains"] = cast("tuple[Hostname, ...]", parsed.get("acme-domain", ())) or domains
    return fields


def _certificate_wanted(
    parsed: Mapping[str, object], fields: Mapping[str, object], domains: Sequence[Hostname]
) -> bool:
    named = "acme-domain" in parsed
    match parsed.get("acme"):
        case True:
            if not named and not domains:
                raise ConfigError("relay.acme", "a certificate for which name? Say domain or acme_domain")
            return True
        case False:
            if named:
                raise ConfigError("relay.acme", "choose: a certificate for acme_domain, or none")
            return False
        case _:
            return named or ("tls-cert" not in parsed and _certificate_possible(parsed, fields, domains))


def _certificate_possible(
    parsed: Mapping[str, object], fields: Mapping[str, object], domains: Sequence[Hostname]
) -> bool:
    """Whether an authority could reach us by the domains' names, as far as the settings tell."""
    if not domains:
        return False
    ports = [parsed.get("alpn-port"), parsed.get("public-port", fields.get("port", parsed.get("pub-port")))]
    addresses = cast("Sequence[str]", fields["bind_addrs"])
    return PUBLIC_PORT in ports and any(map(_beyond_loopback, addresses)) and all(map(certifiable, domains))


def _beyond_loopback(address: str) -> bool:
    try:
        return not ipaddress.ip_address(address).is_loopback
    except ValueError:
        return False  # told by RelaySettings
