"""`trunnel serve`: what people read of a relay, and that settings come before anything else."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
import trio

from tests.cli.test_output import CLOSED, EVERY_EVENT
from trunnel import events
from trunnel.cli.lines import LineWriter
from trunnel.cli.logs import dropped_line
from trunnel.cli.sentences import describe
from trunnel.cli.serve import RelayPrinter, run_serve
from trunnel.names import Hostname
from trunnel.settings.domain import EVERY_ADDRESS
from trunnel.settings.relay import RelaySettings

LOCAL = RelaySettings(state_dir=Path("state"))
DOMAIN = RelaySettings(
    state_dir=Path("state"), domain_suffixes=(Hostname("t.example.com"),), bind_addrs=EVERY_ADDRESS, open=True, port=443
)
LISTENING = events.Listening(agents=("127.0.0.1:4433",), visitors=("127.0.0.1:8443",), relay_id="r" * 52)


def printed(settings: RelaySettings, *happened: events.Event) -> list[str]:
    """Return the lines that a relay with *settings* prints."""
    stdout = io.StringIO()
    printer = RelayPrinter(LineWriter(stdout, dropped=dropped_line), settings)
    for event in happened:
        printer(event)
    printer.close()
    return stdout.getvalue().splitlines()


def test_a_local_relay_says_how_to_expose_a_service_by_its_address() -> None:
    assert printed(LOCAL, LISTENING)[3:] == [
        "addresses are https://AGENT.localhost:8443",
        "to expose a service on port 3000:",
        f"  trunnel expose 3000 --server 127.0.0.1:4433 --relay-pin {'r' * 52}",
    ]


def test_a_relay_of_a_domain_is_dialled_by_it_and_hides_port_443() -> None:
    one_port = replace(LISTENING, agents=("0.0.0.0:443",), visitors=("0.0.0.0:443",))
    assert printed(DOMAIN, one_port)[3:] == [
        "addresses are https://AGENT.t.example.com",
        "to expose a service on port 3000:",
        f"  trunnel expose 3000 --server t.example.com:443 --relay-pin {'r' * 52}",
    ]


def test_who_is_asked_for_a_certificate_is_said() -> None:
    """`--domain` alone does it, and asking is agreeing to the authority's terms."""
    settings = msgspec.structs.replace(DOMAIN, acme_domains=(Hostname("t.example.com"),))
    assert printed(settings, LISTENING)[-1] == (
        "a certificate for t.example.com comes from acme-v02.api.letsencrypt.org, by its terms (without: --no-acme)"
    )


def test_behind_a_forward_the_port_of_visitors_is_the_public_one() -> None:
    forwarded = RelaySettings(state_dir=Path("state"), public_port=9000)
    assert "addresses are https://AGENT.localhost:9000" in printed(forwarded, LISTENING)


def test_visitors_are_too_many_to_print() -> None:
    assert printed(LOCAL, CLOSED, events.VisitorRefused(peer="p", verdict="no-sni")) == []


@pytest.mark.parametrize("event", EVERY_EVENT, ids=lambda event: event.kind)
def test_everything_else_is_printed_as_its_sentences(event: events.Event) -> None:
    if not isinstance(event, events.StreamClosed):
        sentences = describe(event)
        assert printed(LOCAL, event)[: len(sentences)] == sentences


async def test_nothing_is_drawn_between_events(autojump_clock: trio.testing.MockClock) -> None:
    stdout = io.StringIO()
    with trio.move_on_after(60) as scope:
        await RelayPrinter(LineWriter(stdout, dropped=dropped_line), LOCAL).keep_fresh()
    assert scope.cancelled_caught
    assert stdout.getvalue() == ""


def test_a_relay_that_is_described_wrongly_makes_no_folder(
    bare_environment: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run_serve({"domain": ["t.example.com"]}) == 2
    assert "refusing to listen beyond this machine" in capsys.readouterr().err
    assert not (bare_environment / "state").exists()
