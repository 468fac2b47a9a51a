"""Limits of carriers and of the network under them; `limits` re-exports each.

Here: what a connection between agent and relay may cost and how long it may be
silent, transport by transport, and how the agent finds its way to the relay.
Units and reasons as in `limits`, which has the rest.
"""

from __future__ import annotations

from typing import Final

KIB: Final = 1024
"""Bytes."""
MIB: Final = 1024 * KIB
"""Bytes."""

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
ACCEPT_QUEUE: Final = 900
"""Streams opened by the relay that the agent has not accepted yet; more are refused.

Nearly as many as may be open at all: after a hot restart all visitors of the last seconds come at once, and
the agent may be busy with its certificate."""
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
BACKOFF_LIVED: Final = 5.0
"""Seconds after which a session that was lost has at least lived: the waits grow from the start again."""
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
SEGMENT_NARROW: Final = 1_200
"""TCP_MAXSEG towards a relay whose TLS did not answer: tunnels and PPP lose full-size packets without a word where
ICMP is filtered (NET-12); 1,280 bytes pass everywhere (RFC 8200 §5)."""
HAPPY_EYEBALLS_DELAY: Final = 0.25
"""Seconds between attempts to several addresses (RFC 8305 §5)."""

# --- sessions of several carriers -----------------------------------------------------------------

SUSPECT_AFTER: Final = 1.5
"""Seconds without an answer after which a carrier is suspect: new streams go elsewhere, the agent dials another."""
ADOPTION_TIMEOUT: Final = 30.0
"""Seconds that a session without a carrier waits for its agent's next one (DATAPLANE, "Sessions and carriers")."""
AUTHORIZATION_TIMEOUT: Final = 5.0
"""Seconds that the embedding program has to judge an agent: less than a handshake, which waits for it."""
HANDOVER_JITTER: Final = 1.0
"""Seconds within which the agents of a relay that drains come to the next one, each at a moment of its own."""
HANDOVER_GAP: Final = 2.0
"""Seconds without any session after which a change from one relay to the next is told as a loss."""
HANDOVERS_MAX: Final = 16
"""Sessions of one agent that may finish their visitors beside the present one; the oldest ends for one more."""
CARRIER_WAIT: Final = 0.9
"""Seconds that a visitor waits for a session to get a carrier again (NET-03: a clean close within 1 s)."""
CANARY_INTERVAL: Final = 30.0
"""Seconds between two canary streams of a session that works; one costs a relay about 2 ms."""
CANARY_FIRST_TRIES: Final = 3
"""Canaries that a new session has; it is not "connected" before one has come back."""
CANARY_TIMEOUT: Final = 10.0
"""Seconds that a canary stream may take: a full megabit line under bulk needs some."""
CANARY_BYTES_MAX: Final = 64
"""Bytes on a canary stream behind its preface."""
CANARY_FAILURES: Final = 2
"""Canaries in a row that fail until a session that worked is replaced."""
POOL_SIZE: Final = 4
"""TCP carriers of one session at most (`--pool-size`)."""
POOL_SIZE_MAX: Final = 8
"""The most that a setting may ask for."""
STREAMS_PER_CARRIER: Final = 4
"""Visitors' streams for which the pool wants one carrier more."""
POOL_IDLE: Final = 60.0
"""Seconds that a carrier is kept for streams that have ended."""
CARRIERS_PER_SESSION: Final = 18
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
QUIC_PINGS_PER_SECOND: Final = 400
"""Pings of idle agents on QUIC that a relay wants in a second, an eighth of a core; HEARTBEAT bounds the interval."""
QUIC_BUSY_SILENCE: Final = 0.25
"""Seconds of silence after which an agent whose visitors are there pings (NET-05: a stall of at most 1 s)."""
QUIC_BUSY: Final = 10.0
"""Seconds for which an agent counts as visited after bytes of a visitor have come."""
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
QUIC_DIAL_TIMEOUT: Final = 5.0
"""Seconds that a QUIC handshake may take where TCP may be used as well: while a relay is down, TCP says so at
once and UDP says nothing.  Handshakes over 800 ms of round trip take 2.5 s."""
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
