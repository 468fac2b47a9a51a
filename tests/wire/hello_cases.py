"""The table of ClientHello cases, CH-01 to CH-60: what is sent, and what we must make of it.

One entry a case; several entries may share a row.  A row about time or FIN is
here as the bytes that have come by then: the parser's part of it is NEED_MORE,
and what to do about it is the ingress's.
"""

from __future__ import annotations

import random
from dataclasses import dataclass, replace
from typing import Final

from tests.wire import hello_builder as build
from tests.wire.hello_builder import BASE, EMPTY_RECORD, NAME, Hello, fragment, in_records_of, record, sni, vector

ROUTE: Final = "route:a.example"
NO_SNI: Final = "no-sni"
MALFORMED: Final = "reject-malformed"
TOO_LARGE: Final = "reject-too-large"
NOT_TLS: Final = "not-tls"
BAD_NAME: Final = "bad-name"
NEED_MORE: Final = "need-more"

PLAIN: Final = Hello()
MESSAGE: Final = PLAIN.message()
STREAM: Final = PLAIN.stream()
EVIL: Final = b"b.example"
AT_NAME: Final = MESSAGE.index(NAME) + 4
"""Offset in the middle of the name."""


@dataclass(frozen=True, slots=True)
class Case:
    """One stream and its verdict."""

    row: str
    what: str
    stream: bytes
    verdict: str

    def __str__(self) -> str:
        return f"{self.row}-{self.what}"


def _server_name(body: bytes) -> bytes:
    return PLAIN.replacing(build.SERVER_NAME, body).stream()


def _named(name: bytes) -> bytes:
    return PLAIN.with_name(name).stream()


def _over_records(size: int) -> bytes:
    """Return a hello of *size* bytes in records as large as may be."""
    return in_records_of(PLAIN.padded(size).message(), 1 << 14)


_UNKNOWN: Final = tuple((0x5000 + number, b"") for number in range(1000))
_GREASY: Final = replace(
    PLAIN,
    ciphers=build.numbers([build.GREASE, 0x1301]),
    extensions=(
        (build.GREASE, b""),
        sni(NAME),
        *BASE[1:2],
        (build.SUPPORTED_GROUPS, vector(2, build.numbers([build.GREASE, build.X25519]))),
        build.versions(build.GREASE, 0x0304, 0x0303),
        build.key_shares((build.GREASE, b"\x00"), (build.X25519, bytes(32))),
        build.alpn(b"\x3a\x3a", b"h2"),
        (0xFAFA, b"\x00"),
    ),
)
_ECH_OUTER: Final = b"\x00" + build.numbers([1, 1]) + b"\x2a" + vector(2, bytes(32)) + vector(2, bytes(160))
_PSK: Final = build.pre_shared_keys(b"ticket")
_PSK_MODES: Final = (build.PSK_KEY_EXCHANGE_MODES, b"\x01\x01")
_X: Final = b"x" * 63

CASES: Final = (
    # --- records and segments -----------------------------------------------------------------
    Case("CH-01", "baseline", STREAM, ROUTE),
    Case("CH-01", "sni-last", replace(PLAIN, extensions=(*BASE, sni(NAME))).stream(), ROUTE),
    Case("CH-01", "sni-after-8kB", Hello(extensions=BASE).padded(8000).adding(sni(NAME)).stream(), ROUTE),
    Case("CH-02", "cut-inside-the-name", fragment(MESSAGE, [AT_NAME]), ROUTE),
    Case("CH-03", "cut-after-type", fragment(MESSAGE, [1]), ROUTE),
    Case("CH-03", "cut-after-header", fragment(MESSAGE, [4]), ROUTE),
    Case("CH-04", "records-of-1-byte", in_records_of(MESSAGE, 1), ROUTE),
    Case("CH-04", "records-of-32-bytes", in_records_of(MESSAGE, 32), ROUTE),
    Case("CH-04", "256-records", fragment(PLAIN.padded(300).message(), range(1, 256)), ROUTE),
    Case("CH-04", "257-records", fragment(PLAIN.padded(300).message(), range(1, 257)), TOO_LARGE),
    Case("CH-05", "first-byte-of-many", STREAM[:1], NEED_MORE),  # every case is also fed byte by byte
    Case("CH-06", "split-in-record-header", STREAM[:3], NEED_MORE),
    Case("CH-07", "empty-record-first", EMPTY_RECORD + STREAM, ROUTE),
    Case("CH-07", "empty-record-between", fragment(MESSAGE, [50, 50]), ROUTE),
    Case("CH-07", "32-empty-records", EMPTY_RECORD * 32 + STREAM, ROUTE),
    Case("CH-07", "32-twice", EMPTY_RECORD * 32 + fragment(MESSAGE, [9] * 33), ROUTE),
    Case("CH-08", "33-empty-records", EMPTY_RECORD * 33 + STREAM, MALFORMED),
    Case("CH-08", "100-empty-records", EMPTY_RECORD * 100 + STREAM, MALFORMED),
    Case("CH-09", "change-cipher-spec-first", record(b"\x01", kind=20) + STREAM, NOT_TLS),
    Case("CH-09", "alert-first", record(b"\x01\x00", kind=21) + STREAM, NOT_TLS),
    Case("CH-09", "application-data-first", record(bytes(20), kind=23) + STREAM, NOT_TLS),
    Case(
        "CH-09", "alert-between", record(MESSAGE[:50]) + record(b"\x01\x00", kind=21) + record(MESSAGE[50:]), MALFORMED
    ),
    *(
        Case("CH-10", f"record-version-{version:04x}", record(MESSAGE, version=version), ROUTE)
        for version in (0x0300, 0x0301, 0x0303, 0x0304, 0x03FF)
    ),
    Case("CH-10", "mixed", record(MESSAGE[:50]) + record(MESSAGE[50:], version=0x0303), ROUTE),
    Case("CH-11", "record-version-0200", record(MESSAGE, version=0x0200), NOT_TLS),
    Case("CH-11", "record-version-0400", record(MESSAGE, version=0x0400), NOT_TLS),
    *(
        Case("CH-12", f"legacy-version-{version:04x}", replace(PLAIN, legacy_version=version).stream(), ROUTE)
        for version in (0x0301, 0x0302, 0x0304, 0x0305, 0xFFFF)
    ),
    Case("CH-13", "legacy-version-0300", replace(PLAIN, legacy_version=0x0300).stream(), MALFORMED),
    Case("CH-13", "legacy-version-0002", replace(PLAIN, legacy_version=0x0002).stream(), MALFORMED),
    # --- sizes --------------------------------------------------------------------------------
    *(Case("CH-14", f"{size}B", PLAIN.padded(size).stream(), ROUTE) for size in (1400, 1700, 4000, 8000, 12000)),
    Case("CH-15", "15900B-sni-first", PLAIN.padded(15_900).stream(), ROUTE),
    Case("CH-15", "15900B-sni-last", PLAIN.with_name(None).padded(15_900).adding(sni(NAME)).stream(), ROUTE),
    Case("CH-15", "16384B", PLAIN.padded(16_384).stream(), ROUTE),
    Case("CH-16", "16385B", _over_records(16_385), TOO_LARGE),
    Case("CH-16", "20000B", _over_records(20_000), TOO_LARGE),
    Case("CH-16", "60000B", _over_records(60_000), TOO_LARGE),
    Case("CH-17", "record-17000B", record(PLAIN.padded(17_000).message()), TOO_LARGE),
    Case("CH-17", "record-header-alone", record(MESSAGE, lie=(1 << 14) + 1 - len(MESSAGE))[:5], TOO_LARGE),
    Case("CH-18", "message-of-16MB", record(b"\x01\xff\xff\xff"), TOO_LARGE),
    Case("CH-19", "message-never-completes", replace(PLAIN, message_lie=4000).stream(), NEED_MORE),
    Case("CH-20", "message-cut-short", replace(PLAIN, message_lie=-5).stream(), MALFORMED),
    # --- the server_name extension ------------------------------------------------------------
    Case("CH-21", "twice-the-same", PLAIN.adding(sni(NAME)).stream(), MALFORMED),
    Case("CH-21", "twice-different", PLAIN.adding(sni(EVIL)).stream(), MALFORMED),
    Case("CH-22", "two-names", _server_name(sni(NAME, EVIL)[1]), MALFORMED),
    Case("CH-23", "type-1-then-host", _server_name(sni(EVIL, NAME, kinds=[1, 0])[1]), MALFORMED),
    Case("CH-23", "host-then-type-1", _server_name(sni(NAME, EVIL, kinds=[0, 1])[1]), MALFORMED),
    Case("CH-23", "type-255", _server_name(sni(NAME, kinds=[255])[1]), MALFORMED),
    Case("CH-24", "extension-empty", _server_name(b""), MALFORMED),
    Case("CH-24", "list-empty", _server_name(vector(2, b"")), MALFORMED),
    Case("CH-25", "name-empty", _named(b""), MALFORMED),
    Case("CH-26", "name-254B", _named(_X + b"." + _X + b"." + _X + b"." + b"x" * 62), BAD_NAME),
    Case("CH-26", "name-255B", _named(_X + b"." + _X + b"." + _X + b"." + _X), BAD_NAME),
    *(Case("CH-27", f"name-{size}B", _named(b"x" * size), MALFORMED) for size in (256, 300, 1000)),
    Case("CH-28", "nul-inside", _named(b"a.example\x00.evil.example"), MALFORMED),
    Case("CH-28", "nul-at-the-end", _named(b"a.example\x00"), MALFORMED),
    Case("CH-28", "nul-only", _named(b"\x00"), MALFORMED),
    Case("CH-29", "list-length-too-big", _server_name(sni(NAME, lie=1)[1]), MALFORMED),
    Case("CH-30", "list-length-too-small", _server_name(sni(NAME, lie=-1)[1]), MALFORMED),
    Case("CH-31", "bytes-after-the-list", _server_name(sni(NAME, tail=b"\x00\x00")[1]), MALFORMED),
    Case("CH-32", "name-length-200", _server_name(vector(2, b"\x00\x00\xc8" + NAME)), MALFORMED),
    Case("CH-33", "name-runs-into-next", _server_name(vector(2, b"\x00" + vector(2, NAME, lie=4), lie=4)), MALFORMED),
    Case("CH-34", "name-length-too-small", _server_name(vector(2, b"\x00" + vector(2, NAME, lie=-5))), MALFORMED),
    # --- the message around it ----------------------------------------------------------------
    Case(
        "CH-35",
        "extension-longer-than-block",
        Hello(extensions=(*BASE, (0, b"\x00\x0c")), block_lie=-1).stream(),
        MALFORMED,
    ),
    Case("CH-35", "block-too-short", replace(PLAIN, block_lie=-2).stream(), MALFORMED),
    Case("CH-35", "block-too-long", replace(PLAIN, block_lie=2).stream(), MALFORMED),
    Case("CH-36", "bytes-after-extensions", replace(PLAIN, tail=bytes(3)).stream(), MALFORMED),
    Case("CH-37", "session-id-33B", replace(PLAIN, session_id=bytes(33)).stream(), MALFORMED),
    Case("CH-37", "session-id-0B", replace(PLAIN, session_id=b"").stream(), ROUTE),
    Case("CH-38", "ciphers-odd", replace(PLAIN, ciphers=bytes(5)).stream(), MALFORMED),
    Case("CH-38", "ciphers-empty", replace(PLAIN, ciphers=b"").stream(), MALFORMED),
    Case("CH-38", "compression-empty", replace(PLAIN, compression=b"").stream(), MALFORMED),
    Case("CH-38", "compression-without-null", replace(PLAIN, compression=b"\x01").stream(), MALFORMED),
    Case("CH-39", "no-extensions-field", replace(PLAIN, extensions=None).stream(), NO_SNI),
    Case("CH-39", "no-extensions", replace(PLAIN, extensions=()).stream(), NO_SNI),
    Case("CH-39", "no-name-among-extensions", PLAIN.with_name(None).stream(), NO_SNI),
    Case("CH-40", "grease-everywhere", _GREASY.stream(), ROUTE),
    Case("CH-41", "1000-unknown-first", PLAIN.adding(*_UNKNOWN, last=False).stream(), ROUTE),
    Case("CH-41", "1000-unknown-last", PLAIN.adding(*_UNKNOWN).stream(), ROUTE),
    Case("CH-42", "psk-first", PLAIN.adding(_PSK, last=False).adding(_PSK_MODES).stream(), MALFORMED),
    Case("CH-42", "psk-last", PLAIN.adding(_PSK_MODES, _PSK).stream(), ROUTE),
    Case("CH-43", "ech-outer", PLAIN.adding((build.ENCRYPTED_CLIENT_HELLO, _ECH_OUTER)).stream(), ROUTE),
    Case("CH-44", "ech-inner-in-clear", PLAIN.adding((build.ENCRYPTED_CLIENT_HELLO, b"\x01")).stream(), ROUTE),
    Case("CH-45", "draft-esni", PLAIN.with_name(None).adding((build.DRAFT_ESNI, bytes(366))).stream(), NO_SNI),
    # --- the name -----------------------------------------------------------------------------
    Case("CH-46", "upper-case", _named(b"A.EXAMPLE"), ROUTE),
    Case("CH-47", "trailing-dot", _named(b"a.example."), ROUTE),
    Case("CH-47", "two-trailing-dots", _named(b"a.example.."), BAD_NAME),
    *(Case("CH-48", repr(name)[2:-1], _named(name), BAD_NAME) for name in (b".", b"..", b".a.example", b"a..example")),
    Case("CH-48", "label-64B", _named(b"x" * 64 + b".example"), BAD_NAME),
    Case("CH-49", "utf-8", _named("bücher.example".encode()), BAD_NAME),
    Case("CH-49", "latin-1", _named(b"\xff.example"), BAD_NAME),
    Case("CH-49", "ideographic-dot", _named("a\u3002example".encode()), BAD_NAME),
    Case("CH-49", "kelvin-sign", _named("\u212a.example".encode()), BAD_NAME),
    Case("CH-50", "idn-a-label", _named(b"xn--bcher-kva.example"), "route:xn--bcher-kva.example"),
    Case("CH-50", "underscore", _named(b"a_b.example"), "route:a_b.example"),
    Case("CH-50", "single-label", _named(b"localhost"), "route:localhost"),
    *(
        Case("CH-51", repr(name)[2:-1], _named(name), BAD_NAME)
        for name in (b"192.0.2.1", b"2001:db8::1", b"[2001:db8::1]")
    ),
    *(
        Case("CH-52", repr(name)[2:-1], _named(name), BAD_NAME)
        for name in (
            b"a.example:443",
            b"a.example ",
            b"a.example\r\nX: y",
            b"../../etc/passwd",
            b"%s%n%x",
            b"*.example",
        )
    ),
    # --- other beginnings and endings ---------------------------------------------------------
    Case("CH-53", "sslv2-hello", b"\x80\x2e\x01\x03\x01" + bytes(43), NOT_TLS),
    Case("CH-54", "proxy-v1-ahead", b"PROXY TCP4 192.0.2.1 192.0.2.2 1 443\r\n" + STREAM, NOT_TLS),
    Case("CH-54", "proxy-v2-ahead", b"\r\n\r\n\x00\r\nQUIT\n\x21\x11\x00\x0c" + bytes(12) + STREAM, NOT_TLS),
    Case("CH-55", "early-data-follows", STREAM + record(b"\x01", kind=20) + record(bytes(600), kind=23), ROUTE),
    Case("CH-56", "second-message-in-record", record(MESSAGE + b"\x14\x00\x00\x04done"), ROUTE),
    Case("CH-56", "two-hellos", STREAM + _named(EVIL), ROUTE),
    Case("CH-57", "server-hello", replace(PLAIN, message_type=2).stream(), NOT_TLS),
    Case("CH-57", "hello-request-first", record(bytes(4) + MESSAGE), NOT_TLS),
    Case("CH-58", "http", b"GET / HTTP/1.1\r\nHost: a.example\r\n\r\n", NOT_TLS),
    Case("CH-58", "ssh", b"SSH-2.0-OpenSSH_9.2\r\n", NOT_TLS),
    Case("CH-58", "zeros", bytes(100), NOT_TLS),
    Case("CH-58", "random", b"\x99" + random.Random(58).randbytes(63), NOT_TLS),
    Case("CH-59", "half-a-hello", STREAM[: len(STREAM) // 2], NEED_MORE),
    Case("CH-59", "one-byte", STREAM[:1], NEED_MORE),
    Case("CH-59", "nothing", b"", NEED_MORE),
    Case("CH-59", "all-but-one-byte", STREAM[:-1], NEED_MORE),
    Case("CH-60", "acme-alone", Hello(extensions=(sni(NAME), *BASE[:4], build.alpn(b"acme-tls/1"))).stream(), ROUTE),
)
