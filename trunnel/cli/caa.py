"""`trunnel caa`: the DNS records that keep everybody else from getting certificates for a name.

A CAA record (RFC 8659) names the authority that may issue; RFC 8657 narrows it
down to one account and one way of validation.  With both, a relay that passes
challenges on, or anybody else on the way, can get no certificate for the name
from an authority that follows the rules, as all public ones must.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import trio
import typer

from trunnel.errors import ConfigError
from trunnel.names import Hostname
from trunnel.settings.load import load_agent
from trunnel.settings.options import Flag

VALIDATION = "tls-alpn-01"
"""The one challenge that trunnel answers (RFC 8737)."""


def run_caa(names: Sequence[str], flags: Mapping[str, Flag]) -> None:
    """Print the records for *names*, or for the names that the settings give with `--hostname`.

    Makes the account if there is none: the record names it.

    Raises:
        ConfigError: There is no name, or no authority was chosen.
        InvalidName: A name does not parse.
        AcmeError: The authority cannot be asked.
    """
    settings = load_agent(flags).settings
    wanted = [Hostname.parse(name) for name in names] or list(settings.hostnames)
    if not wanted:
        raise ConfigError("", "for which name?\nfor example: trunnel caa www.example.org --acme-email ada@example.org")
    authority = settings.authority
    if authority is None:
        raise ConfigError("agent.acme", "choose the authority as for `trunnel expose`: --acme, or --acme-email ADDRESS")
    from trunnel.acme.client import open_client

    async def ask() -> tuple[str, tuple[str, ...]]:
        async with open_client(authority) as client:
            return await client.account_url(), client.issuer_domains

    account, issuers = trio.run(ask)
    for name in wanted:
        for line in records(name, issuers, account):
            typer.echo(line)


def records(name: Hostname, issuers: Sequence[str], account: str) -> list[str]:
    """Return the records of one zone-file line each.

    Args:
        name: Whose.
        issuers: What the authority calls itself in CAA records, one or more.
        account: URL of our account there.

    Raises:
        ConfigError: The authority says no name by which a record could mean it.

    Source: RFC 8659 §4.2, RFC 8657 §3, §4.
    """
    if not issuers:
        raise ConfigError("", "this authority does not say by which name CAA records mean it")
    return [
        f'{name}. IN CAA 128 issue "{issuer}; accounturi={account}; validationmethods={VALIDATION}"'
        for issuer in issuers
    ] + [f'{name}. IN CAA 128 issuewild ";"']
