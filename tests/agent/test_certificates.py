"""Which certificates an agent wants: one for what a relay gave under a suffix, one for each name of its own."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import SimpleNamespace

import pytest
import trio
from trio.testing import MockClock

from trunnel.acme.keeper import Wanted
from trunnel.agent import certificates as module
from trunnel.agent.certificates import Certificates, groups_of
from trunnel.agent.challenges import Challenges
from trunnel.events import ignore_events
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.settings.acme import AcmeSettings
from trunnel.wire import control


def names(*texts: str) -> list[Hostname]:
    """Return host names."""
    return [Hostname(text) for text in texts]


def test_names_under_one_suffix_share_a_certificate() -> None:
    given = names("id.t.home.dev", "www.t.home.dev", "id.u.home.dev")
    assert groups_of(given, [], private=False) == (
        tuple(names("id.t.home.dev", "www.t.home.dev")),
        tuple(names("id.u.home.dev")),
    )


def test_each_name_of_ones_own_stands_alone() -> None:
    """What DNS denies for one must not cost the other its certificate."""
    own = names("a.house.dev", "b.house.dev")
    assert groups_of([], own, private=False) == (tuple(own[:1]), tuple(own[1:]))


def test_nobody_is_asked_for_what_no_public_authority_certifies() -> None:
    assert groups_of(names("id.localhost", "id.lan.internal", "id.example.org"), [], private=False) == ()
    assert groups_of(names("id.localhost"), [], private=True) == (tuple(names("id.localhost")),)


def test_a_name_that_no_host_may_have_costs_the_others_nothing() -> None:
    """Authorities refuse an order for it as a whole."""
    given = names("bad_one.t.home.dev", "id.t.home.dev")
    for private in (True, False):
        assert groups_of(given, names("my_shop.house.dev"), private=private) == ((given[1],),)


def test_a_certificate_has_so_many_names_at_most() -> None:
    given = names(*(f"n{number}.t.home.dev" for number in range(limits.CERTIFICATE_NAMES_MAX + 5)))
    (group,) = groups_of(given, [], private=False)
    assert group == tuple(sorted(given)[: limits.CERTIFICATE_NAMES_MAX])


def test_the_order_of_names_makes_no_other_certificate() -> None:
    """Relays come and go: an order of names that changes is no reason to ask the authority."""
    given = names("www.t.home.dev", "id.t.home.dev")
    assert groups_of(given, [], private=False) == groups_of(given[::-1], [], private=False)


# --- permission -------------------------------------------------------------------------------


@dataclass
class Asked:
    """One attachment's questions, with a relay's answer to each."""

    answer: control.Issuance | None
    told: list[bool] = field(default_factory=list[bool])
    gives: tuple[str, ...] = ("id.t.home.dev",)

    async def may_issue(self, names: Sequence[Hostname], *, renewal: bool) -> control.Issuance | None:
        """Be asked."""
        del names, renewal
        await trio.lowlevel.checkpoint()
        return self.answer

    def ended(self, answer: control.Issuance, *, issued: bool) -> None:
        """Be told."""
        assert answer is self.answer
        self.told.append(issued)


def kept(folder: Path, *attachments: Asked) -> Certificates:
    """Return the certificates of an agent that is attached so."""
    there = [
        SimpleNamespace(
            welcome=SimpleNamespace(suffixes=["t.home.dev"]),
            endpoints=[SimpleNamespace(hostname=name) for name in each.gives],
            questions=each,
        )
        for each in attachments
    ]
    return Certificates(
        AcmeSettings(directory="https://ca.example/dir", creds_path=folder),
        folder,
        challenges=Challenges(),
        show=ignore_events,  # type: ignore[arg-type]
        attachments=lambda: there,  # type: ignore[arg-type,return-value]
        on_event=ignore_events,
    )


GIVEN, OWN = names("id.t.home.dev"), names("www.house.dev")


async def test_the_relay_that_gave_a_name_is_asked_and_told(tmp_path: Path) -> None:
    relay = Asked(control.Issuance(1))
    grant = await kept(tmp_path, relay)._permit(GIVEN, renewal=False)
    assert grant.wait == 0
    grant.ended(True)
    assert relay.told == [True]


async def test_of_two_relays_with_one_suffix_the_one_that_gave_all_names_is_asked(tmp_path: Path) -> None:
    """The other one would say that a name is not this agent's, for ever."""
    few, all_of_them = Asked(control.Issuance(1)), Asked(control.Issuance(1))
    all_of_them.gives = ("id.t.home.dev", "www.t.home.dev")
    grant = await kept(tmp_path, few, all_of_them)._permit(names("id.t.home.dev", "www.t.home.dev"), renewal=False)
    grant.ended(False)
    assert (few.told, all_of_them.told) == ([], [False])


async def test_what_the_relay_says_is_waited_for(tmp_path: Path) -> None:
    relay = Asked(control.Issuance(1, 3600.0, "all are gone"))
    grant = await kept(tmp_path, relay)._permit(GIVEN, renewal=True)
    assert (grant.wait, grant.reason) == (3600.0, "all are gone")


async def test_a_relay_that_does_not_answer_is_asked_again(tmp_path: Path) -> None:
    assert (await kept(tmp_path, Asked(None))._permit(GIVEN, renewal=True)).wait == limits.ISSUANCE_FOREIGN_WAIT


async def test_nobody_is_asked_for_names_of_ones_own(tmp_path: Path) -> None:
    assert (await kept(tmp_path, Asked(None))._permit(OWN, renewal=False)).wait == 0


async def test_without_a_relay_nothing_is_ordered(tmp_path: Path) -> None:
    """The authority could not come, and would count a failed validation."""
    for group in (GIVEN, OWN):
        assert (await kept(tmp_path)._permit(group, renewal=True)).wait > 0


# --- names that come and go -------------------------------------------------------------------


async def test_a_keeper_outlives_the_time_in_which_a_new_relay_asks_dns(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, autojump_clock: MockClock
) -> None:
    """It keeps what it knows of an authority's pauses, and orders nothing for a name that is not led here."""
    del autojump_clock
    began: list[tuple[Hostname, ...]] = []

    class Keeper:
        def __init__(self, wanted: Wanted, *, on_event: object) -> None:
            del on_event
            self.wanted = wanted

        async def run(self) -> None:
            """Keep."""
            began.append(self.wanted.names)
            await trio.sleep_forever()

    monkeypatch.setattr(module, "CertificateKeeper", Keeper)
    certificates, own = kept(tmp_path, Asked(control.Issuance(1))), tuple(OWN)
    async with trio.open_nursery() as nursery:
        for wanted, rest in (([own], 1.0), ([], limits.KEEPER_LINGER / 2), ([own], 2 * limits.KEEPER_LINGER)):
            certificates._follow(wanted, nursery)
            await trio.sleep(rest)
            assert (await certificates._permit(OWN, renewal=True)).wait == (
                0 if wanted else limits.ISSUANCE_FOREIGN_WAIT
            )
        assert began == [own]
        certificates._follow([], nursery)
        await trio.sleep(limits.KEEPER_LINGER + 1)
        certificates._follow([own], nursery)
        await trio.sleep(1)
        assert began == [own, own]
        nursery.cancel_scope.cancel()
