"""The `trunnel` command: what commands there are, and the way out.

Commands are functions that typer calls; each imports its work when it runs.
typer reports wrong usage itself (exit code 2); every other error comes to
`run`, the outermost boundary of the short commands (`serve` and `expose` have
theirs in `cli.program`).
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Mapping
from contextlib import suppress
from typing import Annotated

import typer

from trunnel.cli.flags import with_flags
from trunnel.settings import options
from trunnel.settings.acme_options import ACME_OPTIONS
from trunnel.settings.agent import AgentSettings
from trunnel.settings.options import Flag
from trunnel.settings.relay import RelaySettings

EPILOG = (
    "Every option is also an environment variable (--bind-addr: TRUNNEL_BIND_ADDR) and a key of the TOML file "
    "(bind_addr). A flag wins over the environment, the environment over the file."
)

app = typer.Typer(
    name="trunnel",
    help="A self-hosted reverse tunnel: give a local service a public address, over TLS that the relay cannot read.",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)

JsonLines = Annotated[bool, typer.Option("--json", help="For programs: JSON.", metavar="")]
AgentIdArgument = Annotated[str, typer.Argument(metavar="ID", help="The agent, as `trunnel id` prints it.")]
NamesOption = Annotated[list[str] | None, typer.Option(help="A name it may have; repeat for more.", metavar="NAME")]
LabelOption = Annotated[str | None, typer.Option(help="Who or what it is, for people.", metavar="TEXT")]
KEYS = (*options.KEY_OPTIONS, options.STATE_DIR, options.CONFIG)
CAA = tuple(option for option in options.AGENT_OPTIONS if option.name in ("acme", "hostname", "state-dir"))
AUTHORIZED = (options.AUTHORIZED_AGENTS, options.STATE_DIR, options.CONFIG)


@app.command(epilog=EPILOG)
@with_flags(*options.RELAY_OPTIONS, *options.OUTPUT_OPTIONS, options.CONFIG, defaults=RelaySettings)
def serve(flags: Mapping[str, Flag]) -> None:
    """Run a relay: agents connect to it, visitors reach agents through it."""
    from trunnel.cli.serve import run_serve

    raise typer.Exit(run_serve(flags))


@app.command(epilog=EPILOG)
@with_flags(*options.AGENT_OPTIONS, *options.OUTPUT_OPTIONS, options.CONFIG, defaults=AgentSettings)
def expose(
    flags: Mapping[str, Flag],
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="TARGET",
            help="PORT, HOST:PORT, \\[V6]:PORT, unix:PATH or http://HOST\\[:PORT].",
            show_default=False,
        ),
    ] = None,
) -> None:
    """Give a local service a public address at a relay."""
    from trunnel.cli.expose import run_expose

    raise typer.Exit(run_expose(target, flags))


@app.command(name="id")
@with_flags(*KEYS, defaults=AgentSettings)
def show_id(
    flags: Mapping[str, Flag],
    cert: Annotated[
        bool, typer.Option("--cert", help="The certificate of the agent's link (PEM).", metavar="")
    ] = False,
    spki: Annotated[bool, typer.Option("--spki", help="The public key (PEM).", metavar="")] = False,
    json: JsonLines = False,
) -> None:
    """Print this agent's id; makes its key if there is none."""
    from trunnel.cli.keys import run_id

    if cert + spki + json > 1:
        raise typer.BadParameter("--cert, --spki and --json: choose one")
    run_id(flags, form="cert" if cert else "spki" if spki else "json" if json else "id")


@app.command()
@with_flags(*AUTHORIZED, defaults=RelaySettings)
def authorize(
    flags: Mapping[str, Flag],
    agent_id: AgentIdArgument,
    name: NamesOption = None,
    label: LabelOption = None,
) -> None:
    """Let an agent connect to the relay; a running relay notices."""
    from trunnel.cli.agents import run_authorize

    run_authorize(agent_id, names=name or [], label=label, flags=flags)


@app.command()
@with_flags(*AUTHORIZED, defaults=RelaySettings)
def invite(
    flags: Mapping[str, Flag],
    name: NamesOption = None,
    label: LabelOption = None,
    expires: Annotated[str, typer.Option(help="How long it can be used, at most 30d.", metavar="TIME")] = "1d",
    address: Annotated[
        str | None, typer.Option(help="Where agents reach this relay, if not by its domain.", metavar="HOST[:PORT]")
    ] = None,
    json: JsonLines = False,
) -> None:
    """Print a string that lets one agent in, once: trunnel expose 3000 --join STRING."""
    from trunnel.cli.invite import run_invite

    run_invite(names=name or [], label=label or "", expires=expires, address=address, flags=flags, json=json)


@app.command()
@with_flags(*AUTHORIZED, defaults=RelaySettings)
def revoke(
    flags: Mapping[str, Flag],
    agent_id: Annotated[
        str, typer.Argument(metavar="ID", help="The agent, or an invitation, as `trunnel agents` lists it.")
    ],
) -> None:
    """Take an agent off the relay's list, or an invitation back; a running relay ends the agent's session."""
    from trunnel.cli.agents import run_revoke

    raise typer.Exit(run_revoke(agent_id, flags=flags))


@app.command()
@with_flags(*AUTHORIZED, defaults=RelaySettings)
def agents(flags: Mapping[str, Flag], json: JsonLines = False) -> None:
    """List the agents that may connect to the relay, and the invitations that wait."""
    from trunnel.cli.agents import run_agents

    run_agents(flags=flags, json=json)


@app.command()
@with_flags(*ACME_OPTIONS, *CAA, defaults=AgentSettings)
def caa(
    flags: Mapping[str, Flag],
    names: Annotated[list[str] | None, typer.Argument(metavar="NAME...", help="Names of yours.")] = None,
) -> None:
    """Print the DNS records that let only this agent get certificates for a name of yours."""
    from trunnel.cli.caa import run_caa

    run_caa(names or [], flags)


@app.command()
def hello(
    files: Annotated[list[str], typer.Argument(metavar="FILE...", help="Captured bytes; - is standard input.")],
    json: JsonLines = False,
) -> None:
    """Say where a relay would route each captured TLS ClientHello, or why not."""
    from trunnel.cli.hello import run_hello

    raise typer.Exit(run_hello(files, json=json, stdin=sys.stdin.buffer, stdout=sys.stdout, stderr=sys.stderr))


@app.command()
@with_flags(*KEYS, defaults=AgentSettings)
def health(
    flags: Mapping[str, Flag],
    program: Annotated[str, typer.Argument(metavar="relay|agent", help="Which of the two.")],
) -> None:
    """Say whether the relay or agent on this machine serves: exit code 0 if it does."""
    if program not in ("relay", "agent"):
        raise typer.BadParameter(f"{program!a} is neither relay nor agent")
    from trunnel.cli.health import run_health

    run_health(program, flags=flags)


@app.command()
def version(json: JsonLines = False) -> None:
    """Print the version."""
    from trunnel.cli.keys import run_version

    run_version(json=json)


def _show_version(asked: bool) -> None:
    if asked:
        version()
        raise typer.Exit


@app.callback()
def _root(  # pyright: ignore[reportUnusedFunction]  # typer calls it
    show: Annotated[
        bool, typer.Option("--version", help="Print the version.", metavar="", callback=_show_version, is_eager=True)
    ] = False,
) -> None:
    del show


def run() -> None:
    """Run the command line and end the process with its exit code."""
    status = main()
    for stream in (sys.stdout, sys.stderr):
        if not _flushed(stream):
            # The interpreter would complain once more at its end; nobody is there to read it.
            with suppress(OSError, ValueError):
                os.dup2(os.open(os.devnull, os.O_WRONLY), stream.fileno())
    sys.exit(status)


def main(arguments: list[str] | None = None) -> int:
    """Run one command; returns the exit code.

    Args:
        arguments: The command line without the program's name; the process's own if None.
    """
    try:
        app(args=arguments, prog_name="trunnel")
    except SystemExit as ended:
        return ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except (Exception, KeyboardInterrupt) as error:  # noqa: BLE001 - the outermost task boundary
        return _report(error)
    return 0


def _report(error: BaseException) -> int:
    """Print *error* for a person; returns the exit code."""
    if isinstance(error, OSError) and error.errno == errno.EPIPE:
        return 1  # the reader of our output went away
    import traceback

    from trunnel.cli.failures import explain
    from trunnel.cli.lines import LineWriter
    from trunnel.cli.logs import dropped_line
    from trunnel.cli.program import print_failure

    failure = explain(error)
    stderr = LineWriter(sys.stderr, dropped=dropped_line)
    if failure.bug:
        stderr.write("".join(traceback.format_exception(error)))
    print_failure(failure, stderr)
    stderr.flush()
    return failure.status


def _flushed(stream: object) -> bool:
    try:
        getattr(stream, "flush", int)()
    except (OSError, ValueError):
        return False
    return True
