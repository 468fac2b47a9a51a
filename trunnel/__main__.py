"""The `trunnel` command, and `python -m trunnel`."""

import sys

_INTERRUPTED = 130


def run() -> None:
    """Run the command line and end the process with its exit code; Ctrl-C before it is there is no bug."""
    try:
        from trunnel.cli.main import run as run_command  # noqa: PLC0415 - it takes a moment
    except KeyboardInterrupt:
        sys.exit(_INTERRUPTED)
    run_command()


if __name__ == "__main__":
    run()
