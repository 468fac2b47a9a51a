"""Settings of certificate authorities: which one is asked, what goes together, what is never shown."""

from __future__ import annotations

from pathlib import Path

import pytest

from trunnel.errors import ConfigError
from trunnel.names import Hostname
from trunnel.settings.acme import LETS_ENCRYPT, LETS_ENCRYPT_STAGING, AcmeSettings
from trunnel.settings.agent import AgentSettings
from trunnel.settings.load import load_agent, load_relay
from trunnel.settings.relay import RelaySettings

STATE = Path("state")


def authority_of(**fields: object) -> AcmeSettings | None:
    """Return which authority an agent with these settings asks."""
    return AgentSettings(state_dir=STATE, **fields).authority  # type: ignore[arg-type]


def test_nobody_is_asked_unless_a_person_said_so() -> None:
    """Asking for a certificate is agreeing to the authority's terms."""
    assert authority_of() is None
    assert RelaySettings(state_dir=STATE).authority is None


@pytest.mark.parametrize(
    "fields",
    [
        {"acme": True},
        {"acme_email": "ada@example.com"},
        {"acme_staging": True},
        {"acme_directory": "https://ca/dir"},
        {"acme_ca": Path("ca.pem")},
        {"acme_eab_kid": "kid", "acme_eab_key": "key"},
        {"acme_renew_days": 20},
    ],
)
def test_each_way_of_saying_so_is_enough(fields: dict[str, object]) -> None:
    assert authority_of(**fields) is not None


def test_a_folder_for_the_key_asks_for_nothing() -> None:
    """An image may always name one."""
    assert authority_of(acme_creds_path=Path("creds")) is None


def test_no_acme_is_the_last_word() -> None:
    assert load_agent({"acme": False, "acme_email": "ada@example.com"}).settings.authority is None


def test_a_relay_says_that_an_account_alone_does_nothing() -> None:
    (warning,) = load_relay({"acme_email": "ada@example.com"}).warnings
    assert "--acme-domain" in warning
    assert load_relay({"acme_email": "ada@example.com", "acme_domain": ["t.example.com"]}).warnings == ()


def test_the_authority_is_lets_encrypt_unless_another_is_named() -> None:
    standard, staging = authority_of(acme=True), authority_of(acme_staging=True)
    named = authority_of(acme_directory="https://ca/dir", acme_creds_path=Path("creds"))
    assert standard is not None
    assert staging is not None
    assert named is not None
    assert standard.directory == LETS_ENCRYPT
    assert standard.creds_path == STATE / "acme"
    assert staging.directory == LETS_ENCRYPT_STAGING
    assert (named.directory, named.creds_path) == ("https://ca/dir", Path("creds"))


def test_a_relay_asks_for_the_names_that_it_was_given() -> None:
    settings = RelaySettings(state_dir=STATE, acme_domains=(Hostname("t.example.com"),), acme_renew_days=20)
    assert settings.authority is not None
    assert settings.authority.renew_days == 20


@pytest.mark.parametrize(
    "fields",
    [
        {"acme_staging": True, "acme_directory": "https://ca/dir"},
        {"acme_eab_kid": "kid"},
        {"acme_eab_key": "key"},
        {"acme": True, "tls_passthrough": True},
    ],
)
def test_what_contradicts_itself_is_refused(fields: dict[str, object]) -> None:
    with pytest.raises(ConfigError):
        authority_of(**fields)


def test_secrets_are_not_shown() -> None:
    settings = AgentSettings(state_dir=STATE, acme_eab_kid="kid", acme_eab_key="s3cret", acme=True)
    assert settings.authority is not None
    for shown in (repr(settings), repr(settings.authority), str(settings.authority.__rich_repr__())):
        assert "kid" in shown
        assert "s3cret" not in shown
