"""A visitor's TLS handshake in a worker, before there is an origin.

    TERMINATE → handshake ┬ done: reported; the visitor's bytes wait until JOIN brings the origin's socket
                          └ failed: alert, FIN, a moment for the peer to read it; reported as DONE

It stands in the loop where a pumped stream stands later, and does not block:
whoever is slow here is slow alone.  Imported by workers that end TLS.
"""

from __future__ import annotations

import contextlib
import math
import socket
from collections.abc import Callable
from typing import Final, final

from trunnel.pump.orders import Finish, News, Order, Report
from trunnel.pump.sides import Side
from trunnel.pump.tls_side import TlsSide

_ALERT_TIMEOUT: Final = 2.0
"""Seconds that the peer has to read our alert: a close with bytes unread would send RST, which overtakes it."""
_DISCARD: Final = 64 * 1024


@final
class Handshake:
    """One handshake; a `loop.Stream`, and both flows of its one side."""

    over = False
    stuck = False

    def __init__(self, order: Order, side: TlsSide, *, clock: Callable[[], float]) -> None:
        """Shake hands on *side* as *order* says: `first_byte` is its deadline, in seconds."""
        self.number = order.stream
        self.side = side
        self.sides: tuple[Side, ...] = (side,)
        self.is_over = False
        self.is_done = False
        """The handshake has succeeded."""
        self.unsettled = True
        self.news: Report | None = None
        self._clock = clock
        self._started = clock()
        self._due = self._started + order.first_byte
        self._refused = False  # the peer is reading our alert
        self._end = Finish.ERROR
        self._reason = ""
        side.inward = side.outward = self

    # --- as flows -----------------------------------------------------------------------------------

    @property
    def hungry(self) -> bool:
        """Whether it waits for the peer."""
        return not self.is_done

    def pull(self) -> bool:
        """Go on."""
        self.unsettled = True
        if self._refused:
            self._await_end()
        elif not self.is_done:
            self._shake()
        return False

    def push(self) -> bool:
        """Do nothing: `pull` is called for a side that has to write first, too."""
        return False

    def _shake(self) -> None:
        try:
            self.side.do_handshake()
        except BlockingIOError:
            return
        except OSError as exc:
            self._fail(exc)
            return
        self.is_done = True
        self.unsettled = True
        self._due = math.inf  # the supervisor's task has its own deadline for the origin
        connection = self.side.connection
        alpn = connection.get_alpn_proto_negotiated()
        version = connection.get_protocol_version_name()
        self.news = Report(News.SHAKEN, self.number, text=version.encode() + b" " + alpn)

    def _fail(self, error: OSError) -> None:
        self._reason = error.strerror or str(error)
        self._end = Finish.ERROR
        if not self.side.has_alerted:
            self.is_over = True
            return
        self._refused = True
        self.side.crossed = False
        self._due = self._clock() + _ALERT_TIMEOUT
        self.unsettled = True
        with contextlib.suppress(OSError):
            self.side.sock.shutdown(socket.SHUT_WR)

    def _await_end(self) -> None:
        """Read away what the peer still sends, until it has our FIN and ends; others have their turn in between."""
        try:
            if self.side.sock.recv(_DISCARD):
                return
        except BlockingIOError:
            return
        except OSError:
            pass
        self.is_over = True

    # --- as a stream --------------------------------------------------------------------------------

    def due(self) -> float:
        """Return when it ends if nothing happens."""
        return self._due

    def expire(self) -> None:
        """End it: its deadline has run out."""
        if not self._refused:
            self._end, self._reason = Finish.DEADLINE, "it was not done in time"

    def cancel(self) -> None:
        """End it: the supervisor does not want it any more."""
        self._end = Finish.CANCELLED

    def finish(self) -> None:
        """Close the socket: in order after an alert, else with RST."""
        if self._refused:
            self.side.close()
        else:
            self.side.abort()

    def settle(self) -> bool:
        """Say that nothing is left to wait for."""
        return True

    def report(self) -> Report:
        """Return the record of its life."""
        seconds = self._clock() - self._started
        return Report(News.DONE, self.number, self._end, Finish.NOT, seconds, text=self._reason.encode())
