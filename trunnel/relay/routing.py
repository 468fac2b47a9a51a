"""Which session owns a name: an exact table, without patterns and without a default.

A name is routed only if somebody claimed exactly that `Hostname` (lower case,
one final dot stripped when it was parsed).  There is no wildcard and no
fallback: those are how other routers gave one tenant's visitors to another.

Several owners may have one name if all of them agreed to share it; the least
loaded one is chosen, those that are equal in turn.  Everything is
synchronous: a session that takes over from an older one releases and claims
without an `await` in between, so the name is never unowned.
"""

from __future__ import annotations

from collections.abc import Callable, Hashable, Iterable
from dataclasses import dataclass
from typing import Generic, TypeVar, final

from trunnel.names import Hostname

Owner = TypeVar("Owner", bound=Hashable)


@final
@dataclass(frozen=True, slots=True)
class Claimed:
    """Every name asked for is the owner's now."""

    names: tuple[Hostname, ...]


@final
@dataclass(frozen=True, slots=True)
class Conflict(Generic[Owner]):
    """`name` belongs to `owners`, and not everybody shares; nothing was claimed."""

    name: Hostname
    owners: tuple[Owner, ...]


@final
class RouteTable(Generic[Owner]):
    """Names and their owners.

    Args:
        load: How busy an owner is, for example its open streams; asked at
            each lookup of a shared name.
    """

    def __init__(self, load: Callable[[Owner], float]) -> None:
        self._load = load
        self._routes: dict[Hostname, dict[Owner, bool]] = {}  # owners in turn, and whether each shares
        self._names: dict[Owner, tuple[Hostname, ...]] = {}
        self.on_claim: Callable[[tuple[Hostname, ...]], None] | None = None
        """Called with names that have an owner now."""

    def __len__(self) -> int:
        return len(self._routes)

    def claim(self, names: Iterable[Hostname], owner: Owner, *, share: bool = False) -> Claimed | Conflict[Owner]:
        """Give *names* to *owner*, all or none.

        Args:
            names: What it wants; names that it has already are fine.
            owner: Who wants them.
            share: Whether it agrees to other owners beside it; decided anew by each claim.

        Returns:
            1. `Claimed`.
            2. `Conflict` for the first name that somebody else has and that
               is not shared by all.
        """
        wanted = tuple(dict.fromkeys(names))
        for name in wanted:
            others = {other: shares for other, shares in self._routes.get(name, {}).items() if other != owner}
            if others and not (share and all(others.values())):
                return Conflict(name, tuple(others))
        for name in wanted:
            self._routes.setdefault(name, {})[owner] = share
        if wanted:
            self._names[owner] = tuple(dict.fromkeys((*self._names.get(owner, ()), *wanted)))
            if self.on_claim is not None:
                self.on_claim(wanted)
        return Claimed(wanted)

    def release(self, owner: Owner) -> None:
        """Take everything away from *owner*; no effect if it has nothing."""
        for name in self._names.pop(owner, ()):
            self._drop(name, owner)

    def release_name(self, name: Hostname, owner: Owner) -> None:
        """Take one name away from *owner*; no effect if it does not have it."""
        kept = tuple(other for other in self._names.get(owner, ()) if other != name)
        if kept:
            self._names[owner] = kept
        else:
            self._names.pop(owner, None)
        self._drop(name, owner)

    def lookup(self, name: Hostname) -> Owner | None:
        """Return who gets the next visitor of *name*: the least loaded owner, or None if there is no route."""
        owners = self._routes.get(name)
        if owners is None:
            return None
        chosen = min(owners, key=self._load)
        if len(owners) > 1:
            owners[chosen] = owners.pop(chosen)  # to the end: equals take turns
        return chosen

    def owners(self, name: Hostname) -> tuple[Owner, ...]:
        """Return everybody who owns *name*."""
        return tuple(self._routes.get(name, ()))

    def names(self, owner: Owner) -> tuple[Hostname, ...]:
        """Return the names of *owner* in the order in which it claimed them."""
        return self._names.get(owner, ())

    def _drop(self, name: Hostname, owner: Owner) -> None:
        owners = self._routes.get(name)
        if owners is not None:
            owners.pop(owner, None)
            if not owners:
                del self._routes[name]
