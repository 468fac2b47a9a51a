"""Wire formats as pure functions and small state machines: bytes in, values out.

Nothing here opens a socket, reads a clock, rolls dice or logs: what parses a
stranger's bytes can be fuzzed, cut at any byte and tested without a network.
Functions that take a peer's bytes end in `_untrusted`; they raise
`RemoteProtocolError` or return a value, and nothing else leaves them.
"""
