"""How many certificates the agents of a relay may ask an authority for: one budget, shared by all.

An authority counts by registered domain (Let's Encrypt: 50 certificates in a
week), and every `<id>.<suffix>` counts against the relay's own.  One agent that
is installed anew every hour would use it up for everybody, so an agent asks
before it orders, and the relay counts, over the last seven days:

    all certificates of the domain       at most the budget; new names at most 80 % of it, the rest is for renewals
    those for exactly the same names     at most `DUPLICATES_PER_WEEK`
    those of one agent                   at most `ISSUANCES_PER_AGENT`

What is not used is given back; of what nothing is heard for `ISSUANCE_OPEN`
seconds counts as used.  The registered domain is taken to be the last two labels:
where that is too coarse (`co.uk`), the relay counts too many together, which is
the safe side.

`Ledger` is pure; `Issuances` keeps it in a file, so that a restart forgets
nothing.  A file that cannot be written costs the count, never a certificate:
the authority has limits of its own, and says so.
"""

from __future__ import annotations

import itertools
import logging
from collections.abc import Callable, Sequence
from datetime import datetime
from pathlib import Path
from typing import Final, final

import msgspec
import trio

from trunnel.clock import utc_now
from trunnel.errors import ConfigError
from trunnel.identity.files import atomic_write, read_guarded
from trunnel.names import Hostname, KeyId
from trunnel.settings import limits
from trunnel.wire import control

logger = logging.getLogger(__name__)

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


@final
class Ledger:
    """What was permitted in the last seven days.  Times are wall-clock seconds, given by the caller.

    Args:
        per_week: The budget of one registered domain.
        entries: What is known from before.
    """

    def __init__(self, per_week: int, entries: Sequence[Entry] = ()) -> None:
        self._per_week = per_week
        self._entries = list(entries)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """What is counted, oldest first."""
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
        of_domain = [entry for entry in self._entries if entry.domain == domain]
        share = self._per_week if renewal else max(1, int(self._per_week * limits.ISSUANCE_SHARE))
        kind = "" if renewal else " for new names"
        for found, most, what in (
            (of_domain, share, f"certificates{kind} under {domain}, for all agents together"),
            ([entry for entry in of_domain if entry.names == wanted], limits.DUPLICATES_PER_WEEK, "for these names"),
            (
                [entry for entry in self._entries if entry.agent == agent.value],
                limits.ISSUANCES_PER_AGENT,
                "for this agent",
            ),
        ):
            if len(found) >= most:
                first = found[len(found) - most]
                wait = first.at + limits.ISSUANCE_WINDOW - now
                return max(1.0, wait), f"{len(found)} of {most} in seven days are gone: {what}"
        entry = Entry(at=now, domain=domain, names=wanted, agent=agent.value, open=True)
        self._entries.append(entry)
        return entry

    def end(self, entry: Entry, *, issued: bool) -> None:
        """Take note of what came of a permission; one that came to nothing is given back."""
        entry.open = False
        if not issued and entry in self._entries:
            self._entries.remove(entry)

    def _forget(self, now: float) -> None:
        """Drop what is older than the window; a clock that was set back makes nothing older than it is."""
        self._entries = [entry for entry in self._entries if now - limits.ISSUANCE_WINDOW < entry.at <= now + 1]


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
        self._ledger = Ledger(per_week, _read(path))
        self._permitted: dict[tuple[KeyId, int], Entry] = {}
        self._changed = trio.Event()

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
        self._close_old()
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
        """Write the file at each change until cancelled.  Cancellation: what was said last may be missing in it."""
        while True:
            await self._changed.wait()
            self._changed = trio.Event()
            content = msgspec.json.encode(self._ledger.entries)
            try:
                await trio.to_thread.run_sync(atomic_write, self._path, content)
            except ConfigError as exc:
                logger.warning("issuances_not_kept", extra={"reason": exc.reason})

    def _close_old(self) -> None:
        """Count permissions of which nothing was heard as used."""
        horizon = self._now().timestamp() - limits.ISSUANCE_OPEN
        for key, entry in [*self._permitted.items()]:
            if entry.at < horizon:
                del self._permitted[key]
                self._ledger.end(entry, issued=True)

    def _note(self) -> None:
        self._changed.set()


def _read(path: Path) -> list[Entry]:
    """Return what the file says; nothing if there is none or it cannot be used."""
    try:
        content = read_guarded(path, limit=limits.ISSUANCE_FILE_MAX, secret=False)
        found = [] if content is None else msgspec.json.decode(content, type=list[Entry])
    except (ConfigError, msgspec.DecodeError) as exc:
        logger.warning("issuances_not_known", extra={"path": str(path), "reason": str(exc)})
        return []
    return list(itertools.islice((entry for entry in found if entry.names), limits.ISSUANCE_ENTRIES_MAX))
