"""`trunnel caa`: records that name the authority, the account, and the one way of validation."""

from __future__ import annotations

from functools import partial
from pathlib import Path

import pytest
import trio

from tests.acme.pebble import pebble
from trunnel.cli.caa import records, run_caa
from trunnel.errors import ConfigError
from trunnel.names import Hostname

NAME = Hostname("www.example.org")


def test_the_record_names_authority_account_and_validation() -> None:
    """And nobody may have a wildcard beside it."""
    assert records(NAME, ["ca.org"], "https://ca/acct/1") == [
        'www.example.org. IN CAA 128 issue "ca.org; accounturi=https://ca/acct/1; validationmethods=tls-alpn-01"',
        'www.example.org. IN CAA 128 issuewild ";"',
    ]


def test_an_authority_without_a_name_cannot_be_meant() -> None:
    with pytest.raises(ConfigError):
        records(NAME, [], "https://ca/acct/1")


@pytest.mark.parametrize(("names", "flags"), [([], {"acme": True}), (["www.example.org"], {})])
def test_name_and_authority_are_needed(names: list[str], flags: dict[str, bool], tmp_path: Path) -> None:
    with pytest.raises(ConfigError):
        run_caa(names, {**flags, "state_dir": str(tmp_path)})


async def test_a_real_authority_that_does_not_say_its_name_cannot_be_meant(tmp_path: Path) -> None:
    """Pebble has accounts, but no name for CAA records."""
    async with pebble(challenge_port=1, sleep=False) as authority:
        flags = {"acme_directory": authority.directory, "acme_ca": str(authority.ca), "state_dir": str(tmp_path)}
        with pytest.raises(ConfigError, match="does not say by which name"):
            await trio.to_thread.run_sync(partial(run_caa, [NAME.value], flags))
