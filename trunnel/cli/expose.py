"""`trunnel expose`: settings in, `run_agent`, events out."""

from __future__ import annotations

import sys
from collections.abc import Mapping

import trio

from trunnel.cli.health import noting_canaries, served_file
from trunnel.cli.lines import LineWriter
from trunnel.cli.output import PlainPrinter, Printer
from trunnel.cli.program import Plan, run_program
from trunnel.cli.signals import Drainable
from trunnel.errors import ConfigError
from trunnel.events import EventSink, Notice
from trunnel.names import Target
from trunnel.settings.load import load_agent
from trunnel.settings.options import Flag
from trunnel.settings.paths import make_state_dir


def run_expose(target: str | None, flags: Mapping[str, Flag]) -> int:
    """Run an agent until it is stopped; returns the exit code."""

    def plan() -> Plan:
        config = load_agent(with_target(flags, target))
        if config.target is None:
            raise ConfigError("", "what should be exposed?\nfor example: trunnel expose 3000")
        origin = config.target
        make_state_dir(config.settings.state_dir)
        from trunnel.agent.runner import run_agent

        async def service(on_event: EventSink, *, task_status: trio.TaskStatus[Drainable]) -> None:
            if config.notice:
                on_event(Notice(code="joined", text=config.notice))
            async with noting_canaries(on_event, served_file(config.settings)) as noting:
                await run_agent(origin, config.settings, on_event=noting, task_status=task_status)

        return Plan(service=service, output=config.output, warnings=config.warnings, view=choose_view)

    return run_program(plan, json=bool(flags.get("json")))


def with_target(flags: Mapping[str, Flag], target: str | None) -> Mapping[str, Flag]:
    """Return *flags* with the positional argument as what it is, another spelling of `--local`.

    Raises:
        ConfigError: Both were given and differ.
        InvalidName: The argument does not parse; told before the rest, because it has no `--` to be named by.
    """
    if target is None:
        return flags
    Target.parse(target)
    local = flags.get("local")
    if local is not None and local != target:
        raise ConfigError("agent.local", f"TARGET {target!a} and --local {local!a}: choose one")
    return {**flags, "local": target}


def choose_view(stdout: LineWriter, stderr: LineWriter) -> Printer:
    """Return the live view on a terminal, plain lines elsewhere."""
    if not sys.stdout.isatty():
        return PlainPrinter(stdout)
    from trunnel.cli.live import LivePrinter

    return LivePrinter(stdout, stderr)
