"""Answers of an ACME server, made by hand, and a driver that feeds them to an order."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import msgspec

from trunnel.acme.answer import Answer
from trunnel.acme.messages import PROBLEM_PREFIX
from trunnel.acme.order import Action, Done, NeedChallenge, OrderMachine, Request, Wait
from trunnel.names import Hostname

BASE: Final = "https://ca.example"
NEW_ORDER: Final = f"{BASE}/new-order"
ORDER: Final = f"{BASE}/order/1"
TOKEN: Final = "t" * 43
DEADLINE: Final = 100.0


def machine(*names: str, replaces: str | None = None) -> OrderMachine:
    """Return a machine for *names*, with a deadline at 100 s."""
    wanted = [Hostname(name) for name in names or ("a.example",)]
    return OrderMachine(wanted, "CSR", thumbprint="thumb", deadline=DEADLINE, replaces=replaces)


def answer(content: object, *, status: int = 200, retry_after: float | None = None, location: str = ORDER) -> Answer:
    body = content if isinstance(content, bytes) else msgspec.json.encode(content)
    return Answer(status=status, body=body, url=NEW_ORDER, location=location, retry_after=retry_after)


def order(status: str, *names: str, **more: object) -> dict[str, object]:
    """Return an order for *names*, with one authorisation each."""
    wanted = names or ("a.example",)
    return {
        "status": status,
        "identifiers": [{"type": "dns", "value": name} for name in wanted],
        "authorizations": [authorization_url(name) for name in wanted],
        "finalize": f"{BASE}/finalize/1",
        **({"certificate": f"{BASE}/certificate/1"} if status == "valid" else {}),
        **more,
    }


def authorization_url(name: str) -> str:
    return f"{BASE}/authorization/{name}"


def authorization(status: str, name: str = "a.example", **more: object) -> dict[str, object]:
    challenge = {"type": "tls-alpn-01", "status": "pending", "token": TOKEN, "url": f"{BASE}/challenge/{name}"}
    other = {"type": "http-01", "status": "pending", "token": "x", "url": "http://not.looked.at"}
    return {
        "status": status,
        "identifier": {"type": "dns", "value": name},
        "challenges": [other, {**challenge, **more}],
    }


def problem(kind: str, *, status: int = 400, retry_after: float | None = None) -> Answer:
    return answer({"type": f"{PROBLEM_PREFIX}{kind}", "detail": "no"}, status=status, retry_after=retry_after)


def play(order_machine: OrderMachine, answers: Sequence[Answer]) -> list[str]:
    """Feed *answers* one after the other; return what the machine wanted, in words."""
    said = [_words(order_machine.start(NEW_ORDER))]
    now = 0.0
    for each in answers:
        action = order_machine.feed_untrusted(each, now)
        said.append(_words(action))
        if isinstance(action, Wait):
            now = action.until
            said.append(_words(order_machine.resume()))
    return said


def _words(action: Action) -> str:
    match action:
        case Request(url, payload):
            verb = "look" if payload is None else f"post {sorted(payload)}"
            return f"{verb} {url.removeprefix(BASE)}"
        case Wait(until, _):
            return f"wait until {until:g}"
        case NeedChallenge(name=name, key_authorization=proof, request=request):
            return f"prove {name} by {proof.replace(TOKEN, 'TOKEN')}, {_words(request)}"
        case Done(chain=chain, alternates=alternates):
            return f"done {chain.decode()} {len(alternates)}"
