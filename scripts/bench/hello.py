"""A real ClientHello for a name: TLS 1.3, as this Python's OpenSSL says it.

Visitors of the plain scenarios say it and then go on without TLS, so that a
tunnel that routes by SNI can be measured without the cost of anybody's
cryptography.  Peers that route by port get the same bytes.
"""

from __future__ import annotations

import ssl
from functools import cache


@cache
def client_hello(name: str) -> bytes:
    """Return the records of a ClientHello that asks for *name*: the same ones each time."""
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    context.check_hostname = False
    context.verify_mode = ssl.CERT_NONE
    context.minimum_version = ssl.TLSVersion.TLSv1_3
    incoming, outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
    tls = context.wrap_bio(incoming, outgoing, server_hostname=name)
    try:
        tls.do_handshake()
    except ssl.SSLWantReadError:
        return outgoing.read()
    raise AssertionError("a handshake does not end without a server")
