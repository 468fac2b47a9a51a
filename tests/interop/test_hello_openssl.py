"""The ClientHello parser against real TLS: OpenSSL as a server (FUZZ-02), real clients as senders."""

from __future__ import annotations

import ssl

import pytest

from fuzz import differential
from fuzz.clienthello_oracle import INCOMPLETE, Oracle, Sighting, StdlibOracle, quiet_callbacks
from fuzz.differential import DifferentialReport, run
from scripts.capture_hellos import CLIENTS, NAME, record_command, record_pyopenssl, record_python
from tests.peers import require_program
from tests.wire.hello_builder import CERTIFICATE_AUTHORITIES, STATUS_REQUEST, Hello, record, vector
from tests.wire.hello_builder import NAME as BUILT_NAME
from tests.wire.hello_cases import CASES, Case
from tests.wire.test_clienthello_rows import word
from tests.wire.test_der import NAMES, tlv
from tests.wire.test_helloextensions import ACCEPTED, name_of
from trunnel.wire.alert import alert_for, plaintext_alert
from trunnel.wire.clienthello import ClientHelloParser, Verdict

pytestmark = pytest.mark.interop
MUTATIONS = 2_000
"""For the ordinary run; `python -m fuzz.differential` does 30,000 and more."""


@pytest.fixture(scope="module", params=sorted(differential.ORACLES))
def oracle(request: pytest.FixtureRequest) -> Oracle:
    """A server of each build of OpenSSL at hand."""
    return differential.ORACLES[request.param]()


def judged(stream: bytes) -> ClientHelloParser:
    """Return a parser that was fed *stream*."""
    parser = ClientHelloParser()
    parser.feed_untrusted(stream)
    return parser


@pytest.mark.parametrize("kind", sorted(differential.ORACLES))
def test_mutated_hellos_are_never_seen_otherwise(kind: str) -> None:
    """FUZZ-02: never another name than OpenSSL's, never a route where it refuses the structure."""
    report = run(MUTATIONS, seed=2, oracle=kind)
    assert not report.examples
    assert report.judged > MUTATIONS
    assert report.verdicts["route"] > MUTATIONS / 20, "the mutations no longer reach the name"


@pytest.mark.parametrize("case", CASES, ids=str)
def test_cases_of_the_table_are_never_seen_otherwise(case: Case, oracle: Oracle) -> None:
    with quiet_callbacks():
        assert DifferentialReport().judge(case.stream, oracle) is None


@pytest.mark.parametrize(("kind", "body"), ACCEPTED, ids=name_of)
def test_openssl_takes_every_extension_that_we_take(kind: int, body: bytes, oracle: Oracle) -> None:
    """Our grammar of the other extensions is never laxer than the terminator's."""
    report = DifferentialReport()
    with quiet_callbacks():
        assert report.judge(Hello().replacing(kind, body).stream(), oracle) is None
    assert report.verdicts == {"route": 1}


@pytest.mark.parametrize("name", NAMES.values(), ids=NAMES.keys())
def test_openssl_takes_every_authority_that_we_take(name: bytes, oracle: Oracle) -> None:
    """The same for X.501 names: where a client lists authorities, and where it names a responder."""
    authorities = vector(2, vector(2, name))
    responder = b"\x01" + vector(2, vector(2, tlv(0xA1, name))) + vector(2, b"")
    with quiet_callbacks():
        for kind, body in ((CERTIFICATE_AUTHORITIES, authorities), (STATUS_REQUEST, responder)):
            sighting = oracle.judge(Hello().replacing(kind, body).stream())
            assert sighting == Sighting(accepted=True, name=BUILT_NAME)


class Gullible:
    """A server that sees one thing, whatever it is sent: only to see that the comparison can fail."""

    def __init__(self, sighting: Sighting) -> None:
        self._sighting = sighting

    def judge(self, stream: bytes) -> Sighting:
        return self._sighting


@pytest.mark.parametrize(
    ("sighting", "stream"),
    [
        (Sighting(accepted=True, name=b"b.example"), Hello().stream()),
        (Sighting(accepted=True, name=None), Hello().stream()),
        (Sighting(accepted=True, name=b"b.example"), Hello().with_name(None).stream()),
        (Sighting(accepted=True, name=b"b.example"), Hello().with_name(b"192.0.2.1").stream()),
        (Sighting(accepted=False, reason="BAD_EXTENSION"), Hello().stream()),
        (Sighting(accepted=False, reason=INCOMPLETE), Hello().stream()),
    ],
    ids=["other-name", "no-name", "hidden-name", "hidden-behind-a-bad-name", "refused", "waits"],
)
def test_a_disagreement_is_noticed(sighting: Sighting, stream: bytes) -> None:
    """The differential test can fail: each kind of disagreement is reported and kept."""
    report = DifferentialReport()
    assert report.judge(stream, Gullible(sighting)) is not None
    assert (report.disagreements, report.examples[0].stream) == (1, stream)


def test_refusals_for_other_reasons_are_counted_and_tolerated() -> None:
    report = DifferentialReport()
    refusal = Sighting(accepted=False, reason="NO_SHARED_CIPHER")
    assert report.judge(Hello().stream(), Gullible(refusal)) is None
    assert report.tolerated == {"NO_SHARED_CIPHER": 1}


def test_the_same_seed_makes_the_same_run() -> None:
    first, again = (run(300, seed=5) for _ in range(2))
    assert (first.verdicts, first.stricter) == (again.verdicts, again.stricter)
    assert first.verdicts != run(300, seed=6).verdicts


def test_the_oracle_sees_names_waits_and_refusals() -> None:
    oracle = StdlibOracle()
    plain = Hello()
    assert oracle.judge(plain.stream()) == Sighting(accepted=True, name=BUILT_NAME)
    assert oracle.judge(plain.with_name(None).stream()) == Sighting(accepted=True)
    assert oracle.judge(plain.stream()[:-1]).reason == INCOMPLETE
    assert not oracle.judge(record(b"\x01\x00\x00\x00")).accepted


@pytest.mark.timeout(60)
@pytest.mark.parametrize("client", ["curl", "openssl-s_client", "openssl-s_client-small-records"])
def test_a_real_client_is_understood(client: str) -> None:
    """What the installed client sends today routes to the name it was told."""
    command = CLIENTS[client]
    require_program("curl" if client == "curl" else "openssl")
    assert word(judged(record_command(command))) == f"route:{NAME}"


def test_the_libraries_of_this_python_are_understood() -> None:
    for stream in (record_python(), record_pyopenssl()):
        assert word(judged(stream)) == f"route:{NAME}"


def test_our_alert_is_what_a_client_reads() -> None:
    """A plaintext alert ends a client's handshake with its name."""
    answer = alert_for(Verdict.NO_SNI)
    assert answer is not None
    incoming = ssl.MemoryBIO()
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    client = context.wrap_bio(incoming, ssl.MemoryBIO(), server_hostname=NAME)
    with pytest.raises(ssl.SSLWantReadError):
        client.do_handshake()
    incoming.write(plaintext_alert(answer))
    with pytest.raises(ssl.SSLError, match="UNRECOGNIZED_NAME"):
        client.do_handshake()
