"""Every number that protects us: unit, what it guards, and where it comes from.

One place, so that "what limits this?" is one search.  A limit that a person
may set appears in `settings.relay` or `settings.agent` with its default here.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
MIB: Final = 1024 * KIB

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
CHALLENGES_PER_NAME: Final = 8
"""`acme-tls/1` visitors of one name at a time; an ACME server opens 1 to 5."""
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

# --- HTTP/2 carrier ---------------------------------------------------------------------------

FRAME_MAX: Final = 256 * KIB
"""SETTINGS_MAX_FRAME_SIZE: one frame a batch when one stream is busy; `FRAME_SHARE` when several are."""
WRITE_BATCH: Final = 256 * KIB
"""Bytes handed to TLS at once."""
HEADER_LIST_MAX: Final = 8 * KIB
"""SETTINGS_MAX_HEADER_LIST_SIZE; ours have under 200 bytes."""
HEADER_BLOCK_MAX: Final = 16 * KIB
"""Bytes of one compressed header block, CONTINUATION included (LOAD-09 asks 64 KiB)."""
CONTINUATIONS_MAX: Final = 8
"""CONTINUATION frames in one header block (LOAD-09 asks 64)."""
RESETS_MAX: Final = 100
"""Streams reset, by either side, within `FLOOD_WINDOW` and without a completed one (LOAD-07, -08)."""
CONTROL_FRAMES_MAX: Final = 1_000
"""PING, SETTINGS, PRIORITY, empty DATA, unknown … frames within `FLOOD_WINDOW` (LOAD-10)."""
FLOOD_WINDOW: Final = 10.0
"""Seconds over which floods are counted."""
UNSENT_CONTROL_MAX: Final = 64 * KIB
"""Bytes of acknowledgements that a peer which does not read may cause to queue (LOAD-10)."""
UNSENT_OUTPUT_MAX: Final = MIB
"""Bytes of frames without payload queued for a peer that sends but does not read: window updates,
requests, resets.  A thousand streams opened at once are 0.1 MiB."""
ACCEPT_QUEUE: Final = 256
"""Streams opened by the relay that the agent has not accepted yet; more are refused."""
READ_SLICE: Final = 64 * KIB
"""Bytes of a carrier that are parsed before other tasks get a turn."""

# --- liveness ---------------------------------------------------------------------------------

HEARTBEAT: Final = 10.0
"""Seconds between pings; NATs forget idle TCP after 60 s or more."""
DEAD_AFTER: Final = 20.0
"""Seconds without a byte from the peer after which the session is dead."""
DRAIN_GRACE: Final = 30.0
"""Seconds that streams may go on after SIGTERM (cloudflared's figure)."""
BACKOFF_BASE: Final = 1.0
"""Seconds: upper bound of the first random wait (the very first retry is immediate)."""
BACKOFF_CAP: Final = 60.0
"""Seconds: upper bound of every wait, the relay's hint apart."""
BACKOFF_RESET: Final = 30.0
"""Seconds a session must live to count as stable."""
RETRY_HINT_MAX: Final = 3_600.0
"""Seconds: a relay's `retry_after` beyond this is cut to it."""
REPLACED_WAIT: Final = 60.0
"""Seconds that an agent waits after it was replaced by another instance (CONS-02)."""
DEFAULT_RELAY_PAUSE: Final = 0.2
"""Seconds between looks for it: both programs may be starting."""
DEFAULT_RELAY_TIMEOUT: Final = 3.0
"""Seconds to look for a relay on loopback when none was named."""
CONNECT_TIMEOUT: Final = 10.0
"""Seconds to connect to a relay over TCP."""
HAPPY_EYEBALLS_DELAY: Final = 0.25
"""Seconds between attempts to several addresses (RFC 8305 §5)."""

# --- files ------------------------------------------------------------------------------------

AUTHORIZED_FILE_MAX: Final = 4 * MIB
"""Bytes of the authorised-agents file: 10,000 lines of 400 characters."""
AUTHORIZED_POLL: Final = 0.5
"""Seconds between looks at the authorised file's identity (CONS-03: refused within 1 s, settling included)."""
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

# --- sessions of several carriers -----------------------------------------------------------------

SUSPECT_AFTER: Final = 1.5
"""Seconds without an answer after which a carrier is suspect: new streams go elsewhere, the agent dials another."""
ADOPTION_TIMEOUT: Final = 30.0
"""Seconds that a session without a carrier waits for its agent's next one (DATAPLANE, "Sessions and carriers")."""
CARRIER_WAIT: Final = 0.9
"""Seconds that a visitor waits for a session to get a carrier again (NET-03: a clean close within 1 s)."""
CANARY_INTERVAL: Final = 15.0
"""Seconds between two canary streams of a session that works."""
CANARY_TIMEOUT: Final = 10.0
"""Seconds that a canary stream may take: a full megabit line under bulk needs some."""
CANARY_BYTES_MAX: Final = 64
"""Bytes on a canary stream behind its preface."""
CANARY_FAILURES: Final = 2
"""Canaries in a row that fail until a session is replaced; the first one of a session has no second chance."""
POOL_SIZE: Final = 4
"""TCP carriers of one session at most (`--pool-size`)."""
POOL_SIZE_MAX: Final = 32
"""The most that a setting may ask for."""
STREAMS_PER_CARRIER: Final = 4
"""Visitors' streams for which the pool wants one carrier more."""
POOL_IDLE: Final = 60.0
"""Seconds that a carrier is kept for streams that have ended."""
CARRIERS_PER_SESSION: Final = 40
"""Carriers that a relay takes into one session: a full pool, QUIC beside it, and as many being replaced."""

# --- what a carrier is given at once (transports/mux_writer.py) -------------------------------------

WRITE_BATCH_MIN: Final = 4 * KIB
"""Bytes handed to TLS at once on the slowest carriers: 33 ms at 1 Mbit/s."""
WRITE_SLOW: Final = 0.1
"""Seconds: a batch that took longer is too large, because a ping cannot overtake it (NET-11)."""
WRITE_QUICK: Final = 0.025
"""Seconds: a full batch that took less may be doubled; between the two the size stands."""
FRAME_HEADROOM: Final = 16
"""Bytes of a batch left for the last frame's header; HTTP/2's has 9, yamux's 12."""
FRAME_SHARE: Final = 64 * KIB
"""Bytes of payload in one frame while other streams wait for their turn."""
WINDOW_UPDATE_STEP: Final = 256 * KIB
"""Bytes consumed on a stream of a far peer for which an update is due; an eighth of a larger window."""
READ_SLICE_MAX: Final = 256 * KIB
"""Bytes of a carrier that are parsed at once while its frames are large: bulk costs a quarter of the turns."""
READ_FRAME_LARGE: Final = 16 * KIB
"""Bytes for each event from which a slice counts as bulk; tiny frames go by `READ_SLICE`."""

# --- QUIC carrier (transports/quic*.py, streams/udp.py) -------------------------------------------

UDP_BUFFER: Final = 4 * MIB
"""Bytes asked for as SO_RCVBUF and SO_SNDBUF: a tenth of a second of bulk (the kernel may give less)."""
DATAGRAM_MAX: Final = 2_048
"""Bytes read of one datagram; QUIC ones have at most 1,452 on an Ethernet path."""
DATAGRAM_BATCH: Final = 64
"""Datagrams taken from a socket in one turn, about 5 ms of work; then everybody else gets a turn."""
LINKS_PER_TURN: Final = 64
"""Connections whose timers and writes are seen to in one turn, likewise."""
DATAGRAM_BACKLOG: Final = 1_024
"""Datagrams kept for a socket whose send buffer is full; more are lost, as UDP may."""
QUIC_DATAGRAM: Final = 1_200
"""Bytes of UDP payload that we send at most: every path that QUIC works on carries them (RFC 9000 §14.1)."""
QUIC_HALF_OPEN_RETRY: Final = 64
"""Handshakes in progress from which strangers must first prove their address by a Retry."""
QUIC_HALF_OPEN_MAX: Final = 1_024
"""Handshakes in progress at all; 90 KB each while they last."""
QUIC_HEARTBEAT: Final = 2.5
"""Seconds between an agent's pings: with `SUSPECT_AFTER`, a path that drops UDP is noticed within 4 s."""
QUIC_UNPROVED_PER_ADDRESS: Final = 8
"""Handshakes in progress of one address that it has not proved to have; then it gets a Retry.  So whoever
forges an agent's address cannot take the agent's places."""
QUIC_ROOM_MIN: Final = 16 * KIB
"""Bytes of room for which a waiting sender is woken, unless no more room is to come: fewer turns."""
QUIC_AGENT_STREAMS: Final = 1
"""Streams that an agent may have open at once: relays open the streams, an agent only says "no more"."""
QUIC_GONE_IDS: Final = 4_096
"""Ids of closed connections for which our CONNECTION_CLOSE is kept, in case it was lost: 1 MiB."""
QUIC_PENDING_EVENTS: Final = 1_024
"""Events kept of a connection that nobody has opened a session on yet."""
QUIC_REASON_MAX: Final = 100
"""Characters of a reason phrase sent or logged."""

# --- choice of the transport, and the network under it (transports/race.py, agent/wake.py, addresses.py) ---

HEAD_START_MIN: Final = 0.25
"""Seconds that QUIC is dialled before TCP: the delay between addresses that RFC 8305 §5 recommends."""
HEAD_START_MAX: Final = 1.0
"""Seconds of head start at most: what a person waits on a network that swallows UDP."""
HEAD_START_ROUND_TRIPS: Final = 3
"""Round trips of head start: a QUIC handshake takes two, three with a Retry."""
QUIC_LAST_RESORT: Final = 3.0
"""Seconds that TCP is dialled alone where UDP was blocked; then QUIC after all (a fallback takes 5 s at most)."""
QUIC_RETRY_MIN: Final = 600.0
"""Seconds from a QUIC that failed to the next try in the background (NET-08: at most once per 10 minutes)."""
QUIC_RETRY_MAX: Final = 3600.0
"""Seconds to which that interval grows by doubling."""
QUIC_RETRY_DOUBLINGS: Final = 3
"""Doublings after which it has grown to the full."""
CHOICES_MAX: Final = 128
"""Outcomes remembered, one for each relay, network and transport; the oldest go first."""
CHOICE_LIFETIME: Final = 86_400.0
"""Seconds that an outcome is remembered: networks and relays change."""
CHOICES_FILE_MAX: Final = 128 * KIB
"""Bytes of the file of outcomes; a full one has some 25 KiB."""
ROUTES_READ_MAX: Final = 256 * KIB
"""Bytes read of each of the kernel's route files; the default routes stand at the head of a long one."""
CLOCK_TICK: Final = 2.0
"""Seconds between looks at the clocks: with a wake-up inside a tick, a sleep is noticed within 5 s (NET-06)."""
CLOCK_JUMP: Final = 5.0
"""Seconds that must be missing between two looks; less is a busy machine, and sessions live through it."""
NETWORK_POLL: Final = 2.0
"""Seconds between looks at the network where the kernel does not tell of changes."""
NETWORK_SETTLE: Final = 0.2
"""Seconds from a change of addresses or routes to the look at it: they come in bursts, down before up."""

# --- from a name to a connection (agent/resolve.py, eyeballs.py, via.py) ------------------------------

RESOLVE_TIMEOUT: Final = 6.0
"""Seconds for a name look-up; a dead first name server alone costs the system's resolver 5."""
RESOLVE_PATIENCE: Final = 2.0
"""Seconds instead where addresses of the name are known from before."""
RESOLVE_THREADS: Final = 4
"""Look-ups of one name that run at once, those included that nobody waits for any more: the system's
resolver may hold a thread for 30 s, and a name in trouble must not use up what others need."""
RESOLVED_NAMES_MAX: Final = 64
"""Names whose addresses are remembered: relays and proxies of one agent are a handful."""
ADDRESSES_MAX: Final = 12
"""Addresses of one name that are dialled: all attempts have begun after 3 s."""
ADDRESSES_KEPT: Final = 4
"""Addresses that a name had before and has no more, dialled after those."""
ADDRESSES_NAMED: Final = 3
"""Addresses that a message lists; the rest is a number."""
VIA_HEAD_MAX: Final = 16 * KIB
"""Bytes of a proxy's answers to CONNECT, interim ones included."""
VIA_REASON_MAX: Final = 80
"""Characters shown of a proxy's reason phrase."""
VIA_SCHEMES_MAX: Final = 4
"""Authentication schemes named of those that a proxy offers."""
VIA_CREDENTIAL_MAX: Final = 255
"""Bytes of a user name or password for a proxy (RFC 1929 §2: one octet of length)."""

# --- yamux carrier (wire/yamux.py) ----------------------------------------------------------------

YAMUX_FRAME_MAX: Final = 256 * KIB
"""Bytes of payload in one frame that we send: as `FRAME_MAX`."""
YAMUX_BACKLOG: Final = 256
"""Streams opened and not acknowledged; hashicorp/yamux refuses more by default."""
YAMUX_UNREAD_MAX: Final = 64 * MIB
"""Unread bytes in one session, which has no window of its own, from which DATA resets its stream at once.
`SESSION_PRESSURE` takes hold of stalled streams long before; this holds against a peer that fills all in a second."""
YAMUX_LINGERING_MAX: Final = 1_000
"""Streams that we have done with and the peer has not."""
CANARY_RETRY: Final = 2.0
"""Seconds to the next canary after one that failed."""
CARRIER_LOOK: Final = 0.5
"""Seconds between the agent's looks at its carriers: a silent one is noticed so much later at most."""
CARRIER_LEAVE: Final = 5.0
"""Seconds that a retired carrier stays at least: streams that the relay opened before it knew are on their way."""
QUIC_SETTLED: Final = 30.0
"""Seconds that QUIC must have answered again before the TCP carriers beside it retire."""
WAKE_PATIENCE: Final = 2.0
"""Seconds that carriers have to answer after the machine woke; then they are dead (NET-06: 5 s in all)."""

# --- QUIC: one connection (transports/quic_credit.py, quic_streams.py) ----------------------------

QUIC_UNSENT_STREAM: Final = 256 * KIB
"""Bytes that one stream may have buffered and never sent: some 10 ms of what one core sends."""
QUIC_UNSENT_TOTAL: Final = MIB
"""The same over all streams of a connection."""
QUIC_UNSENT_FLOOR: Final = 16 * KIB
"""Bytes that a stream may always buffer if the peer has credit for them, whatever others hold."""
QUIC_EMPTY_STREAM: Final = 1
"""Bytes of a stream without content: its opener writes one octet, so that the peer learns of it."""
QUIC_TURN_MAX: Final = 32
"""Streams that may share one packet.  Their control frames always fit: aioquic stops writing at one that does not."""
QUIC_RANGES_MAX: Final = 256
"""Gaps in what was received of one stream; a 3 MiB window at 10 % loss has as many.  Each costs time for every
frame behind it, and 120 bytes; 256 keep a frame under 20 us (LOAD-15)."""
QUIC_CRYPTO_MAX: Final = 64 * KIB
"""Bytes of TLS messages in one epoch of a handshake: a chain of ten certificates has some 20 KiB.
aioquic alone buffers 512 KiB for an offset in a single packet of a stranger."""
QUIC_CRYPTO_LATE_MAX: Final = 4 * KIB
"""The same after the handshake: session tickets, which we neither send nor use."""
