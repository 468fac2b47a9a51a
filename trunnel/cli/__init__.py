"""The command line: parses, loads settings, calls one coroutine, prints, maps errors to exit codes.

Thin over the library: everything it does can be done with `serve_relay` and
`open_tunnel`.  `main` has the commands; each one's work is in the file of its
name and is imported when the command runs, so that `trunnel version` stays quick.

    flags    the option table (settings.options) as typer parameters
    program  what serve and expose share: log, events, signals, exit code
    signals  first signal drains, second ends
    failures errors as a line, hints and an exit code
    output   events for programs (--json) and for people (sentences); live: on a terminal
    logs     the log, on standard error
    lines    writes lines; never blocks the tunnel, never raises
"""
