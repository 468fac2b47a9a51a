"""Answers to an authority that validates one of our names (TLS-ALPN-01, RFC 8737).

Whoever orders a certificate puts the answer here (`answering`); the authority's
connection comes as a stream of kind CHALLENGE, by whichever relay and road it
likes, and is answered from here.  So one registry serves a whole agent.

A challenge is a handshake and nothing else: what it proves is in the
certificate that is shown.  It never reaches the origin, is no visitor, and has
no event; it ends within `CHALLENGE_TIMEOUT`.  Anybody can connect like this, so
at most `CHALLENGES_ANSWERED` are answered for a name at a time.
"""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from typing import final

import trio
from OpenSSL import SSL

from trunnel.errors import ConnectError, ErrorCode, RemoteProtocolError
from trunnel.names import Hostname
from trunnel.settings import limits
from trunnel.streams.tls import TlsRole, TlsStream

logger = logging.getLogger(__name__)


@final
class Challenges:
    """What is answered now, for each name."""

    def __init__(self) -> None:
        self._contexts: dict[Hostname, list[SSL.Context]] = {}
        self._open: Counter[Hostname] = Counter()

    @contextmanager
    def answering(self, name: Hostname, context: SSL.Context) -> Iterator[None]:
        """Answer challenges for *name* with *context* while the body runs.

        Of two answers at a time the newer one is given; the other one comes back when that ends.

        Args:
            name: Which name is validated.
            context: From `identity.contexts.challenge_context`.
        """
        answers = self._contexts.setdefault(name, [])
        answers.append(context)
        try:
            yield
        finally:
            answers.remove(context)
            if not answers and self._contexts.get(name) is answers:
                del self._contexts[name]

    def context_for(self, name: Hostname) -> SSL.Context | None:
        """Return the answer for *name*, or None if nobody has ordered a certificate for it."""
        answers = self._contexts.get(name)
        return answers[-1] if answers else None

    @contextmanager
    def admit(self, name: Hostname) -> Iterator[SSL.Context]:
        """Count one challenge for *name* as open while the body runs; yields the answer.

        Raises:
            RemoteProtocolError: REFUSED_STREAM: nothing is to be proven for the name, or too many are open.
        """
        context = self.context_for(name)
        if context is None:
            raise RemoteProtocolError(f"no challenge is expected for {name}", code=ErrorCode.REFUSED_STREAM)
        if self._open[name] >= limits.CHALLENGES_ANSWERED:
            raise RemoteProtocolError(f"too many challenges for {name} at a time", code=ErrorCode.REFUSED_STREAM)
        self._open[name] += 1
        try:
            yield context
        finally:
            self._open[name] -= 1
            if not self._open[name]:
                del self._open[name]


async def answer_challenge(stream: trio.abc.HalfCloseableStream, context: SSL.Context) -> None:
    """Show the certificate of *context* at the end of *stream*, and end; owns *stream*.

    Cancellation: *stream* is aborted.
    """
    with trio.move_on_after(limits.CHALLENGE_TIMEOUT) as scope:
        try:
            shown = await TlsStream.handshake(
                stream, context, role=TlsRole.SERVER, timeout=limits.CHALLENGE_TIMEOUT, tolerate_truncation=True
            )
            logger.debug("challenge_answered", extra={"alpn": ascii(shown.alpn)})
            await shown.aclose()
        except (ConnectError, trio.BrokenResourceError) as exc:
            logger.debug("challenge_failed", extra={"reason": str(exc)})
    if scope.cancelled_caught:
        logger.debug("challenge_failed", extra={"reason": "it did not end in time"})
