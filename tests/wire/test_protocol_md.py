"""PROTOCOL.md is normative: its vectors run, and its tables say what the code does."""

from __future__ import annotations

import re
import struct
from collections import Counter
from collections.abc import Callable
from importlib import resources
from itertools import groupby

import msgspec
import pytest
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

from trunnel import names
from trunnel.errors import ErrorCode, RejectCode, RemoteProtocolError
from trunnel.names import KeyId
from trunnel.settings import limits
from trunnel.transports.direct import Seal
from trunnel.wire import direct
from trunnel.wire.control import (
    TRANSITIONS,
    Drain,
    Endpoints,
    Hello,
    Issuance,
    IssueEnded,
    MayIssue,
    Message,
    Ping,
    Pong,
    Probe,
    Probed,
    Rejected,
    Welcome,
)
from trunnel.wire.control_codec import ControlDecoder, encode
from trunnel.wire.proxyprotocol import ProxyHeader, ProxyParser, StreamKind, TlvType, encode_v2, read_preface_untrusted

TEXT = resources.files("trunnel.wire").joinpath("PROTOCOL.md").read_text("utf-8")
LINES_MAX = 550
MESSAGES: dict[str, type[Message]] = {
    str(message.__struct_config__.tag): message
    for message in (
        Hello,
        Welcome,
        Rejected,
        Ping,
        Pong,
        Probe,
        Probed,
        Drain,
        Endpoints,
        MayIssue,
        Issuance,
        IssueEnded,
    )
}

Vector = dict[str, str]


def vectors() -> list[tuple[str, Vector]]:
    """Return the kind and the fields of every vector: groups of lines in fenced blocks marked `vector`."""
    found: list[tuple[str, Vector]] = []
    for kind, block in re.findall(r"^```vector (\S+)\n(.*?)^```$", TEXT, re.MULTILINE | re.DOTALL):
        for paragraph in block.strip().split("\n\n"):
            joined = re.sub(r"\n +", "", paragraph)
            found.append((kind, dict(re.split(r" +", line, maxsplit=1) for line in joined.split("\n"))))
    return found


def rows(*columns: str) -> list[list[str]]:
    """Return the cells of the one table with these column heads."""
    head = "| " + " | ".join(columns) + " |\n"
    assert TEXT.count(head) == 1, head
    table = TEXT.split(head)[1].split("\n\n")[0]
    return [[cell.strip().strip("`") for cell in line.strip("|").split("|")] for line in table.splitlines()[1:]]


# --- vectors ----------------------------------------------------------------------------------


def run_key_id(vector: Vector) -> None:
    """An id is that of the key, and parses."""
    assert KeyId.of_spki(bytes.fromhex(vector["spki"])) == KeyId.parse(vector["id"])
    assert len(vector["id"]) == names.AGENT_ID_CHARS


def run_control(vector: Vector) -> None:
    """A body decodes; in our spelling it is what we would send."""
    body = vector["json"].encode()
    (message,) = ControlDecoder().feed_untrusted(struct.pack("!I", len(body)) + body)
    ours = encode(message)
    assert ours[4:].decode() == vector.get("reads-as", vector["json"])
    assert ours.hex() == vector.get("wire", ours.hex())


def run_control_refused(vector: Vector) -> None:
    """The bytes are refused, and only at the end: cut before it, they wait for more."""
    wire = bytes.fromhex(vector["wire"])
    assert ControlDecoder().feed_untrusted(wire[:-1]) == []
    with pytest.raises(RemoteProtocolError):
        ControlDecoder().feed_untrusted(wire)


def run_preface(vector: Vector) -> None:
    """A preface has the fields named and no other."""
    header = ProxyParser(versions=(2,)).feed_untrusted(bytes.fromhex(vector["wire"]))
    assert header is not None
    preface = read_preface_untrusted(header)
    fields = {
        "stream": preface.stream,
        "kind": preface.kind.name.lower(),
        "visitor": preface.visitor,
        "local": preface.local,
        "authority": preface.authority,
        "endpoint": preface.endpoint,
        "alpn": preface.alpn and preface.alpn.decode(),
    }
    expected = {key: value for key, value in vector.items() if key != "wire"}
    assert {key: str(value) for key, value in fields.items() if value is not None} == expected


def run_preface_refused(vector: Vector) -> None:
    """The preface is refused with its code."""
    with pytest.raises(RemoteProtocolError) as refusal:
        read_preface_untrusted(parse(vector))
    assert refusal.value.code is ErrorCode.BAD_PREFACE


def run_checksum(vector: Vector) -> None:
    """A header with a checksum reads, and is what we would send."""
    header = parse(vector)
    assert (str(header.source), str(header.destination)) == (vector["source"], vector["destination"])
    assert encode_v2(header, checksum=True).hex() == vector["wire"]
    assert TlvType.CRC32C not in {tlv.kind for tlv in header.tlvs}


def parse(vector: Vector) -> ProxyHeader:
    """Parse the header of a vector."""
    header = ProxyParser(versions=(2,)).feed_untrusted(bytes.fromhex(vector["wire"]))
    assert header is not None
    return header


def run_direct(vector: Vector) -> None:
    """An exchange is ours to the byte, and its keys are those of another HKDF."""
    raw = {name: bytes.fromhex(vector[name]) for name in ("secret", "nonce-a", "nonce-r", "preface", "header")}
    preface = direct.Preface(
        direct.relay_digest(KeyId.parse(vector["relay"])), direct.session_tag(vector["session"]), raw["nonce-a"]
    )
    assert preface.encode() == raw["preface"]
    keys = direct.DirectKeys.derive(raw["secret"], raw["nonce-a"], raw["nonce-r"])
    for label in (direct.MAC_AGENT, direct.MAC_RELAY, direct.SEAL_AGENT, direct.SEAL_RELAY):
        hkdf = HKDF(SHA256(), 32, salt=raw["nonce-a"] + raw["nonce-r"], info=b"trunnel direct 1" + label)
        assert hkdf.derive(raw["secret"]) == getattr(keys, label.decode().replace(" ", "_"))
    challenge = keys.challenge(raw["preface"], raw["nonce-r"])
    assert challenge.hex() == vector["challenge"]
    assert keys.proof(raw["preface"], challenge).hex() == vector["proof"]
    sealed = Seal(keys.seal_relay, direct.SEAL_RELAY).seal(raw["header"])
    assert (direct.sealed_length(raw["header"]) + sealed).hex() == vector["taken"]
    answer = bytes([int(vector["answer"])])
    assert Seal(keys.seal_agent, direct.SEAL_AGENT).seal(answer).hex() == vector["answered"]


def run_direct_refused(vector: Vector) -> None:
    """The bytes are no preface of ours."""
    with pytest.raises(RemoteProtocolError):
        direct.read_preface_untrusted(bytes.fromhex(vector["preface"]))


RUNNERS: dict[str, Callable[[Vector], None]] = {
    "key-id": run_key_id,
    "control": run_control,
    "control-refused": run_control_refused,
    "preface": run_preface,
    "preface-refused": run_preface_refused,
    "checksum": run_checksum,
    "direct": run_direct,
    "direct-refused": run_direct_refused,
}


@pytest.mark.parametrize(("kind", "vector"), vectors())
def test_a_vector_holds(kind: str, vector: Vector) -> None:
    RUNNERS[kind](vector)


def test_there_are_vectors_of_every_kind() -> None:
    """An extraction that finds nothing must not pass."""
    kinds = Counter(kind for kind, _ in vectors())
    assert set(kinds) == set(RUNNERS)
    assert kinds.total() >= 2 * len(RUNNERS)
    fields = Counter(field for _, vector in vectors() for field in vector)
    assert all(
        fields[field] == len(re.findall(rf"^{field} ", TEXT, re.MULTILINE)) for field in ("spki", "json", "wire")
    )


# --- tables -----------------------------------------------------------------------------------


def test_the_table_of_messages_names_every_field() -> None:
    table = rows("kind", "field", "form", "meaning")
    documented = [(kind.strip("`"), field, "optional" in form) for kind, field, form, _ in table]
    actual = [
        (kind, field.encode_name, not field.required)
        for kind, message in MESSAGES.items()
        for field in msgspec.structs.fields(message)
    ]
    assert documented == actual


def test_the_table_of_phases_is_the_table_of_the_code() -> None:
    documented = {
        (phase.split("`")[1], kind): then
        for phase, kinds, then in rows("phase of the reader", "receives", "then")
        for kind in re.findall(r"[a-z-]+", kinds)
    }
    names_of = {message: kind for kind, message in MESSAGES.items()}
    assert documented == {(str(phase), names_of[kind]): str(then) for (phase, kind), then in TRANSITIONS.items()}


def test_the_table_of_reasons_is_the_enumeration() -> None:
    table = {code: retry == "yes" for code, retry, _ in rows("code", "retry", "meaning")}
    assert table == {str(code): code.retryable for code in RejectCode}


def test_the_table_of_codes_is_the_enumeration() -> None:
    table = {name: int(code, 16) for code, name, _ in rows("code", "name", "sent when")}
    assert table == {code.name: int(code) for code in ErrorCode}


def test_the_tables_of_data_connections_are_the_enumerations() -> None:
    refusals = {name: int(status) for status, name, _ in rows("status", "name", "meaning")}
    assert refusals == {refusal.name: int(refusal) for refusal in direct.Refusal}
    answers = {(name, int(number), code) for number, name, code in rows("answer", "name", "in a session")}
    assert answers == {(answer.name, int(answer), answer.code.name) for answer in direct.Answer}


def test_the_sizes_of_data_connections_are_those_of_the_code() -> None:
    stated = re.findall(r"(\d+), the (preface|challenge|proof)\b", TEXT)
    stated += [(size, "answer") for size in re.findall(r"sealed answer (\d+)", TEXT)]
    assert {name: int(size) for size, name in stated} == {
        "preface": direct.PREFACE_SIZE,
        "challenge": direct.CHALLENGE_SIZE,
        "proof": direct.PROOF_SIZE,
        "answer": direct.ANSWER_SIZE,
    }


def test_the_table_of_tlvs_is_the_enumeration() -> None:
    table = {name: int(code, 16) for code, name, *_ in rows("TLV", "name", "value", "meaning")}
    assert table == {name: TlvType[name] for name in table}
    assert {name for name, code in table.items() if code >= TlvType.STREAM_KIND} == {"STREAM_KIND", "ENDPOINT"}
    (kinds,) = (value for _, name, _, value in rows("TLV", "name", "value", "meaning") if name == "STREAM_KIND")
    assert {int(number): name.upper() for number, name in re.findall(r"(\d) (\w+)", kinds)} == {
        int(kind): kind.name for kind in StreamKind
    }


def test_every_limit_in_the_text_is_the_limit_of_the_code() -> None:
    stated = re.findall(r"\b([A-Z]+(?:_[A-Z0-9]+)+|HEARTBEAT) = ([0-9.]+)", TEXT)
    assert len(stated) > len(rows("attack", "what holds", "limit"))
    assert {name: float(value) for name, value in stated} == {name: float(getattr(limits, name)) for name, _ in stated}


def test_every_attack_has_a_limit() -> None:
    assert not [attack for attack, _, limit in rows("attack", "what holds", "limit") if " = " not in limit]


def test_names_in_capitals_exist() -> None:
    """What the text refers to is a limit, a code, or a word of HTTP/2, QUIC, TLS or PROXY."""
    ours = {*vars(limits), *(code.name for code in ErrorCode), *(tlv.name for tlv in TlvType)}
    ours |= {refusal.name for refusal in direct.Refusal}
    foreign = {"END_STREAM", "RST_STREAM", "WINDOW_UPDATE", "AF_UNSPEC"}
    foreign |= {"CONNECTION_CLOSE", "MAX_DATA", "MAX_STREAM_DATA", "RESET_STREAM", "STOP_SENDING"}
    foreign |= {"STOP_SENDING", "RESET_STREAM", "CONNECTION_CLOSE", "MAX_STREAM_DATA", "MAX_DATA"}
    assert not set(re.findall(r"\b[A-Z]+(?:_[A-Z0-9]+)+\b", TEXT)) - ours - foreign


def test_bounds_in_the_table_of_messages_are_those_of_the_code() -> None:
    forms = {(kind, field): form for kind, field, form, _ in rows("kind", "field", "form", "meaning")}
    for (kind, field), number in {
        ("hello", "versions"): limits.CONTROL_LIST_MAX,
        ("welcome", "suffixes"): limits.CONTROL_LIST_MAX,
        ("welcome", "endpoints"): limits.CONTROL_ENDPOINTS_MAX,
        ("endpoints", "endpoints"): limits.CONTROL_ENDPOINTS_MAX,
        ("welcome", "session"): limits.STREAM_NAME_MAX,
    }.items():
        assert str(number) in forms[kind, field].split()


def test_the_text_is_short_and_its_sections_are_numbered() -> None:
    assert len(TEXT.splitlines()) < LINES_MAX
    sections = [int(number) for number in re.findall(r"^## (\d+)\. ", TEXT, re.MULTILINE)]
    assert [number for number, _ in groupby(sections)] == list(range(1, len(sections) + 1))
    parts: dict[int, list[int]] = {}
    for number, part in re.findall(r"^### (\d+)\.(\d+) ", TEXT, re.MULTILINE):
        parts.setdefault(int(number), []).append(int(part))
    assert all(found == list(range(1, len(found) + 1)) for found in parts.values())
    for number, part in re.findall(r"section (\d+)(?:\.(\d+))?", TEXT):
        assert int(number) in sections
        assert not part or int(part) in parts[int(number)]


def test_the_bytes_of_a_canary_are_as_many_as_an_agent_takes() -> None:
    (least, most) = re.findall(r"sends (\d+) to (\d+)\s+bytes of its choice", TEXT)[0]
    assert (int(least), int(most)) == (1, limits.CANARY_BYTES_MAX)
