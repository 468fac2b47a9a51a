"""Events as programs read them."""

from __future__ import annotations

from trunnel import events


def test_no_two_events_have_one_kind() -> None:
    kinds = [each.kind for each in vars(events).values() if isinstance(each, type) and hasattr(each, "kind")]
    assert len(kinds) == len(set(kinds))


def test_a_payload_has_every_field_and_lists_for_tuples() -> None:
    listening = events.Listening(agents=("a:1",), visitors=(), relay_id="x")
    assert listening.payload() == {"agents": ["a:1"], "visitors": [], "relay_id": "x"}
