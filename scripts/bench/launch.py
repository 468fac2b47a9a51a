"""Start what is measured as a stranger would run it: an ordinary user, a folder of its own, limits on.

When the benchmark runs as root, programs run as `nobody` (util-linux's
setpriv): root may have more pipes, descriptors in flight and memory than
anybody else, so figures taken as root are not figures.  An interpreter that
`nobody` may not read (under a closed home) is opened with CAP_DAC_READ_SEARCH,
which lifts none of those limits.  Output goes to a file: nobody else's CPU time
is spent on reading it.
"""

from __future__ import annotations

import os
import pwd
import shutil
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from functools import cache
from pathlib import Path

USER = "nobody"
NOFILE = 20_000
"""Descriptors that each process may have."""
START = 20.0
"""Seconds for a program to listen."""
STOP = 0.5
"""Seconds to end; who drains longer is killed, nobody is interested in its visitors any more."""
PAUSE = 0.02
SYSTEM_FOLDERS = ("/usr/local/sbin", "/usr/sbin", "/sbin")
"""Where servers live, and where an ordinary user's PATH often does not look."""
PATH = os.pathsep.join((os.environ.get("PATH", os.defpath), *SYSTEM_FOLDERS))


class CannotMeasureError(Exception):
    """A program did not start, or a stream failed: the scenario has no figure, and says why."""


def find(program: str) -> str | None:
    """Return the path of an installed program."""
    return shutil.which(program, path=PATH)


@cache
def as_user(readable: str = "") -> tuple[str, ...]:
    """Return the words before a command that make it run as an ordinary user who may read *readable*."""
    limit = (f"--nofile={NOFILE}:{NOFILE}",) if os.geteuid() == 0 else (f"--nofile={NOFILE}",)
    words = ("prlimit", *limit, "--")
    if os.geteuid() != 0:
        return words
    group = str(pwd.getpwnam(USER).pw_gid)
    drop = ("setpriv", "--reuid", USER, "--regid", group, "--clear-groups", "--no-new-privs")
    plain = (*words, *drop, "--inh-caps=-all", "--ambient-caps=-all", "--bounding-set=-all")
    if (
        not readable
        # Through a shell: setpriv itself may still read everything, what it runs may not.
        or subprocess.run([*plain, "sh", "-c", '"$0" --version', readable], capture_output=True, check=False).returncode
        == 0
    ):
        return plain
    kept = "-all,+dac_read_search"
    return (*words, *drop, f"--inh-caps={kept}", f"--ambient-caps={kept}", f"--bounding-set={kept}")


def folder_for_user(path: Path) -> Path:
    """Make a folder that belongs to the ordinary user."""
    path.mkdir(parents=True)
    if os.geteuid() == 0:
        shutil.chown(path, USER)
    return path


@dataclass(frozen=True)
class Program:
    """A program that runs."""

    name: str
    process: subprocess.Popen[bytes]
    output: Path
    """Its standard output."""
    errors: Path
    """Its standard error."""

    @property
    def pid(self) -> int:
        """Of its main process."""
        return self.process.pid

    def complain(self, what: str) -> CannotMeasureError:
        """Return an error that ends with the program's last words."""
        words = self.errors.read_text(errors="replace").strip().splitlines()[-3:]
        return CannotMeasureError(f"{self.name}: {what}: {' / '.join(words)}")

    def stop(self) -> None:
        """End it."""
        self.process.terminate()
        with suppress(subprocess.TimeoutExpired):
            self.process.wait(STOP)
            return
        self.process.send_signal(signal.SIGKILL)
        self.process.wait()


def start(
    stack: ExitStack, name: str, command: Sequence[object], folder: Path, *, interpreted: bool = False
) -> Program:
    """Run *command* as an ordinary user in *folder* until the stack is closed.

    Args:
        stack: Whose end ends the program.
        name: What it is called in the report.
        command: Its words.
        folder: Where it runs, and where its output goes.
        interpreted: Whether it runs under this Python, and must be able to read it.
    """
    words = [str(each) for each in command]
    executable = find(words[0])
    if executable is None:
        raise CannotMeasureError(f"{words[0]} is not installed")
    words[0] = executable
    label = name.replace(" ", "-").replace("/", "-")
    output, errors = folder / f"{label}.out", folder / f"{label}.err"
    environment = {"PATH": PATH, "HOME": str(folder), "LANG": "C.UTF-8"}
    with output.open("wb") as out, errors.open("wb") as err:
        process = subprocess.Popen(
            [*as_user(sys.executable if interpreted else ""), *words],
            stdin=subprocess.DEVNULL,
            stdout=out,
            stderr=err,
            cwd=folder,
            env=environment,
        )
    program = Program(name, process, output, errors)
    stack.callback(program.stop)
    return program


def free_port() -> int:
    """Return a port that is free now, for programs that must be told one."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return int(listener.getsockname()[1])


def wait_for_port(program: Program, port: int) -> None:
    """Return once *port* accepts; raises when *program* ends before."""
    deadline = time.monotonic() + START
    while time.monotonic() < deadline:
        if program.process.poll() is not None:
            raise program.complain(f"ended with {program.process.returncode}")
        with suppress(OSError), socket.create_connection(("127.0.0.1", port), timeout=1):
            return
        time.sleep(PAUSE)
    raise program.complain(f"does not listen on {port}")
