"""What `--domain` stands for, and when it stands for a certificate, too."""

from __future__ import annotations

import pytest

from trunnel.errors import ConfigError
from trunnel.names import Hostname
from trunnel.settings.acme import certifiable
from trunnel.settings.domain import EVERY_ADDRESS, fields_of_domain
from trunnel.settings.load import load_relay
from trunnel.settings.options import Flag

NAME = "t.trunnel.dev"
DOMAIN: dict[str, Flag] = {"domain": [NAME], "open": True}


def certified(**flags: Flag) -> tuple[str, ...]:
    """Return the names that a relay with these flags gets a certificate for."""
    return tuple(name.value for name in load_relay({**DOMAIN, **flags}).settings.acme_domains)


def test_without_a_domain_nothing_follows() -> None:
    assert fields_of_domain({}) == {}
    assert load_relay({}).settings.acme_domains == ()


def test_a_domain_is_a_suffix_every_address_one_port_and_a_certificate() -> None:
    assert fields_of_domain({"domain": (Hostname(NAME),)}) == {
        "domain_suffixes": (Hostname(NAME),),
        "bind_addrs": EVERY_ADDRESS,
        "port": 443,
        "acme_domains": (Hostname(NAME),),
    }


@pytest.mark.parametrize(
    "flags",
    [
        {"acme": False},
        {"port": "8443"},
        {"public_port": "8443"},
        {"pub_port": "8443"},
        {"api_port": "443"},
        {"bind_addr": ["127.0.0.1", "::1"]},
        {"domain": ["t.localhost"]},
        {"domain": [NAME, "t.example.com"]},
    ],
    ids=str,
)
def test_no_certificate_is_asked_for_where_none_can_come(flags: dict[str, Flag]) -> None:
    """Or where a person says so."""
    assert certified(**flags) == ()


@pytest.mark.parametrize(
    "flags",
    [
        {"port": "8443", "public_port": "443"},
        {"api_port": "4433", "pub_port": "443"},
        {"api_port": "4433", "pub_port": "8443", "alpn_port": "443"},
        {"port": "8443", "alpn_port": "443"},
        {"port": "8443", "acme": True},
        {"bind_addr": ["127.0.0.1"], "acme": True},
    ],
    ids=str,
)
def test_a_forward_to_port_443_will_do_and_a_persons_word_always(flags: dict[str, Flag]) -> None:
    assert certified(**flags) == (NAME,)


def test_names_that_were_given_are_those() -> None:
    assert certified(acme_domain=["relay.trunnel.dev"]) == ("relay.trunnel.dev",)
    assert certified(acme_domain=["relay.trunnel.dev"], acme=True) == ("relay.trunnel.dev",)


@pytest.mark.parametrize("flags", [{"acme": True}, {"acme": False, "acme_domain": [NAME]}], ids=str)
def test_what_makes_no_sense_is_refused(flags: dict[str, Flag]) -> None:
    with pytest.raises(ConfigError):
        load_relay(flags)


@pytest.mark.parametrize(
    "name", ["localhost", "a.localhost", "printer.local", "x.test", "t.example.com", "example.org"]
)
def test_names_set_apart_are_not_certifiable(name: str) -> None:
    assert not certifiable(Hostname(name))


@pytest.mark.parametrize("name", ["trunnel.dev", "test.trunnel.dev", "example.com.trunnel.dev", "notexample.com"])
def test_all_others_are(name: str) -> None:
    assert certifiable(Hostname(name))
