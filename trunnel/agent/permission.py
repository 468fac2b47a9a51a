"""Asking the relay whether a certificate may be ordered now: its agents share one budget (PROTOCOL.md 4.9).

`Questions` belongs to one attachment: it numbers what is asked, and gives the
answers to those who wait for them.  No number comes twice, whichever attachment
or program with this key asks: what came of an order may be told in a later
session, and the relay finds by the number what is meant.
"""

from __future__ import annotations

import secrets
from collections.abc import Callable, Sequence
from typing import Final, final

import trio

from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.wire import control

_NUMBER_BITS: Final = 48

Post = Callable[[control.Message], bool]
"""Sends a message to the relay; whether there is a carrier for it."""


@final
class Questions:
    """What one attachment has asked and not heard yet."""

    def __init__(self, post: Post) -> None:
        self._post = post
        self._answers: dict[int, control.Issuance] = {}
        self._waiting: dict[int, trio.Event] = {}

    async def may_issue(self, names: Sequence[Hostname], *, renewal: bool) -> control.Issuance | None:
        """Ask; return the relay's answer, or None if none came in time.

        Cancellation: an answer that comes later is ignored; the relay counts it as used in the end.
        """
        number = secrets.randbits(_NUMBER_BITS)
        question = control.MayIssue(id=number, names=[name.value for name in names], renewal=renewal)
        if not self._post(question):
            return None
        self._waiting[number] = answered = trio.Event()
        try:
            with trio.move_on_after(limits.HANDSHAKE_TIMEOUT):
                await answered.wait()
        finally:
            del self._waiting[number]
        return self._answers.pop(number, None)

    def ended(self, answer: control.Issuance, *, issued: bool) -> None:
        """Tell the relay what came of a permission; on a session that has ended nobody hears it."""
        self._post(control.IssueEnded(answer.id, issued))

    def take(self, answer: control.Issuance) -> None:
        """Take an answer of the relay's; one that nobody waits for is ignored."""
        if (answered := self._waiting.get(answer.id)) is not None:
            self._answers[answer.id] = answer
            answered.set()
