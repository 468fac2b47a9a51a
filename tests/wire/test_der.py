"""DER shapes: what is one and what is not.  That OpenSSL takes all that we take is the differential test's."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress

import pytest
from cryptography import x509
from cryptography.x509.oid import NameOID
from hypothesis import given
from hypothesis import strategies as st

from trunnel.errors import RemoteProtocolError
from trunnel.wire.der import (
    check_name_untrusted,
    check_request_extensions_untrusted,
    check_responder_id_untrusted,
)

CHECKS = [check_name_untrusted, check_responder_id_untrusted, check_request_extensions_untrusted]
Check = Callable[[bytes], None]


def tlv(tag: int, *parts: bytes) -> bytes:
    """Return one DER value."""
    content = b"".join(parts)
    size = len(content)
    length = (
        bytes([size]) if size < 0x80 else bytes([0x81, size]) if size < 0x100 else b"\x82" + size.to_bytes(2, "big")
    )
    return bytes([tag]) + length + content


OID = tlv(0x06, b"\x55\x04\x03")


def dn(value: bytes, *, oid: bytes = OID) -> bytes:
    """Return a name with one attribute."""
    return tlv(0x30, tlv(0x31, tlv(0x30, oid, value)))


NAMES = {
    "empty": tlv(0x30),
    "utf8": dn(tlv(0x0C, "Ünïcode".encode())),
    "printable": dn(tlv(0x13, b"Example CA")),
    "teletex": dn(tlv(0x14, b"\xfcber")),
    "ia5": dn(tlv(0x16, b"a@b.example")),
    "bmp": dn(tlv(0x1E, "CA".encode("utf-16-be"))),
    "long": dn(tlv(0x0C, b"x" * 127)),
    "longer": dn(tlv(0x0C, b"x" * 300)),
    "two-attributes": tlv(0x30, tlv(0x31, tlv(0x30, OID, tlv(0x0C, b"a")), tlv(0x30, OID, tlv(0x0C, b"b")))),
}
NOT_NAMES = {
    "nothing": b"",
    "tag-alone": b"\x30",
    "set": tlv(0x31),
    "trailing": NAMES["utf8"] + b"\x00",
    "cut": NAMES["utf8"][:-1],
    "two": NAMES["utf8"] * 2,
    "empty-set": tlv(0x30, tlv(0x31)),
    "not-a-set": tlv(0x30, tlv(0x30, tlv(0x30, OID, tlv(0x0C, b"a")))),
    "no-value": tlv(0x30, tlv(0x31, tlv(0x30, OID))),
    "three-parts": tlv(0x30, tlv(0x31, tlv(0x30, OID, tlv(0x0C, b"a"), tlv(0x0C, b"b")))),
    "attribute-is-no-sequence": tlv(0x30, tlv(0x31, tlv(0x31, OID, tlv(0x0C, b"a")))),
    "bad-utf8": dn(tlv(0x0C, b"\xff")),
    "bad-ascii": dn(tlv(0x13, b"\xff")),
    "odd-bmp": dn(tlv(0x1E, b"\x00")),
    "other-string": dn(tlv(0x04, b"x")),
    "oid-empty": dn(tlv(0x0C, b"a"), oid=tlv(0x06)),
    "oid-unfinished": dn(tlv(0x0C, b"a"), oid=tlv(0x06, b"\x55\x84")),
    "oid-padded": dn(tlv(0x0C, b"a"), oid=tlv(0x06, b"\x55\x80\x03")),
    "oid-is-none": dn(tlv(0x0C, b"a"), oid=tlv(0x05)),
    "length-indefinite": b"\x30\x80\x00\x00",
    "length-not-minimal": b"\x30\x81\x00",
    "length-padded": b"\x30\x82\x00\x80" + bytes(128),
    "length-of-three-bytes": b"\x30\x83\x01\x00\x00" + bytes(1 << 16),
    "length-cut": b"\x30\x82\x01",
}


@pytest.mark.parametrize("octets", NAMES.values(), ids=NAMES.keys())
def test_names_are_taken(octets: bytes) -> None:
    check_name_untrusted(octets)


@pytest.mark.parametrize("octets", NOT_NAMES.values(), ids=NOT_NAMES.keys())
def test_what_is_no_name_is_refused(octets: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        check_name_untrusted(octets)


def test_names_of_real_certificates_are_taken() -> None:
    name = x509.Name(
        [
            x509.NameAttribute(NameOID.COUNTRY_NAME, "AT"),
            x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Ünï Trust " * 6),
            x509.NameAttribute(NameOID.COMMON_NAME, "Root 1"),
            x509.NameAttribute(NameOID.DOMAIN_COMPONENT, "example"),
        ]
    )
    check_name_untrusted(name.public_bytes())


def test_responders_are_named_by_key_or_name() -> None:
    check_responder_id_untrusted(tlv(0xA2, tlv(0x04, bytes(20))))
    check_responder_id_untrusted(tlv(0xA1, NAMES["utf8"]))


@pytest.mark.parametrize(
    "octets",
    [b"", tlv(0xA3, tlv(0x04)), tlv(0xA2), tlv(0xA2, tlv(0x05)), tlv(0xA1, b"x"), tlv(0xA2, tlv(0x04)) * 2],
    ids=["nothing", "other-tag", "empty", "no-octets", "no-name", "two"],
)
def test_what_names_no_responder_is_refused(octets: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        check_responder_id_untrusted(octets)


def test_request_extensions_may_be_critical_or_not() -> None:
    plain = tlv(0x30, OID, tlv(0x04, b"x"))
    critical = tlv(0x30, OID, tlv(0x01, b"\xff"), tlv(0x04, b"x"))
    check_request_extensions_untrusted(tlv(0x30, plain, critical))


@pytest.mark.parametrize(
    "octets",
    [
        b"",
        tlv(0x30, tlv(0x31, OID, tlv(0x04))),
        tlv(0x30, tlv(0x30, OID)),
        tlv(0x30, tlv(0x30)),
        tlv(0x30, tlv(0x30, OID, tlv(0x01, b""), tlv(0x04))),
        tlv(0x30, tlv(0x30, tlv(0x04), tlv(0x04))),
        tlv(0x30, tlv(0x30, OID, tlv(0x04), tlv(0x04))),
    ],
    ids=["nothing", "set", "no-value", "empty", "empty-boolean", "no-oid", "two-values"],
)
def test_what_are_no_request_extensions_is_refused(octets: bytes) -> None:
    with pytest.raises(RemoteProtocolError):
        check_request_extensions_untrusted(octets)


@pytest.mark.parametrize("check", CHECKS)
@given(
    octets=st.one_of(
        st.binary(max_size=64),
        st.recursive(
            st.builds(tlv, st.sampled_from([1, 4, 6, 12, 19]), st.binary(max_size=8)),
            lambda inner: st.builds(
                lambda tag, parts: tlv(tag, *parts),
                st.sampled_from([0x30, 0x31, 0xA1, 0xA2]),
                st.lists(inner, max_size=3),
            ),
            max_leaves=6,
        ),
    )
)
def test_only_our_error_leaves_a_check(check: Check, octets: bytes) -> None:
    with suppress(RemoteProtocolError):
        check(octets)
