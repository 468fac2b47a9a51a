"""The log: standard error only, one line a record, text or JSON.

The library logs through `logging.getLogger(__name__)` with an event-like
message and fields in `extra`; this file is the only one that configures
logging.  Fields hold what strangers sent, so everything is escaped.  Writing
goes through `cli.lines`: a closed or blocked standard error costs log lines,
never a tunnel.
"""

from __future__ import annotations

import json
import logging
from datetime import UTC, datetime
from typing import Final, final

from trunnel.cli.lines import LineWriter, printable
from trunnel.settings.output import LogFormat, LogLevel

_STANDARD: Final = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}


def rfc3339(seconds: float) -> str:
    """Return a POSIX time as RFC 3339 in UTC with milliseconds."""
    return datetime.fromtimestamp(seconds, UTC).isoformat(timespec="milliseconds").replace("+00:00", "Z")


def _extras(record: logging.LogRecord) -> dict[str, object]:
    return {name: value for name, value in vars(record).items() if name not in _STANDARD}


@final
class TextFormatter(logging.Formatter):
    """`TIME LEVEL LOGGER MESSAGE key=value ...`; a traceback follows, escaped line by line."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as text without a final newline."""
        fields = "".join(f" {name}={printable(str(value))}" for name, value in _extras(record).items())
        head = f"{rfc3339(record.created)} {record.levelname:<7} {record.name} {printable(record.getMessage())}{fields}"
        if record.exc_info is None:
            return head
        trace = self.formatException(record.exc_info).splitlines()
        return "\n".join((head, *(f"    {printable(line)}" for line in trace)))


@final
class JsonFormatter(logging.Formatter):
    """One JSON object: time, level, logger, message and the record's fields."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the record as JSON in ASCII."""
        content: dict[str, object] = {
            "time": rfc3339(record.created),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **_extras(record),
        }
        if record.exc_info is not None:
            content["exception"] = self.formatException(record.exc_info)
        return json.dumps(content, default=str)


@final
class LogSink(logging.Handler):
    """Hands each record to a `LineWriter`."""

    def __init__(self, writer: LineWriter) -> None:
        super().__init__()
        self._writer = writer

    def emit(self, record: logging.LogRecord) -> None:
        """Write *record*; a record that cannot be formatted is named, not raised."""
        try:
            line = self.format(record)
        except (TypeError, ValueError, AttributeError) as exc:
            line = f"unprintable log record from {record.pathname}:{record.lineno}: {type(exc).__name__}"
        self._writer.write(line)


def dropped_line(count: int) -> str:
    """Word the line that stands for *count* log lines which nobody read in time."""
    return f"{count} log lines were dropped: nobody read standard error"


def configure_logging(writer: LineWriter, *, level: LogLevel, form: LogFormat) -> None:
    """Send trunnel's records of *level* and above to *writer*, and other libraries' warnings."""
    logging.raiseExceptions = False
    sink = LogSink(writer)
    sink.setFormatter(JsonFormatter() if form is LogFormat.JSON else TextFormatter())
    root = logging.getLogger()
    for former in [*root.handlers]:
        if isinstance(former, LogSink):
            root.removeHandler(former)
    root.addHandler(sink)
    root.setLevel(logging.WARNING)
    logging.getLogger("trunnel").setLevel(level.upper())
