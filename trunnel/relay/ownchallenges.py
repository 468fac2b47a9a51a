"""The relay's own challenges: which name is being proved now, and with which certificate (RFC 8737).

While the relay asks an authority for a certificate of its own names, the one
who asks says here what `acme-tls/1` connections for a name are to be shown
(`trunnel.acme.challenge.Responder`).  Only names that were given at the start
are taken: nothing here can answer for a name of an agent.
"""

from __future__ import annotations

from collections.abc import Container, Iterator
from contextlib import contextmanager
from typing import final

from OpenSSL import SSL

from trunnel.errors import LocalProtocolError
from trunnel.names import Hostname


@final
class OwnChallenges:
    """What challenges are answered with.

    Args:
        names: The names that may be proved: `acme_domains`.
    """

    def __init__(self, names: Container[Hostname]) -> None:
        self._names = names
        self._contexts: dict[Hostname, SSL.Context] = {}

    @contextmanager
    def answering(self, name: Hostname, context: SSL.Context) -> Iterator[None]:
        """Show *context* to challenges for *name* while the body runs; a later one for the same name comes first.

        Raises:
            LocalProtocolError: It is no name of the relay's own certificate.
        """
        if name not in self._names:
            raise LocalProtocolError(f"{name} is none of the names that this relay proves")
        before = self._contexts.get(name)
        self._contexts[name] = context
        try:
            yield
        finally:
            if self._contexts.get(name) is context:
                del self._contexts[name]
                if before is not None:
                    self._contexts[name] = before

    def context_for(self, name: Hostname) -> SSL.Context | None:
        """Return what a challenge for *name* is shown; None: nobody proves it now."""
        return self._contexts.get(name)
