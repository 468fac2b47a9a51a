"""Numbers of the fast data path: `direct` connections and the pump's workers.

Part of `settings.limits`, which re-exports them; each has its unit, its reason
and, where there is one, its precedent.
"""

from __future__ import annotations

from typing import Final

# --- direct: data connections ------------------------------------------------------------------

DIRECT_PROOF_TIMEOUT: Final = 3.0
"""Seconds from accept until a data connection has proven its session; nothing is spent on it before."""
DIRECT_HALF_OPEN_PER_ADDRESS: Final = 64
"""Data connections of one address that have not proven themselves yet: a pool that grows needs a burst."""
PARKED_FLOOR: Final = 2
"""Data connections that an agent keeps parked when nobody visits: each costs a relay about 6 KiB."""
PARKED_MAX: Final = 64
"""Parked data connections of one session: a burst of visitors between two round trips to the relay."""
PARKED_TOTAL: Final = 4_096
"""Parked data connections of a relay; each costs a descriptor and the kernel's 3 KiB."""
PARKED_DECAY: Final = 10.0
"""Seconds without demand after which an agent lets half of what is above the floor go."""
PARKED_SWEEP: Final = 5.0
"""Seconds between two looks for parked connections that have died."""
PARKED_KEEPALIVE: Final = (10, 5, 2)
"""TCP keepalive of a parked connection: idle seconds, seconds between probes, probes."""
PARKED_USER_TIMEOUT_MS: Final = 20_000
"""`TCP_USER_TIMEOUT` of a parked connection: without it a vanished peer went unnoticed for 22 s and more."""
DIRECT_ANSWER_MIN: Final = 0.3
"""Seconds that a taken connection has to answer, at least; then the next is tried."""
DIRECT_ANSWER_RTTS: Final = 3
"""Round trips that a taken connection has to answer, if that is longer."""
DIRECT_TRIES: Final = 2
"""Parked connections that one visitor tries before the session carries it: a dead path is not asked for ever."""
DIRECT_WAIT: Final = 5.0
"""Seconds that a visitor of an agent with data connections only (`--data direct`) waits for one to be parked."""
DIRECT_NOTE_PAUSE: Final = 1.0
"""Seconds before a failure is written down: parked connections of a relay that drains may end before it says so."""
DIRECT_REST: Final = 10.0
"""Seconds that a session's data path rests once a visitor has had to leave it: the others must not wait, too."""
DIRECT_FED: Final = 1.0
"""Seconds since a connection was parked or taken in which a visitor who finds none waits for the next."""
DIRECT_QUEUE: Final = 0.25
"""Seconds that it waits: in a burst visitors come faster than an agent dials, and the session is the slower road."""
DIRECT_RETRY: Final = (1.0, 60.0)
"""Seconds between an agent's trials of a data path that fails: at first, and at most."""
PARKED_DIALS: Final = 32
"""Data connections that one agent dials at a time: half of what a relay lets one address prove at once."""
DIRECT_DIAL_TIMEOUT: Final = 5.0
"""Seconds for one data connection to be there: SYNs go out at 0, 1 and 3 s; the session serves meanwhile."""
DIRECT_READY_WAIT: Final = 0.5
"""Seconds that "ready" waits for the data path to be known: a person watches."""

# --- the pump's workers ------------------------------------------------------------------------

PUMP_UNACKNOWLEDGED: Final = 32
"""Hand-overs to one worker under way: an ordinary user may have 256 descriptors in flight (ETOOMANYREFS)."""
PUMP_CANCEL_WAIT: Final = 1.0
"""Seconds that a worker has to answer a cancellation; then it is killed, it is stuck."""
PUMP_STUCK: Final = 5.0
"""Seconds within which a worker says that it has what it was given; then it is killed: one does so in 2 ms."""
PUMP_START_TIMEOUT: Final = 10.0
"""Seconds that a worker has to report for work."""
PUMP_RESTART_PAUSE: Final = (0.1, 10.0)
"""Seconds before a dead worker is replaced: at first, and at most when it dies again and again."""
PUMP_STREAMS_MAX: Final = 32_768
"""Streams of one worker, whatever descriptors it may have: slots of its shared counters, 16 bytes each."""
PUMP_PIPES: Final = 32
"""Pipes of a worker, 64 KiB each, for streams whose bytes are stuck half-way; then streams wait unread."""
