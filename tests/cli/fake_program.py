"""A program made of a service that does what the first argument says: for tests of `cli.program`.

    python -m tests.cli.fake_program drain|wait|stuck|agent|chatty|quick|ERROR [--json]

It prints `listening` once signals are obeyed.
"""

from __future__ import annotations

import sys
import traceback
from collections.abc import Callable

import trio

from trunnel.cli.expose import choose_view
from trunnel.cli.program import Plan, run_program
from trunnel.cli.signals import Drainable
from trunnel.errors import ConfigError, ConnectError, RejectCode, Rejected, RelayIdentityError
from trunnel.events import EventSink, Listening, Notice, Ready, Starting, Stopping
from trunnel.settings.output import OutputSettings

READY = Ready(
    url="https://abc.localhost:8443",
    hostname="abc.localhost",
    port=8443,
    agent_id="a" * 52,
    transport="h2",
    data_path="session",
    certificate="/state/leaf.pem",
    fingerprint="AA:BB",
)
LONG = 60
"""Seconds: longer than any test waits."""
ERRORS: dict[str, Callable[[], Exception]] = {
    "config": lambda: ConfigError("relay.port", "not good\nhint: do this"),
    "identity": lambda: RelayIdentityError("another key", hint="look"),
    "refuse": lambda: ExceptionGroup("g", [ConnectError("lost"), Rejected(RejectCode.UNAUTHORIZED, "unknown agent")]),
    "connect": lambda: ConnectError("nobody there"),
    "bug": lambda: KeyError("gone"),
}


class Running:
    """Notes the wish to drain."""

    def __init__(self, on_event: EventSink) -> None:
        self.asked = trio.Event()
        self._on_event = on_event

    def drain(self, reason: str) -> None:
        """Note and report the wish."""
        self._on_event(Stopping(reason=reason))
        self.asked.set()


async def act(mode: str, on_event: EventSink, task_status: trio.TaskStatus[Drainable]) -> None:
    """Do what *mode* says."""
    running = Running(on_event)
    if mode in ERRORS:
        raise ERRORS[mode]()
    task_status.started(running)
    on_event(Listening(agents=("127.0.0.1:1",), visitors=("127.0.0.1:2",), relay_id="a" * 52))
    if mode == "agent":
        on_event(Starting(agent_id="a" * 52, target="localhost:3000"))
        on_event(READY)
    if mode == "chatty":
        for _ in range(20_000):
            on_event(Notice(code="chat", text="x" * 200))
        sys.stderr.write("said all\n")
        sys.stderr.flush()
    if mode != "quick":
        await running.asked.wait()
    if mode in ("wait", "stuck"):
        with trio.CancelScope(shield=mode == "stuck", deadline=trio.current_time() + LONG):
            await trio.sleep_forever()


def main() -> int:
    """Run the program; returns the exit code."""
    mode = sys.argv[1]

    async def service(on_event: EventSink, *, task_status: trio.TaskStatus[Drainable]) -> None:
        await act(mode, on_event, task_status)

    def plan() -> Plan:
        output = OutputSettings(json="--json" in sys.argv)
        return Plan(
            service=service, output=output, warnings=("a warning",) if mode == "agent" else (), view=choose_view
        )

    return run_program(plan, json="--json" in sys.argv)


if __name__ == "__main__":
    try:
        sys.exit(main())
    except Exception:  # noqa: BLE001 - to show it
        traceback.print_exc()
        sys.exit(99)
