"""What is told of a session: once, in order, and again when it has changed."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from tests.agent.far_relay import KEY, endpoints, listen
from trunnel.agent.announce import Announcer
from trunnel.agent.attachment import Attachment
from trunnel.agent.served import Served
from trunnel.events import Connected, DataPath, Event, Notice, Ready
from trunnel.identity.certstore import LeafStore
from trunnel.identity.keys import IdentityKey
from trunnel.names import Hostname
from trunnel.settings.agent import AgentSettings

IDENTITY = IdentityKey.generate()


class Voice:
    """An announcer, and what it has said."""

    def __init__(self, folder: Path, **options: object) -> None:
        self.said: list[Event] = []
        settings = AgentSettings(state_dir=folder, **options)  # type: ignore[arg-type]
        served = Served(settings, LeafStore(folder / "leaf", IDENTITY), origin=listen, on_event=self.said.append)
        self.announcer = Announcer("relay:443", settings, key_id=IDENTITY.key_id, served=served)
        self.session = SimpleNamespace(
            endpoints=tuple(endpoints("a.example", "b.example")),
            refused=(),
            link=SimpleNamespace(peer=SimpleNamespace(key_id=KEY)),
            welcome=SimpleNamespace(session="s1", public_port=443),
        )

    @property
    def attachment(self) -> Attachment:
        """The session that is told of."""
        return cast("Attachment", self.session)

    def kinds(self) -> list[str]:
        """Return the kinds of what was said since the last call."""
        found = [event.kind for event in self.said]
        self.said.clear()
        return found


@pytest.fixture
def voice(tmp_path: Path) -> Voice:
    """Return a voice that has told of a session."""
    speaking = Voice(tmp_path)
    speaking.announcer.transport(speaking.attachment, "quic", "by script")
    speaking.announcer.road("session", "as asked")
    speaking.announcer.addresses(speaking.attachment)
    return speaking


def test_every_address_is_told_with_transport_and_road(voice: Voice) -> None:
    connected, road, first, second = voice.said
    assert isinstance(connected, Connected)
    assert (connected.relay, connected.session, connected.why) == ("relay:443", "s1", "by script")
    assert road == DataPath(path="session", why="as asked", relay="relay:443")
    assert isinstance(first, Ready)
    assert isinstance(second, Ready)
    assert [first.hostname, second.hostname] == ["a.example", "b.example"]
    assert (first.transport, first.data_path, first.relay) == ("quic", "session", "relay:443")
    assert voice.announcer.ready_events == (first, second)


def test_a_road_is_told_when_it_or_its_reason_has_changed(voice: Voice) -> None:
    """Addresses are not: they are the same, and what is shown of them follows."""
    voice.kinds()
    voice.announcer.road("session", "as asked")
    assert voice.kinds() == []
    voice.announcer.road("session", "connection refused")
    voice.announcer.road("direct", "it answers")
    assert voice.kinds() == ["data_path", "data_path"]
    assert {event.data_path for event in voice.announcer.ready_events} == {"direct"}
    voice.announcer.changed_addresses(voice.attachment)
    assert voice.kinds() == []


def test_another_transport_is_told_and_no_address(voice: Voice) -> None:
    voice.kinds()
    voice.announcer.transport(voice.attachment, "h2", "UDP no longer answers")
    voice.announcer.changed_addresses(voice.attachment)
    assert voice.kinds() == ["connected"]
    assert {event.transport for event in voice.announcer.ready_events} == {"h2"}


def test_changed_addresses_are_told_once(voice: Voice) -> None:
    voice.kinds()
    voice.session.endpoints = tuple(endpoints("c.example"))
    for _ in range(2):
        voice.announcer.changed_addresses(voice.attachment)
    assert voice.kinds() == ["ready"]


def test_of_several_addresses_only_those_that_changed_are_told(voice: Voice) -> None:
    voice.kinds()
    voice.session.endpoints = tuple(endpoints("a.example", "b.example", "c.example"))
    voice.announcer.changed_addresses(voice.attachment)
    (told,) = voice.said
    assert isinstance(told, Ready)
    assert told.hostname == "c.example"
    assert len(voice.announcer.ready_events) == 3


def test_a_session_without_addresses_keeps_what_was_shown(voice: Voice) -> None:
    before = voice.announcer.ready_events
    voice.session.endpoints = ()
    voice.announcer.addresses(voice.attachment)
    assert voice.announcer.ready_events == before


def test_what_was_asked_for_is_shown_first(tmp_path: Path) -> None:
    voice = Voice(tmp_path, domain_suffix=Hostname("far.example"), name="blog")
    voice.session.endpoints = tuple(
        endpoints("x.near.example", "blog.near.example", "x.far.example", "blog.far.example")
    )
    assert [endpoint.hostname for endpoint in voice.announcer.in_order(voice.attachment)] == [
        "blog.far.example",
        "x.far.example",
        "blog.near.example",
        "x.near.example",
    ]


def test_a_name_that_was_not_given_is_told_with_the_command_that_gives_it(tmp_path: Path) -> None:
    voice = Voice(tmp_path, name="blog")
    voice.announcer.addresses(voice.attachment)
    notice = voice.said[0]
    assert isinstance(notice, Notice)
    assert notice.code == "name-not-given"
    assert f"trunnel authorize {IDENTITY.key_id} --name blog" in notice.text
