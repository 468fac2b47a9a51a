"""Certificate chains of relays: what is wrong with them, and who seems to have made them."""

from __future__ import annotations

import ssl
import subprocess
from datetime import datetime, timedelta
from pathlib import Path
from types import SimpleNamespace

import certifi
import pytest
import trustme
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import ExtendedKeyUsageOID
from OpenSSL import crypto

from tests.identity.certificates import NOW, Authority, Key, new_key, self_signed, subject
from tests.peers import require_program
from trunnel.errors import ConfigError, RemoteProtocolError
from trunnel.identity import chains
from trunnel.identity.chains import Fault, FaultKind, PeerChain, check_chain, interceptor_of, private_roots
from trunnel.names import ServerAddress
from trunnel.settings import limits

DAY = timedelta(days=1)
NAME = "t.example.com"
ROOT = Authority(name=subject("Root", "Good CA"))
INTERMEDIATE = Authority(name=subject("Intermediate", "Good CA"), parent=ROOT)
NO_CA = Authority(name=subject("Impostor"), parent=ROOT, is_ca=False)
STRANGER = Authority(name=subject("Root", "Good CA"))  # the same name, another key


@pytest.fixture
def key() -> Key:
    return new_key()


@pytest.fixture
def roots(tmp_path: Path) -> crypto.X509Store:
    return private_roots(ROOT.write(tmp_path / "root.pem"))


def check(roots: crypto.X509Store, *certificates: x509.Certificate, server: str = NAME) -> Fault | None:
    return check_chain(PeerChain(certificates), ServerAddress.parse(server), roots=roots, now=NOW)


def kind_of(fault: Fault | None) -> FaultKind | None:
    return None if fault is None else fault.kind


def test_a_chain_by_way_of_an_intermediate_is_good(roots: crypto.X509Store, key: Key) -> None:
    leaf = INTERMEDIATE.issue(key, [NAME])
    assert check(roots, leaf, INTERMEDIATE.certificate) is None
    assert check(roots, leaf, INTERMEDIATE.certificate, ROOT.certificate) is None, "a root that is sent along is fine"
    assert kind_of(check(roots, leaf)) is FaultKind.UNKNOWN_ISSUER, "an intermediate that is missing is not fetched"


def test_the_leaf_is_the_first_certificate_whatever_follows(roots: crypto.X509Store, key: Key) -> None:
    good = ROOT.issue(new_key(), [NAME])
    assert kind_of(check(roots, self_signed(key, [NAME]), good)) is FaultKind.UNKNOWN_ISSUER


NAMES = [
    ("t.example.com", ["t.example.com"], None),
    ("T.Example.COM", ["t.example.com"], None),
    ("t.example.com", ["other.example", "t.example.com"], None),
    ("t.example.com", ["*.example.com"], None),
    ("a.b.example.com", ["*.example.com"], FaultKind.WRONG_NAME),
    ("example.com", ["*.example.com"], FaultKind.WRONG_NAME),
    ("t.example.com", ["t.example.com.evil.example"], FaultKind.WRONG_NAME),
    ("t.example.com", [], FaultKind.WRONG_NAME),
    ("relay", [], FaultKind.WRONG_NAME),  # the CN says "relay"
    ("192.0.2.7", ["192.0.2.7"], None),
    ("192.0.2.7", ["192.0.2.8"], FaultKind.WRONG_NAME),
    ("192.0.2.7", ["t.example.com"], FaultKind.WRONG_NAME),
    ("[2001:db8::7]:443", ["2001:db8:0::7"], None),
    ("t.example.com", ["192.0.2.7"], FaultKind.WRONG_NAME),
    ("my_host.example.com", ["t.example.com"], FaultKind.WRONG_NAME),
]


@pytest.mark.parametrize(("server", "names", "fault"), NAMES)
def test_the_leaf_must_name_what_was_dialled(
    roots: crypto.X509Store, key: Key, server: str, names: list[str], fault: FaultKind | None
) -> None:
    assert kind_of(check(roots, ROOT.issue(key, names), server=server)) is fault


def test_a_wrong_name_is_told_with_the_names_that_are_there(roots: crypto.X509Store, key: Key) -> None:
    fault = check(roots, ROOT.issue(key, ["a.example", "192.0.2.7", *(f"b{i}.example" for i in range(9))]))
    assert fault is not None
    assert fault.reason.startswith("is for 'a.example', 'b0.example'")
    assert fault.reason.endswith("…, not for t.example.com")
    unnamed = check(roots, ROOT.issue(key, []))
    assert unnamed is not None
    assert "no name at all" in unnamed.reason


PERIODS: list[tuple[datetime, datetime, str | None]] = [
    (NOW - DAY, NOW + DAY, None),
    (NOW - DAY, NOW - timedelta(seconds=1), "expired on 2026-06-01"),
    (NOW + timedelta(seconds=1), NOW + DAY, "check the clock"),
]


@pytest.mark.parametrize(("start", "end", "reason"), PERIODS, ids=["now", "over", "future"])
def test_the_period_is_judged_by_the_time_given(
    roots: crypto.X509Store, key: Key, start: datetime, end: datetime, reason: str | None
) -> None:
    fault = check(roots, ROOT.issue(key, [NAME], start=start, end=end))
    assert kind_of(fault) is (None if reason is None else FaultKind.EXPIRED)
    assert fault is None or (reason is not None and reason in fault.reason)


def test_a_signature_by_another_key_of_the_same_name_is_no_good(roots: crypto.X509Store, key: Key) -> None:
    fault = check(roots, STRANGER.issue(key, [NAME]))
    assert kind_of(fault) in (FaultKind.INVALID, FaultKind.UNKNOWN_ISSUER)


def test_a_certificate_that_is_no_ca_cannot_issue(roots: crypto.X509Store, key: Key) -> None:
    fault = check(roots, NO_CA.issue(key, [NAME]), NO_CA.certificate)
    assert kind_of(fault) is FaultKind.INVALID


@pytest.mark.parametrize(
    ("purpose", "fault"),
    [
        (ExtendedKeyUsageOID.SERVER_AUTH, None),
        (ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE, None),
        (ExtendedKeyUsageOID.CLIENT_AUTH, FaultKind.INVALID),
    ],
    ids=["server", "any", "client"],
)
def test_a_certificate_for_another_purpose_is_no_good(
    roots: crypto.X509Store, key: Key, purpose: x509.ObjectIdentifier, fault: FaultKind | None
) -> None:
    assert kind_of(check(roots, ROOT.issue(key, [NAME], purpose=purpose))) is fault


def test_malformed_extensions_are_no_good(roots: crypto.X509Store, key: Key) -> None:
    assert kind_of(check(roots, ROOT.issue_malformed(key))) is FaultKind.INVALID


def test_unknown_issuers_are_named_escaped_and_cut(roots: crypto.X509Store, key: Key) -> None:
    assert check(roots, self_signed(key, [NAME])) == Fault(FaultKind.UNKNOWN_ISSUER, "is self-signed")
    noisy = Authority(name=subject("\x1b[31m" + "x" * 50, "\u202eOrg" + "y" * 50))
    fault = check(roots, noisy.issue(key, [NAME]))
    assert fault is not None
    assert "'\\u202eOrg" in fault.reason
    assert fault.reason.isprintable()
    assert len(fault.reason) < 2 * limits.PEER_CHAIN_MAX * 10


def test_a_chain_is_bounded(roots: crypto.X509Store, key: Key) -> None:
    leaf = ROOT.issue(key, [NAME])
    assert check(roots, leaf, *[INTERMEDIATE.certificate] * (limits.PEER_CHAIN_MAX - 1)) is None
    assert kind_of(check(roots, leaf, *[INTERMEDIATE.certificate] * limits.PEER_CHAIN_MAX)) is FaultKind.INVALID


def test_malformed_certificates_are_the_peers_fault(key: Key) -> None:
    with pytest.raises(RemoteProtocolError, match="no certificate"):
        chains.require_readable(PeerChain(()))
    der = self_signed(key).public_bytes(Encoding.DER)
    year = b"\x17\x0d24"  # UTCTime, the year of the start
    assert year in der
    for broken in (der.replace(b"\x0crelay"[:1] + b"\x05relay", b"\x0c\x05rel\xffy"), der.replace(year, b"\x17\x0d2x")):
        with pytest.raises((RemoteProtocolError, ValueError)):  # some are refused when loaded already
            chains.require_readable(PeerChain((x509.load_der_x509_certificate(broken),)))


# --- roots -----------------------------------------------------------------------------------------


def test_the_relays_own_certificate_may_be_its_root(tmp_path: Path, key: Key) -> None:
    leaf = self_signed(key, [NAME])
    path = tmp_path / "own.pem"
    path.write_bytes(leaf.public_bytes(Encoding.PEM))
    assert check(private_roots(path), leaf) is None
    assert kind_of(check(private_roots(path), self_signed(new_key(), [NAME]))) is FaultKind.UNKNOWN_ISSUER


def test_an_intermediate_may_be_the_root(tmp_path: Path, key: Key) -> None:
    roots = private_roots(INTERMEDIATE.write(tmp_path / "intermediate.pem"))
    assert check(roots, INTERMEDIATE.issue(key, [NAME])) is None
    assert kind_of(check(roots, ROOT.issue(key, [NAME]))) is FaultKind.UNKNOWN_ISSUER


@pytest.mark.parametrize("content", [b"", b"garbage", b"-----BEGIN CERTIFICATE-----\nAA\n-----END CERTIFICATE-----\n"])
def test_a_file_without_certificates_is_refused(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "ca.pem"
    path.write_bytes(content)
    with pytest.raises(ConfigError, match="holds no certificate"):
        private_roots(path)


def test_a_file_of_roots_that_is_missing_or_huge_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match="cannot read"):
        private_roots(tmp_path / "absent.pem")
    monkeypatch.setattr(limits, "CA_FILE_MAX", 100)
    with pytest.raises(ConfigError, match="larger than 100 bytes"):
        private_roots(ROOT.write(tmp_path / "ca.pem"))


def default_paths(monkeypatch: pytest.MonkeyPatch, file: Path | None) -> None:
    """Let the system's roots be in *file* only."""
    paths = SimpleNamespace(cafile=None if file is None else str(file), capath=None)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: paths)


def test_public_roots_are_those_of_the_system(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: Key) -> None:
    leaf = ROOT.issue(key, [NAME])
    assert kind_of(check(chains.public_roots(), leaf)) is FaultKind.UNKNOWN_ISSUER
    default_paths(monkeypatch, ROOT.write(tmp_path / "system.pem"))
    assert check(chains.public_roots(), leaf) is None


def test_certifi_is_asked_only_if_the_system_has_no_roots(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, key: Key
) -> None:
    leaf = ROOT.issue(key, [NAME])
    monkeypatch.setattr(certifi, "where", lambda: str(ROOT.write(tmp_path / "certifi.pem")))
    default_paths(monkeypatch, None)
    assert check(chains.public_roots(), leaf) is None
    default_paths(monkeypatch, STRANGER.write(tmp_path / "system.pem"))
    assert check(chains.public_roots(), leaf) is not None


def test_a_machine_without_any_roots_is_told_so(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, key: Key
) -> None:
    monkeypatch.setattr("importlib.util.find_spec", lambda _name: None)
    default_paths(monkeypatch, None)
    assert check(chains.public_roots(), ROOT.issue(key, [NAME])) is not None
    assert [record.message for record in caplog.records] == ["no public roots"]


# --- CAs that people have -----------------------------------------------------------------------------


def test_a_ca_of_trustme_is_good(tmp_path: Path) -> None:
    authority = trustme.CA()
    authority.cert_pem.write_to_path(str(tmp_path / "ca.pem"))
    chain = [x509.load_pem_x509_certificate(b.bytes()) for b in authority.issue_cert(NAME).cert_chain_pems]
    now = chain[0].not_valid_before_utc + DAY
    fault = check_chain(
        PeerChain(tuple(chain)), ServerAddress.parse(NAME), roots=private_roots(tmp_path / "ca.pem"), now=now
    )
    assert fault is None


@pytest.mark.interop
def test_a_ca_made_with_openssl_req_is_good(tmp_path: Path) -> None:
    openssl = require_program("openssl")
    ca_key, ca = tmp_path / "ca.key", tmp_path / "ca.pem"
    request: list[str | Path] = [openssl, "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "30"]
    make_ca = [*request, "-subj", "/CN=my own", "-keyout", ca_key, "-out", ca]
    make_leaf = [*request, "-subj", "/CN=relay", "-keyout", tmp_path / "leaf.key", "-out", tmp_path / "leaf.pem"]
    make_leaf += ["-CA", ca, "-CAkey", ca_key, "-addext", f"subjectAltName=DNS:{NAME}"]
    for command in (make_ca, make_leaf):
        subprocess.run(command, check=True, capture_output=True)
    certificate = x509.load_pem_x509_certificate((tmp_path / "leaf.pem").read_bytes())
    fault = check_chain(
        PeerChain((certificate,)),
        ServerAddress.parse(NAME),
        roots=private_roots(ca),
        now=certificate.not_valid_before_utc + DAY,
    )
    assert fault is None


# --- interception ---------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("organisation", "cn"),
    [
        ("Zscaler Inc.", "Zscaler Intermediate Root CA"),
        ("Fortinet", "FG100E4Q17000000"),
        ("Palo Alto Networks", "decrypt"),
        ("Netskope", "ca.customer.goskope.com"),
        ("Cisco", "Cisco Umbrella Root CA"),
        ("Sophos", "Sophos SSL CA"),
        ("AO Kaspersky Lab", "Kaspersky Anti-Virus Personal Root"),
        ("", "avast! Web/Mail Shield Root"),
        ("ESET, spol. s r. o.", "ESET SSL Filter CA"),
        ("Cloudflare, Inc.", "Gateway CA - Cloudflare Managed G1"),
        ("mitmproxy", "mitmproxy"),
    ],
)
def test_known_interceptors_are_recognised_by_the_issuer(organisation: str, cn: str, key: Key) -> None:
    box = Authority(name=subject(cn, organisation))
    issuer = interceptor_of(PeerChain((box.issue(key, [NAME]), box.certificate)))
    assert issuer is not None
    assert cn in issuer


@pytest.mark.parametrize(
    ("organisation", "cn"),
    [
        ("Let's Encrypt", "R11"),
        ("Google Trust Services", "WE1"),
        ("Cloudflare, Inc.", "Cloudflare TLS Issuing ECC CA 1"),
        ("DigiCert Inc", "DigiCert Global G2 TLS RSA SHA256 2020 CA1"),
        ("Reset Preset Ltd", "Squidgy"),
        ("My company", "Internal CA"),
    ],
)
def test_other_issuers_are_not_accused(organisation: str, cn: str, key: Key) -> None:
    authority = Authority(name=subject(cn, organisation))
    assert interceptor_of(PeerChain((authority.issue(key, [NAME]),))) is None


@pytest.mark.filterwarnings("ignore:Parsed a serial number")
def test_no_public_ca_of_this_machine_counts_as_an_interceptor() -> None:
    bundle = x509.load_pem_x509_certificates(Path(certifi.where()).read_bytes())
    assert len(bundle) > 100
    assert [root.subject for root in bundle if interceptor_of(PeerChain((root,)))] == []
