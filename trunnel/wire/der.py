"""The three DER shapes that may stand in a ClientHello, checked and not decoded.

A client may name certificate authorities (RFC 8446 §4.2.4) and OCSP responders
(RFC 6066 §8) in its hello, as X.501 names and the like.  TLS stacks parse them
before they look at the server name, so a router that does not would route what
they refuse.  The checks accept strict DER of these shapes with the usual string
types: a little less than OpenSSL does, never more.

Nesting is as deep as the shapes are, so nothing here recurses without bound.
"""

from __future__ import annotations

from typing import Final

from trunnel.errors import RemoteProtocolError
from trunnel.wire.tlsvectors import malformed

_BOOLEAN: Final = 0x01
_OCTET_STRING: Final = 0x04
_OBJECT_IDENTIFIER: Final = 0x06
_SEQUENCE: Final = 0x30
_SET: Final = 0x31
_BY_NAME: Final = 0xA1
_BY_KEY: Final = 0xA2

_STRINGS: Final = {0x0C: "utf-8", 0x13: "ascii", 0x14: "latin-1", 0x16: "ascii", 0x1E: "utf-16-be"}
"""Tag and encoding of the string types in names: UTF8, Printable, Teletex, IA5 and BMPString."""

_HEADER: Final = 2
"""Bytes of a tag and a short length."""
_LONG: Final = 0x80
"""Bit of a length byte: it counts the length's own bytes.  Bit of an OID byte: the arc goes on."""
_BITS: Final = 8
"""Bits of a byte."""
_LENGTH_BYTES_MAX: Final = 2
"""Bytes of a long length; nothing in a ClientHello is longer than 65,535 bytes."""


def _split(octets: bytes) -> list[tuple[int, bytes]]:
    """Split *octets* into (tag, content) pairs that use it up exactly."""
    found: list[tuple[int, bytes]] = []
    at = 0
    while at < len(octets):
        header = octets[at : at + _HEADER]
        at += _HEADER
        length = header[-1]
        if length & _LONG:
            size = length ^ _LONG
            length = int.from_bytes(octets[at : at + size], "big")
            at += size
            if size > _LENGTH_BYTES_MAX or length < _LONG or length.bit_length() <= _BITS * (size - 1):
                malformed("a DER length that is not minimal")
        content = octets[at : at + length]
        at += length
        if len(header) < _HEADER or len(content) < length:
            malformed("a DER value that ends early")
        found.append((header[0], content))
    return found


def _only(octets: bytes, tag: int) -> bytes:
    """Return the content of the one value in *octets*, which must have *tag*."""
    values = _split(octets)
    if [each for each, _ in values] != [tag]:
        malformed(f"not one DER value of tag {tag:#04x}")
    return values[0][1]


def _check_object_identifier(tag: int, content: bytes) -> None:
    ends = [not octet & _LONG for octet in content]
    begins = [True, *ends]
    padded = any(begin and octet == _LONG for begin, octet in zip(begins, content, strict=False))
    if tag != _OBJECT_IDENTIFIER or not content or not ends[-1] or padded:
        malformed("not a DER object identifier")


def check_name_untrusted(octets: bytes) -> None:
    """Hold *octets* to a DER Name: a SEQUENCE of SETs of (type, string) pairs.

    Raises:
        RemoteProtocolError: It is something else.

    Source: RFC 5280 §4.1.2.4.
    """
    for tag, content in _split(_only(octets, _SEQUENCE)):
        attributes = _split(content)
        if tag != _SET or not attributes:
            malformed("not a DER relative name")
        for attribute in attributes:
            _check_attribute(*attribute)


def _check_attribute(tag: int, content: bytes) -> None:
    parts = _split(content)
    if tag != _SEQUENCE or len(parts) != len(("type", "value")):
        malformed("not a DER attribute")
    _check_object_identifier(*parts[0])
    kind, text = parts[1]
    try:
        text.decode(_STRINGS[kind])
    except (KeyError, UnicodeDecodeError) as exc:
        raise RemoteProtocolError("malformed ClientHello: not a string of a DER name") from exc


def check_responder_id_untrusted(octets: bytes) -> None:
    """Hold *octets* to a DER ResponderID: [1] a Name or [2] an OCTET STRING.

    Raises:
        RemoteProtocolError: It is something else.

    Source: RFC 6960 §4.2.1.
    """
    values = _split(octets)
    if [tag for tag, _ in values] == [_BY_NAME]:
        check_name_untrusted(values[0][1])
    else:
        _only(_only(octets, _BY_KEY), _OCTET_STRING)


def check_request_extensions_untrusted(octets: bytes) -> None:
    """Hold *octets* to DER Extensions: a SEQUENCE of (OID, optional BOOLEAN, OCTET STRING).

    Raises:
        RemoteProtocolError: It is something else.

    Source: RFC 5280 §4.1.
    """
    for tag, content in _split(_only(octets, _SEQUENCE)):
        parts = _split(content)
        tags = [each for each, _ in parts[1:]]
        if tag != _SEQUENCE or tags not in ([_OCTET_STRING], [_BOOLEAN, _OCTET_STRING]):
            malformed("not a DER extension")
        _check_object_identifier(*parts[0])
        if len(tags) > 1 and len(parts[1][1]) != 1:
            malformed("not a DER boolean")
