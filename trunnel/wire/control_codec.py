"""How control messages travel: a 32-bit big-endian length and so many bytes of JSON (RFC 8259).

The length is judged before a byte of the body is kept: 1 to
`CONTROL_MESSAGE_MAX`.  What is kept is never more than one message.  The
messages and their order are in `control`.
"""

from __future__ import annotations

import struct
from typing import Final, final

import msgspec

from trunnel.errors import LocalProtocolError, RemoteProtocolError
from trunnel.settings.limits import CONTROL_MESSAGE_MAX
from trunnel.wire.control import Message, kind_of, printable

LENGTH: Final = struct.Struct("!I")
"""Ahead of each message."""

_DECODER: Final[msgspec.json.Decoder[Message]] = msgspec.json.Decoder(Message)
_ENCODER: Final = msgspec.json.Encoder()


def encode(message: Message) -> bytes:
    """Return *message* with its length ahead.

    Raises:
        LocalProtocolError: The peer would have to refuse it.
    """
    body = _ENCODER.encode(message)
    if len(body) > CONTROL_MESSAGE_MAX:
        raise LocalProtocolError(f"a {kind_of(message)} message of {len(body)} bytes is over {CONTROL_MESSAGE_MAX}")
    try:
        _decode_untrusted(body)
    except RemoteProtocolError as exc:
        raise LocalProtocolError(f"not a valid {kind_of(message)} message: {exc.reason}") from exc
    return LENGTH.pack(len(body)) + body


def _decode_untrusted(body: bytes | bytearray) -> Message:
    """Decode one message's JSON.

    The text is decoded first: msgspec does not look into the strings of fields
    that it skips, and all of a message is to be UTF-8.
    """
    try:
        return _DECODER.decode(body.decode())
    except (msgspec.DecodeError, UnicodeDecodeError) as exc:
        raise RemoteProtocolError(f"control: {printable(str(exc))}") from exc
    except RecursionError as exc:
        raise RemoteProtocolError("control: nested too deeply") from exc


def _body_length_untrusted(prefix: bytes | bytearray) -> int:
    length = int(LENGTH.unpack_from(prefix)[0])
    if not 0 < length <= CONTROL_MESSAGE_MAX:
        raise RemoteProtocolError(f"control: a message of {length} bytes, not 1 to {CONTROL_MESSAGE_MAX}")
    return length


@final
class ControlDecoder:
    """Takes a control stream's bytes in any pieces and gives its messages."""

    __slots__ = ("_buffer", "_failure", "_target")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._target = LENGTH.size
        self._failure: RemoteProtocolError | None = None

    @property
    def pending(self) -> int:
        """Bytes held of a message that is not whole; a stream that ends with any was cut."""
        return len(self._buffer)

    def feed_untrusted(self, chunk: bytes | bytearray | memoryview) -> list[Message]:
        """Take the next bytes and return the messages that they complete.

        Raises:
            RemoteProtocolError: The stream breaks a rule of this file: messages
                before that in the same chunk are lost with it, and every later
                call raises again.
        """
        if self._failure is not None:
            raise self._failure
        try:
            return self._feed_untrusted(memoryview(chunk))
        except RemoteProtocolError as exc:
            self._buffer.clear()
            self._failure = exc
            raise

    def _feed_untrusted(self, rest: memoryview) -> list[Message]:
        messages: list[Message] = []
        while rest:
            missing = self._target - len(self._buffer)
            self._buffer += rest[:missing]
            rest = rest[missing:]
            if len(self._buffer) < self._target:
                break
            if self._target == LENGTH.size:
                self._target += _body_length_untrusted(self._buffer)
            else:
                messages.append(_decode_untrusted(self._buffer[LENGTH.size :]))
                self._buffer.clear()
                self._target = LENGTH.size
        return messages
