"""`trunnel serve`: settings in, `serve_relay`, events out."""

from __future__ import annotations

from collections.abc import Mapping
from urllib.parse import urlsplit

import trio

from trunnel.cli.health import noting_places
from trunnel.cli.lines import LineWriter
from trunnel.cli.output import PlainPrinter
from trunnel.cli.program import Plan, run_program
from trunnel.cli.sentences import expose_command
from trunnel.cli.signals import Drainable
from trunnel.events import Event, EventSink, Listening, StreamClosed, VisitorRefused
from trunnel.settings.domain import PUBLIC_PORT
from trunnel.settings.load import load_relay
from trunnel.settings.options import Flag
from trunnel.settings.paths import make_state_dir
from trunnel.settings.relay import LOOPBACK, RelaySettings


class RelayPrinter:
    """Lines for people about agents; visitors are too many and are in the log."""

    def __init__(self, writer: LineWriter, settings: RelaySettings) -> None:
        self._writer = writer
        self._plain = PlainPrinter(writer)
        self._public_port = settings.public_port
        self._suffix = settings.domain_suffixes[0].value
        # A relay that only this machine reaches is dialled by address, any other by its name.
        local = set(settings.bind_addrs) <= set(LOOPBACK) or self._suffix == "localhost"
        self._host = "" if local else self._suffix
        self._settings = settings

    def __call__(self, event: Event) -> None:
        """Write what *event* says to a person."""
        if isinstance(event, StreamClosed | VisitorRefused):
            return
        self._plain(event)
        if isinstance(event, Listening):
            port = self._public_port or int(event.visitors[0].rpartition(":")[2])
            shown = "" if port == PUBLIC_PORT else f":{port}"
            self._writer.write(f"addresses are https://AGENT.{self._suffix}{shown}")
            self._writer.write("to expose a service on port 3000:")
            self._writer.write(f"  {expose_command(event, host=self._host)}")
            if (authority := self._settings.authority) is not None:
                names = ", ".join(name.value for name in self._settings.acme_domains)
                host = urlsplit(authority.directory).hostname
                self._writer.write(f"a certificate for {names} comes from {host}, by its terms (without: --no-acme)")

    def close(self) -> None:
        """Nothing is held."""

    async def keep_fresh(self) -> None:
        """Nothing to do between events."""
        await trio.sleep_forever()


def run_serve(flags: Mapping[str, Flag]) -> int:
    """Run a relay until it is stopped; returns the exit code."""

    def plan() -> Plan:
        config = load_relay(flags)
        make_state_dir(config.settings.state_dir)
        from trunnel.cli.serving import serve_supervised

        async def service(on_event: EventSink, *, task_status: trio.TaskStatus[Drainable]) -> None:
            noting = noting_places(on_event, config.settings.state_dir)
            await serve_supervised(config.settings, on_event=noting, task_status=task_status)

        return Plan(
            service=service,
            output=config.output,
            warnings=config.warnings,
            view=lambda stdout, _: RelayPrinter(stdout, config.settings),
        )

    return run_program(plan, json=bool(flags.get("json")))
