"""Numbers of certificates: the ACME client, renewal, issuance budgets, names that DNS proves, invitations.

Part of `settings.limits`, which re-exports them; each has its unit, its reason
and, where there is one, its precedent.
"""

from __future__ import annotations

from typing import Final

# --- on the control stream ---------------------------------------------------------------------

CONTROL_HOSTNAMES_MAX: Final = 16
"""Names of its own that one agent may ask for: each costs the relay look-ups, at least one a day."""
ISSUANCE_WAIT_MAX: Final = 8 * 86_400.0
"""Seconds that a relay may ask an agent to wait before it orders a certificate: a week's budget, and a day."""

# --- renewal (acme/renewal.py) -----------------------------------------------------------------

RENEW_AT: Final = 2 / 3
"""Share of a certificate's life after which it is renewed (Let's Encrypt's own advice: 30 of 90 days left)."""
RENEW_JITTER: Final = 0.02
"""Share of its life by which renewal comes earlier at most, so that agents made together do not come together."""
RENEW_LEAD: Final = 60.0
"""Seconds by which renewal begins earlier than that at most: an order takes a while, and two thirds are the promise."""
RENEW_LEAD_SHARE: Final = 0.05
"""The same as a share of the certificate's life: 4.5 s of ninety."""
ALARM_LEFT: Final = 1 / 3
"""Share of its life that is left when a failing renewal becomes an alarm."""
RENEW_LATEST: Final = 1 / 12
"""Share of its life that must be left when it is renewed, whatever the authority's window says."""
RENEW_EARLIEST: Final = 6 * 3600.0
"""Seconds from a certificate's start in which the authority's window, wherever it lies, renews nothing; some start
an hour before they are issued."""
RENEW_EARLIEST_SHARE: Final = 0.1
"""The same as a share of its life: whichever is less."""
RENEW_WRONG_CLOCK: Final = 86_400.0
"""Seconds until the next order if what was just issued is not valid by our clock; it will be once that is set."""
RENEW_RETRY_LEFT: Final = 0.25
"""Share of what is left of a certificate for which a CA's Retry-After is waited at most."""
RENEW_LOOK: Final = 60.0
"""Seconds after which a clock that was set ends a wait."""
STORE_RETRY: Final = 60.0
"""Seconds between tries, and alarms, where what is to be kept cannot be written."""
RENEW_RETRY_SHARE: Final = 1 / 30
"""Share of a certificate's life that is the longest pause between two tries: three days of ninety, 3 s of 90."""
RENEW_RETRY_BASE: Final = 60.0
"""Seconds until the second try of an issuance that failed; doubled after each, with jitter."""
RENEW_RETRY_CAP: Final = 6 * 3600.0
"""The longest pause between two tries: Let's Encrypt allows 5 failed validations of a name an hour."""
RENEW_NEEDS_A_PERSON: Final = 10
"""Failures for which one counts that comes again until somebody changes something: the pause is the longest."""
RENEW_RETRY_AFTER_MAX: Final = 7 * 86_400.0
"""Seconds to which a CA's Retry-After is cut; its longest window is a week."""
RENEW_CHECK_MAX: Final = 6 * 3600.0
"""Seconds between two looks at the clock and at the CA's renewal information (RFC 9773 §4.3.2) at most."""
RENEW_CHECK_MIN: Final = 1.0
"""Seconds between two looks at least: a certificate may live for ninety seconds only (in tests)."""

# --- end to end, seen from outside (agent/verify.py) -------------------------------------------

VERIFY_EVERY: Final = 900.0
"""Seconds between two visits to one's own public address; each costs a handshake."""
VERIFY_JITTER: Final = 0.5
"""Share by which a pause is longer or shorter: a relay is not to know when the next visit comes."""
VERIFY_TIMEOUT: Final = 20.0
"""Seconds for one such visit."""
VERIFY_FIRST: Final = 10.0
"""Seconds within which the first round begins."""
VERIFY_BYTES_MAX: Final = 256 * 1024
"""Bytes of a handshake that a visit bears; a long chain is 20 KiB."""

# --- the relay's issuance budget (relay/issuance.py, SEC-17) -----------------------------------

ISSUANCE_WINDOW: Final = 7 * 86_400.0
"""Seconds over which certificates are counted."""
ISSUANCES_PER_WEEK: Final = 50
"""Certificates of one registered domain in a week that a CA allows (Let's Encrypt's figure), all agents together."""
ISSUANCE_SHARE: Final = 0.8
"""Share of the budget that new names may use; the rest is for renewals that the relay does not remember."""
DUPLICATES_PER_WEEK: Final = 4
"""Certificates for exactly the same names in a week; Let's Encrypt allows 5."""
ISSUANCES_PER_AGENT: Final = 8
"""Certificates of one agent in a week, whatever their names."""
ISSUANCE_FOREIGN_WAIT: Final = 60.0
"""Seconds until an agent may ask again for a name that it does not have: it may be about to get it."""
KEEPER_LINGER: Final = 600.0
"""Seconds for which a certificate is kept whose names are not the agent's at the moment."""
ISSUANCE_BURST: Final = 20
"""Questions for permission that an agent may ask at once; a program has a certificate for each suffix and own name."""
ISSUANCE_PERIOD: Final = 10.0
"""Seconds after which it may ask once more: each looks through all that is remembered."""
ISSUANCE_DUTY: Final = 0.5
"""Share of the time in which the file of permissions may be written: what is in it survives a crash."""
ISSUANCE_PAUSE: Final = 1.0
"""Seconds between two writes of it at most, and for the last one."""
ISSUANCE_MEMORY: Final = 100 * 86_400.0
"""Seconds for which it is remembered who was issued what: longer than a certificate of Let's Encrypt lives."""
ISSUANCE_FILE_MAX: Final = 8 * 1024 * 1024
"""Bytes of the file of permissions; one takes about 300."""
ISSUANCE_ENTRIES_MAX: Final = 20_000
"""Permissions that are remembered, the newest."""
ISSUANCE_OPEN: Final = 900.0
"""Seconds after which a permission of which nothing more was heard counts as used."""
STORE_POLL: Final = 1.0
"""Seconds after which a new relay looks again whether the one before it still orders certificates."""
ISSUANCE_EXCHANGE: Final = 60.0
"""Seconds after which a relay looks at what another one, after a hot restart, has written into their file."""

# --- what an ACME server may make us do (acme/client.py, acme/messages.py, acme/order.py) ------

ACME_ANSWER_MAX: Final = 256 * 1024
"""Bytes of one answer; a chain has 4 to 8 KiB, a directory one."""
ACME_REQUEST_TIMEOUT: Final = 30.0
"""Seconds for one request and its whole answer."""
ACME_ORDER_TIMEOUT: Final = 600.0
"""Seconds for an order from the first request to the chain."""
ACME_GOODBYE_TIMEOUT: Final = 5.0
"""Seconds for telling the server that a failed order's authorisations are not wanted any more."""
ACME_TRANSPORT_TRIES: Final = 3
"""Connections tried for one request; most failures are a kept connection that the server has closed meanwhile."""
ACME_TRANSPORT_PAUSE: Final = 0.5
"""Seconds between those, growing by as much each time."""
ACME_NONCE_TRIES: Final = 32
"""Nonces tried for one request: where every second one is refused, 1 in 4 billion requests fails."""
ACME_NONCES_KEPT: Final = 8
"""Nonces kept for later requests; each answer brings one."""
ACME_POLL_MIN: Final = 0.5
"""Seconds between two looks at an order at least, and the first pause where the server names none."""
ACME_POLL_MAX: Final = 8.0
"""Seconds to which that pause grows where the server names none."""
ACME_POLL_GROWTH: Final = 1.5
"""Factor by which it grows."""
ACME_URL_MAX: Final = 2_048
"""Characters of a URL."""
ACME_TOKEN_MIN: Final = 22
"""Characters of a challenge's token: 128 bits in base64url (RFC 8555 §8.1)."""
ACME_TOKEN_MAX: Final = 256
"""Characters of it at most; they are 43 everywhere."""
ACME_NONCE_MAX: Final = 512
"""Characters of a nonce."""
ACME_TEXT_MAX: Final = 600
"""Characters of a server's text that are shown."""
ACME_SUBPROBLEMS_SHOWN: Final = 8
"""Subproblems whose text is shown."""
ACME_NAMES_MAX: Final = 100
"""Names in one certificate (Let's Encrypt's limit)."""
ACME_CHALLENGES_MAX: Final = 16
"""Challenges of one authorisation; servers offer up to four."""
ACME_ALTERNATES_MAX: Final = 4
"""Alternate chains that are looked at."""
ACME_LINKS_MAX: Final = 16 * 1024
"""Characters of the Link fields of one answer that are read."""
ACME_CHAIN_MAX: Final = 10
"""Certificates in one chain."""
ARI_RETRY_MIN: Final = 60.0
"""Seconds between two looks at the renewal information at least (RFC 9773 §4.3.2)."""
ARI_RETRY_MAX: Final = 86_400.0
"""The same at most."""
ARI_RETRY_STANDARD: Final = 21_600.0
"""The same where the server names no time: six hours."""

# --- invitations (relay/invitations.py, settings/invitation.py) --------------------------------

INVITATION_LIFE: Final = 86_400.0
"""Seconds for which an invitation can be used, unless its maker says otherwise."""
INVITATION_LIFE_MAX: Final = 30 * 86_400.0
"""Seconds for which an invitation can be used at most: it lies in mail boxes and chats meanwhile."""
INVITATION_KEPT: Final = 7 * 86_400.0
"""Seconds after its end for which the relay still knows an invitation, to say what became of it."""
INVITATIONS_MAX: Final = 1_000
"""Invitations that the relay keeps, used ones included."""
INVITATIONS_FILE_MAX: Final = 8_388_608
"""Bytes of their file: 8 KiB for each, a label and every name that fits included."""
JOIN_STRING_MAX: Final = 16_384
"""Characters of an invitation's string, blanks included; one with every name that fits has half of it."""
JOINED_FILE_MAX: Final = 16_384
"""Bytes of the file of a relay that was joined."""

# --- the relay's own certificate and names (relay/certificate_watch.py, relay/ownnames.py) -------

CERTIFICATE_POLL: Final = 2.0
"""Seconds between looks at `tls_cert` and `tls_key`."""
CERTIFICATE_LOOK: Final = 3_600.0
"""Seconds between looks at how long a certificate still lasts at most: somebody may set the clock."""
OWN_VISITORS_MAX: Final = 128
"""Visitors of the relay's own names at a time, challenges apart; 130 KiB each in a handshake."""
OWN_VISITORS_PER_ADDRESS: Final = 16
"""The same of one address: whoever stalls there does not make a health check fail."""
OWN_VISIT_TIMEOUT: Final = 10.0
"""Seconds in all for one of them."""
OWN_REQUEST_MAX: Final = 8 * 1024
"""Bytes of a request's head for the relay's own page."""

# --- names of the agents' own, which DNS has to prove (relay/dnsclient.py, dnsproof.py, claims.py) ---

DNS_TRY_TIMEOUT: Final = 1.5
"""Seconds that one DNS server has for one answer, over UDP and TCP together."""
DNS_TRIES: Final = 2
"""Times that each server is asked."""
DNS_SERVERS_MAX: Final = 3
"""Servers that are asked (resolv.conf(5) has the same limit)."""
DNS_TIMEOUT: Final = 5.0
"""Seconds for a whole proof: half of what a challenge has."""
DNS_ANSWER_MAX: Final = 16_384
"""Bytes of one answer; a CNAME or a handful of TXT records have a few hundred."""
DNS_UDP_PAYLOAD: Final = 1_232
"""Bytes of an answer that we ask for over UDP, so that it is never fragmented (DNS Flag Day 2020)."""
DNS_STRAYS_MAX: Final = 64
"""Datagrams that are no answer to our question, while we wait for it: one more, and somebody is guessing."""
DNS_CHAIN_MAX: Final = 8
"""CNAME records followed from a name; resolvers stop at 8 to 16."""
DNS_TEXTS_MAX: Final = 16
"""TXT records looked at."""
CLAIM_LOOKUPS: Final = 16
"""Proofs for claims under way at a time, all agents together; each agent has one at a time."""
CLAIM_LOOKUPS_PER_KEY: Final = 2
"""The same of one key, whose agents are up to `SHARES_PER_KEY`: a zone that answers slowly holds nobody else up."""
CLAIM_BURST: Final = 64
"""Proofs for claims of one key at once: every name that an agent may ask for, four times."""
CLAIM_PERIOD: Final = 0.5
"""Seconds in which a key may have one more: who connects again and again must not flood a DNS server through us."""
CHALLENGE_LOOKUPS: Final = 32
"""Proofs for challenges under way at a time: claims, which anybody may make, do not hold them up."""
CHALLENGE_LOOKUPS_PER_KEY: Final = 8
"""The same of one key: an agent with all its names has two rounds."""
CHALLENGE_PROOF_REUSED: Final = 5.0
"""Seconds for which a proof serves further challenges of one name: authorities look from several places."""
CHALLENGE_DOUBT_REUSED: Final = 1.0
"""The same of a look that proved nothing: strangers can ask, and a DNS that is in trouble has enough to do."""
CHALLENGE_TIME_MIN: Final = 0.05
"""Seconds that a challenge has for its bytes however late it was let through."""
CLAIM_RECHECK: Final = 86_400.0
"""Seconds between two proofs of a name that an agent has, a day."""
CLAIM_DOUBT_RECHECK: Final = 3_600.0
"""Seconds until the next one where DNS gave no answer."""
CLAIM_DOUBT_MAX: Final = 72 * 3_600.0
"""Seconds without an answer after which the name is lost: DNS may fail over a weekend."""
CLAIM_RETRY_BASE: Final = 15.0
"""Seconds until a name that was refused is looked up again; doubled after each refusal: records are set late."""
CLAIM_DOUBT_BASE: Final = 2.0
"""The same where DNS gave no answer: it may be starting, as the relay is."""
CLAIM_RETRY_CAP: Final = 3_600.0
"""The longest pause between those."""
CLAIM_REFUSALS_COUNTED: Final = 16
"""Refusals that are counted; the pause has its greatest length long before."""
CLAIM_JITTER: Final = 0.1
"""Share by which each of these pauses is longer or shorter."""
CERTIFICATE_NAMES_MAX: Final = 50
"""Names of one certificate; Let's Encrypt allows 100, and each is a challenge of its own."""
