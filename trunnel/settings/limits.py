"""Every number that protects us: unit, what it guards, and where it comes from.

One name, `limits.X`, so that "what limits this?" is one search; the numbers of
carriers and of the network under them are written in `carrier_limits`, those of certificates in `acme_limits`.  A limit
that a person may set appears in `settings.relay` or `settings.agent` with its
default here.
"""

from __future__ import annotations

from typing import Final

from trunnel.settings.acme_limits import *  # noqa: F403 - other parts of one table
from trunnel.settings.carrier_limits import *  # noqa: F403
from trunnel.settings.direct_limits import *  # noqa: F403

# --- ClientHello (wire/clienthello.py) -------------------------------------------------------

CLIENT_HELLO_MAX: Final = 16_384
"""Bytes of the handshake message with its 4-byte header.  OpenSSL and BoringSSL stop near here;
the largest real capture known is 11,423 bytes."""
CLIENT_HELLO_RECORDS_MAX: Final = 256
"""TLS records that one hello may be spread over; bounds the work per byte."""
EMPTY_RECORDS_MAX: Final = 32
"""Empty handshake records in a row (RFC 8446 §5.1 forbids them; stacks tolerate 32)."""
TLS_RECORD_MAX: Final = 16_384
"""Bytes of plaintext in one record, 2^14 (RFC 8446 §5.1)."""
CLIENT_HELLO_RAW_MAX: Final = CLIENT_HELLO_MAX + 5 * (CLIENT_HELLO_RECORDS_MAX + EMPTY_RECORDS_MAX)
"""Raw bytes peeked for one hello: the message and the record headers around it."""
HELLO_TIMEOUT: Final = 10.0
"""Seconds from accept (not from the last byte) to a complete hello.  Envoy 15, HAProxy 5 by habit."""

# --- other parsers ---------------------------------------------------------------------------

PROXY_HEADER_MAX: Final = 2_048
"""Bytes of a PROXY header of ours with its TLVs; the published v1 line has at most 107."""
PROXY_V1_MAX: Final = 107
"""Bytes of a PROXY v1 line with CR LF (haproxy.org proxy-protocol.txt §2.1)."""
PROXY_UNIQUE_ID_MAX: Final = 128
"""Bytes of a PROXY v2 unique id (proxy-protocol.txt §2.2.5)."""
STREAM_NAME_MAX: Final = 64
"""Characters of the ids that name streams and sessions in logs, events and messages."""
CONTROL_MESSAGE_MAX: Final = 64 * KIB
"""Bytes of one control message's JSON; checked before the body is buffered."""
CONTROL_TEXT_MAX: Final = 500
"""Characters of a text for people in a control message: a reason, a label, a host name."""
CONTROL_LIST_MAX: Final = 16
"""Entries of a control message's list of versions or of suffixes."""
CONTROL_ENDPOINTS_MAX: Final = 100
"""Endpoints of one agent: with names and URLs of 253 characters they still fit one message."""
CONTROL_SECONDS_MAX: Final = 86_400.0
"""Seconds: the longest time that a welcome or a drain may name, a day."""
CONTROL_SECONDS_MIN: Final = 0.1
"""Seconds: the shortest one, so that a hostile relay cannot make an agent ping without pause."""
HTTP_HEAD_PEEK: Final = 24
"""Bytes looked at to tell whether a visitor speaks HTTP: the longest registered method has 17 letters
(UPDATEREDIRECTREF, RFC 4437), the connection preface of HTTP/2 has 24 bytes."""
HTTP_HEAD_MAX: Final = 64 * KIB
"""Bytes of a request head read, and dropped, before the agent answers 502 itself."""

# --- handshakes and connections on the relay -------------------------------------------------

HANDSHAKE_TIMEOUT: Final = 10.0
"""Seconds for a TLS handshake, and for the control handshake after it."""
HALF_OPEN_PER_ADDRESS: Final = 256
"""Connections of one address (IPv6: one /64) without a complete hello, or in a handshake."""
HALF_OPEN_TOTAL: Final = 8_192
"""The same over all addresses; 6 to 10 KiB each."""
HANDSHAKES_PER_ADDRESS: Final = 32
"""TLS handshakes of agents at one address at once: one that stalls holds its place for `HANDSHAKE_TIMEOUT`."""
HANDSHAKES_TOTAL: Final = 1_024
"""The same over all addresses; 45 KiB each."""
SHARES_PER_KEY: Final = 16
"""Agents with one key that serve together (`--share`)."""
VISITORS_PER_ADDRESS: Final = 2_048
"""Routed visitors of one address; browsers behind one NAT are many."""
VISITORS_TOTAL: Final = 16_384
"""Routed visitors in all."""
CHALLENGES_PER_NAME: Final = 12
"""`acme-tls/1` visitors of one name at a time; an ACME server opens 1 to 5."""
CHALLENGES_PER_ADDRESS: Final = 6
"""The same of one address: whoever stalls there leaves room for an ACME server with five addresses."""
CHALLENGES_ANSWERED: Final = 4 * CHALLENGES_PER_NAME
"""The same at an agent, which hears those of all its relays."""
CHALLENGE_TIMEOUT: Final = 10.0
"""Seconds in all for an `acme-tls/1` connection (Traefik CVE-2026-22045)."""
LISTEN_BACKLOG: Final = 1_024
"""Connections the kernel may queue for accept."""
ACCEPT_PAUSE: Final = 0.1
"""Seconds that an accept loop rests after EMFILE and its kin; trio's own figure."""
RESERVED_DESCRIPTORS: Final = 32
"""Descriptors kept free for agents' carriers, files and logs."""
AGENTS_MAX: Final = 10_000
"""Sessions in all."""

# --- TLS (streams/tls.py) ---------------------------------------------------------------------

TLS_READ: Final = 64 * KIB
"""Plaintext bytes returned at once by default: four full records."""
TLS_RECORDS_PER_READ: Final = 64
"""Records decrypted before other tasks get a turn; a peer may send records of one byte (LOAD-17)."""
TLS_CONTROL_MAX: Final = 128
"""Handshake steps and alerts without payload between them on an established connection; one KeyUpdate
is up to five steps (LOAD-17; BoringSSL stops after 32 messages)."""
TLS_MEMORY_BATCH: Final = 64 * KIB
"""Bytes that the memory engine encrypts at once.  OpenSSL's buffers never shrink:
64 KiB leave 130 KiB a busy endpoint, 256 KiB are half as fast again and leave 430 (measured)."""
TLS_MEMORY_CIPHERTEXT: Final = TLS_MEMORY_BATCH + 4 * KIB
"""Bytes of ciphertext given to a stream, or taken from it, at once: one batch with its record headers."""

# --- streams ----------------------------------------------------------------------------------

COPY_CHUNK: Final = 255 * KIB
"""Bytes read at once when streams are copied: with frame headers just under `WRITE_BATCH`, so that none
is left for a batch of its own."""
FIRST_BYTE_TIMEOUT: Final = 30.0
"""Seconds an established stream may wait for the first byte back."""
IDLE_TIMEOUT: Final = 3_600.0
"""Seconds without a byte either way, after that first byte."""
HALF_CLOSED_TIMEOUT: Final = 60.0
"""Seconds without a byte once one direction has ended."""
ABORT_FLUSH_TIMEOUT: Final = 2.0
"""Seconds to wait until the peer has acknowledged what preceded an abort (then RST)."""
ABORT_BLIND_WAIT: Final = 0.25
"""Seconds to wait instead where the system does not tell what is acknowledged."""
ABORT_FLUSH_POLLS: Final = (0.001, 0.05)
"""Seconds between two looks at what is acknowledged: the first pause, doubled up to the last."""
DEADLINE_SLACK: Final = 0.01
"""Share by which an idle deadline may come late, so that busy streams need not move it at every chunk."""
CLOSE_TIMEOUT: Final = 2.0
"""Seconds that a goodbye (close_notify, GOAWAY) may take."""
ORIGIN_CONNECT_TIMEOUT: Final = 5.0
"""Seconds to connect to an origin."""
PREFACE_TIMEOUT: Final = 10.0
"""Seconds for the PROXY header at the head of a stream; the relay sends it at once."""
SNIFF_GRACE: Final = 0.05
"""Seconds that a visitor may still take to say that it speaks HTTP once dialling the origin has
taken its whole time (HOST-11: closed within the connect timeout and 0.1 s)."""
STREAMS_PER_SESSION: Final = 1_000
"""Visitors' streams open at once in one session (SETTINGS_MAX_CONCURRENT_STREAMS)."""
STREAMS_ON_CARRIER: Final = STREAMS_PER_SESSION + 2
"""Streams open at once on one carrier: every visitor's, the control stream, and a canary."""
NOTSENT_LOWAT: Final = 128 * KIB
"""TCP_NOTSENT_LOWAT: bytes in the kernel that are not sent yet.  Without it one stalled reader
holds 12 to 18 MiB of kernel memory and a small message waits 24 ms behind bulk."""

# --- flow control -----------------------------------------------------------------------------

STREAM_WINDOW_MIN: Final = 64 * KIB
"""Bytes of receive credit that a stream starts with."""
STREAM_WINDOW_MAX: Final = 3 * MIB
"""Bytes to which it grows while its consumer keeps pace: 240 Mbit/s at 100 ms."""
STREAM_WINDOW_LIMIT: Final = 16 * MIB
"""The largest window that a setting may ask for."""
SESSION_CREDIT: Final = 8 * MIB
"""Bytes of receive credit outstanding in one session, all streams together."""
SESSION_PRESSURE: Final = 7 * MIB
"""Unread bytes in one session from which stalled streams are reset, the fullest first."""
STALLED_AFTER: Final = 5.0
"""Seconds that a consumer may need for what lies unread before it counts as too slow for a session in need."""
PRESSURE_LOOK: Final = 1.0
"""Seconds between looks at how much lies unread, and over which a consumer's pace is measured."""
GROWTH_ROUND_TRIPS: Final = 4
"""A window doubles when half of it was consumed within so many round trips."""
ROUND_TRIP_FLOOR: Final = 0.005
"""Seconds: below it a measured round trip is scheduling noise."""

# --- files ------------------------------------------------------------------------------------

AUTHORIZED_FILE_MAX: Final = 4 * MIB
"""Bytes of the authorised-agents file: 10,000 lines of 400 characters."""
AUTHORIZED_POLL: Final = 0.5
"""Seconds between looks at the authorised file's identity (CONS-03: refused within 1 s, settling included)."""
ISSUED_FILES_MAX: Final = 256
"""Stored certificates that are looked through for some that will do, where none is for exactly the names wanted."""
KEY_FILE_MAX: Final = 64 * KIB
"""Bytes of a key or certificate file."""
CONFIG_FILE_MAX: Final = MIB
"""Bytes of a configuration file."""
LOG_PER_PEER: Final = 1.0
"""Seconds between warnings about one kind of trouble; the rest are counted (LOAD-05)."""

# --- settings and the command line -------------------------------------------------------------

DURATION_MAX: Final = CONTROL_SECONDS_MAX
"""Seconds: the longest time that a setting may ask for, so that a typo is not "for ever"."""
CERT_EXTENSION_MAX: Final = KIB
"""Bytes of `--primary-cert-extension-hex`; the certificate must fit a handshake message."""
OUTPUT_BACKLOG: Final = MIB
"""Bytes of lines kept for a reader of standard output or error that does not read; more are dropped."""
OUTPUT_CHUNK: Final = 4_096
"""Bytes written at once to a pipe that says it is writable: PIPE_BUF, so the write does not block."""
OUTPUT_FLUSH: Final = 1.0
"""Seconds that last lines may wait for a reader when the program ends."""
STOP_NOW: Final = 0.5
"""Seconds from the second signal until the process is ended whatever still runs (HOST-01: within 1 s)."""
LIVE_REFRESH: Final = 0.25
"""Seconds between redraws of the live view, when something changed."""
LIVE_ROWS: Final = 8
"""Certificates, alarms, and names that the live view shows, of each."""
LIVE_URLS: Final = 4
"""Public addresses shown in the live view."""
LIVE_VISITORS: Final = 8
"""Last visitors shown in the live view."""

# --- identity -----------------------------------------------------------------------------------

CA_FILE_MAX: Final = 4 * MIB
"""Bytes of a file of trusted roots; the bundle of all public CAs has 0.25 MiB."""
KNOWN_RELAYS_FILE_MAX: Final = MIB
"""Bytes of the file of known relays: some 5,000 lines."""
LOCK_FILE_MAX: Final = 4 * KIB
"""Bytes read of a lock file: who holds it, and for what."""
LOCK_WAIT: Final = 5.0
"""Seconds to wait for another process that rewrites a file of the state folder; it takes milliseconds."""
LOCK_PAUSE: Final = 0.01
"""Seconds between attempts at that lock."""
PEER_CHAIN_MAX: Final = 10
"""Certificates in the chain of a relay; public CAs send 2 to 4."""
LINK_VALIDITY_DAYS: Final = 3_650
"""Days that a link certificate is valid: it proves a key, not a period."""
LEAF_VALIDITY_DAYS: Final = 397
"""Days that a leaf is valid; browsers accept no more than 398 (CA/Browser Forum BR §6.3.2)."""
LEAF_RENEW_DAYS: Final = 30
"""Days left from which a leaf is made anew."""
BACKDATE_DAYS: Final = 1
"""Days by which certificates start in the past, for peers whose clock is behind."""

# --- the relay's front door (relay/ingress.py, streams/peek.py) ----------------------------------

PEEK_PAUSE: Final = 0.5
"""Seconds to rest after a wake-up that brought no new byte of a hello: urgent data (MSG_OOB) and a
kernel short of memory defeat SO_RCVLOWAT, and a loop without rest would burn a core."""
ACCEPT_BATCH: Final = 32
"""Connections accepted in one turn of a listener, 1 to 2 ms; then everybody else gets a turn."""
FAREWELL_DRAIN_MAX: Final = 64 * KIB
"""Bytes read away after a refusal was sent, so that our close is no RST that destroys it."""
SITE_FACTOR: Final = 4
"""An IPv6 /48 may have so many times what one address may; else 32 /64s of one site fill every total."""
PORT_ATTEMPTS: Final = 16
"""Free ports tried until one is free on every bind address."""
KEEPALIVE_IDLE: Final = 60
"""Seconds of silence until TCP asks whether the peer is still there; NATs forget idle TCP later."""
KEEPALIVE_INTERVAL: Final = 15
"""Seconds between such questions."""
KEEPALIVE_PROBES: Final = 4
"""Questions without an answer after which the connection is gone: 2 minutes in all."""
AUTHORIZED_NAMES_MAX: Final = 64
"""Names that one agent may have in the authorised file."""
AUTHORIZED_LABEL_MAX: Final = 200
"""Characters of an agent's label."""
AUTHORIZED_SETTLE: Final = 0.1
"""Seconds that the authorised file must not change before it is read: an editor that truncates and
then writes must not revoke everybody in between."""
AUTHORIZED_SETTLE_LOOKS: Final = 5
"""Such waits at most; then the file is read as it is."""

# --- control ----------------------------------------------------------------------------------

LEAF_CHECK: Final = 86_400.0
"""Seconds between looks at whether an attached agent's leaf certificate needs renewal."""
ENDPOINTS_PAUSE: Final = 1.0
"""Seconds between two changes of endpoints that an agent follows; each may cost a key and two files."""
LINGER_MAX: Final = 4 * MIB
"""Bytes of a peer that broke the protocol that are read away so that our GOAWAY reaches it."""
CONTROL_OUTBOX: Final = 64
"""Control messages posted and not sent; an honest peer reads each at once."""
RETIRE_GRACE: Final = 1.0
"""Seconds that visitors of a replaced or revoked agent may still go on (CONS-02, CONS-03)."""

# --- health (cli/health.py) -------------------------------------------------------------------

HEALTH_TIMEOUT: Final = 5.0
"""Seconds in which a relay must answer a ClientHello of its own machine."""
HEALTH_CANARY_AGE: Final = 60.0
"""Seconds since a canary came through after which an agent does not serve: one interval, a slow canary
that failed, and the next try (`CANARY_INTERVAL`, `CANARY_TIMEOUT`, `CANARY_RETRY`)."""

# --- hot restart (relay/takeover.py, relay/successor.py, relay/holding.py, streams/passage.py) ---

TAKEOVER_ASK: Final = 5.0
"""Seconds in which a process that connects to ask for the sockets has asked."""
TAKEOVER_READY: Final = 60.0
"""Seconds in which a new relay that was given the sockets accepts: it loads keys and starts workers meanwhile."""
TAKEOVER_MESSAGE_MAX: Final = 65_536
"""Bytes of one message between the two relays."""
TAKEOVER_SOCKETS_MAX: Final = 128
"""Sockets that are handed over at most; the kernel passes 253 in one message (SCM_MAX_FD)."""
TAKEOVER_BACKLOG: Final = 8
"""Processes that may wait to ask for the sockets."""
TAKEOVER_GRACE: Final = 3_600.0
"""Seconds that visitors of the relay before may go on: nobody waits for that process to end."""
TAKEOVER_HOLD: Final = 10.0
"""Seconds after a takeover during which a visitor waits for the agent of its name; agents come within 1 to 2 s."""
TAKEOVER_HELD_MAX: Final = 4_096
"""Visitors that wait so at a time: 500 a second for 8 s, each with a hello of up to 16 KiB and its socket."""
TAKEOVER_PACE: Final = 0.2
"""Seconds after which one that waited so looks again whether its agent has room."""
TAKEOVER_VISITORS: Final = 800
"""Visitors that an agent may have before others wait: it may not accept any yet, and queues `ACCEPT_QUEUE` at most."""
TAKEOVER_SETTLE: Final = 2.0
"""Seconds after a takeover during which the new relay is not taken over itself: its agents are on their way."""
PREDECESSORS_MAX: Final = 4
"""Relays that drain and still get their datagrams from the present one; one more restart, and the oldest gets none."""
