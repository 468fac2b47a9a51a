"""From a host name to addresses, for the relay and for proxies.

- *The system's resolver decides*: what it gives, in its order (RFC 6724), the
  families interleaved (RFC 8305 §4), at most `ADDRESSES_MAX`.
- *It runs in threads of its own*, `RESOLVE_THREADS` a name.  A look-up that
  hangs is left behind at the deadline, holds its place until the system gives
  up, and can use up neither trio's threads nor those of another name.  What it
  finds after all is kept for the next call.
- *What was known is not forgotten* because a name server is away: addresses
  of earlier look-ups are given when a look-up fails or takes longer than
  `RESOLVE_PATIENCE`, and follow behind fresh ones otherwise.  Who answers
  there has to prove that it is the relay, wherever the address came from.

One `Resolver` serves a whole agent, all transports alike.  Memory only.
"""

from __future__ import annotations

import logging
import socket
from collections import deque
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, field
from typing import Final, final

import trio

from trunnel.errors import ConnectError
from trunnel.names import is_ip_literal
from trunnel.settings import limits

logger = logging.getLogger(__name__)

Lookup = Callable[[str], Sequence[str]]
"""Blocks; gives the IP addresses of a name in order of preference, or raises OSError."""

_NO_SUCH_NAME: Final = frozenset(
    number for name in ("EAI_NONAME", "EAI_NODATA") if (number := getattr(socket, name, None)) is not None
)


def look_up(host: str) -> list[str]:
    """Ask the system for the addresses of *host*; blocks.

    Raises:
        OSError: It has none to give; `socket.gaierror` says why.
    """
    found = socket.getaddrinfo(host.encode("ascii"), None, type=socket.SOCK_STREAM)  # noqa: TID251 - in our threads
    addresses: list[str] = []
    for family, _, _, _, place in found:
        if family == socket.AF_INET:
            addresses.append(str(place[0]))
        elif family == socket.AF_INET6:
            scope = f"%{place[3]}" if len(place) > 3 and place[3] else ""
            addresses.append(f"{place[0]}{scope}")
    return addresses


@final
class Resolver:
    """Looks names up, and remembers; tasks may share it."""

    __slots__ = ("_look_up", "_names")

    def __init__(self, lookup: Lookup = look_up) -> None:
        self._look_up = lookup
        self._names: dict[str, _Name] = {}

    async def addresses(self, host: str, port: int) -> tuple[tuple[str, int], ...]:
        """Return where to dial *host*: pairs of IP address and *port*, best first, at least one.

        An address stands for itself.  Takes `RESOLVE_TIMEOUT` at most.

        Raises:
            ConnectError: There is no address; the text is the cause, for people.

        Cancellation: no effect; the system's answer is kept if it comes.
        """
        if is_ip_literal(host):
            await trio.lowlevel.checkpoint()
            return ((host, port),)
        name = self._name(host)
        try:
            with trio.fail_after(limits.RESOLVE_PATIENCE if name.known else limits.RESOLVE_TIMEOUT):
                await name.refresh(self._look_up)
        except (OSError, trio.TooSlowError) as exc:
            name.absorb()
            cause = _explain(host, exc)
            if not name.known:
                raise ConnectError(cause) from exc
            logger.info("resolve_failed", extra={"host": host, "cause": cause, "known": len(name.known)})
        return tuple((address, port) for address in name.known)

    def _name(self, host: str) -> _Name:
        """Return what is known of *host*, now the most recently used name."""
        name = self._names.pop(host, None) or _Name(host)
        self._names[host] = name
        if len(self._names) > limits.RESOLVED_NAMES_MAX:
            del self._names[next(iter(self._names))]
        return name


@final
@dataclass(slots=True)
class _Name:
    """One name: its addresses, and the threads that ask for them."""

    host: str
    known: tuple[str, ...] = ()
    """What to dial, best first."""
    found: deque[tuple[str, ...]] = field(default_factory=lambda: deque(maxlen=1))
    """The last answer; written by threads."""
    threads: trio.CapacityLimiter = field(default_factory=lambda: trio.CapacityLimiter(limits.RESOLVE_THREADS))

    async def refresh(self, lookup: Lookup) -> None:
        """Look the name up in a thread; raises OSError.

        Cancellation: the thread is left behind; its answer waits in `found`.
        """

        def ask() -> None:
            if answer := _interleaved(lookup(self.host)):
                self.found.append(answer)

        await trio.to_thread.run_sync(ask, limiter=self.threads, abandon_on_cancel=True)
        self.absorb()
        if not self.known:
            raise OSError("the answer has no address")

    def absorb(self) -> None:
        """Put the last answer of a thread, if there is a new one, ahead of what was known."""
        if self.found:
            fresh = self.found.pop()
            kept = [address for address in self.known if address not in fresh]
            self.known = (*fresh, *kept[: limits.ADDRESSES_KEPT])


def _interleaved(addresses: Iterable[str]) -> tuple[str, ...]:
    """Return *addresses* once each, families by turns, the first one's first, at most `ADDRESSES_MAX`.

    Source: RFC 8305 §4, with a First Address Family Count of 1.
    """
    unique = list(dict.fromkeys(addresses))
    first = [address for address in unique if (":" in address) == (":" in unique[0])]
    second = [address for address in unique if address not in first]
    paired = [address for pair in zip(first, second, strict=False) for address in pair]
    shorter = len(paired) // 2
    return (*paired, *first[shorter:], *second[shorter:])[: limits.ADDRESSES_MAX]


def _explain(host: str, failure: OSError | trio.TooSlowError) -> str:
    """Say why *host* has no address, for people."""
    if isinstance(failure, trio.TooSlowError):
        return f"the look-up of {host} takes too long: no name server answers"
    if isinstance(failure, socket.gaierror) and failure.errno in _NO_SUCH_NAME:
        return f"there is no address for the name {host}"
    if isinstance(failure, socket.gaierror) and failure.errno == socket.EAI_AGAIN:
        return f"no name server gives an answer for {host} (temporary failure)"
    return f"the name {host} cannot be looked up ({failure.strerror or failure})"
