"""What the two ways through a proxy have in common: a conversation with one hop.

`socks5` and `httpconnect` are clients without IO.  Each asks one hop, the
proxy, to connect us to the next, the relay:

- `start()` gives the first bytes to send, once.
- `needed` is how many bytes of the proxy can be read now without reading any
  byte behind its answer: what follows belongs to the tunnel.  0: it is over.
- `feed_untrusted(chunk)` takes what was read and gives what to send next.
- When it is over, `refusal` says why not; None means connected.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol, final

from trunnel.names import ServerAddress


@final
@dataclass(frozen=True, slots=True, kw_only=True)
class Refusal:
    """A proxy that answered properly, and did not connect us."""

    reason: str
    """Why, in its words or the protocol's; printable."""
    beyond: bool
    """It tried and failed at the next hop; False: it would not."""

    def sentence(self, hop: ServerAddress, target: ServerAddress) -> str:
        """Return who failed, *hop* or the way from it to *target*, and why."""
        if self.beyond:
            return f"the proxy at {hop} could not reach {target}: {self.reason}"
        return f"the proxy at {hop} refused: {self.reason}"


class HopClient(Protocol):
    """The client's side of such a conversation."""

    @property
    def needed(self) -> int:
        """Bytes that may be read now, at most; 0 when it is over."""
        ...

    @property
    def refusal(self) -> Refusal | None:
        """Why the proxy did not connect us; None if it did, or has not answered yet."""
        ...

    def start(self) -> bytes:
        """Return the first bytes to send."""
        ...

    def feed_untrusted(self, chunk: bytes) -> bytes:
        """Take bytes of the proxy; return what to send next, often nothing.

        Raises:
            RemoteProtocolError: They do not belong to the protocol.
        """
        ...
