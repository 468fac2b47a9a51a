"""The invitations that the relay's operator has made: what is kept of them, and how one is used.

The file (JSON, for this user alone) holds SHA-256 of each secret, never a secret.
Whoever makes, revokes or lists invitations works on the file, and so does the
relay: it reads the file when somebody comes with one, so what was done to it
holds at once.  Every change is made under a lock and written whole.

An invitation lets one key in, once.  To use it is two changes of two files, so
it is done in three steps, under the lock of this file:

    used by KEY → KEY is on the list of agents → said here, too (`listed`)

Wherever that is interrupted, nobody but KEY can go on, and the next try of KEY
does.  Afterwards the same key may say the same secret as often as it likes, as
long as it is on the list: a service that starts with `--join` each time.  A key
that was taken off the list does not come back with it (replay).

Secrets have 256 bits: no salt, no slow hash, no count of tries would make them
safer.  Hashes are compared in constant time, all of them, so the time to answer
tells nothing.  Functions block for as long as the disk takes: the relay calls
them in threads (`reception`).
"""

from __future__ import annotations

import hashlib
import hmac
import re
import secrets
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Annotated, Final, final

import msgspec

from trunnel.errors import ConfigError, RejectCode, Rejected
from trunnel.identity.files import atomic_write, read_guarded
from trunnel.identity.locking import exclusive
from trunnel.names import AGENT_ID_CHARS, Hostname, KeyId
from trunnel.relay.authorized import authorize, load_if_there, with_agent
from trunnel.settings import limits

SECRET_BYTES: Final = 32
"""Bytes of a secret; 43 characters of base64url."""
_ID_BYTES: Final = 4
_ID: Final = r"\A[0-9a-f]{8}\Z"
_SOMEBODY: Final = KeyId("a" * AGENT_ID_CHARS)
"""Stands for the agent to come."""

_UNKNOWN: Final = "the relay does not know this invitation: it was revoked, or ended long ago; ask for a new one"
_EXPIRED: Final = "the invitation ended on {when} (the relay's clock); ask for a new one"
_USED: Final = "the invitation was used by another agent, {agent}…; ask for one of your own"
_REVOKED: Final = (
    "this key has used its invitation already, and was taken off the relay's list since; ask for a new one"
)
_NAME_TAKEN: Final = (
    "the name {name} of the invitation belongs to another agent by now; ask for an invitation without it"
)


@final
class Invitation(msgspec.Struct, frozen=True, kw_only=True):
    """One invitation, as it is kept."""

    id: Annotated[str, msgspec.Meta(pattern=_ID)]
    """Its public name, of which the secret cannot be told."""
    sha256: Annotated[str, msgspec.Meta(pattern=r"\A[0-9a-f]{64}\Z")]
    """Of the secret's characters."""
    expires: datetime
    """When it ends."""
    names: list[str] = []
    """Labels that its agent gets."""
    label: str = ""
    """What people will call the agent."""
    used_by: str | None = None
    """The key that has come with it."""
    listed: bool = False
    """Whether that key has been put on the list of agents."""

    def is_pending(self, now: datetime) -> bool:
        """Whether somebody may still come with it."""
        return self.used_by is None and now < self.expires


class _File(msgspec.Struct, frozen=True, kw_only=True):
    """The content of the file."""

    invitations: list[Invitation] = []


@final
class Invitations:
    """The file at `path`; each call reads it afresh.  Methods block for as long as the disk takes."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def pending(self, now: datetime) -> list[Invitation]:
        """Return those that can still be used, oldest first; raises ConfigError if the file cannot be used."""
        return [invitation for invitation in self._read() if invitation.is_pending(now)]

    def create(
        self, *, names: Sequence[Hostname], label: str, expires: datetime, now: datetime
    ) -> tuple[Invitation, str]:
        """Make an invitation.

        Args:
            names: Labels for its agent.
            label: What people will call the agent.
            expires: When it ends.
            now: The time, with its zone.

        Returns:
            What is kept of it, and its secret, which is not.

        Raises:
            InvalidName: The label, or so many names, do not fit on a line of the list.
            ConfigError: Another one promises a name already, there are too many, or the file cannot be used.
        """
        with_agent("", _SOMEBODY, names=names, label=label)
        secret = secrets.token_urlsafe(SECRET_BYTES)
        made = Invitation(
            id=secrets.token_hex(_ID_BYTES),
            sha256=_digest(secret),
            expires=expires,
            names=[name.value for name in names],
            label=label,
        )
        with exclusive(self.path):
            kept = self._read()
            for other in kept:
                if other.is_pending(now) and (shared := set(other.names).intersection(made.names)):
                    reason = f"the invitation {other.id} is for the name {min(shared)}"
                    raise ConfigError("", f"{reason}; to make another one: trunnel revoke {other.id}")
            self._write([*kept, made], now=now)
        return made, secret

    def revoke(self, invitation_id: str, *, now: datetime) -> bool:
        """Take away an invitation that has let nobody in; return whether there was one.

        Raises:
            ConfigError: The file cannot be used.
        """
        return self._end(lambda each: each.id == invitation_id and not each.listed, now=now)

    def revoke_of(self, key_id: KeyId, *, now: datetime) -> bool:
        """Take away what *key_id* was interrupted in using, or it would go on; return whether there was any.

        Raises:
            ConfigError: The file cannot be used.
        """
        return self._end(lambda each: each.used_by == key_id.value and not each.listed, now=now)

    def _end(self, over: Callable[[Invitation], bool], *, now: datetime) -> bool:
        with exclusive(self.path):
            kept = self._read()
            rest = [invitation for invitation in kept if not over(invitation)]
            if len(rest) < len(kept):
                self._write(rest, now=now)
        return len(rest) < len(kept)

    def redeem(self, secret: str, key_id: KeyId, *, authorized: Path, now: datetime) -> Invitation | None:
        """Let *key_id* in with the invitation that has this secret.

        Args:
            secret: What the agent said.
            key_id: The key that it proved.
            authorized: The list of agents, which the key is put on.
            now: The time, with its zone.

        Returns:
            1. The invitation, now that the key is on the list.
            2. None: the key has used it before, and is on the list.

        Raises:
            Rejected: It does not let this key in.
            ConfigError: One of the files cannot be used; the next try goes on from here.
        """
        if _find(self._read(), secret) is None:
            raise Rejected(RejectCode.INVITATION, _UNKNOWN)  # whoever guesses does not get as far as the lock
        with exclusive(self.path):
            kept = {invitation.id: invitation for invitation in self._read()}
            invitation = _admissible(_find(kept.values(), secret), key_id, now=now)
            present = load_if_there(authorized)
            if invitation.listed:
                if key_id not in present:
                    raise Rejected(RejectCode.INVITATION, _REVOKED)
                return None
            if (name := present.taken(map(Hostname, invitation.names), by_others_than=key_id)) is not None:
                raise Rejected(RejectCode.INVITATION, _NAME_TAKEN.format(name=name))
            kept[invitation.id] = marked = msgspec.structs.replace(invitation, used_by=key_id.value)
            self._write(kept.values(), now=now)
            authorize(authorized, key_id, names=map(Hostname, marked.names), label=marked.label or None)
            kept[invitation.id] = msgspec.structs.replace(marked, listed=True)
            self._write(kept.values(), now=now)
        return marked

    def _read(self) -> list[Invitation]:
        content = read_guarded(self.path, limit=limits.INVITATIONS_FILE_MAX, secret=True)
        if content is None:
            return []
        try:
            return msgspec.json.decode(content, type=_File).invitations
        except (msgspec.DecodeError, UnicodeDecodeError) as exc:
            reason = f"{self.path} is not what it was ({exc}): remove it, and every invitation in it ends"
            raise ConfigError("", reason) from exc

    def _write(self, invitations: Iterable[Invitation], *, now: datetime) -> None:
        """Write all but those that ended long ago."""
        oldest = now - timedelta(seconds=limits.INVITATION_KEPT)
        kept = [invitation for invitation in invitations if invitation.expires > oldest]
        over = len(kept) - limits.INVITATIONS_MAX
        if over > 0:  # those that say no more than what became of them go first
            spent = {invitation.id for invitation in [each for each in kept if not each.is_pending(now)][:over]}
            kept = [invitation for invitation in kept if invitation.id not in spent]
        if len(kept) > limits.INVITATIONS_MAX:
            raise ConfigError("", f"{limits.INVITATIONS_MAX} invitations wait to be used: revoke some of them")
        atomic_write(self.path, msgspec.json.encode(_File(invitations=kept)))


def is_invitation_id(text: str) -> bool:
    """Whether *text* has the form of an invitation's id; an agent's has another."""
    return re.fullmatch(_ID, text, re.ASCII) is not None


def _digest(secret: str) -> str:
    return hashlib.sha256(secret.encode()).hexdigest()


def _find(invitations: Iterable[Invitation], secret: str) -> Invitation | None:
    """Return the one with this secret; looks at all of them, each in constant time."""
    digest = _digest(secret)
    found = None
    for invitation in invitations:
        if hmac.compare_digest(invitation.sha256, digest):
            found = invitation
    return found


def _admissible(invitation: Invitation | None, key_id: KeyId, *, now: datetime) -> Invitation:
    """Return *invitation* if *key_id* may come with it; raises Rejected."""
    if invitation is None:
        raise Rejected(RejectCode.INVITATION, _UNKNOWN)
    if invitation.used_by is None:
        if now >= invitation.expires:
            when = f"{invitation.expires.astimezone(UTC):%Y-%m-%d %H:%M} UTC"
            raise Rejected(RejectCode.INVITATION, _EXPIRED.format(when=when))
    elif invitation.used_by != key_id.value:
        raise Rejected(RejectCode.INVITATION, _USED.format(agent=KeyId(invitation.used_by).short))
    return invitation
