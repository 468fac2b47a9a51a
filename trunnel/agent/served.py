"""What one agent serves, and how: names of all its relays, the leaf certificate for them, the origin.

All relays of an agent share one leaf and one terminator.  Names of a relay that
is away stay: it comes back, and a leaf is not to change with each lost carrier.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import final

import trio

from trunnel.agent.origin import Origin
from trunnel.agent.terminate import Terminator
from trunnel.agent.visit import Forwarding, Visits
from trunnel.agent.visitor import StreamHandler
from trunnel.clock import utc_now
from trunnel.events import EventSink
from trunnel.identity.certstore import Leaf, LeafStore
from trunnel.names import Hostname, ServerAddress
from trunnel.pump import Workers
from trunnel.pump.leaf import encode_leaf
from trunnel.settings.agent import AgentSettings


@final
class Served:
    """What all visitors of one agent have in common, whichever relay they come from."""

    def __init__(
        self, settings: AgentSettings, leaves: LeafStore, *, origin: Origin | StreamHandler, on_event: EventSink
    ) -> None:
        self.names: set[Hostname] = set()
        """Every host name that is ours, whichever relay gave it."""
        self.terminator: Terminator | None = None
        """Ends the visitors' TLS; None passes it through, or nothing is served yet."""
        self.on_event = on_event
        """Where the agent's events go."""
        self.workers: Workers | None = None
        """Who moves bytes between sockets, and ends TLS on them; the owner of the agent's nursery sets it."""
        self._settings = settings
        self._leaves = leaves
        self._origin = origin
        self._by_relay: dict[ServerAddress, tuple[Hostname, ...]] = {}
        self._leaf_changed = trio.Event()
        self._lock = trio.Lock()  # two relays may come up at the same moment

    @property
    def is_dialled(self) -> bool:
        """Whether the origin is one that is dialled."""
        return isinstance(self._origin, Origin)

    @property
    def leaf(self) -> Leaf | None:
        """The certificate shown to visitors, or None if their TLS is passed through."""
        return None if self.terminator is None else self.terminator.leaf

    async def wait_leaf_changed(self) -> None:
        """Wait until visitors are shown another certificate.  Cancellation: no effect."""
        await self._leaf_changed.wait()

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
        )

    async def prepare(self, relay: ServerAddress, names: Sequence[Hostname]) -> None:
        """Get ready to serve *names*, the ones that *relay* gives us now.

        Raises:
            ConfigError: The leaf cannot be read or written.

        Cancellation: what was served before is still served.
        """
        async with self._lock:
            self._by_relay[relay] = tuple(names)
            ordered = list(dict.fromkeys(name for group in self._by_relay.values() for name in group))
            self.names.clear()
            self.names.update(ordered)
            if self._settings.tls_passthrough or not ordered:
                return
            leaf = await trio.to_thread.run_sync(lambda: self._leaves.leaf(ordered, now=utc_now()))
            if self.leaf is not None and self.leaf.fingerprint == leaf.fingerprint:
                return
            if self.terminator is None:
                self.terminator = Terminator(leaf, alpn=[name.encode("ascii") for name in self._settings.alpn])
            else:
                self.terminator.replace_leaf(leaf)
            if self.workers is not None:
                self.workers.show(encode_leaf(leaf, self.terminator.alpn))
            self._leaf_changed.set()
            self._leaf_changed = trio.Event()
