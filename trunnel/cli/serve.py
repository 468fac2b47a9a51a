"""`trunnel serve`: settings in, `serve_relay`, events out."""

from __future__ import annotations

from collections.abc import Mapping

import trio

from trunnel.cli.lines import LineWriter
from trunnel.cli.output import PlainPrinter
from trunnel.cli.program import Plan, run_program
from trunnel.cli.sentences import expose_command
from trunnel.cli.signals import Drainable
from trunnel.events import Event, EventSink, Listening, StreamClosed, VisitorRefused
from trunnel.settings.load import PUBLIC_PORT, load_relay
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
        from trunnel.relay.server import serve_relay

        async def service(on_event: EventSink, *, task_status: trio.TaskStatus[Drainable]) -> None:
            await serve_relay(config.settings, on_event=on_event, task_status=task_status)

        return Plan(
            service=service,
            output=config.output,
            warnings=config.warnings,
            view=lambda stdout, _: RelayPrinter(stdout, config.settings),
        )

    return run_program(plan, json=bool(flags.get("json")))
