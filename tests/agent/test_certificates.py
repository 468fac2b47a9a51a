"""Which certificates an agent wants: one for what a relay gave under a suffix, one for each name of its own."""

from __future__ import annotations

from trunnel.agent.certificates import groups_of
from trunnel.names import Hostname
from trunnel.settings import limits


def names(*texts: str) -> list[Hostname]:
    """Return host names."""
    return [Hostname(text) for text in texts]


def test_names_under_one_suffix_share_a_certificate() -> None:
    given = names("id.t.example.com", "www.t.example.com", "id.u.example.com")
    assert groups_of(given, [], private=False) == (
        tuple(names("id.t.example.com", "www.t.example.com")),
        tuple(names("id.u.example.com")),
    )


def test_each_name_of_ones_own_stands_alone() -> None:
    """What DNS denies for one must not cost the other its certificate."""
    own = names("a.example.org", "b.example.org")
    assert groups_of([], own, private=False) == (tuple(own[:1]), tuple(own[1:]))


def test_nobody_is_asked_for_what_no_public_authority_certifies() -> None:
    assert groups_of(names("id.localhost", "id.lan.internal"), [], private=False) == ()
    assert groups_of(names("id.localhost"), [], private=True) == (tuple(names("id.localhost")),)


def test_a_certificate_has_so_many_names_at_most() -> None:
    given = names(*(f"n{number}.t.example.com" for number in range(limits.CERTIFICATE_NAMES_MAX + 5)))
    (group,) = groups_of(given, [], private=False)
    assert group == tuple(given[: limits.CERTIFICATE_NAMES_MAX])
