"""Invitations: each lets one key in, once; whatever is interrupted, nobody else gets in."""

from __future__ import annotations

import json
import stat
import threading
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from trunnel import capabilities
from trunnel.errors import ConfigError, InvalidName, RejectCode, Rejected
from trunnel.identity.files import atomic_write
from trunnel.names import Hostname, KeyId
from trunnel.relay import invitations as module
from trunnel.relay.authorized import authorize, load_authorized, revoke
from trunnel.relay.invitations import Invitation, Invitations, is_invitation_id
from trunnel.settings import limits

A, B = (KeyId.of_spki(spki) for spki in (b"a", b"b"))
NOW = datetime(2026, 6, 1, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
SHOP = Hostname("shop")


class Desk:
    """A folder with invitations and a list of agents."""

    def __init__(self, folder: Path) -> None:
        self.invitations = Invitations(folder / "invitations")
        self.authorized = folder / "authorized"

    def invite(self, *names: Hostname, label: str = "", life: timedelta = HOUR, now: datetime = NOW) -> str:
        """Make an invitation and return its secret."""
        return self.invitations.create(names=names, label=label, expires=now + life, now=now)[1]

    def redeem(self, secret: str, key_id: KeyId = A, *, now: datetime = NOW) -> Invitation | None:
        return self.invitations.redeem(secret, key_id, authorized=self.authorized, now=now)

    def refused(self, secret: str, key_id: KeyId = A, *, now: datetime = NOW) -> str:
        """Return why the secret is refused; insist that the list stays as it is."""
        before = self.authorized.read_bytes() if self.authorized.exists() else None
        with pytest.raises(Rejected) as refused:
            self.redeem(secret, key_id, now=now)
        assert refused.value.code is RejectCode.INVITATION
        assert not refused.value.retryable
        assert before == (self.authorized.read_bytes() if self.authorized.exists() else None)
        return refused.value.reason

    @property
    def listed(self) -> set[KeyId]:
        return set(load_authorized(self.authorized).agents)


@pytest.fixture
def desk(tmp_path: Path) -> Desk:
    """A folder of its own."""
    tmp_path.chmod(0o700)
    return Desk(tmp_path)


def test_an_invitation_puts_its_key_on_the_list_with_names_and_label(desk: Desk) -> None:
    secret = desk.invite(SHOP, Hostname("www"), label="Ada's laptop")
    used = desk.redeem(secret)
    assert used is not None
    assert (used.names, used.label) == (["shop", "www"], "Ada's laptop")
    entry = load_authorized(desk.authorized).get(A)
    assert entry is not None
    assert (entry.names, entry.label) == ((SHOP, Hostname("www")), "Ada's laptop")


def test_the_file_has_no_secret_and_is_for_its_owner_alone(desk: Desk) -> None:
    secret = desk.invite(SHOP)
    content = desk.invitations.path.read_text()
    assert secret not in content
    assert len(secret) == 43
    if capabilities.HAS_POSIX_MODES:
        assert stat.S_IMODE(desk.invitations.path.stat().st_mode) == 0o600


def test_the_same_key_may_come_again_and_nothing_changes(desk: Desk) -> None:
    secret = desk.invite(SHOP)
    desk.redeem(secret)
    before = desk.invitations.path.read_bytes(), desk.authorized.read_bytes()
    assert desk.redeem(secret) is None
    assert desk.redeem(secret, now=NOW + 2 * HOUR) is None, "it was used in time"
    assert (desk.invitations.path.read_bytes(), desk.authorized.read_bytes()) == before


def test_another_key_does_not_come_with_it(desk: Desk) -> None:
    secret = desk.invite()
    desk.redeem(secret)
    assert f"used by another agent, {A.short}" in desk.refused(secret, B)
    assert desk.listed == {A}


def test_of_two_keys_at_the_same_moment_one_comes_in(desk: Desk) -> None:
    secret = desk.invite(SHOP)
    start = threading.Barrier(8)
    refusals: list[str] = []

    def come(key_id: KeyId) -> None:
        start.wait()
        try:
            desk.redeem(secret, key_id)
        except Rejected as exc:
            refusals.append(exc.reason)

    threads = [threading.Thread(target=come, args=(KeyId.of_spki(bytes([number])),)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(desk.listed) == 1
    assert len(refusals) == 7


def test_a_key_that_was_taken_off_the_list_does_not_come_back_with_it(desk: Desk) -> None:
    secret = desk.invite()
    desk.redeem(secret)
    revoke(desk.authorized, A)
    assert "taken off the relay's list" in desk.refused(secret)


def test_an_invitation_ends_by_the_clock(desk: Desk) -> None:
    secret = desk.invite()
    assert desk.invitations.pending(NOW)
    assert not desk.invitations.pending(NOW + HOUR)
    assert "ended on 2026-06-01 13:00 UTC" in desk.refused(secret, now=NOW + HOUR)


def test_a_revoked_invitation_is_unknown(desk: Desk) -> None:
    secret = desk.invite()
    (pending,) = desk.invitations.pending(NOW)
    assert is_invitation_id(pending.id)
    assert desk.invitations.revoke(pending.id, now=NOW)
    assert not desk.invitations.revoke(pending.id, now=NOW)
    assert "does not know" in desk.refused(secret)


def test_one_that_was_used_is_not_revoked_but_its_agent_can_be(desk: Desk) -> None:
    secret = desk.invite()
    (pending,) = desk.invitations.pending(NOW)
    desk.redeem(secret)
    assert not desk.invitations.revoke(pending.id, now=NOW)
    assert "another agent" in desk.refused(secret, B)


@pytest.mark.parametrize("secret", ["", "x" * 43, "ä" * 43])
def test_a_secret_that_nobody_made_is_unknown(desk: Desk, secret: str) -> None:
    assert "does not know" in desk.refused(secret)
    desk.invite()
    assert "does not know" in desk.refused(secret)


def test_names_that_somebody_has_are_refused_and_the_invitation_stays(desk: Desk) -> None:
    secret = desk.invite(SHOP)
    authorize(desk.authorized, B, names=[SHOP])
    assert "the name shop" in desk.refused(secret)
    assert desk.invitations.pending(NOW)
    revoke(desk.authorized, B)
    assert desk.redeem(secret) is not None


def test_a_key_that_is_on_the_list_gets_the_names_too(desk: Desk) -> None:
    authorize(desk.authorized, A, names=[Hostname("old")], label="kept")
    desk.redeem(desk.invite(SHOP))
    entry = load_authorized(desk.authorized).get(A)
    assert entry is not None
    assert (entry.names, entry.label) == ((Hostname("old"), SHOP), "kept")


@pytest.mark.parametrize("step", [1, 2, 3])
def test_wherever_it_is_interrupted_only_the_same_key_goes_on(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, step: int
) -> None:
    """A full disk or a power cut at each of the three steps."""
    secret = desk.invite(SHOP)
    writes = 0

    def failing(*args: object, **kwargs: object) -> None:
        nonlocal writes
        writes += 1
        if writes == step:
            raise ConfigError("", "no space left on device")
        original = authorize if "names" in kwargs else atomic
        original(*args, **kwargs)  # type: ignore[arg-type]

    atomic = atomic_write
    with monkeypatch.context() as patch:
        patch.setattr(module, "atomic_write", failing)
        patch.setattr(module, "authorize", failing)
        with pytest.raises(ConfigError, match="no space"):
            desk.redeem(secret)
    if step > 1:
        desk.refused(secret, B)
        assert not desk.invitations.pending(NOW), "it is somebody's"
    assert desk.redeem(secret, A) is not None, "said again: whoever listens may have missed it"
    assert desk.listed == {A}


@pytest.mark.parametrize("by", ["key", "id"])
def test_an_interrupted_use_does_not_bring_a_revoked_key_back(
    desk: Desk, monkeypatch: pytest.MonkeyPatch, by: str
) -> None:
    """The disk was full when it was to be said that the key is on the list."""
    secret = desk.invite()
    (pending,) = desk.invitations.pending(NOW)
    writes: list[object] = []

    def failing(path: Path, content: bytes) -> None:
        writes.append(path)
        if len(writes) == 2:
            raise ConfigError("", "no space left on device")
        atomic_write(path, content)

    with monkeypatch.context() as patch:
        patch.setattr(module, "atomic_write", failing)
        with pytest.raises(ConfigError, match="no space"):
            desk.redeem(secret)
    assert desk.listed == {A}
    if by == "key":
        assert desk.invitations.revoke_of(A, now=NOW)
        assert not desk.invitations.revoke_of(A, now=NOW)
    else:
        assert desk.invitations.revoke(pending.id, now=NOW)
    revoke(desk.authorized, A)
    assert "does not know" in desk.refused(secret)


def test_a_broken_list_of_agents_lets_nobody_in(desk: Desk) -> None:
    secret = desk.invite()
    desk.authorized.write_text("nonsense\n")
    with pytest.raises(ConfigError):
        desk.redeem(secret)
    assert desk.invitations.pending(NOW), "nothing was done yet"


def test_a_broken_file_is_told(desk: Desk) -> None:
    desk.invite()
    desk.invitations.path.write_text("{")
    with pytest.raises(ConfigError, match="remove it"):
        desk.invite()
    with pytest.raises(ConfigError, match="remove it"):
        desk.redeem("x" * 43)


def test_two_invitations_do_not_promise_one_name(desk: Desk) -> None:
    secret = desk.invite(SHOP)
    (first,) = desk.invitations.pending(NOW)
    with pytest.raises(ConfigError, match=f"trunnel revoke {first.id}"):
        desk.invite(SHOP)
    desk.redeem(secret)
    desk.invite(SHOP)  # told when it is used: the list knows who has the name


@pytest.mark.parametrize("label", ["two\nlines", "x" * 201])
def test_what_does_not_fit_on_a_line_of_the_list_is_refused_when_it_is_made(desk: Desk, label: str) -> None:
    with pytest.raises(InvalidName):
        desk.invite(label=label)
    with pytest.raises(InvalidName):
        desk.invite(*(Hostname(f"n{number}") for number in range(65)))
    assert not desk.invitations.path.exists()


def test_the_file_does_not_grow_for_ever(desk: Desk, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that ended long ago are swept; then those that are of no use; those that wait stay."""
    monkeypatch.setattr(limits, "INVITATIONS_MAX", 3)
    old = desk.invite()
    later = NOW + timedelta(seconds=limits.INVITATION_KEPT) + 2 * HOUR
    used = desk.invite(now=later)
    desk.redeem(used, now=later)
    assert "does not know" in desk.refused(old, now=later)
    for _ in range(3):
        desk.invite(now=later)
    assert "does not know" in desk.refused(used, B, now=later)
    with pytest.raises(ConfigError, match="revoke some"):
        desk.invite(now=later)
    assert len(json.loads(desk.invitations.path.read_bytes())["invitations"]) == 3


def test_ids_of_agents_are_no_ids_of_invitations() -> None:
    assert is_invitation_id("0123abcd")
    for text in (A.value, "0123abc", "0123abcde", "0123ABCD", "0123abcd\n", "shop"):
        assert not is_invitation_id(text)
