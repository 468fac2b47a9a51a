"""How many certificates the agents of a relay may ask an authority for: one budget, shared by all.

An authority counts by registered domain (Let's Encrypt: 50 certificates in a
week), and every `<id>.<suffix>` counts against the relay's own.  One agent that
is installed anew every hour would use it up for everybody, so an agent asks
before it orders, and the relay counts, over the last seven days:

    all certificates of the domain       at most the budget; new names at most 80 % of it
    those for exactly the same names     at most `DUPLICATES_PER_WEEK`
    those of one agent                   at most `ISSUANCES_PER_AGENT`

The last two grow with a budget that an operator has made larger: the authority
is another one then.  A renewal is free of the first: authorities do not count it, and agents that are
served must not lose their certificates to those that are new.  An agent's word
is not enough for that: the relay remembers for `ISSUANCE_MEMORY` what it has
permitted.  What an agent calls a renewal and the relay does not know of may use
the last fifth of the budget.

What is not used is given back, and so is what an agent asks for once more before
it has told of an end; of what nothing is heard for `ISSUANCE_OPEN` seconds
counts as used.  The registered domain is taken to be the last two labels:
where that is too coarse (`co.uk`), the relay counts too many together, which is
the safe side.

`Ledger` is pure; `Issuances` keeps it in a file, so that a restart forgets
nothing.  Two processes have the file for a while after a hot restart: each
writes what it has changed, under a lock, into what the other wrote, and takes
that over; the old one permits nothing more (`close`).  A file that cannot be
written costs the count, never a certificate: the authority has limits of its
own, and says so.
"""

from __future__ import annotations

import logging
import secrets
from collections.abc import Callable, Mapping, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, final

import msgspec
import trio

from trunnel.clock import utc_now
from trunnel.errors import ConfigError
from trunnel.identity.files import atomic_write, read_guarded
from trunnel.identity.locking import exclusive
from trunnel.names import Hostname, KeyId
from trunnel.relay.allowance import Allowance
from trunnel.settings import limits
from trunnel.wire import control

logger = logging.getLogger(__name__)

_ENTRY_ID_BYTES: Final = 8
_REGISTERED_LABELS: Final = 2
"""Labels of a registered domain, counted from the right."""


def registered_domain(name: str) -> str:
    """Return what an authority counts *name* under: its last two labels."""
    return ".".join(name.split(".")[-_REGISTERED_LABELS:])


class Entry(msgspec.Struct, kw_only=True):
    """One certificate, permitted or issued."""

    at: float
    """When, in seconds since 1970."""
    domain: str
    names: tuple[str, ...]
    """Sorted."""
    agent: str
    """Key id."""
    open: bool = False
    """Whether its end has not been heard of."""
    counted: bool = True
    """Whether it counts against the budget of its domain."""
    id: str = msgspec.field(default_factory=lambda: secrets.token_hex(_ENTRY_ID_BYTES))
    """Its name in the file."""


def remembered(entries: Sequence[Entry], *, now: float) -> list[Entry]:
    """Return those of the last seven days, and for longer the last one of each agent and set of names; oldest first."""
    last = {(entry.agent, entry.names): entry.id for entry in entries}
    kept = [
        entry
        for entry in entries
        if now - limits.ISSUANCE_WINDOW < entry.at
        or (now - limits.ISSUANCE_MEMORY < entry.at and last[entry.agent, entry.names] == entry.id)
    ]
    return kept[-limits.ISSUANCE_ENTRIES_MAX :]


def merged(entries: Sequence[Entry], changes: Mapping[str, Entry | None]) -> list[Entry]:
    """Return *entries* with *changes* made in them, oldest first."""
    by_id: dict[str, Entry | None] = {entry.id: entry for entry in entries}
    by_id |= changes
    return sorted((entry for entry in by_id.values() if entry is not None), key=lambda entry: entry.at)


@final
class Ledger:
    """What was permitted, and what may be.  Times are wall-clock seconds, given by the caller.

    Args:
        per_week: The budget of one registered domain.
        entries: What is known from before.
    """

    def __init__(self, per_week: int, entries: Sequence[Entry] = ()) -> None:
        self._per_week = per_week
        self._entries = list(entries)
        self._changed: dict[str, Entry | None] = {}  # since `changes`; None: given back

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What is remembered, oldest first."""
        return tuple(self._entries)

    def ask(self, agent: KeyId, names: Sequence[str], *, renewal: bool, now: float) -> Entry | tuple[float, str]:
        """Permit one certificate, or say why not now.

        Returns:
            1. The entry, which counts from now on; `end` it.
            2. The seconds after which to ask again, and a sentence for people.
        """
        self._forget(now)
        wanted = tuple(sorted(set(names)))
        domain = registered_domain(wanted[0])
        recent = [entry for entry in self._entries if now - limits.ISSUANCE_WINDOW < entry.at]
        counted = not (renewal and self._has_issued(agent, wanted))
        share = self._per_week if renewal else max(1, int(self._per_week * limits.ISSUANCE_SHARE))
        kind = "" if renewal else " for new names"
        for found, most, what in (
            (
                [entry for entry in recent if counted and entry.counted and entry.domain == domain],
                share,
                f"certificates{kind} under {domain}, for all agents together",
            ),
            (
                [entry for entry in recent if entry.names == wanted],
                self._in_all(limits.DUPLICATES_PER_WEEK),
                "for these names",
            ),
            (
                [entry for entry in recent if entry.agent == agent.value],
                self._in_all(limits.ISSUANCES_PER_AGENT),
                "for this agent",
            ),
        ):
            if len(found) >= most:
                first = found[len(found) - most]
                wait = first.at + limits.ISSUANCE_WINDOW - now
                return max(1.0, wait), f"no more than {most} in seven days: {what}"
        entry = Entry(at=now, domain=domain, names=wanted, agent=agent.value, open=True, counted=counted)
        self._entries.append(entry)
        self._changed[entry.id] = entry
        return entry

    def _has_issued(self, agent: KeyId, names: tuple[str, ...]) -> bool:
        """Whether a certificate for exactly these names was issued to *agent*, as far as we remember."""
        return any(not one.open and one.names == names and one.agent == agent.value for one in self._entries)

    def _in_all(self, standard: int) -> int:
        """Return a limit of the standard budget as one of ours: an operator with a larger one has another authority."""
        return max(standard, standard * self._per_week // limits.ISSUANCES_PER_WEEK)

    def end(self, entry: Entry, *, issued: bool) -> None:
        """Take note of what came of a permission; one that came to nothing is given back."""
        entry.open = False
        self._changed[entry.id] = entry if issued else None
        if not issued:
            self._entries = [other for other in self._entries if other.id != entry.id]

    def changes(self) -> dict[str, Entry | None]:
        """Return what has changed since the last call, by id; None: it was given back."""
        changes, self._changed = self._changed, {}
        return changes

    def put_back(self, changes: Mapping[str, Entry | None]) -> None:
        """Have *changes*, which could not be written, be returned once more, unless they were overtaken."""
        self._changed = {**changes, **self._changed}

    def take(self, entries: Sequence[Entry]) -> None:
        """Take over what was written, and keep what has changed since."""
        self._entries = merged(entries, self._changed)

    def _forget(self, now: float) -> None:
        """Drop what is too old; what lies in the future, by a clock that was set back, is of now."""
        for entry in self._entries:
            entry.at = min(entry.at, now)
        self._entries = remembered(self._entries, now=now)


@final
class Issuances:
    """A relay's ledger, in its file.

    Args:
        path: The file.
        per_week: The budget of one registered domain.
        now: The time.
    """

    def __init__(self, path: Path, per_week: int, *, now: Callable[[], datetime] = utc_now) -> None:
        self._path = path
        self._now = now
        self._ledger = Ledger(per_week, _read(path) or ())
        self._permitted: dict[tuple[KeyId, int], Entry] = {}
        self._allowance = Allowance(burst=limits.ISSUANCE_BURST, period=limits.ISSUANCE_PERIOD)
        self._changed = trio.Event()
        self._hurry = trio.Event()
        self._closed = False

    def close(self) -> None:
        """Permit nothing more: the relay stops, and another may count in its place."""
        self._closed = True
        self._hurry.set()
        self._note()

    def may_issue(self, agent: KeyId, asked: control.MayIssue, *, allowed: Sequence[Hostname]) -> control.Issuance:
        """Answer an agent; only names that are its own count against the budget.

        Args:
            agent: Who asks.
            asked: Its question.
            allowed: The names that it has now.
        """
        foreign = [name for name in asked.names if Hostname(name) not in allowed]
        if foreign:
            return control.Issuance(asked.id, limits.ISSUANCE_FOREIGN_WAIT, f"{foreign[0]} is not this agent's name")
        if self._closed:
            return control.Issuance(asked.id, limits.ISSUANCE_OPEN, "the relay is stopping; ask the next one")
        if (wait := self._allowance.take(agent, trio.current_time())) > 0:
            return control.Issuance(asked.id, wait, "this agent asks too often")
        self._close_old()
        self._close_same(agent, asked.names)
        if len([key for key in self._permitted if key[0] == agent]) >= limits.ISSUANCES_PER_AGENT:
            return control.Issuance(asked.id, limits.ISSUANCE_OPEN, "too many orders of this agent are under way")
        answer = self._ledger.ask(agent, asked.names, renewal=asked.renewal, now=self._now().timestamp())
        if isinstance(answer, Entry):
            self._permitted[agent, asked.id] = answer
            self._note()
            return control.Issuance(asked.id)
        wait, reason = answer
        return control.Issuance(asked.id, min(wait, limits.ISSUANCE_WAIT_MAX), control.printable(reason))

    def ended(self, agent: KeyId, said: control.IssueEnded) -> None:
        """Take note of what came of a permission; what was never given is ignored."""
        entry = self._permitted.pop((agent, said.id), None)
        if entry is not None:
            self._ledger.end(entry, issued=said.issued)
            self._note()

    async def keep(self) -> None:
        """Write each change, and read what another relay has written, until cancelled.

        A disk that is full is tried again, and told of, every `STORE_RETRY` seconds.

        Cancellation: what was said last is written first, if the disk takes it within `ISSUANCE_PAUSE`.
        """
        look_again = limits.ISSUANCE_PAUSE  # a relay before us has written the last of its own by then
        try:
            while True:
                self._changed, begun = trio.Event(), trio.current_time()
                if not await self.exchange():
                    await trio.sleep(limits.STORE_RETRY)
                    continue
                took = trio.current_time() - begun
                with trio.move_on_after(min(limits.ISSUANCE_PAUSE, took / limits.ISSUANCE_DUTY)):
                    await self._hurry.wait()
                with trio.move_on_after(look_again):
                    await self._changed.wait()
                look_again = limits.ISSUANCE_EXCHANGE
        finally:
            with trio.move_on_after(limits.ISSUANCE_PAUSE, shield=True):  # a successor counts on
                await self.exchange()

    async def exchange(self) -> bool:
        """Write what has changed here into the file, and take over what stands there; return whether that worked."""
        ledger, changes = self._ledger, self._ledger.changes()
        now = self._now().timestamp()
        try:
            written = await trio.to_thread.run_sync(_exchange, self._path, ledger.entries, changes, now)
        except ConfigError as exc:
            ledger.put_back(changes)
            logger.warning("issuances_not_kept", extra={"reason": exc.reason})
            return False
        ledger.take(written)
        return True

    def _close_old(self) -> None:
        """Count permissions of which nothing was heard as used."""
        horizon = self._now().timestamp() - limits.ISSUANCE_OPEN
        for key, entry in [*self._permitted.items()]:
            if entry.at < horizon:
                del self._permitted[key]
                self._ledger.end(entry, issued=True)

    def _close_same(self, agent: KeyId, names: Sequence[str]) -> None:
        """Give back what *agent* was permitted for the same names, and asks for again: the end was lost on its way."""
        wanted = tuple(sorted(set(names)))
        for key, entry in [*self._permitted.items()]:
            if key[0] == agent and entry.names == wanted:
                del self._permitted[key]
                self._ledger.end(entry, issued=False)

    def _note(self) -> None:
        self._changed.set()


def _exchange(path: Path, known: Sequence[Entry], changes: Mapping[str, Entry | None], now: float) -> Sequence[Entry]:
    """Make *changes* in the file, and return what stands there then; raises ConfigError.

    What is *known* takes the place of a file that is not there or makes no sense.
    """
    if not changes:
        found = _read(path)
        return known if found is None else found
    with exclusive(path):
        found = _read(path)
        written = remembered(merged(known if found is None else found, changes), now=now)
        atomic_write(path, msgspec.json.encode(written))
    return written


def _read(path: Path) -> list[Entry] | None:
    """Return what the file says; None if there is none or it cannot be used."""
    try:
        content = read_guarded(path, limit=limits.ISSUANCE_FILE_MAX, secret=False)
        found = None if content is None else msgspec.json.decode(content, type=list[Entry])
    except (ConfigError, msgspec.DecodeError) as exc:
        logger.warning("issuances_not_known", extra={"path": str(path), "reason": str(exc)})
        return None
    if found is None:
        return None
    return [entry for entry in found if entry.names][-limits.ISSUANCE_ENTRIES_MAX :]
