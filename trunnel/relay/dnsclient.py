"""One question to a DNS resolver: what it says of a name's CNAME or TXT record, within bounds.

The resolver is the operator's (`dns_servers`, else the system's) and is
trusted to say what the DNS says; whether signatures are checked (DNSSEC) is its
business.  What arrives on the way is trusted for nothing: an answer counts
only if it comes from where we asked, with our id and our question.  What does
not is passed over, `DNS_STRAYS_MAX` of it; an id is not to be guessed by trying.

Either the DNS has said so (`cname`, `texts`, "there is none" included), or it
is unclear and `ConnectError` is raised: silence, SERVFAIL, REFUSED, nonsense.
Nobody may take the second for the first.

dnspython writes and reads the messages.  Its own resolver is not used: it
imports half a second of transports, and its deadlines are the wall clock's.
For the same reason this module is imported when the first question comes.

Sources: RFC 1035 §4, RFC 2308 §2, RFC 5452 §9 (forged answers), RFC 6891, RFC 7766.
"""

from __future__ import annotations

import socket
from collections.abc import Iterable, Sequence
from contextlib import suppress
from typing import Protocol, cast, final

import dns.exception
import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdataclass
import dns.rdatatype
import trio
from dns.message import QueryMessage
from dns.rdtypes.ANY.CNAME import CNAME
from dns.rdtypes.ANY.TXT import TXT

from trunnel.errors import ConnectError, RemoteProtocolError
from trunnel.names import Hostname, ServerAddress, parse_hostname_untrusted
from trunnel.settings import limits


class _Cut(Protocol):
    """A `dns.message.Truncated`, with types."""

    def message(self) -> object: ...


_LENGTH_BYTES = 2
"""Ahead of each message over TCP (RFC 1035 §4.2.2)."""
_ANSWERS = (dns.rcode.NOERROR, dns.rcode.NXDOMAIN)
"""What says something of the name; other codes say something of the server."""


@final
class DnsClient:
    """Asks DNS resolvers.

    Args:
        servers: Resolvers by IP address, in order of preference; the system's if there are none.
    """

    def __init__(self, servers: Sequence[ServerAddress] = ()) -> None:
        self._servers = tuple(servers)

    async def cname(self, name: Hostname) -> Hostname | None:
        """Return where the CNAME record of *name* leads, or None if it has none that leads to a host name.

        Raises:
            ConnectError: No resolver gave an answer; nothing is known.
        """
        asked = dns.name.from_text(name.value)
        return cname_in(await self._ask(asked, dns.rdatatype.CNAME), asked)

    async def texts(self, name: Hostname) -> tuple[bytes, ...]:
        """Return the TXT records of *name*, or where its CNAME leads, at most `DNS_TEXTS_MAX`.

        Raises:
            ConnectError: As for `cname`.
        """
        return texts_in(await self._ask(dns.name.from_text(name.value), dns.rdatatype.TXT))

    async def _ask(self, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> QueryMessage:
        """Return the first answer that says something of *name*; raises ConnectError."""
        servers = self._servers or await trio.to_thread.run_sync(_system_servers)
        failure = "no DNS server is known"
        for server in servers[: limits.DNS_SERVERS_MAX] * limits.DNS_TRIES:
            failure = f"no answer from the DNS server {server}"
            with trio.move_on_after(limits.DNS_TRY_TIMEOUT):
                try:
                    answer = await _exchange(server, name, kind)
                except (OSError, trio.BrokenResourceError, RemoteProtocolError) as exc:
                    failure = f"the DNS server {server} failed: {exc}"
                    continue
                if answer.rcode() in _ANSWERS:
                    return answer
                failure = f"the DNS server {server} said {dns.rcode.to_text(answer.rcode())}"
        raise ConnectError(failure)


def _system_servers(configuration: str = "/etc/resolv.conf") -> tuple[ServerAddress, ...]:
    """Return the system's resolvers, on Windows those of its registry; for a thread: it reads files."""
    from dns.resolver import NoResolverConfiguration, Resolver  # noqa: PLC0415 - slow, and seldom needed

    try:
        found = Resolver(configuration)
    except (NoResolverConfiguration, ValueError):  # ValueError: an address in it that is none
        return ()
    return tuple(ServerAddress(server, found.port) for server in found.nameservers if isinstance(server, str))


async def _exchange(server: ServerAddress, name: dns.name.Name, kind: dns.rdatatype.RdataType) -> QueryMessage:
    """Ask one server: over UDP, and over TCP if the answer does not fit.

    Raises:
        OSError, BrokenResourceError: It cannot be reached.
        RemoteProtocolError: What it says makes no sense.
    """
    question = dns.message.make_query(name, kind, use_edns=0, payload=limits.DNS_UDP_PAYLOAD)
    answer = await _ask_by_udp(server, question)
    return await _ask_by_tcp(server, question) if answer.flags & dns.flags.TC else answer


async def _ask_by_udp(server: ServerAddress, question: QueryMessage) -> QueryMessage:
    family = socket.AF_INET6 if ":" in server.host else socket.AF_INET
    with trio.socket.socket(family, socket.SOCK_DGRAM) as sock:
        await sock.connect((server.host, server.port))  # a port of our own, and the kernel drops what others send
        await sock.send(question.to_wire())
        for _ in range(limits.DNS_STRAYS_MAX):
            answer = answer_untrusted(await sock.recv(limits.DNS_ANSWER_MAX), question)
            if answer is not None:
                return answer
    raise RemoteProtocolError("many datagrams, and none was the answer")


async def _ask_by_tcp(server: ServerAddress, question: QueryMessage) -> QueryMessage:
    async with await trio.open_tcp_stream(server.host, server.port) as stream:
        wire = question.to_wire()
        await stream.send_all(len(wire).to_bytes(_LENGTH_BYTES, "big") + wire)
        length = int.from_bytes(await _receive_exactly(stream, _LENGTH_BYTES), "big")
        if length > limits.DNS_ANSWER_MAX:
            raise RemoteProtocolError(f"an answer of {length} bytes")
        answer = answer_untrusted(await _receive_exactly(stream, length), question)
    if answer is None or answer.flags & dns.flags.TC:
        raise RemoteProtocolError("what came was no answer")
    return answer


async def _receive_exactly(stream: trio.SocketStream, count: int) -> bytes:
    received = bytearray()
    while len(received) < count:
        chunk = await stream.receive_some(count - len(received))
        if not chunk:
            raise RemoteProtocolError("the connection ended early")
        received += chunk
    return bytes(received)


def answer_untrusted(wire: bytes, question: QueryMessage) -> QueryMessage | None:
    """Return the answer to *question* in *wire*, or None if it is something else.

    Of an answer that was cut short only the head and the question are sure to be there.
    """
    try:
        answer: object = dns.message.from_wire(wire, raise_on_truncation=True)
    except dns.message.Truncated as exc:
        answer = cast("_Cut", exc).message()
    except (dns.exception.DNSException, ValueError):
        return None
    return answer if isinstance(answer, QueryMessage) and question.is_response(answer) else None


def cname_in(answer: QueryMessage, name: dns.name.Name) -> Hostname | None:
    """Return where the CNAME record of *name* in *answer* leads, or None."""
    found = answer.get_rrset(answer.answer, name, dns.rdataclass.IN, dns.rdatatype.CNAME)
    for record in cast("Iterable[object]", found or ()):  # one: dnspython keeps no second CNAME record of a name
        if isinstance(record, CNAME):
            with suppress(RemoteProtocolError):
                return parse_hostname_untrusted(record.target.to_text(omit_final_dot=True).encode())
    return None


def texts_in(answer: QueryMessage) -> tuple[bytes, ...]:
    """Return the TXT records in *answer* of the name that was asked for, or where its CNAME leads.

    Raises:
        ConnectError: The answer contradicts itself: a loop, or records of a name that does not exist.
    """
    try:
        found = answer.resolve_chaining().answer
    except dns.exception.DNSException as exc:
        raise ConnectError("DNS contradicts itself") from exc
    records = [record for record in cast("Iterable[object]", found or ()) if isinstance(record, TXT)]
    return tuple(b"".join(record.strings) for record in records[: limits.DNS_TEXTS_MAX])
