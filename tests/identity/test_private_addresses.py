"""Which addresses count as private: only towards these is a relay trusted on first use without a flag."""

from __future__ import annotations

import pytest

from trunnel.identity.trust import is_private_address

PRIVATE_ADDRESSES = {
    "127.0.0.1": True,
    "127.255.255.254": True,
    "::1": True,
    "10.1.2.3": True,
    "172.16.0.1": True,
    "172.31.255.255": True,
    "172.32.0.1": False,
    "192.168.0.1": True,
    "192.169.0.1": False,
    "169.254.1.1": True,
    "fe80::1": True,
    "fe80::1%eth0": True,
    "fd00::1": True,
    "fc00::1": True,
    "fec0::1": False,
    "::ffff:127.0.0.1": True,
    "::ffff:192.168.1.1": True,
    "::ffff:203.0.113.7": False,
    "100.64.0.1": False,
    "198.18.0.1": False,
    "192.0.2.1": False,
    "203.0.113.7": False,
    "8.8.8.8": False,
    "2001:db8::1": False,
    "2606:4700::1": False,
    "0.0.0.0": False,
    "::": False,
    "64:ff9b::7f00:1": False,
    "2002:7f00:1::": False,
}


@pytest.mark.parametrize(("address", "private"), PRIVATE_ADDRESSES.items())
def test_private_addresses_are_those_of_the_rule(address: str, *, private: bool) -> None:
    assert is_private_address(address) is private


def test_what_is_no_address_is_a_mistake() -> None:
    with pytest.raises(ValueError, match="localhost"):
        is_private_address("localhost")
