"""`trunnel hello`: say what the relay would make of recorded ClientHellos.

One line a file, in order: `FILE<TAB>VERDICT`, or a JSON object with `--json`.
Nothing that a stranger wrote reaches the terminal unescaped.
"""

from __future__ import annotations

from collections.abc import Sequence
from json import dumps
from pathlib import Path
from typing import BinaryIO, Final, TextIO

from trunnel.settings.limits import CLIENT_HELLO_RAW_MAX
from trunnel.wire.clienthello import ClientHelloParser, Verdict

STANDARD_INPUT: Final = "-"
"""The file name that means standard input."""
_VERSIONS: Final = {0x0300: "ssl3", 0x0301: "1.0", 0x0302: "1.1", 0x0303: "1.2", 0x0304: "1.3"}


def run_hello(files: Sequence[str], *, json: bool, stdin: BinaryIO, stdout: TextIO, stderr: TextIO) -> int:
    """Judge the streams in *files* and print a line for each.

    Args:
        files: Paths; `-` is standard input.
        json: Whether to print JSON objects.
        stdin: Read where a file is `-`.
        stdout: Takes the lines.
        stderr: Takes a sentence for each file that cannot be read.

    Returns:
        1. 0: all were read, whatever the verdicts.
        2. 1: some file could not be read; the others were judged.
    """
    status = 0
    for file in files:
        try:
            parser = _judge(file, stdin)
        except OSError as exc:
            print(f"trunnel hello: {_printable(file)}: {exc.strerror or exc}", file=stderr)
            status = 1
            continue
        print(_as_json(file, parser) if json else f"{_printable(file)}\t{_verdict(parser)}", file=stdout)
    return status


def _judge(file: str, stdin: BinaryIO) -> ClientHelloParser:
    """Feed a stream to a parser; more than the largest hello is never read."""
    parser = ClientHelloParser()
    if file == STANDARD_INPUT:
        parser.feed_untrusted(stdin.read(CLIENT_HELLO_RAW_MAX))
    else:
        with Path(file).open("rb") as stream:
            parser.feed_untrusted(stream.read(CLIENT_HELLO_RAW_MAX))
    return parser


def _verdict(parser: ClientHelloParser) -> str:
    name = parser.hello.server_name if parser.hello is not None else None
    return f"{Verdict.ROUTE}:{name}" if name is not None else str(parser.verdict)


def _as_json(file: str, parser: ClientHelloParser) -> str:
    hello = parser.hello
    raw_name = hello.raw_server_name if hello is not None else None
    name = hello.server_name if hello is not None else None
    fields = {
        "file": file,
        "verdict": _verdict(parser),
        "name": str(name) if name is not None else None if raw_name is None else _text(raw_name),
        "alpn": [_text(protocol) for protocol in hello.alpn] if hello is not None else [],
        "versions": [_VERSIONS.get(version, f"{version:#06x}") for version in hello.versions]
        if hello is not None
        else [],
        "hello_bytes": hello.message_bytes if hello is not None else None,
        "records": hello.records if hello is not None else None,
        "raw_bytes": parser.raw_bytes,
        "reason": parser.reason,
    }
    return dumps(fields)


def _text(octets: bytes) -> str:
    """Return a stranger's bytes as one line of printable ASCII."""
    return octets.decode("ascii") if octets.isascii() and octets.decode("ascii").isprintable() else ascii(octets)[2:-1]


def _printable(text: str) -> str:
    """Return *text* as it is where it can be printed on one line, else escaped."""
    return text if text.isprintable() else ascii(text)[1:-1]
