"""The log: one escaped line a record, in both forms."""

from __future__ import annotations

import io
import json
import logging
from collections.abc import Generator

import pytest

from trunnel.cli.lines import LineWriter
from trunnel.cli.logs import LogSink, configure_logging, dropped_line, rfc3339
from trunnel.settings.output import LogFormat, LogLevel

HOSTILE = "a\x1b[31m\nb\u202e"


@pytest.fixture
def log_text() -> Generator[io.StringIO]:
    """Return where the log goes; what was configured is undone."""
    yield io.StringIO()
    root, ours = logging.getLogger(), logging.getLogger("trunnel")
    for sink in [sink for sink in root.handlers if isinstance(sink, LogSink)]:
        root.removeHandler(sink)
    root.setLevel(logging.WARNING)
    ours.setLevel(logging.NOTSET)
    logging.raiseExceptions = True


def configure(log_text: io.StringIO, form: LogFormat, level: LogLevel = LogLevel.INFO) -> logging.Logger:
    """Configure the log and return a logger of ours."""
    configure_logging(LineWriter(log_text, dropped=dropped_line), level=level, form=form)
    return logging.getLogger("trunnel.relay.ingress")


def test_a_text_line_has_time_level_logger_message_and_fields(log_text: io.StringIO) -> None:
    configure(log_text, LogFormat.TEXT).warning("visitor-refused", extra={"peer": "192.0.2.1:5", "verdict": "no-sni"})
    time, rest = log_text.getvalue().split(" ", 1)
    assert time.endswith("Z")
    assert rest == "WARNING trunnel.relay.ingress visitor-refused peer=192.0.2.1:5 verdict=no-sni\n"


def test_text_of_strangers_is_escaped(log_text: io.StringIO) -> None:
    logger = configure(log_text, LogFormat.TEXT)
    logger.info("said %s", HOSTILE, extra={"name_seen": HOSTILE})
    assert log_text.getvalue().count("\n") == 1
    assert "\x1b" not in log_text.getvalue()
    assert r"name_seen=a\x1b[31m\nb\u202e" in log_text.getvalue()


def test_a_json_line_is_one_object_in_ascii(log_text: io.StringIO) -> None:
    logger = configure(log_text, LogFormat.JSON)
    logger.error("failed", exc_info=ValueError(HOSTILE), extra={"peer": HOSTILE, "odd": object})
    line = log_text.getvalue()
    assert line.isascii()
    content = json.loads(line)
    assert (content["level"], content["message"], content["peer"]) == ("error", "failed", HOSTILE)
    assert "ValueError" in content["exception"]


def test_a_traceback_follows_its_line_escaped(log_text: io.StringIO) -> None:
    logger = configure(log_text, LogFormat.TEXT)
    logger.error("failed", exc_info=ValueError("\x1b"))
    assert "\x1b" not in log_text.getvalue()
    assert r"    ValueError: \x1b" in log_text.getvalue()


def test_the_level_is_for_ours_and_other_libraries_only_warn(log_text: io.StringIO) -> None:
    logger = configure(log_text, LogFormat.TEXT, LogLevel.DEBUG)
    logger.debug("ours")
    logging.getLogger("hpack").info("theirs")
    assert "ours" in log_text.getvalue()
    assert "theirs" not in log_text.getvalue()


def test_a_record_that_cannot_be_formatted_is_named(log_text: io.StringIO) -> None:
    configure(log_text, LogFormat.TEXT).warning("%d", "no number")
    assert "unprintable log record" in log_text.getvalue()


def test_configuring_twice_logs_once(log_text: io.StringIO) -> None:
    configure(log_text, LogFormat.TEXT)
    configure(log_text, LogFormat.TEXT).info("once")
    assert log_text.getvalue().count("once") == 1


def test_times_are_utc_with_milliseconds() -> None:
    assert rfc3339(1_700_000_000.1239) == "2023-11-14T22:13:20.123Z"
