"""What one supervisor tells of its session: connected, the road of visitors' bytes, public addresses.

Events only, in an order that a reader can rely on: `connected`, `data_path` and
then `ready` for each address, each again when what it says has changed.
"""

from __future__ import annotations

from dataclasses import replace
from typing import final

from trunnel.agent.attachment import Attachment
from trunnel.agent.served import Served
from trunnel.events import Connected, DataPath, EventSink, NameRefused, Notice, Ready
from trunnel.names import Hostname, KeyId
from trunnel.settings.agent import AgentSettings
from trunnel.wire import control


@final
class Announcer:
    """The voice of one supervisor."""

    def __init__(self, relay: str, settings: AgentSettings, *, key_id: KeyId, served: Served) -> None:
        self.ready_events: tuple[Ready, ...] = ()
        """The public addresses at this relay, the one to show first."""
        self._relay = relay
        self._settings = settings
        self._key_id = key_id
        self._served = served
        self._on_event: EventSink = served.on_event
        self._transport = ""  # what carries the session, as said last
        self._road: tuple[str, str] | None = None  # which, and why, as said last
        self._refused: dict[str, str] = {}  # names of our own, and why, as said last

    def transport(self, attachment: Attachment, transport: str, why: str) -> None:
        """Tell which transport carries the session."""
        self._transport = transport
        self.ready_events = tuple(replace(event, transport=transport) for event in self.ready_events)
        self._on_event(
            Connected(
                relay=self._relay,
                relay_id=attachment.link.peer.key_id.value,
                session=attachment.welcome.session,
                transport=transport,
                why=why,
            )
        )

    def road(self, path: str, why: str) -> None:
        """Tell which road visitors' bytes take, if that is news."""
        if (path, why) == self._road:
            return
        self._road = path, why
        self.ready_events = tuple(replace(event, data_path=path) for event in self.ready_events)
        self._on_event(DataPath(path=path, why=why, relay=self._relay))

    def addresses(self, attachment: Attachment) -> None:
        """Tell every public address; visitors may come."""
        self._refusals(attachment)
        wanted = self._settings.name
        if wanted is not None and not any(e.hostname.startswith(f"{wanted}.") for e in attachment.endpoints):
            command = f"trunnel authorize {self._key_id} --name {wanted}"
            text = f"the relay has not given this agent the name {wanted}; its operator does so with: {command}"
            self._on_event(Notice(code="name-not-given", text=text))
        self._tell(self._events_of(attachment), but=())

    def changed_addresses(self, attachment: Attachment) -> None:
        """Tell those public addresses that are news, or whose certificate is; and refusals that are."""
        self._refusals(attachment)
        self._tell(self._events_of(attachment), but=self.ready_events)

    def _tell(self, now: tuple[Ready, ...], *, but: tuple[Ready, ...]) -> None:
        """Take note of the addresses that there are *now*, and tell those that were not said before."""
        self.ready_events = now or self.ready_events
        for event in now:
            if event not in but:
                self._on_event(event)

    def _refusals(self, attachment: Attachment) -> None:
        """Tell which names of our own the relay refuses, each once for each reason."""
        for endpoint in attachment.endpoints:
            self._refused.pop(endpoint.hostname, None)
        for name in attachment.refused:
            if self._refused.get(name.hostname) != name.reason:
                self._refused[name.hostname] = name.reason
                self._on_event(NameRefused(hostname=name.hostname, reason=name.reason, relay=self._relay))

    def in_order(self, attachment: Attachment) -> list[control.Endpoint]:
        """Return the endpoints, those first that the settings ask to show."""
        wanted = self._settings.name
        suffix = self._settings.domain_suffix

        def rank(endpoint: control.Endpoint) -> tuple[bool, bool]:
            label, _, rest = endpoint.hostname.partition(".")
            return (suffix is not None and rest != suffix.value, wanted is not None and label != wanted)

        return sorted(attachment.endpoints, key=rank)

    def _events_of(self, attachment: Attachment) -> tuple[Ready, ...]:
        """Describe every public address, the one to show first."""
        return tuple(self._event_of(endpoint, attachment) for endpoint in self.in_order(attachment))

    def _event_of(self, endpoint: control.Endpoint, attachment: Attachment) -> Ready:
        leaf = self._served.leaf_for(Hostname(endpoint.hostname))
        return Ready(
            url=endpoint.url,
            hostname=endpoint.hostname,
            port=attachment.welcome.public_port,
            agent_id=self._key_id.value,
            transport=self._transport,
            data_path="" if self._road is None else self._road[0],
            certificate=None if leaf is None else str(leaf.path),
            fingerprint=None if leaf is None else leaf.fingerprint,
            relay=self._relay,
        )
