"""The options of whoever asks a certificate authority: the same for relay and agent."""

from __future__ import annotations

from typing import Final

from trunnel.settings import values
from trunnel.settings.option import Option, switch

CERTIFICATES: Final = "Certificates"
"""Their group in the help."""

ACME_OPTIONS: Final = (
    Option(
        "acme-email",
        "Contact of the account at the certificate authority.",
        values.parse_email,
        "ADDRESS",
        field="acme_email",
        panel=CERTIFICATES,
    ),
    Option(
        "acme-creds-path",
        "Folder of account keys; acme in the state folder by default.",
        values.parse_path,
        "DIR",
        field="acme_creds_path",
        panel=CERTIFICATES,
    ),
    Option(
        "acme-directory",
        "The authority; Let's Encrypt by default.",
        values.parse_https_url,
        "URL",
        field="acme_directory",
        panel=CERTIFICATES,
    ),
    switch("acme-staging", "Let's Encrypt's staging environment.", field="acme_staging", panel=CERTIFICATES),
    Option(
        "acme-ca",
        "Trust only this CA (PEM) for the authority's own server.",
        values.parse_existing_file,
        "FILE",
        field="acme_ca",
        panel=CERTIFICATES,
    ),
    Option(
        "acme-eab-kid",
        "External account: its key identifier.",
        values.parse_token,
        "ID",
        field="acme_eab_kid",
        panel=CERTIFICATES,
    ),
    Option(
        "acme-eab-key",
        "External account: its MAC key (base64url).",
        values.parse_token,
        "KEY",
        field="acme_eab_key",
        panel=CERTIFICATES,
        secret=True,
    ),
    Option(
        "acme-renew-days",
        "Renew when so many days are left; at two thirds of the life by default.",
        values.parse_count,
        "N",
        field="acme_renew_days",
        panel=CERTIFICATES,
    ),
)
"""Options of whoever asks a certificate authority."""
