"""TLS contexts: made here and nowhere else.

Four kinds: both ends of an agent's link, the end that visitors see, and the end
that an ACME server sees when it validates a name.

Links (agent and relay): TLS 1.3 only; both ends send a certificate.  Every
certificate is accepted, self-signed, expired or in a chain that leads nowhere:
CertificateVerify proves that the peer holds the leaf's key (RFC 8446 §4.4.3),
and the key is all that counts; who may do what is decided by its id, after
the handshake.  A client without a certificate is refused (certificate_required).
No resumption and no 0-RTT: a ticket would let a revoked key in without proof.
(pyOpenSSL cannot set the number of tickets to none.  With NO_TICKET and no
cache OpenSSL sends two that name nothing; offered again, they are ignored.)

Visitors: TLS 1.2 with forward secrecy and AEAD, or 1.3; no client certificate;
stateless tickets, whose keys live and die with the context.

ALPN: the server takes the first protocol of *its* list that the client
offers; a client that offers none of them gets no_application_protocol
(RFC 7301 §3.2), one that offers nothing is let through, and the caller looks
at `TlsStream.alpn`.

What pyOpenSSL asks of everybody here:

- A context is frozen by its first connection.  A new certificate is a new
  context, handed out by the caller or by `by_name`.
- Callbacks are installed by the `guard_*` functions only.  An exception that
  leaves a callback goes to `sys.excepthook` (SNI), or onto the *context*, whence
  it is raised in whichever connection comes next (verify).  So the guards catch
  it, leave it as the connection's application value (`streams.tls` looks there
  and logs it), and make this handshake fail.  The one thing that is raised on
  purpose is `SSL.Error` from ALPN: nothing else makes OpenSSL send that alert,
  and pyOpenSSL takes it back off the context within the same call.
- Without a session id context a client that tries to resume gets a fatal alert.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Final, NoReturn

from cryptography import x509
from OpenSSL import SSL, crypto

from trunnel.identity.keys import IdentityKey, PrivateKey
from trunnel.identity.leaf import Leaf, ServerKey

__all__ = ["ServerKey", "guard_alpn", "guard_server_name", "guard_verify", "link_client_context", "link_server_context"]
__all__ += ["CHALLENGE_ALPN", "challenge_context", "visiting_context", "visitor_context"]

CHALLENGE_ALPN: Final = b"acme-tls/1"
"""What an ACME server offers when it validates a name by TLS-ALPN-01 (RFC 8737 §6.2)."""
VerifyCallback = Callable[[SSL.Connection, crypto.X509, int, int, int], bool]
"""Called with connection, certificate, error, depth and OpenSSL's own verdict."""
ContextChooser = Callable[[bytes | None], SSL.Context | None]
"""Takes the SNI value (a stranger's bytes) and returns the context to use, or None for the present one."""

_MODE_ENABLE_PARTIAL_WRITE: Final = 0x1
"""`SSL_MODE_ENABLE_PARTIAL_WRITE` of openssl/ssl.h; pyOpenSSL sets it and has no public name for it.
Without it 256 KiB are one call instead of sixteen."""
_VISITOR_CIPHERS: Final = b"ECDHE+AESGCM:ECDHE+CHACHA20"
"""For TLS 1.2; the suites of TLS 1.3 are all fine (RFC 9325 §4.2)."""


def link_client_context(
    key: IdentityKey | PrivateKey, certificate: x509.Certificate, *, alpn: Sequence[bytes]
) -> SSL.Context:
    """Return the agent's end of a link.

    The server's certificate is *not* judged here: the caller judges
    `TlsStream.peer_certificates` before it sends anything.

    Args:
        key: The identity key.
        certificate: Its link certificate.
        alpn: What to offer, preferred first; not empty.
    """
    context = _context(SSL.TLS_CLIENT_METHOD, SSL.TLS1_3_VERSION)
    _present(context, key, [certificate])
    context.set_alpn_protos(list(alpn))
    guard_verify(context, SSL.VERIFY_PEER, _accept_any)
    return context


def link_server_context(
    key: IdentityKey | ServerKey, chain: Sequence[x509.Certificate], *, alpn: Sequence[bytes]
) -> SSL.Context:
    """Return the relay's end of links: a client certificate is demanded and its key proven.

    Args:
        key: The private key of the chain's leaf.
        chain: What the relay shows, leaf first.
        alpn: The protocols spoken, preferred first.
    """
    context = _context(SSL.TLS_SERVER_METHOD, SSL.TLS1_3_VERSION)
    context.set_session_id(b"trunnel-link")
    context.set_options(SSL.OP_NO_TICKET)
    _present(context, key, chain)
    guard_verify(context, SSL.VERIFY_PEER | SSL.VERIFY_FAIL_IF_NO_PEER_CERT, _accept_any)
    guard_alpn(context, _first_of(alpn))
    return context


def visitor_context(leaf: Leaf, *, alpn: Sequence[bytes], by_name: ContextChooser | None = None) -> SSL.Context:
    """Return the end that visitors see.

    Args:
        leaf: Key and chain of the endpoint.
        alpn: The protocols that the origin speaks, preferred first; empty refuses every client that offers any.
        by_name: Chooses another context by SNI.
    """
    context = _context(SSL.TLS_SERVER_METHOD, SSL.TLS1_2_VERSION)
    context.set_session_id(b"trunnel-visitor")
    context.set_cipher_list(_VISITOR_CIPHERS)
    _present(context, leaf.private_key, leaf.chain)
    guard_alpn(context, _first_of(alpn))
    if by_name is not None:
        guard_server_name(context, by_name)
    return context


def challenge_context(key: ServerKey, certificate: x509.Certificate) -> SSL.Context:
    """Return the end that an ACME server sees when it validates a name (RFC 8737).

    Only `acme-tls/1` is spoken.  A client that offers no protocol at all is let
    through by TLS, as everywhere here: the caller looks at `TlsStream.alpn`.

    Args:
        key: Of the certificate.
        certificate: What proves the name, from `acme.challenge`.
    """
    context = _context(SSL.TLS_SERVER_METHOD, SSL.TLS1_2_VERSION)
    context.set_options(SSL.OP_NO_TICKET)
    context.set_session_id(b"trunnel-challenge")
    context.set_cipher_list(_VISITOR_CIPHERS)
    _present(context, key, [certificate])
    guard_alpn(context, _first_of([CHALLENGE_ALPN]))
    return context


def visiting_context(alpn: Sequence[bytes]) -> SSL.Context:
    """Return the end of a visitor who wants to see a key and judges it itself: no certificate is refused.

    Args:
        alpn: What to offer, preferred first; not empty.
    """
    context = _context(SSL.TLS_CLIENT_METHOD, SSL.TLS1_2_VERSION)
    context.set_alpn_protos(list(alpn))
    guard_verify(context, SSL.VERIFY_NONE, _accept_any)
    return context


def _context(method: int, minimum: int) -> SSL.Context:
    """Return an empty context with what is true of all of ours."""
    context = SSL.Context(method)
    context.set_min_proto_version(minimum)
    context.set_options(SSL.OP_NO_RENEGOTIATION | SSL.OP_NO_COMPRESSION | SSL.OP_CIPHER_SERVER_PREFERENCE)
    context.clear_mode(_MODE_ENABLE_PARTIAL_WRITE)
    context.set_mode(SSL.MODE_RELEASE_BUFFERS)
    context.set_session_cache_mode(SSL.SESS_CACHE_OFF)
    return context


def _present(context: SSL.Context, key: IdentityKey | ServerKey, chain: Sequence[x509.Certificate]) -> None:
    """Make *context* show *chain*, and prove possession of *key*."""
    leaf, *issuers = chain
    context.use_certificate(leaf)
    for issuer in issuers:
        context.add_extra_chain_cert(issuer)
    context.use_privatekey(key.private_key if isinstance(key, IdentityKey) else key)
    context.check_privatekey()


def _accept_any(_connection: SSL.Connection, _certificate: crypto.X509, _error: int, _depth: int, _ok: int) -> bool:
    """Accept: possession of the key is proven by the handshake itself."""
    return True


def _first_of(protocols: Sequence[bytes]) -> Callable[[Sequence[bytes]], bytes | None]:
    """Return a chooser that follows the server's preference."""
    ours = tuple(protocols)

    def choose(offered: Sequence[bytes]) -> bytes | None:
        return next((protocol for protocol in ours if protocol in offered), None)

    return choose


# --- guards: no exception leaves a callback, and none is lost --------------------------------------


def guard_verify(context: SSL.Context, mode: int, callback: VerifyCallback) -> None:
    """Install *callback* as verify callback; if it raises, the certificate is refused."""

    def guarded(connection: SSL.Connection, certificate: crypto.X509, error: int, depth: int, ok: int) -> bool:
        try:
            return callback(connection, certificate, error, depth, ok)
        except Exception as exc:  # noqa: BLE001 - C is below us: the exception is kept, the handshake fails
            connection.set_app_data(exc)
            return False

    context.set_verify(mode, guarded)


def guard_alpn(context: SSL.Context, choose: Callable[[Sequence[bytes]], bytes | None]) -> None:
    """Install *choose*, from the client's list to one of it; None or an exception refuses the client."""

    def guarded(connection: SSL.Connection, offered: list[bytes]) -> bytes:
        try:
            chosen = choose(offered)
        except Exception as exc:  # noqa: BLE001 - as above
            connection.set_app_data(exc)
            _refuse_alpn("the ALPN callback failed")
        if chosen is None:
            _refuse_alpn(f"no application protocol in common (offered: {b', '.join(offered)!r})")
        return chosen

    context.set_alpn_select_callback(guarded)


def _refuse_alpn(reason: str) -> NoReturn:
    """Raise what makes pyOpenSSL send no_application_protocol, in the shape of OpenSSL's own errors."""
    raise SSL.Error([("trunnel", "alpn", reason)])


def guard_server_name(context: SSL.Context, choose: ContextChooser) -> None:
    """Install *choose* as SNI callback; if it raises, the handshake fails.

    pyOpenSSL offers no verdict but an exception, which it prints.  So the
    connection gets a context without a certificate, with which OpenSSL can
    only answer handshake_failure.
    """
    refusing = _context(SSL.TLS_SERVER_METHOD, SSL.TLS1_2_VERSION)

    def guarded(connection: SSL.Connection) -> None:
        try:
            chosen = choose(connection.get_servername())
        except Exception as exc:  # noqa: BLE001 - as above
            connection.set_app_data(exc)
            chosen = refusing
        if chosen is not None:
            connection.set_context(chosen)

    context.set_tlsext_servername_callback(guarded)
