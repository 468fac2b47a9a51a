"""What of aioquic's inside is used: a new release that changed it is named here, hook by hook.

When one of these fails: read what changed, look at the place in
`trunnel/transports/quic_{credit,guard,halves,streams}.py`, run the tests beside
this file, then put the new figure here.
"""

from __future__ import annotations

import ast
import hashlib
import inspect
import re
from importlib import metadata

import pytest
from aioquic import tls
from aioquic.quic.connection import Limit, QuicConnection
from aioquic.quic.packet_builder import QuicPacketBuilder
from aioquic.quic.rangeset import RangeSet
from aioquic.quic.recovery import QuicPacketRecovery
from aioquic.quic.stream import QuicStream, QuicStreamReceiver, QuicStreamSender

from tests.rules.sources import modules
from tests.transports.quic_wire import Wire
from trunnel.transports import quic_credit

FILES = {f"trunnel/transports/quic_{name}.py" for name in ("credit", "guard", "halves", "streams")}
"""The only files that may use private names of aioquic."""

HOOKS: dict[tuple[type, str], str] = {
    (QuicConnection, "__init__"): "81aea715e34447e1",
    (QuicConnection, "_initialize"): "6a41681e541c05d7",
    (QuicConnection, "_payload_received"): "612b67759a96c701",
    (QuicConnection, "receive_datagram"): "3c7f29826050cbfe",
    (QuicConnection, "datagrams_to_send"): "f4eb22c8add260fe",
    (QuicConnection, "handle_timer"): "8ebd76a179bf5e25",
    (QuicConnection, "get_timer"): "07184a05f894e968",
    (QuicConnection, "close"): "f24ea1b2912e68d7",
    (QuicConnection, "_close_begin"): "d8cdcfd4513906bf",
    (QuicConnection, "_write_application"): "c37bf64378f72b2f",
    (QuicConnection, "_write_connection_limits"): "02c42c5455ae1a31",
    (QuicConnection, "_write_stream_limits"): "398d4a898f7c580f",
    (QuicConnection, "_write_stream_frame"): "9bc0be962394a322",
    (QuicConnection, "_write_stop_sending_frame"): "057f50750f9f51ba",
    (QuicConnection, "_write_reset_stream_frame"): "72c28abb1c9bb5e0",
    (QuicConnection, "_get_or_create_stream"): "aee09c84cd0da114",
    (QuicConnection, "_get_or_create_stream_for_send"): "b68479a29862b421",
    (QuicConnection, "_handle_stream_frame"): "8c79348a854e307d",
    (QuicConnection, "_handle_reset_stream_frame"): "0a1801842064e9dd",
    (QuicConnection, "_handle_stop_sending_frame"): "57b0b54a8467ecb5",
    (QuicConnection, "_handle_crypto_frame"): "e77f8695d9acaf8e",
    (QuicConnection, "_handle_ack_frame"): "a9cf2707aa0f99a5",
    (QuicConnection, "_handle_max_data_frame"): "e5c49776cb2c9b0b",
    (QuicConnection, "_handle_max_stream_data_frame"): "c94e4873026aaa68",
    (QuicConnection, "_on_max_stream_data_delivery"): "76e906ea95ee03fe",
    (QuicConnection, "_on_connection_limit_delivery"): "ffc582d72ac9685a",
    (QuicConnection, "_unblock_streams"): "cfde0b0287e2a38d",
    (QuicConnection, "_stream_is_discarded"): "d4812b6968024ae7",
    (QuicConnection, "_stream_limit"): "32d840c7ec072814",
    (QuicStreamSender, "__init__"): "a049a2be2f28f69d",
    (QuicStreamSender, "write"): "77d188425093015b",
    (QuicStreamSender, "get_frame"): "c9d68a424b94b52b",
    (QuicStreamSender, "reset"): "76d86e366e8e0ef7",
    (QuicStreamSender, "get_reset_frame"): "895346a5d96e575b",
    (QuicStreamSender, "on_data_delivery"): "675e1c2812ea3744",
    (QuicStreamSender, "on_reset_delivery"): "34732145acec341d",
    (QuicStreamReceiver, "__init__"): "d7dd149186a614ba",
    (QuicStreamReceiver, "handle_frame"): "c54bce9f11e6f2de",
    (QuicStreamReceiver, "handle_reset"): "3a2b7a53512a95cc",
    (QuicStreamReceiver, "stop"): "8c48d058420ac207",
    (QuicStreamReceiver, "get_stop_frame"): "affcdd65f5e9d857",
    (QuicStreamReceiver, "on_stop_sending_delivery"): "25979d1ce34ab75c",
    (QuicStreamReceiver, "_pull_data"): "0b249a0b2d9357b4",
    (QuicStream, "__init__"): "4b35bc18008633d3",
    (RangeSet, "__getitem__"): "190728baae8e34ec",
    (Limit, "__init__"): "48833301a715ce06",
    (QuicPacketBuilder, "start_frame"): "53af20167bc2f0e0",
    (QuicPacketRecovery, "on_ack_received"): "1a7c693479084333",
    (QuicPacketRecovery, "_on_packets_lost"): "77a0ba7595137455",
    (tls.Context, "_server_handle_certificate"): "8300245453e1b8ee",
    (tls.Context, "_server_handle_certificate_verify"): "54a8dfacdbb96066",
    (tls.Context, "_server_handle_finished"): "6333c1d300ad9c6a",
    (tls.Context, "_check_certificate_verify_signature"): "68c355898f7e639f",
    (tls.Context, "_set_peer_certificate"): "beec9ba2af2e1e68",
}
"""(class, method) -> SHA-256 of its source, shortened: what we extend, replace, or whose inside we depend on."""

ATTRIBUTES: dict[str, set[str]] = {
    "connection": {
        "_QuicConnection__frame_handlers",
        "_ack_eliciting_sent_since_receipt",
        "_close_at",
        "_close_event",
        "_close_pending",
        "_crypto_buffers",
        "_crypto_streams",
        "_cryptos",
        "_cryptos_initial",
        "_handshake_complete",
        "_is_client",
        "_local_max_data",
        "_local_max_stream_data_bidi_local",
        "_local_max_stream_data_bidi_remote",
        "_local_max_stream_data_uni",
        "_local_max_streams_bidi",
        "_local_max_streams_uni",
        "_local_next_stream_id_bidi",
        "_loss",
        "_max_datagram_size",
        "_network_paths",
        "_remote_max_data",
        "_remote_max_data_used",
        "_remote_max_stream_data_bidi_remote",
        "_remote_max_streams_bidi",
        "_spaces",
        "_state",
        "_streams",
        "_streams_blocked_bidi",
        "_streams_queue",
        "tls",
    },
    "stream": {
        "is_blocked",
        "is_finished",
        "max_stream_data_local",
        "max_stream_data_local_sent",
        "max_stream_data_remote",
        "receiver",
        "sender",
        "stream_id",
    },
    "sender": {
        "_buffer",
        "_buffer_fin",
        "_buffer_start",
        "_buffer_stop",
        "_pending",
        "_pending_eof",
        "_reset_error_code",
        "highest_offset",
        "is_finished",
        "reset_pending",
    },
    "receiver": {
        "_buffer_start",
        "_final_size",
        "_stream_id",
        "highest_offset",
        "is_finished",
        "stop_pending",
    },
    "limit": {
        "frame_type",
        "sent",
        "used",
        "value",
    },
    "recovery": {
        "_rtt_smoothed",
        "_send_probe",
        "spaces",
    },
    "tls": {
        "_peer_certificate",
        "_peer_certificate_chain",
        "_request_client_certificate",
    },
}
"""What we read and set: kind of object -> attributes."""


def fingerprint(owner: type, name: str) -> str:
    return hashlib.sha256(inspect.getsource(getattr(owner, name)).encode()).hexdigest()[:16]


@pytest.mark.parametrize(("owner", "name"), HOOKS, ids=lambda part: getattr(part, "__name__", part))
def test_a_hook_is_as_it_was(owner: type, name: str) -> None:
    assert hasattr(owner, name), f"aioquic {metadata.version('aioquic')} has no {owner.__name__}.{name} any more"
    found = fingerprint(owner, name)
    assert found == HOOKS[owner, name], (
        f"aioquic {metadata.version('aioquic')} changed {owner.__name__}.{name}: look at it, then note {found}"
    )


@pytest.mark.parametrize("kind", ATTRIBUTES)
def test_an_attribute_that_is_used_exists(kind: str) -> None:
    wire = Wire()
    (stream,) = wire.open()
    wire.settle()
    there = {
        "connection": wire.client,
        "stream": wire.client._streams[stream],
        "sender": wire.client._streams[stream].sender,
        "receiver": wire.client._streams[stream].receiver,
        "limit": wire.client._local_max_data,
        "recovery": wire.client._loss,
        "tls": wire.server.tls,
    }[kind]
    missing = {name for name in ATTRIBUTES[kind] if not hasattr(there, name)}
    assert not missing, f"aioquic {metadata.version('aioquic')}: its {kind} has no {', '.join(sorted(missing))}"


def _private_uses() -> set[str]:
    """Names with a leading underscore that our files use or define."""
    used: set[str] = set()
    for module in modules("trunnel"):
        for node in ast.walk(module.tree) if module.path in FILES else ():
            match node:
                case ast.Attribute(attr=name) | ast.FunctionDef(name=name) if re.match("_[^_]", name):
                    used.add(name)
                case _:
                    pass
    return used


def test_every_private_name_of_aioquic_that_we_use_is_listed() -> None:
    wire = Wire()
    plain = QuicConnection(configuration=wire.client.configuration)
    theirs = {
        name
        for each in (plain, QuicStream(), QuicStreamSender(1, True), QuicStreamReceiver(1, True))
        for name in dir(each)
    }
    theirs |= set(dir(wire.server.tls)) | set(dir(wire.server._loss))
    listed = {name for _, name in HOOKS} | set().union(*ATTRIBUTES.values())
    assert sorted((_private_uses() & theirs) - listed) == []


def test_no_other_file_of_the_package_touches_them() -> None:
    """Every access to a private member of another object is ruff's SLF001; here: that nobody silences it elsewhere."""
    for module in modules("trunnel/transports"):
        if "quic" in module.path and module.path not in FILES:
            assert "SLF001" not in module.text, module.path
            assert "reportPrivateUsage" not in module.text, module.path


def test_the_release_is_pinned_below_the_next_minor() -> None:
    found = re.search(r"aioquic(>=[\d.]+,<[\d.]+)", " ".join(metadata.requires("trunnel") or []))
    version = metadata.version("aioquic")
    assert version.startswith("1.7."), version
    assert found is None or found.group(1) == ">=1.7.2,<1.8"
    assert quic_credit.__doc__ is not None
