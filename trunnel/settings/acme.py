"""Which certificate authority is asked, and as whom: the options that relay and agent share.

The account's key lives in `creds_path`; whoever asks for a certificate with it
has agreed to the authority's terms (RFC 8555 §7.3).
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Final, final

import msgspec

from trunnel.errors import ConfigError
from trunnel.names import Hostname

LETS_ENCRYPT: Final = "https://acme-v02.api.letsencrypt.org/directory"
"""The authority that is asked unless another is named."""
LETS_ENCRYPT_STAGING: Final = "https://acme-staging-v02.api.letsencrypt.org/directory"
"""Its twin for trials: the same rules, larger limits, certificates that nobody trusts."""
_NEVER_PUBLIC: Final = ("localhost", "local", "internal", "test", "invalid", "example", "onion")
"""Last labels that no public authority certifies (RFC 6761, RFC 6762, RFC 7686)."""
_EXAMPLES: Final = ("example.com", "example.net", "example.org")
"""Domains of examples (RFC 2606 §3)."""


def certifiable(name: Hostname) -> bool:
    """Whether a public authority may certify *name*: it is none of those that are set apart."""
    *_, second, last = ("", *name.value.split("."))
    return last not in _NEVER_PUBLIC and f"{second}.{last}" not in _EXAMPLES


@final
class AcmeSettings(msgspec.Struct, frozen=True, kw_only=True):
    """One authority and one account."""

    directory: str
    """URL of the authority's directory, https."""
    creds_path: Path
    """Folder of account keys, mode 0700; a file for each directory."""
    email: str | None = None
    """Contact of the account."""
    ca: Path | None = None
    """Trust only this CA (PEM) for the authority's own server."""
    eab_kid: str | None = None
    """Key identifier of the external account that the new one is bound to (RFC 8555 §7.3.4)."""
    eab_key: str | None = None
    """Its MAC key, base64url.  Secret."""
    renew_days: int | None = None
    """Renew when so many days are left, at the latest; None: at two thirds of a certificate's life."""

    def __rich_repr__(self) -> list[tuple[str, object]]:
        shown = ((field, getattr(self, field)) for field in self.__struct_fields__)
        return [(field, "***" if field == "eab_key" and value else value) for field, value in shown]

    def __repr__(self) -> str:
        return f"AcmeSettings({', '.join(f'{field}={value!r}' for field, value in self.__rich_repr__())})"


class AcmeOptions(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The same as fields of a program's settings."""

    acme_email: str | None = None
    """Contact of the account; the authority may send it warnings."""
    acme_creds_path: Path | None = None
    """Folder of account keys; `acme` in the state folder by default."""
    acme_directory: str | None = None
    """URL of the authority's directory; Let's Encrypt by default."""
    acme_staging: bool = False
    """Ask Let's Encrypt's staging environment."""
    acme_ca: Path | None = None
    """Trust only this CA (PEM) for the authority's own server."""
    acme_eab_kid: str | None = None
    """External account: its key identifier."""
    acme_eab_key: str | None = None
    """External account: its MAC key, base64url.  Secret."""
    acme_renew_days: int | None = None
    """Renew when so many days are left; two thirds of the life by default."""

    def __repr__(self) -> str:
        fields = self.__struct_fields__
        shown = {
            field: "***" if field in _SECRET and getattr(self, field) else getattr(self, field) for field in fields
        }
        return f"{type(self).__name__}({', '.join(f'{field}={value!r}' for field, value in shown.items())})"

    @property
    def acme_mentioned(self) -> bool:
        """Whether anything is said of an authority or an account, but for where its key would be."""
        unsaid = AcmeOptions()
        return any(
            getattr(self, field) != getattr(unsaid, field)
            for field in unsaid.__struct_fields__
            if field != "acme_creds_path"
        )

    def acme_settings(self, state_dir: Path) -> AcmeSettings:
        """Return the authority and account that the fields describe."""
        standard = LETS_ENCRYPT_STAGING if self.acme_staging else LETS_ENCRYPT
        return AcmeSettings(
            directory=self.acme_directory or standard,
            creds_path=self.acme_creds_path or state_dir / "acme",
            email=self.acme_email,
            ca=self.acme_ca,
            eab_kid=self.acme_eab_kid,
            eab_key=self.acme_eab_key,
            renew_days=self.acme_renew_days,
        )

    def acme_problems(self, program: str) -> Iterator[ConfigError]:
        """Yield what is wrong with how the fields go together; *program* is the first word of their keys."""
        if self.acme_staging and self.acme_directory is not None:
            yield ConfigError(f"{program}.acme_staging", "choose: the staging environment, or acme_directory")
        if (self.acme_eab_kid is None) != (self.acme_eab_key is None):
            yield ConfigError(f"{program}.acme_eab_kid", "acme_eab_kid and acme_eab_key go together")


_SECRET: Final = ("acme_eab_key", "join")
"""Fields of settings that `repr` does not show."""
