"""One task at a time: the detector behind `trio.BusyResourceError`.

trio's streams refuse a second task in the same method rather than mix two
callers' bytes; trio's own detector is private, so this is ours.
"""

from __future__ import annotations

from types import TracebackType
from typing import final

import trio


@final
class ConflictDetector:
    """A context manager that only one task may be inside."""

    __slots__ = ("_held", "_message")

    def __init__(self, message: str) -> None:
        self._message = message
        self._held = False

    def __enter__(self) -> None:
        if self._held:
            raise trio.BusyResourceError(self._message)
        self._held = True

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._held = False
