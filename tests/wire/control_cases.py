"""Control messages for the tests, and how to run a decoder."""

from __future__ import annotations

import json
import struct
from collections.abc import Iterable

import msgspec

from tests.wire.three_way import Parsed
from trunnel.names import KeyId
from trunnel.settings.agent import DataChoice
from trunnel.wire.control import (
    DataPath,
    Direct,
    Drain,
    Endpoint,
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
    RefusedName,
    Rejected,
    SessionLimits,
    Welcome,
)
from trunnel.wire.control_codec import ControlDecoder, encode

KEY = KeyId.of_spki(b"a key").value
INSTANCE = "0123456789abcdef" * 2
LIMITS = SessionLimits(streams=1000, heartbeat=10.0, dead_after=20.0, first_byte_timeout=30.0, idle_timeout=3600.0)
ENDPOINT = Endpoint(hostname="demo.example.com", url="https://demo.example.com")
HELLO = Hello(versions=[1], instance=INSTANCE, agent="0.1.0", where="laptop")
JOINING = Hello(versions=[1], instance=INSTANCE, agent="0.1.0", share=True, session="s-1", alone=True)
WELCOME = Welcome(
    version=1,
    session="s-1",
    relay=KEY,
    label="laptop of ü",
    suffixes=["example.com"],
    public_port=443,
    endpoints=[ENDPOINT],
    limits=LIMITS,
)
DIRECT = Direct(secret="0123456789abcdef" * 4, parked=64)
SAMPLES: list[Message] = [
    HELLO,
    JOINING,
    WELCOME,
    msgspec.structs.replace(HELLO, data=DataChoice.AUTO),
    msgspec.structs.replace(WELCOME, direct=DIRECT),
    Rejected("overloaded", "Too many agents.", 5.0),
    Rejected("unauthorized", "Unknown key."),
    Ping(0),
    Pong(2**53 - 1),
    Probe(1),
    Probe(2, DataPath.DIRECT),
    Probed(1),
    Probed(2**53 - 1, "It came back changed."),
    Drain(30.0, "Restart."),
    Endpoints([]),
    Endpoints([ENDPOINT]),
    Endpoints([ENDPOINT], [RefusedName("www.example.org", "No such record.")]),
    msgspec.structs.replace(HELLO, hostnames=["www.example.org"], invitation="i" * 43),
    MayIssue(id=1, names=["demo.example.com"]),
    MayIssue(id=2, names=["demo.example.com", "www.example.org"], renewal=True),
    Issuance(1),
    Issuance(2, 3600.0, "The week's certificates are gone."),
    IssueEnded(1, issued=False),
]


def frame(body: bytes | str) -> bytes:
    """Build a message by hand."""
    octets_ = body.encode() if isinstance(body, str) else body
    return struct.pack("!I", len(octets_)) + octets_


def drive(chunks: Iterable[bytes]) -> Parsed:
    """Run a decoder; what it holds of an unfinished message is not used up."""
    decoder = ControlDecoder()
    messages: list[Message] = []
    fed = b""
    for chunk in chunks:
        messages += decoder.feed_untrusted(chunk)
        fed += chunk
    return Parsed(messages, fed[len(fed) - decoder.pending :])


def decode(wire: bytes) -> Message:
    """Decode exactly one message."""
    (message,) = ControlDecoder().feed_untrusted(wire)
    return message


def changed(message: Message, **fields: object) -> bytes:
    """Return the frame of *message* with some JSON fields replaced."""
    return frame(json.dumps({**json.loads(encode(message)[4:]), **fields}))
