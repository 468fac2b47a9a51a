"""Agents that come with an invitation: judged before they are admitted, in the same conversation.

    hello with a secret → the file of invitations, in a thread → the list of agents has the key
      → the list in force has it, too → admitted as if it had always been there
      → or refused, with a sentence

A key that is on the list needs no invitation, so one that cannot be used keeps
nobody out: a service may start with `--join` for years.  One at a time: what
is guessed costs a connection each, and never more than one thread.
"""

from __future__ import annotations

import logging
from datetime import datetime
from functools import partial
from typing import final

import trio

from trunnel.clock import utc_now
from trunnel.errors import ConfigError, InvalidName, RejectCode, Rejected
from trunnel.events import AgentAuthorized, EventSink
from trunnel.names import KeyId
from trunnel.relay.authorized_watch import AuthorizedWatch
from trunnel.relay.invitations import Invitation, Invitations
from trunnel.relay.sessions import Sessions
from trunnel.settings import limits
from trunnel.wire import control

logger = logging.getLogger(__name__)

_TROUBLE = "the relay cannot take invitations now; its operator finds why in its log"


@final
class Reception:
    """Takes invitations at a running relay."""

    def __init__(
        self, invitations: Invitations, listed: AuthorizedWatch, sessions: Sessions, *, on_event: EventSink
    ) -> None:
        self._invitations = invitations
        self._listed = listed
        self._sessions = sessions
        self._on_event = on_event
        self._one = trio.Lock()

    async def refusal(self, key_id: KeyId, hello: control.Hello) -> control.Rejected | None:
        """Put *key_id* on the list if its hello has an invitation; return why not, or None if nothing is wrong.

        Cancellation: an invitation that is being used is used; the key is on the list at its next try.
        """
        if not hello.invitation:
            return None
        async with self._one:
            refused = await self._redeem(hello.invitation, key_id, utc_now())
            if refused is not None and key_id not in self._sessions.authorized:
                await self._listed.refresh()  # the operator may have put the key on it, and nobody has looked since
        return None if refused is None or key_id in self._sessions.authorized else refused

    async def _redeem(self, secret: str, key_id: KeyId, now: datetime) -> control.Rejected | None:
        redeem = partial(self._invitations.redeem, secret, key_id, authorized=self._listed.path, now=now)
        try:
            used = await trio.to_thread.run_sync(redeem)
        except Rejected as exc:
            return control.Rejected(exc.code, control.printable(exc.reason))
        except InvalidName as exc:  # more names than an agent may have
            return control.Rejected(RejectCode.INVITATION, control.printable(str(exc)))
        except ConfigError as exc:
            logger.error("invitation_failed", extra={"agent": key_id.value, "reason": str(exc)})  # noqa: TRY400 - a sentence
            return control.Rejected(RejectCode.OVERLOADED, _TROUBLE, limits.BACKOFF_CAP)
        if used is not None:
            self._report(used, key_id)
        await self._listed.refresh()
        return None

    def _report(self, used: Invitation, key_id: KeyId) -> None:
        logger.info("agent_authorized", extra={"agent": key_id.value, "invitation": used.id, "label": used.label})
        self._on_event(
            AgentAuthorized(agent_id=key_id.value, names=tuple(used.names), label=used.label, invitation=used.id)
        )
