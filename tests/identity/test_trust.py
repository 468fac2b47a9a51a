"""Trust of the agent in the relay: every branch of the decision, one line each.

The tables say: who answers, at which address it was dialled, what the person
said, what is remembered; and what comes out.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509

from tests.identity.certificates import NOW, YEAR, Authority, Key, new_key, self_signed, subject
from trunnel.errors import ConfigError, RelayIdentityError
from trunnel.identity.keys import id_of
from trunnel.identity.knownrelays import KnownRelay, KnownRelays, TrustKind
from trunnel.identity.trust import PeerChain, TrustDecision, TrustPolicy, verify_relay
from trunnel.names import KeyId, ServerAddress

NAME = "t.example.com"
SERVER = ServerAddress(NAME, 443)
KEY, OTHER_KEY = new_key(), new_key()
PUBLIC = Authority(name=subject("Public Root", "Public CA"))
COMPANY = Authority(name=subject("Internal CA", "My company"))
BOX = Authority(name=subject("Zscaler Intermediate Root CA", "Zscaler Inc."))
TRUSTED_BOX = Authority(name=subject("Fortinet CA", "Fortinet"), parent=PUBLIC)

LOOPBACK, LAN, INTERNET = "127.0.0.1", "192.168.1.9", "203.0.113.7"

PIN, CA, WEB, FIRST, KNOWN = (
    TrustKind.PIN,
    TrustKind.CA,
    TrustKind.PUBLIC_CA,
    TrustKind.FIRST_USE,
    TrustKind.KNOWN,
)


def chain_of(kind: str, key: Key = KEY) -> PeerChain:
    """Return what a relay of *kind* shows."""
    makers: dict[str, Callable[[], list[x509.Certificate]]] = {
        "public": lambda: [PUBLIC.issue(key, [NAME])],
        "expired": lambda: [PUBLIC.issue(key, [NAME], end=NOW - timedelta(days=1))],
        "wrong-name": lambda: [PUBLIC.issue(key, ["other.example"])],
        "self": lambda: [self_signed(key)],
        "self-expired": lambda: [self_signed(key, end=NOW - YEAR)],
        "company": lambda: [COMPANY.issue(key, [NAME])],
        "company-expired": lambda: [COMPANY.issue(key, [NAME], end=NOW - timedelta(days=1))],
        "company-wrong-name": lambda: [COMPANY.issue(key, ["other.example"])],
        "box": lambda: [BOX.issue(key, [NAME]), BOX.certificate],
        "trusted-box": lambda: [TRUSTED_BOX.issue(key, [NAME]), TRUSTED_BOX.certificate],
    }
    return PeerChain(tuple(makers[kind]()))


ID, OTHER_ID = (id_of(chain_of("self", key).certificates[0]) for key in (KEY, OTHER_KEY))


@dataclass
class Setting:
    """One agent: its files, and what it asks."""

    folder: Path
    known: KnownRelays

    def policy(self, *said: str) -> TrustPolicy:
        return TrustPolicy(
            pin=ID if "pin" in said else OTHER_ID if "other-pin" in said else None,
            ca=self.folder / "company.pem" if "ca" in said else None,
            tofu="tofu" in said,
            strict="strict" in said,
            public_roots=self.folder / "public.pem",
        )

    def remember(self, how: TrustKind, key: KeyId = ID) -> KnownRelay:
        entry = KnownRelay(relay_id=key, how=how, since=NOW - YEAR)
        assert self.known.remember(SERVER, entry, replacing=None) == entry
        return entry

    def meet(self, chain: PeerChain, address: str = INTERNET, *said: str) -> TrustDecision:
        return verify_relay(chain, SERVER, policy=self.policy(*said), known=self.known, address=address, now=NOW)

    def refuse(self, chain: PeerChain, address: str = INTERNET, *said: str) -> RelayIdentityError:
        before = self.known.lookup(SERVER)
        with pytest.raises(RelayIdentityError) as caught:
            self.meet(chain, address, *said)
        assert self.known.lookup(SERVER) == before, "a refusal changes nothing"
        return caught.value


@pytest.fixture
def agent(tmp_path: Path) -> Setting:
    COMPANY.write(tmp_path / "company.pem")
    PUBLIC.write(tmp_path / "public.pem")
    return Setting(tmp_path, KnownRelays(tmp_path / "known_relays"))


# --- accepted --------------------------------------------------------------------------------------

ACCEPTED = [
    # who             where     what was said  known    rule   remembered  notice has
    ("self", INTERNET, "pin", None, PIN, None, None),
    ("self-expired", INTERNET, "pin", None, PIN, None, None),
    ("expired", INTERNET, "pin", None, PIN, None, None),
    ("wrong-name", INTERNET, "pin", None, PIN, None, None),
    ("box", INTERNET, "pin", None, PIN, None, None),
    ("self", INTERNET, "pin strict", None, PIN, None, None),
    ("self", INTERNET, "pin", WEB, PIN, WEB, None),
    ("company", INTERNET, "ca", None, CA, None, None),
    ("company", INTERNET, "ca strict", None, CA, None, None),
    ("company", INTERNET, "ca pin", None, PIN, None, None),
    ("public", INTERNET, "", None, WEB, WEB, None),
    ("public", INTERNET, "strict", None, WEB, WEB, None),
    ("public", LOOPBACK, "", None, WEB, WEB, None),
    ("public", INTERNET, "tofu", None, WEB, WEB, None),
    ("public", INTERNET, "", WEB, WEB, WEB, None),
    ("public", INTERNET, "", FIRST, WEB, WEB, "the same key"),
    ("public", INTERNET, "strict", FIRST, WEB, WEB, "the same key"),
    ("trusted-box", INTERNET, "", FIRST, WEB, WEB, "the same key"),
    ("self", LOOPBACK, "", None, FIRST, FIRST, "on first use"),
    ("self", "::1", "", None, FIRST, FIRST, "on first use"),
    ("self", LAN, "", None, FIRST, FIRST, "on first use"),
    ("self-expired", LAN, "", None, FIRST, FIRST, "on first use"),
    ("self", INTERNET, "tofu", None, FIRST, FIRST, "on first use"),
    ("company", LOOPBACK, "", None, FIRST, FIRST, "issued by 'My company Internal CA'"),
    ("company", LAN, "", None, FIRST, FIRST, "issued by 'My company Internal CA'"),
    ("company-wrong-name", LAN, "", None, FIRST, FIRST, "issued by 'My company Internal CA'"),
    ("self", INTERNET, "", FIRST, KNOWN, FIRST, None),
    ("self", INTERNET, "strict", FIRST, KNOWN, FIRST, None),
    ("company", INTERNET, "", FIRST, KNOWN, FIRST, None),
]


@pytest.mark.parametrize(("who", "where", "said", "known", "rule", "remembered", "notice"), ACCEPTED, ids=str)
def test_a_relay_is_accepted(
    agent: Setting,
    who: str,
    where: str,
    said: str,
    known: TrustKind | None,
    rule: TrustKind,
    remembered: TrustKind | None,
    notice: str | None,
) -> None:
    if known is not None:
        agent.remember(known)
    decision = agent.meet(chain_of(who), where, *said.split())
    assert (decision.relay_id, decision.how) == (ID, rule)
    assert (decision.notice is None) == (notice is None)
    assert decision.notice is None or (notice is not None and notice in decision.notice)
    assert decision.notice is None or "\n" not in decision.notice
    record = agent.known.lookup(SERVER)
    assert (None if record is None else record.how) == remembered


# --- refused ---------------------------------------------------------------------------------------

REFUSED = [
    # who             where     what was said   known   the error has
    ("self", INTERNET, "other-pin", None, "key {ID}, not the pinned {OTHER_ID}"),
    ("public", INTERNET, "other-pin", None, "key {ID}, not the pinned {OTHER_ID}"),
    ("company", LAN, "other-pin", None, "your network seems to intercept TLS"),
    ("box", INTERNET, "other-pin", None, "your network seems to intercept TLS"),
    ("self", LOOPBACK, "other-pin tofu", FIRST, "not the pinned"),
    ("company", INTERNET, "ca other-pin", None, "not the pinned"),
    ("public", INTERNET, "ca", None, "issued by 'Public CA Public Root', which is not trusted"),
    ("self", LOOPBACK, "ca", None, "the certificate is self-signed"),
    ("self", LOOPBACK, "ca tofu", FIRST, "the certificate is self-signed"),
    ("self", LOOPBACK, "ca pin", None, "the certificate is self-signed"),
    ("company-expired", LAN, "ca", None, "expired on 2026-05-31"),
    ("company-wrong-name", LAN, "ca", None, "is for 'other.example', not for t.example.com"),
    ("box", INTERNET, "ca", None, "your network seems to intercept TLS"),
    ("self", INTERNET, "", None, "203.0.113.7 is no private address"),
    ("self", "100.64.0.1", "", None, "100.64.0.1 is no private address"),
    ("self", LOOPBACK, "strict", None, "--relay-strict"),
    ("self", LOOPBACK, "strict tofu", None, "--relay-strict"),
    ("expired", INTERNET, "", None, "expired on 2026-05-31"),
    ("expired", LOOPBACK, "tofu", None, "expired on 2026-05-31"),
    ("wrong-name", INTERNET, "", None, "is for 'other.example', not for t.example.com"),
    ("wrong-name", LOOPBACK, "tofu", None, "is for 'other.example', not for t.example.com"),
    ("company", INTERNET, "", None, "issued by 'My company Internal CA'"),
    ("company", INTERNET, "tofu", None, "your network seems to intercept TLS"),
    ("box", INTERNET, "", None, "your network seems to intercept TLS"),
    ("box", INTERNET, "tofu", None, "Zscaler"),
    ("box", LAN, "", None, "Zscaler"),
    ("trusted-box", INTERNET, "", None, "your network seems to intercept TLS"),
    ("expired", INTERNET, "", WEB, "had a certificate of a public CA and now has none that holds"),
    ("self", LOOPBACK, "", WEB, "had a certificate of a public CA and now has none that holds"),
    ("self", INTERNET, "tofu", WEB, "had a certificate of a public CA and now has none that holds"),
]


@pytest.mark.parametrize(("who", "where", "said", "known", "reason"), REFUSED, ids=str)
def test_a_relay_is_refused(
    agent: Setting, who: str, where: str, said: str, known: TrustKind | None, reason: str
) -> None:
    if known is not None:
        agent.remember(known)
    error = agent.refuse(chain_of(who), where, *said.split())
    assert reason.format(ID=ID, OTHER_ID=OTHER_ID) in error.reason  # the test's name is the same in each process
    assert error.hint
    assert not error.retryable


CHANGED = [
    # who        was    intercepted
    ("self", FIRST, False),
    ("self", WEB, False),
    ("public", WEB, False),
    ("expired", WEB, False),
    ("expired", FIRST, False),
    ("company", FIRST, True),
    ("company", WEB, True),
    ("box", FIRST, True),
    ("trusted-box", FIRST, True),
    ("trusted-box", WEB, True),
]


@pytest.mark.parametrize(("who", "was", "intercepted"), CHANGED, ids=str)
@pytest.mark.parametrize("where", [LOOPBACK, INTERNET])
@pytest.mark.parametrize("said", ["", "tofu", "strict"])
def test_a_changed_key_is_refused_with_both_ids_and_what_to_do(
    agent: Setting, who: str, was: TrustKind, where: str, said: str, *, intercepted: bool
) -> None:
    agent.remember(was, OTHER_ID)
    error = agent.refuse(chain_of(who), where, *said.split())
    assert f"it was {OTHER_ID} ({was}, 2025-06-01), it is {ID}" in error.reason
    assert ("your network seems to intercept TLS" in error.reason) == intercepted
    assert error.hint == (
        f"if you meant this, remove the line of {NAME}:443 from {agent.known.path} or pass --relay-pin {ID}"
    )


def test_after_first_use_a_public_certificate_is_accepted_even_with_another_key(agent: Setting) -> None:
    agent.remember(FIRST, OTHER_ID)
    decision = agent.meet(chain_of("public"))
    assert decision.how is WEB
    assert decision.notice is not None
    assert f"key {ID} instead of {OTHER_ID}" in decision.notice
    record = agent.known.lookup(SERVER)
    assert record is not None
    assert (record.relay_id, record.how) == (ID, WEB)


# --- hints -----------------------------------------------------------------------------------------

HINTS = [
    ("self", INTERNET, "", "--relay-pin {ID}", "--relay-tofu"),
    ("self", LOOPBACK, "strict", "--relay-pin {ID}", None),
    ("company", INTERNET, "", "--relay-pin {ID}", "--relay-ca FILE"),
    ("expired", INTERNET, "", "--relay-pin {ID}", None),
    ("box", INTERNET, "", "use another network", None),
]


@pytest.mark.parametrize(("who", "where", "said", "first", "second"), HINTS, ids=str)
def test_a_refusal_says_what_can_be_done(
    agent: Setting, who: str, where: str, said: str, first: str, second: str | None
) -> None:
    hint = agent.refuse(chain_of(who), where, *said.split()).hint
    assert first.format(ID=ID) in hint
    assert second is None or second in hint
    assert ("--relay-tofu" in hint) == (second == "--relay-tofu")


# --- histories ---------------------------------------------------------------------------------------


def test_first_use_is_said_once(agent: Setting) -> None:
    first = agent.meet(chain_of("self"), LAN)
    assert first.notice is not None
    assert str(ID) in first.notice
    assert str(agent.known.path) in first.notice
    again = agent.meet(chain_of("self"), LAN)
    assert (again.how, again.notice) == (KNOWN, None)


def test_a_relay_keeps_its_key_over_renewals(agent: Setting) -> None:
    agent.meet(chain_of("public"))
    record = agent.known.lookup(SERVER)
    renewed = PeerChain((PUBLIC.issue(KEY, [NAME], end=NOW + YEAR),))
    assert agent.meet(renewed) == TrustDecision(ID, WEB, None)
    assert agent.known.lookup(SERVER) == record


def test_a_relay_is_known_by_its_port_too(agent: Setting) -> None:
    agent.meet(chain_of("self"), LOOPBACK)
    other_port = ServerAddress(NAME, 444)
    chain = chain_of("self", OTHER_KEY)
    decision = verify_relay(chain, other_port, policy=agent.policy(), known=agent.known, address=LOOPBACK, now=NOW)
    assert (decision.relay_id, decision.how) == (OTHER_ID, FIRST)


def test_a_pin_does_not_change_what_is_remembered(agent: Setting) -> None:
    record = agent.remember(FIRST, OTHER_ID)
    agent.meet(chain_of("self"), INTERNET, "pin")
    assert agent.known.lookup(SERVER) == record


# --- what cannot be read or written --------------------------------------------------------------------


def test_a_relay_without_a_certificate_is_refused(agent: Setting) -> None:
    assert "no certificate" in agent.refuse(PeerChain(()), LOOPBACK).reason


@pytest.mark.parametrize("said", ["", "tofu", "strict"])
def test_a_broken_file_of_known_relays_is_never_taken_for_an_empty_one(agent: Setting, said: str) -> None:
    agent.known.path.write_text("garbage\n")
    for who in ("public", "self"):
        with pytest.raises(ConfigError, match=f"{agent.known.path}, line 1"):
            agent.meet(chain_of(who), LOOPBACK, said)
    assert agent.known.path.read_text() == "garbage\n"


def fill_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int, content: bytes) -> int:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "write", full)


def test_first_use_that_cannot_be_remembered_is_refused(agent: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    fill_the_disk(monkeypatch)
    with pytest.raises(ConfigError, match="No space left"):
        agent.meet(chain_of("self"), LOOPBACK)


def test_a_public_certificate_does_not_depend_on_the_disk(
    agent: Setting, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    fill_the_disk(monkeypatch)
    assert agent.meet(chain_of("public")).how is WEB
    assert [record.message for record in caplog.records] == ["relay not remembered"]


def test_another_program_that_was_faster_binds_this_one(agent: Setting, monkeypatch: pytest.MonkeyPatch) -> None:
    """Two agents meet a server for the first time and are shown different keys: only one of them is believed."""
    agent.remember(FIRST, OTHER_ID)
    really_lookup, calls = KnownRelays.lookup, 0

    def first_before_the_other_wrote(self: KnownRelays, server: ServerAddress) -> KnownRelay | None:
        nonlocal calls
        calls += 1
        return None if calls == 1 else really_lookup(self, server)

    monkeypatch.setattr(KnownRelays, "lookup", first_before_the_other_wrote)
    with pytest.raises(RelayIdentityError, match="has changed its key"):
        agent.meet(chain_of("self"), LOOPBACK)
    assert calls == 2


def test_a_missing_ca_file_is_a_configuration_error(agent: Setting) -> None:
    (agent.folder / "company.pem").unlink()
    with pytest.raises(ConfigError, match=r"company\.pem"):
        agent.meet(chain_of("company"), INTERNET, "ca")
