"""A stream that fails, hangs or is cut off at a chosen operation; for sweeps."""

from __future__ import annotations

import errno
from collections.abc import Callable
from enum import Enum, auto

import trio

from trunnel.errors import ErrorCode
from trunnel.transports.base import Stream


class Fault(Enum):
    """What happens at the chosen operation."""

    HANG = auto()
    BROKEN = auto()
    RESET = auto()
    PIPE = auto()
    CLOSED = auto()


class ScriptedStream(trio.abc.HalfCloseableStream):
    """Wraps a stream; its operation number *turn* (from 0) meets *fault*, and so do all later ones.

    `only` names the one kind of operation that counts and fails, "" is any.
    `truncated` behaves as TLS without close_notify: an end of file is an error.
    """

    def __init__(
        self,
        stream: trio.abc.HalfCloseableStream,
        *,
        fault: Fault | None = None,
        turn: int = 0,
        on_fault: Callable[[], None] = lambda: None,
        only: str = "",
        truncates: bool = False,
    ) -> None:
        self.stream = stream
        self.faulted = ""  # the operation that failed
        self.truncated = False
        self._fault = fault
        self._left = turn
        self._on_fault = on_fault
        self._only = only
        self._truncates = truncates

    async def _turn(self, operation: str) -> None:
        if self._only not in ("", operation):
            return
        self._left -= 1
        if self._left >= 0 or self._fault is None:
            return
        self.faulted = self.faulted or operation
        self._on_fault()
        await trio.lowlevel.checkpoint()
        match self._fault:
            case Fault.HANG:
                await trio.sleep_forever()
            case Fault.BROKEN:
                raise trio.BrokenResourceError
            case Fault.RESET:
                raise trio.BrokenResourceError from OSError(errno.ECONNRESET, "reset")
            case Fault.PIPE:
                raise trio.BrokenResourceError from OSError(errno.EPIPE, "pipe")
            case Fault.CLOSED:
                raise trio.ClosedResourceError

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self._turn("send_all")
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def send_eof(self) -> None:
        await self._turn("send_eof")
        await self.stream.send_eof()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        await self._turn("receive_some")
        chunk = await self.stream.receive_some(max_bytes)
        if not chunk and self._truncates:
            self.truncated = True
            raise trio.BrokenResourceError("no close_notify")
        return chunk

    async def aclose(self) -> None:
        await self.stream.aclose()

    def reset(self, code: ErrorCode = ErrorCode.CANCEL) -> None:
        assert isinstance(self.stream, Stream)
        self.stream.reset(code)


class OneWayEnd(trio.abc.Stream):
    """Wraps a stream and hides that it can half-close."""

    def __init__(self, stream: trio.abc.HalfCloseableStream) -> None:
        self.stream = stream

    async def send_all(self, data: bytes | bytearray | memoryview) -> None:
        await self.stream.send_all(data)

    async def wait_send_all_might_not_block(self) -> None:
        await self.stream.wait_send_all_might_not_block()

    async def receive_some(self, max_bytes: int | None = None) -> bytes | bytearray:
        return await self.stream.receive_some(max_bytes)

    async def aclose(self) -> None:
        await self.stream.aclose()

    def reset(self, code: ErrorCode = ErrorCode.CANCEL) -> None:
        assert isinstance(self.stream, Stream)
        self.stream.reset(code)
