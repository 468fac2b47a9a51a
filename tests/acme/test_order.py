"""The order machine by transcripts: what comes in, what is done next (RFC 8555 §7.4, §7.5)."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.acme.transcripts import DEADLINE, NEW_ORDER, answer, authorization, machine, order, play, problem
from trunnel.acme.answer import Answer
from trunnel.acme.order import Done, NeedChallenge, OrderMachine, Request, Wait
from trunnel.errors import AcmeError, RemoteProtocolError
from trunnel.settings import limits

PLACE = "post ['identifiers'] /new-order"
LOOK = "look /authorization/a.example"
PROVE = "prove a.example by TOKEN.thumb, post [] /challenge/a.example"
READY, FINALIZE, FETCH = "look /order/1", "post ['csr'] /finalize/1", "look /certificate/1"
CHAIN = Answer(status=200, body=b"PEM", url=NEW_ORDER, links=('<https://ca.example/2>; rel="alternate"',))
PENDING, VALID = answer(authorization("pending")), answer(authorization("valid"))
TO_READY = [answer(order("pending")), PENDING, answer({}), VALID]
"""Answers up to the look at the order."""

IS_PENDING, IS_READY = answer(order("pending")), answer(order("ready"))
IS_PROCESSING, IS_VALID = answer(order("processing")), answer(order("valid"))

TRANSCRIPTS: dict[str, tuple[list[Answer], list[str]]] = {
    "straight": (
        [*TO_READY, IS_READY, IS_VALID, CHAIN],
        [PLACE, LOOK, PROVE, LOOK, READY, FINALIZE, FETCH, "done PEM 1"],
    ),
    "every wait": (
        [*TO_READY[:3], PENDING, VALID, IS_PENDING, IS_READY, IS_PROCESSING, IS_PROCESSING, IS_VALID, CHAIN],
        [
            PLACE,
            LOOK,
            PROVE,
            LOOK,
            "wait until 0.5",
            LOOK,
            READY,
            "wait until 1",
            READY,
            FINALIZE,
            "wait until 1.75",
            READY,
            "wait until 2.875",
            READY,
            FETCH,
            "done PEM 1",
        ],
    ),
    "authorised before": (
        [IS_PENDING, VALID, IS_READY, IS_VALID, CHAIN],
        [PLACE, LOOK, READY, FINALIZE, FETCH, "done PEM 1"],
    ),
    "ready at once": (
        [IS_READY, IS_READY, IS_VALID, CHAIN],
        [PLACE, READY, FINALIZE, FETCH, "done PEM 1"],
    ),
    "Retry-After": (
        [
            *TO_READY[:3],
            answer(authorization("pending"), retry_after=7),
            VALID,
            IS_READY,
            answer(order("processing"), retry_after=0),
            IS_VALID,
            CHAIN,
        ],
        [PLACE, LOOK, PROVE, LOOK, "wait until 7", LOOK, READY, FINALIZE, "wait until 7.5", READY, FETCH, "done PEM 1"],
    ),
    "not ready after all": (
        [*TO_READY, IS_READY, problem("orderNotReady", status=403), IS_READY, IS_VALID, CHAIN],
        [PLACE, LOOK, PROVE, LOOK, READY, FINALIZE, "wait until 0.5", READY, FINALIZE, FETCH, "done PEM 1"],
    ),
    "ready twice": (
        [*TO_READY, IS_READY, IS_READY, IS_VALID, CHAIN],
        [PLACE, LOOK, PROVE, LOOK, READY, FINALIZE, "wait until 0.5", READY, FETCH, "done PEM 1"],
    ),
}


@pytest.mark.parametrize("case", TRANSCRIPTS)
def test_transcript(case: str) -> None:
    answers, said = TRANSCRIPTS[case]
    assert play(machine(), answers) == said


def test_all_names_are_challenged_before_the_first_is_awaited() -> None:
    """So that the server validates them at the same time."""
    names = ("a.example", "b.example")
    answers = [answer(order("pending", *names))]
    answers += [each for name in names for each in (answer(authorization("pending", name)), answer({}))]
    said = play(machine(*names), answers)
    assert [words.split()[0] for words in said] == ["post", "look", "prove", "look", "prove", "look"]


def test_identifier_of_what_is_replaced_is_sent_once() -> None:
    """RFC 9773 §5: an order that is refused because of it, or seems to be, is placed without it."""
    for kind in ("alreadyReplaced", "malformed", "unauthorized"):
        said = play(machine(replaces="id"), [problem(kind, status=409), answer(order("pending"))])
        assert said == ["post ['identifiers', 'replaces'] /new-order", PLACE, LOOK]
    with pytest.raises(AcmeError):
        play(machine(replaces="id"), [problem("malformed"), problem("malformed")])


@pytest.mark.parametrize("refused", [problem("rateLimited", status=429, retry_after=9), problem("accountDoesNotExist")])
def test_order_that_is_refused_for_another_reason_is_not_placed_again(refused: Answer) -> None:
    with pytest.raises(AcmeError) as error:
        play(machine(replaces="id"), [refused])
    assert error.value.retry_after == refused.retry_after


FAILURES: dict[str, tuple[list[Answer], str]] = {
    "the order": ([problem("rejectedIdentifier")], "refused the order: rejectedIdentifier"),
    "an order that is invalid": (
        [answer(order("invalid", error={"detail": "too late"}))],
        "gave the order up: too late",
    ),
    "an order without a reason": ([answer(order("invalid"))], "gave the order up, and gave no reason"),
    "an authorisation": ([answer(order("pending")), problem("unauthorized")], "to show an authorisation"),
    "a challenge": ([*TO_READY[:2], problem("malformed")], "the answer to a challenge"),
    "a validation": (
        [*TO_READY[:3], answer(authorization("invalid", error={"type": "x", "detail": "timeout"}))],
        r"could not validate a\.example: x: timeout",
    ),
    "an authorisation that is revoked": ([*TO_READY[:3], answer(authorization("revoked"))], "could not validate"),
    "the request": ([*TO_READY, answer(order("ready")), problem("badCSR")], "to issue the certificate: badCSR"),
    "the chain": ([*TO_READY, answer(order("ready")), answer(order("valid")), problem("x")], "to hand the certificate"),
}


@pytest.mark.parametrize("what", FAILURES)
def test_what_is_refused_ends_the_order(what: str) -> None:
    answers, said = FAILURES[what]
    with pytest.raises(AcmeError, match=said):
        play(machine(), answers)


NONSENSE: dict[str, list[Answer]] = {
    "an order for other names": [answer(order("pending", "b.example"))],
    "an order for more names": [answer(order("pending", "a.example", "b.example"))],
    "other names later": [*TO_READY, answer(order("ready", "b.example"))],
    "an authorisation for another name": [answer(order("pending")), answer(authorization("pending", "b.example"))],
    "no challenge of ours": [answer(order("pending")), answer(authorization("pending", type="dns-01"))],
    "a short token": [answer(order("pending")), answer(authorization("pending", token="short"))],
    "a token that is a path": [answer(order("pending")), answer(authorization("pending", token="../" * 20))],
    "a challenge by http": [answer(order("pending")), answer(authorization("pending", url="http://ca.example/"))],
    "an order that is deactivated": [*TO_READY, answer(order("deactivated"))],
    "no place": [answer(order("pending"), location="http://ca.example/order")],
}


@pytest.mark.parametrize("what", NONSENSE)
def test_answer_that_does_not_fit_ends_the_order(what: str) -> None:
    with pytest.raises(RemoteProtocolError):
        play(machine(), NONSENSE[what])


@pytest.mark.parametrize("status", ["pending", "processing", "ready"])
def test_order_that_is_never_valid_ends_at_the_deadline(status: str) -> None:
    """However the server answers, and it is asked a bounded number of times."""
    order_machine = machine()
    assert play(order_machine, [*TO_READY, IS_READY])[-1] == FINALIZE
    now, asked = 0.0, 0
    with pytest.raises(AcmeError, match="takes too long") as late:
        while True:
            step = order_machine.feed_untrusted(answer(order(status), retry_after=0), now)
            assert isinstance(step, Wait)
            now, asked = step.until, asked + 1
    assert late.value.retry_after == limits.ACME_POLL_MIN
    assert asked == DEADLINE / limits.ACME_POLL_MIN


def test_what_is_still_pending_is_known() -> None:
    """So that it can be given up: what was granted or refused is not among it."""
    order_machine = machine("a.example", "b.example")
    answers = [answer(order("pending", "a.example", "b.example")), PENDING]
    play(order_machine, answers)
    assert [url.rpartition("/")[2] for url in order_machine.pending] == ["a.example", "b.example"]
    order_machine.feed_untrusted(answer({}), 0.0)
    order_machine.feed_untrusted(answer(authorization("pending", "b.example")), 0.0)
    order_machine.feed_untrusted(answer({}), 0.0)
    with pytest.raises(AcmeError):
        order_machine.feed_untrusted(answer(authorization("invalid")), 0.0)
    assert [url.rpartition("/")[2] for url in order_machine.pending] == ["b.example"]


def test_authorisation_without_a_challenge_of_ours_is_given_up_too() -> None:
    order_machine = machine()
    with pytest.raises(RemoteProtocolError, match="only 'http-01, dns-01'"):
        play(order_machine, [answer(order("pending")), answer(authorization("pending", type="dns-01"))])
    assert len(order_machine.pending) == 1


ANSWERS = (
    [answer(order(status)) for status in ("pending", "ready", "processing", "valid", "invalid", "expired")]
    + [answer(authorization(status)) for status in ("pending", "valid", "invalid", "deactivated")]
    + [problem(kind) for kind in ("malformed", "orderNotReady", "rateLimited", "alreadyReplaced")]
    + [answer({}), answer([]), answer(b""), CHAIN, answer(order("processing"), retry_after=30)]
)


@given(st.lists(st.sampled_from(ANSWERS), max_size=30), st.booleans())
def test_any_answers_keep_the_machine_within_its_rules(answers: Sequence[Answer], replaces: bool) -> None:
    """It only asks https, proves only what was asked for, waits only until the deadline, and fails in two ways."""
    order_machine = machine(replaces="id" if replaces else None)
    order_machine.start(NEW_ORDER)
    now = 0.0
    for each in answers:
        try:
            action = order_machine.feed_untrusted(each, now)
        except (AcmeError, RemoteProtocolError):
            return
        match action:
            case Request(url):
                assert url.startswith("https://")
            case NeedChallenge(name=name, request=request):
                assert name.value == "a.example"
                assert request.url.startswith("https://")
            case Wait(until):
                assert now + limits.ACME_POLL_MIN <= until <= DEADLINE
                now = until
                assert order_machine.resume().payload is None
            case Done():
                return


def test_machine_needs_no_more_than_its_arguments() -> None:
    """Two machines with the same answers do the same."""
    answers, _ = TRANSCRIPTS["every wait"]
    first: list[OrderMachine] = [machine(), machine()]
    assert play(first[0], answers) == play(first[1], answers)
