"""The certificate that a person gave (`--cert-pem`): a chain and its key in one file, followed while the agent runs.

The file is looked at each `CERTIFICATE_POLL`.  It is read when it looks
different from what was read last and the same as at the look before: who
truncates and writes is not read in between.

At the start a file that cannot be used is an error.  Later one changes nothing:
the certificate that is shown stays, and one line of log says why.  So does one
outside its period while the one that is shown is within it.  Where neither is
valid the newer one is taken, for the clock of this machine may be what is
wrong, and an alarm says both times.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from pathlib import Path
from typing import NoReturn, final

import trio

from trunnel.clock import utc_now
from trunnel.errors import ConfigError
from trunnel.events import Alarm, Certificate, EventSink
from trunnel.identity.certstore import Leaf, read_pem_pair
from trunnel.identity.filewatch import look
from trunnel.identity.shown import require_usable
from trunnel.settings import limits

logger = logging.getLogger(__name__)


@final
class Given:
    """The file, and the certificate in it that can be shown."""

    def __init__(self, path: Path, on_event: EventSink) -> None:
        """Read *path*; raises ConfigError if it cannot be used.  Blocks for as long as the disk takes."""
        self._path = path
        self._on_event = on_event
        self._seen = look(path)
        try:
            self.leaf = _read(path)
        except ConfigError as exc:
            raise ConfigError("agent.cert_pem", exc.reason) from exc
        self._problem = self.leaf.period_problem(utc_now())

    async def follow(self, changed: Callable[[], None], *, poll: float = limits.CERTIFICATE_POLL) -> NoReturn:
        """Read the file again whenever it has changed, for ever.

        Args:
            changed: Called when `leaf` is another one.
            poll: Seconds between looks.

        Cancellation: ends it.
        """
        self._tell()
        before = self._seen
        while True:
            await trio.sleep(poll)
            now = await trio.to_thread.run_sync(look, self._path)
            if now == before and now != self._seen:
                is_new = await self._read_again()
                self._seen = now
                if is_new:
                    changed()
                    self._tell()
            before = now

    async def _read_again(self) -> bool:
        """Take what is in the file now, if it is another certificate and can be used; return whether it was."""
        try:
            leaf = await trio.to_thread.run_sync(_read, self._path)
        except ConfigError as exc:
            self._keep(exc.reason)
            return False
        now = utc_now()
        problem = leaf.period_problem(now)
        if problem and not self.leaf.period_problem(now):
            self._keep(f"{self._path}: {problem}")
            return False
        if leaf.chain == self.leaf.chain:
            return False
        self.leaf, self._problem = leaf, problem
        return True

    def _keep(self, reason: str) -> None:
        logger.error("certificate_kept", extra={"path": str(self._path), "reason": reason})
        self._on_event(self._event("failed", reason))

    def _tell(self) -> None:
        """Say which certificate is shown, and aloud if it is not valid now."""
        logger.info("certificate_loaded", extra={"path": str(self._path), "fingerprint": self.leaf.fingerprint})
        self._on_event(self._event("loaded", self._problem))
        if self._problem:
            text = f"{self._path}: {self._problem}"
            logger.error("certificate_not_valid", extra={"reason": text})
            self._on_event(Alarm(code="certificate-expiring", text=text))

    def _event(self, state: str, reason: str) -> Certificate:
        leaf = self.leaf
        return Certificate(
            hostnames=(*(name.value for name in leaf.names), *(f"*.{name}" for name in leaf.wildcards)),
            state=state,
            not_after=leaf.not_after.isoformat(),
            issuer=leaf.issuer,
            reason=reason,
        )


def _read(path: Path) -> Leaf:
    """Return what is in the file; raises ConfigError if visitors cannot be shown it."""
    leaf = read_pem_pair(path, path)
    if not leaf.names and not leaf.wildcards:
        raise ConfigError("", f"the certificate in {path} is for no host name")
    require_usable(leaf)
    return leaf
