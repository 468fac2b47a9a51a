"""The agent: runs beside an origin and serves its visitors through a relay.

One visitor's way, in the order of the files: `control` learns which endpoints
are ours and accepts streams; `forward` takes one stream from its preface to
its closing record; `terminate` ends the visitor's TLS; `origin` dials the one
target that the configuration names (never anything that came over the wire);
`streams.copy` moves the bytes; `badgateway` answers for an origin that is
down.  `runner` and `backoff` keep the session with the relay alive.

The agent and the relay are siblings: neither imports the other.
"""
