"""The account: found, made, bound, kept, re-keyed; and requests signed in its name (RFC 8555 §7.3).

The file (`account`) is read anew before each use: another process may have
given the account another key.  One task at a time deals with it; requests of
several orders are sent side by side.

A change of keys that was cut off leaves two keys, of which the server knows
one.  So does one that was refused: an answer may be lost on its way, and what
is refused then is the repetition.  Which key is good is asked with the new one
and `onlyReturnExisting`: either it has the account by now, or the old one goes
on.  Until that is known both are kept.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import Final, final

import msgspec
import trio

from trunnel.acme.account import Account, AccountFile
from trunnel.acme.answer import Answer, refusal
from trunnel.acme.http import Exchange
from trunnel.acme.jws import AccountKey, Payload, external_binding
from trunnel.acme.messages import PROBLEM_PREFIX, Directory, Status, decode_account_untrusted
from trunnel.acme.order import Request
from trunnel.errors import AcmeError, LocalProtocolError, RemoteProtocolError
from trunnel.settings import limits
from trunnel.settings.acme import AcmeSettings

logger = logging.getLogger(__name__)

BAD_NONCE: Final = f"{PROBLEM_PREFIX}badNonce"
"""Try again with another nonce (RFC 8555 §6.5)."""
ACCOUNT_UNKNOWN: Final = f"{PROBLEM_PREFIX}accountDoesNotExist"
"""The server knows no account of this key."""
_REFUSED_NONCE: Final = 400


@final
@dataclass(frozen=True, slots=True)
class _Signer:
    """Who signs: a key, and the account's URL unless the key itself is to be named."""

    key: AccountKey
    kid: str | None = None


@final
class Registration:
    """The account at one directory."""

    def __init__(self, settings: AcmeSettings, directory: Directory, exchange: Exchange, file: AccountFile) -> None:
        self._settings = settings
        self._directory = directory
        self._exchange = exchange
        self._file = file
        self._turn = trio.Lock()
        self._account: Account | None = None
        self._signer: _Signer | None = None

    @property
    def thumbprint(self) -> str:
        """That of the account's key; after `url` only."""
        return self._registered().key.thumbprint

    async def url(self) -> str:
        """Return the account's URL; make the account if there is none.

        Raises:
            AcmeError: The server refused.
            ConfigError: The file cannot be used.
        """
        async with self._turn:
            return await self._ensure()

    async def send(self, request: Request) -> Answer:
        """Send *request* in the account's name, which is made if there is none; raises as `url` does."""
        if self._signer is None:
            await self.url()
        return await self._send(request.url, request.payload, self._registered())

    async def forget(self) -> None:
        """Ask for the account anew next time: the server says that it has none.  Raises ConfigError."""
        async with self._turn:
            if self._account is not None and self._account.url is not None:
                await self._save(msgspec.structs.replace(self._account, url=None, contact=None))
            self._signer = None

    async def roll_key(self) -> None:
        """Give the account a new key; raises as `url` does, and then the old one goes on."""
        change = self._directory.key_change
        if change is None:
            raise AcmeError("the certificate authority does not change keys of accounts", retryable=False)
        async with self._turn:
            url = await self._ensure()
            signer, fresh = self._registered(), AccountKey.generate()
            await self._save(msgspec.structs.replace(self._held(), next_key=fresh.to_pem().decode()))
            self._signer = None  # from here on nobody knows which key is good until the server has said so
            answer = await self._send(change, signer.key.change_to(fresh, account=url, url=change), signer)
            if answer.succeeded:
                await self._take_over(fresh)
            elif (await self._settle_change(fresh)).key == signer.key.to_pem().decode():
                raise refusal(answer, "the new key of the account")
            logger.info("account key changed", extra={"directory": self._settings.directory})

    # --- the steps, one task at a time -----------------------------------------------------------

    async def _ensure(self) -> str:
        """Read the file, settle a change of keys, and ask for an account if there is none; returns its URL."""
        account = self._account = await trio.to_thread.run_sync(self._file.load_or_create)
        if (fresh := account.next_signer) is not None:
            account = await self._settle_change(fresh)
        url = account.url
        if url is None or account.contact != self._settings.email:
            url = await self._register(account)
        self._signer = _Signer(self._held().signer, url)
        return url

    async def _settle_change(self, fresh: AccountKey) -> Account:
        """Find out whether the server knows the *fresh* key, and keep the one that it knows."""
        answer = await self._send(self._directory.new_account, {"onlyReturnExisting": True}, _Signer(fresh))
        if answer.succeeded:
            return await self._take_over(fresh)
        error = refusal(answer, "to show the account")
        if error.type != ACCOUNT_UNKNOWN:
            raise error
        return await self._save(msgspec.structs.replace(self._held(), next_key=None))

    async def _take_over(self, fresh: AccountKey) -> Account:
        """Let the *fresh* key take the place of the old one, in the file."""
        return await self._save(msgspec.structs.replace(self._held(), key=fresh.to_pem().decode(), next_key=None))

    async def _register(self, account: Account) -> str:
        """Ask for the account, or give it another contact, and keep its URL; returns that."""
        contact = [f"mailto:{self._settings.email}"] if self._settings.email else []
        url = account.url
        if url is None:
            answer = await self._new_account(account.signer, contact)
        else:
            answer = await self._send(url, {"contact": contact}, _Signer(account.signer, url))
        if not answer.succeeded:
            error = refusal(answer, "the account")
            if url is None or error.type != ACCOUNT_UNKNOWN:
                raise error
            return await self._register(msgspec.structs.replace(account, url=None))
        try:
            status = decode_account_untrusted(answer.body).status
            url = url or answer.made_at_untrusted()
        except RemoteProtocolError as exc:
            raise AcmeError(f"the certificate authority's answer makes no sense: {exc.reason}") from exc
        if status is not Status.VALID:
            raise AcmeError(
                f"the account {url} is {status}; remove {self._file.path} to have a new one made", retryable=False
            )
        await self._save(msgspec.structs.replace(account, url=url, contact=self._settings.email))
        return url

    async def _new_account(self, key: AccountKey, contact: list[str]) -> Answer:
        """Ask for an account of *key*, bound to an external one if the settings say so (RFC 8555 §7.3, §7.3.4)."""
        settings = self._settings
        wanted: dict[str, object] = {"termsOfServiceAgreed": True}
        if contact:
            wanted["contact"] = contact
        if settings.eab_kid is not None and settings.eab_key is not None:
            wanted["externalAccountBinding"] = external_binding(
                key, url=self._directory.new_account, kid=settings.eab_kid, mac_key=settings.eab_key
            )
        elif self._directory.meta.external_account_required and not await self._exists(key):
            raise AcmeError(
                "the certificate authority binds accounts to one that it knows already: "
                "give its key identifier and MAC key (--acme-eab-kid, --acme-eab-key)",
                retryable=False,
            )
        return await self._send(self._directory.new_account, wanted, _Signer(key))

    async def _exists(self, key: AccountKey) -> bool:
        """Whether the server has an account of *key*, which then needs no binding."""
        answer = await self._send(self._directory.new_account, {"onlyReturnExisting": True}, _Signer(key))
        return answer.succeeded

    async def _save(self, account: Account) -> Account:
        """Write the account, and take over what another process wrote meanwhile."""
        self._account = await trio.to_thread.run_sync(partial(self._file.save, account, known=self._held()))
        return self._account

    def _held(self) -> Account:
        if self._account is None:
            raise LocalProtocolError("the account is read first")
        return self._account

    def _registered(self) -> _Signer:
        if self._signer is None:
            raise LocalProtocolError("the account is asked for first")
        return self._signer

    # --- signed requests -------------------------------------------------------------------------

    async def _send(self, url: str, payload: Payload, signer: _Signer) -> Answer:
        """Send one signed request until its nonce is good; raises AcmeError if none is, or no answer comes."""
        answer = Answer(status=_REFUSED_NONCE)
        for _ in range(limits.ACME_NONCE_TRIES):
            nonce = await self._nonce()
            signed = signer.key.sign(payload, url=url, nonce=nonce, kid=signer.kid)
            answer = await self._exchange.post(url, signed)
            if answer.status != _REFUSED_NONCE or refusal(answer, "").type != BAD_NONCE:
                return answer
        raise refusal(answer, f"{limits.ACME_NONCE_TRIES} nonces of its own one after the other")

    async def _nonce(self) -> str:
        """Return a nonce that was not used yet: the latest one, or a new one (RFC 8555 §7.2)."""
        if not self._exchange.nonces:
            answer = await self._exchange.head(self._directory.new_nonce)
            if not answer.succeeded:
                raise refusal(answer, "a nonce")
            if not self._exchange.nonces:
                raise AcmeError("the certificate authority gave no nonce")
        return self._exchange.nonces.pop()
