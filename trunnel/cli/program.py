"""What `serve` and `expose` share: settings, log, events, signals, exit code.

A command describes itself as a `Plan`; `run_program` builds it, runs it and
returns the exit code.  It is the outermost task boundary, so it may catch
everything: whatever happens ends in one `stopped` event, one exit code and, for
expected errors, no traceback.
"""

from __future__ import annotations

import logging
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol, final

import trio

from trunnel import events
from trunnel.cli import logs
from trunnel.cli.failures import ExitCode, Failure, explain
from trunnel.cli.lines import LineWriter, printable
from trunnel.cli.output import JsonPrinter, PlainPrinter, Printer, dropped_event
from trunnel.cli.signals import Drainable, obey_signals
from trunnel.events import Event, EventSink
from trunnel.settings.load import colour_wanted
from trunnel.settings.output import LogFormat, OutputSettings

logger = logging.getLogger(__name__)


class Service(Protocol):
    """The library call that a program is made of."""

    async def __call__(self, on_event: EventSink, *, task_status: trio.TaskStatus[Drainable]) -> None:
        """Run until drained."""


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """One program, described and not yet started."""

    service: Service
    output: OutputSettings
    warnings: tuple[str, ...]
    """Lines to log before anything else."""
    view: Callable[[LineWriter, LineWriter], Printer]
    """Makes the printer for people, from standard output and standard error."""


@final
class _Screen:
    """The two standard streams and the printer, from the first moment to the last."""

    def __init__(self, *, json: bool) -> None:
        wording = dropped_event if json else logs.dropped_line
        self.stdout = LineWriter(sys.stdout, dropped=wording)
        self.stderr = LineWriter(sys.stderr, dropped=logs.dropped_line)
        self.printer: Printer = JsonPrinter(self.stdout) if json else PlainPrinter(self.stdout)
        self.output = OutputSettings(json=json)
        self._adopted = False
        self._configure()

    def adopt(self, plan: Plan) -> None:
        """Print as the settings say, now that they are known."""
        self.output = plan.output
        self._adopted = True
        self._configure()
        if not plan.output.json:
            self.printer = plan.view(self.stdout, self.stderr)
        elif not isinstance(self.printer, JsonPrinter):  # told by variable or file
            self.stdout = LineWriter(sys.stdout, dropped=dropped_event)
            self.printer = JsonPrinter(self.stdout)
        for warning in plan.warnings:
            logger.warning(warning)

    def show(self, event: Event) -> None:
        """Log what people look for in logs, and print *event*."""
        if isinstance(event, events.Starting):
            logger.info("ID: %s", event.agent_id)
        elif isinstance(event, events.Ready):
            logger.info("URL: %s", event.url)
        self.printer(event)

    def fail(self, failure: Failure, error: BaseException) -> None:
        """Say on standard error what went wrong, in the form of the log."""
        self.printer.close()
        if failure.bug:
            logger.error("internal-error", exc_info=error)
        if self.output.log_format is LogFormat.JSON:
            logger.error(failure.message, extra={"hint": "\n".join(failure.hints)})
        else:
            print_failure(failure, self.stderr)
        if self.output.json:
            self.show(events.Notice(code="error", text="\n".join((failure.message, *failure.hints))))

    def stop(self, status: int) -> None:
        """Print the last event and let both streams go."""
        self.printer.close()
        if self._adopted or self.output.json:
            self.printer(events.Stopped(exit_code=status))
        self.stdout.flush()
        self.stderr.flush()

    def stop_hard(self, status: int) -> None:
        """End the process under whatever still runs."""
        self.stop(status)
        os._exit(status)

    def _configure(self) -> None:
        logs.configure_logging(self.stderr, level=self.output.log_level, form=self.output.log_format)


def print_failure(failure: Failure, writer: LineWriter) -> None:
    """Write *failure* as one `error:` line, red on a terminal, and its hints."""
    line = f"error: {printable(failure.message)}"
    writer.write(f"\x1b[31m{line}\x1b[0m" if writer.terminal and colour_wanted() else line)
    for hint in failure.hints:
        writer.write(f"  {printable(hint)}")


def run_program(plan: Callable[[], Plan], *, json: bool) -> int:
    """Build the program, run it until it is stopped, and return its exit code.

    Args:
        plan: Loads the settings and describes the program; may raise ConfigError.
        json: Whether `--json` was given: known before the settings are.
    """
    screen = _Screen(json=json)
    status: int
    try:
        described = plan()
        screen.adopt(described)
        status = trio.run(_supervise, described, screen)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost task boundary
        failure = explain(error)
        if failure.status is not ExitCode.INTERRUPTED:
            screen.fail(failure, error)
        status = failure.status
    screen.stop(status)
    return status


async def _supervise(plan: Plan, screen: _Screen) -> int:
    """Run the service with its displays; returns the exit code."""
    async with trio.open_nursery() as nursery:
        nursery.start_soon(screen.stdout.keep_flushing)
        nursery.start_soon(screen.stderr.keep_flushing)
        nursery.start_soon(screen.printer.keep_fresh)

        async def service(task_status: trio.TaskStatus[Drainable]) -> None:
            await plan.service(screen.show, task_status=task_status)

        status = await obey_signals(service, stuck=screen.stop_hard)
        nursery.cancel_scope.cancel()
    return status
