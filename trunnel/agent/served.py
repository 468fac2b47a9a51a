"""What one agent serves, and how: names of all its relays, the certificates for them, the origin.

All relays of an agent share one set of leaves and one terminator.  Names of a
relay that is away stay: it comes back, and a leaf is not to change with each
lost carrier.  A name that we ask for (`--hostname`) is served from the start:
its first visitor may come by another road than the relay's word that it is
ours, and overtake that.

Which leaf a visitor sees, by the name asked for:

    a person's own (`--cert-pem`)      for the names in it
    an authority's (`show_issued`)     for the names in it, the newest first
    self-signed                        for everything else; it has all names, so
                                       nobody waits for an authority

One that is for none of our names is kept and not shown.  Whatever changes takes
effect at once, in workers and here, and touches no connection that is open.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from typing import NoReturn, final

import trio

from trunnel.agent.challenges import Challenges
from trunnel.agent.given import Given
from trunnel.agent.origin import Origin
from trunnel.agent.ownvisits import OwnVisits
from trunnel.agent.terminate import Terminator
from trunnel.agent.visit import Forwarding, Visits
from trunnel.agent.visitor import StreamHandler
from trunnel.clock import utc_now
from trunnel.errors import ConfigError
from trunnel.events import Alarm, EventSink
from trunnel.identity.certstore import Leaf, LeafStore
from trunnel.identity.keys import id_of
from trunnel.identity.shown import require_usable
from trunnel.names import Hostname, KeyId, ServerAddress
from trunnel.pump import Workers
from trunnel.pump.leaf import encode_leaves
from trunnel.settings import limits
from trunnel.settings.agent import AgentSettings

logger = logging.getLogger(__name__)


@final
class Served:
    """What all visitors of one agent have in common, whichever relay they come from."""

    def __init__(
        self, settings: AgentSettings, leaves: LeafStore, *, origin: Origin | StreamHandler, on_event: EventSink
    ) -> None:
        """Serve nothing yet; raises ConfigError if `--cert-pem` cannot be used."""
        self.names: set[Hostname] = set()
        """Every host name that is ours, whichever relay gave it, and those that we ask for."""
        self.terminator: Terminator | None = None
        """Ends the visitors' TLS; None passes it through, or nothing is served yet."""
        self.challenges = Challenges()
        """Answers to authorities that validate our names."""
        self.own_visits = OwnVisits()
        """Our own visits to those names that are under way."""
        self.on_event = on_event
        """Where the agent's events go."""
        self.workers: Workers | None = None
        """Who moves bytes between sockets, and ends TLS on them; the owner of the agent's nursery sets it."""
        self._settings = settings
        self._leaves = leaves
        self._origin = origin
        self._by_relay: dict[ServerAddress, tuple[Hostname, ...]] = {}
        self._own: Leaf | None = None  # self-signed, for all names
        self._issued: tuple[Leaf, ...] = ()  # the newest first
        self._given = None if settings.cert_pem is None else Given(settings.cert_pem, on_event)
        self._unused = ""  # fingerprint of a given certificate that is for none of our names, as said last
        self._changed = trio.Event()
        self._time_jumped = trio.Event()
        self._lock = trio.Lock()  # two relays may come up at the same moment

    @property
    def is_dialled(self) -> bool:
        """Whether the origin is one that is dialled."""
        return isinstance(self._origin, Origin)

    @property
    def leaf(self) -> Leaf | None:
        """The self-signed certificate, or None if visitors' TLS is passed through, or nothing is served yet."""
        return None if self.terminator is None else self.terminator.leaf

    def leaf_for(self, name: Hostname) -> Leaf | None:
        """Return what is shown to visitors who ask for *name*, or None as `leaf`."""
        return None if self.terminator is None else self.terminator.leaf_for(name)

    def keys_for(self, name: Hostname) -> frozenset[KeyId]:
        """Return the ids of the keys that visitors who ask for *name* may be shown."""
        leaf = self.leaf_for(name)
        return frozenset() if leaf is None else frozenset({id_of(leaf.chain[0])})

    async def wait_changed(self) -> None:
        """Wait until relays give other names, or visitors are shown another certificate.  Cancellation: no effect."""
        await self._changed.wait()

    def forwarding(self, visits: Visits) -> Forwarding:
        """Return what `forward_stream` needs for visitors of one session and road; they are counted in *visits*."""
        settings = self._settings
        return Forwarding(
            endpoints=self.names,
            origin=self._origin,
            terminator=self.terminator,
            proxy_protocol=settings.proxy_protocol,
            first_byte_timeout=settings.first_byte_timeout,
            idle_timeout=settings.idle_timeout,
            events=self.on_event,
            visits=visits,
            workers=self.workers,
            challenges=self.challenges,
            own_visits=self.own_visits,
        )

    # --- names --------------------------------------------------------------------------------------

    async def prepare(self, relay: ServerAddress, names: Sequence[Hostname]) -> None:
        """Get ready to serve *names*, the ones that *relay* gives us now.

        Raises:
            ConfigError: The leaf cannot be read or written.

        Cancellation: what was served before is still served.
        """
        async with self._lock:
            before = self.ordered()
            self._by_relay[relay] = tuple(names)
            self.names.clear()
            self.names.update(self._to_serve())
            try:
                await self._make_leaf()
            finally:
                if self.ordered() != before:
                    self._notify()

    def ordered(self) -> list[Hostname]:
        """Return every host name that is ours, those first that relays gave first."""
        return list(dict.fromkeys(name for group in self._by_relay.values() for name in group))

    def to_certify(self) -> list[Hostname]:
        """Return those, in the same order, for which no person has given a certificate."""
        given = self._given
        return [name for name in self.ordered() if given is None or not given.leaf.covers(name)]

    def _to_serve(self) -> list[Hostname]:
        """Return those that relays gave, and then those that we ask for and that none has given yet."""
        return list(dict.fromkeys((*self.ordered(), *self._settings.hostnames)))

    async def _make_leaf(self) -> None:
        """Have a self-signed leaf for all names, and show what is to be shown; raises ConfigError."""
        names = self._to_serve()
        if self._settings.tls_passthrough or not names:
            return
        self._own = await trio.to_thread.run_sync(lambda: self._leaves.leaf(names, now=utc_now()))
        self._show()

    # --- certificates -------------------------------------------------------------------------------

    def show_issued(self, leaf: Leaf) -> None:
        """Show *leaf*, which an authority has issued, for its names, in place of older ones; what cannot be is logged.

        Where visitors' TLS is passed through it is kept and shown to nobody.
        """
        try:
            require_usable(leaf)
        except ConfigError as exc:
            logger.error("issued_certificate_not_shown", extra={"reason": exc.reason})  # noqa: TRY400 - it says all
            return
        self._issued = (leaf, *(old for old in self._issued if not _replaces(leaf, old)))
        self._show()

    def time_jumped(self) -> None:
        """Take note that somebody has set the clock, or that the machine has slept: a leaf may not be valid now."""
        self._time_jumped.set()

    async def keep(self) -> NoReturn:
        """Follow the file of `--cert-pem`, and the clock, for ever.  Cancellation: ends it."""
        async with trio.open_nursery() as nursery:
            if self._given is not None:
                nursery.start_soon(self._given.follow, self._show)
            while True:
                await self._time_jumped.wait()
                self._time_jumped = trio.Event()
                try:
                    async with self._lock:
                        await self._make_leaf()
                except ConfigError as exc:
                    logger.error("leaf_kept", extra={"reason": exc.reason})  # noqa: TRY400 - it says all

    def _show(self) -> None:
        """Have visitors see what is to be shown now."""
        if self._own is None:
            return
        given = () if self._given is None else (self._given.leaf,)
        self._complain_of_unused(given)
        chosen = [self._own, *(leaf for leaf in (*given, *self._issued) if any(map(leaf.covers, self.names)))]
        if self.terminator is None:
            self.terminator = Terminator(chosen, alpn=[name.encode("ascii") for name in self._settings.alpn])
        elif [leaf.chain for leaf in chosen] == [leaf.chain for leaf in self.terminator.leaves]:
            return
        else:
            self.terminator.replace(chosen)
        if self.workers is not None:
            self.workers.show(encode_leaves(chosen, self.terminator.alpn))
        self._notify()

    def _complain_of_unused(self, given: Sequence[Leaf]) -> None:
        """Say of a person's certificate that no visitor will see it: it is for other names, once for each."""
        for leaf in given:
            if any(map(leaf.covers, self.names)) or leaf.fingerprint == self._unused:
                continue
            self._unused = leaf.fingerprint
            theirs = ", ".join(sorted(name.value for name in leaf.names)[: limits.LIVE_ROWS])
            text = (
                f"the certificate in {leaf.path} is for none of this agent's names, but for {theirs}: it is not shown"
            )
            self.on_event(Alarm(code="certificate-unused", text=text))

    def _notify(self) -> None:
        self._changed.set()
        self._changed = trio.Event()


def _replaces(new: Leaf, old: Leaf) -> bool:
    """Whether *new* is for everything that *old* is for."""
    return set(old.names) <= set(new.names) and set(old.wildcards) <= set(new.wildcards)
