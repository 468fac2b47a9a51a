"""The relay as a service: its sockets may come from a supervisor, which hears how it is, and SIGHUP restarts it."""

from __future__ import annotations

import os

import trio

from trunnel.cli.hangup import hangups, has_terminal, obey_hangups
from trunnel.cli.signals import Drainable
from trunnel.cli.systemd import Notifier, given_sockets
from trunnel.events import Draining, Event, EventSink, Listening
from trunnel.relay.bound import BoundRelay
from trunnel.relay.server import serve_relay
from trunnel.settings.relay import RelaySettings


async def serve_supervised(
    settings: RelaySettings, *, on_event: EventSink, task_status: trio.TaskStatus[Drainable]
) -> None:
    """Run a relay as `serve_relay` does, with what its process was given.

    Raises:
        ConfigError: It cannot start.
    """
    terminal = has_terminal()
    given = given_sockets(os.environ)  # noqa: TID251 - the supervisor's own protocol, not a setting
    notifier = Notifier(os.environ.get("NOTIFY_SOCKET", ""))  # noqa: TID251 - as above
    relay: BoundRelay | None = None

    def tell(event: Event) -> None:
        if isinstance(event, Listening):
            notifier.ready()
        elif isinstance(event, Draining):
            if relay is None or relay.successor is None:
                notifier.stopping()
            else:
                notifier.succeeded_by(relay.successor)
        on_event(event)

    async def serve(task_status: trio.TaskStatus[BoundRelay]) -> None:
        await serve_relay(settings, given=given, on_event=tell, task_status=task_status)
        nursery.cancel_scope.cancel()

    with hangups() as received:
        async with trio.open_nursery() as nursery:
            started: BoundRelay = await nursery.start(serve)
            relay = started
            task_status.started(started)
            await obey_hangups(received, started, terminal=terminal)
