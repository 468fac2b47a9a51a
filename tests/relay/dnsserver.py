"""A DNS server of the tests' own, on loopback over UDP and TCP: it answers from a zone, or as a hostile one would."""

from __future__ import annotations

import errno
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.rdatatype
import dns.rrset
import trio
from dns.message import Message

from trunnel.names import ServerAddress

PORT_TRIES = 16
TTL = 0

Behaviour = Callable[["DnsServer", Message, bool], list[bytes]]
"""What is sent for a question that came over TCP, or not."""


@dataclass
class DnsServer:
    """Records, and what is done with questions."""

    address: ServerAddress
    cnames: dict[str, str] = field(default_factory=dict)
    texts: dict[str, list[str]] = field(default_factory=dict)
    behaviour: Behaviour | None = None
    """What happens instead of an honest answer."""
    only_for: str | None = None
    """The type, `CNAME` or `TXT`, for which it happens; for both if None."""
    asked: list[str] = field(default_factory=list)
    """Each question: `NAME TYPE`, and `tcp` if it came so."""

    def lead(self, name: str, target: str) -> None:
        """Set a CNAME record."""
        self.cnames[name] = target

    def note(self, name: str, *values: str) -> None:
        """Set the TXT records below a name."""
        self.texts[f"_trunnel.{name}"] = list(values)

    def forget(self, name: str) -> None:
        """Take every record of a name away."""
        self.cnames.pop(name, None)
        self.texts.pop(f"_trunnel.{name}", None)

    def honest(self, question: Message, *, rcode: dns.rcode.Rcode = dns.rcode.NOERROR) -> Message:
        """Return what the zone says."""
        answer = dns.message.make_response(question)
        answer.flags |= dns.flags.RA
        asked = question.question[0]
        name = asked.name.to_text(omit_final_dot=True).lower()
        records: list[dns.rrset.RRset] = []
        if asked.rdtype == dns.rdatatype.CNAME and name in self.cnames:
            records.append(dns.rrset.from_text(asked.name, TTL, "IN", "CNAME", f"{self.cnames[name]}."))
        if asked.rdtype == dns.rdatatype.TXT:
            records += self._chased(name)
        answer.answer.extend(records)
        known = records or name in {*self.cnames, *self.texts}
        answer.set_rcode(rcode if rcode or known else dns.rcode.NXDOMAIN)
        return answer

    def _chased(self, name: str) -> list[dns.rrset.RRset]:
        """Return a name's TXT records behind the CNAME records that lead to them, as a resolver does."""
        records: list[dns.rrset.RRset] = []
        for _ in range(20):
            if name not in self.cnames:
                break
            records.append(dns.rrset.from_text(f"{name}.", TTL, "IN", "CNAME", f"{self.cnames[name]}."))
            name = self.cnames[name]
        if values := self.texts.get(name):
            quoted = [
                " ".join(f'"{value[at : at + 200]}"' for at in range(0, len(value) or 1, 200)) for value in values
            ]
            records.append(dns.rrset.from_text(f"{name}.", TTL, "IN", "TXT", *quoted))
        return records

    def wires(self, wire: bytes, *, tcp: bool) -> list[bytes]:
        """Return what is sent for one question."""
        question = dns.message.from_wire(wire)
        asked = question.question[0]
        kind = dns.rdatatype.to_text(asked.rdtype)
        self.asked.append(f"{asked.name.to_text(omit_final_dot=True)} {kind}{' tcp' * tcp}")
        if self.behaviour is not None and self.only_for in (None, kind):
            return self.behaviour(self, question, tcp)
        return [self.honest(question).to_wire(max_size=65_535)]

    async def serve_udp(self, sock: trio.socket.SocketType) -> None:
        """Answer over UDP."""
        while True:
            wire, peer = await sock.recvfrom(65_535)
            for answer in self.wires(wire, tcp=False):
                await sock.sendto(answer, peer)

    async def serve_tcp(self, stream: trio.SocketStream) -> None:
        """Answer one question over TCP."""
        try:
            length = int.from_bytes(await stream.receive_some(2), "big")
            for answer in self.wires(bytes(await stream.receive_some(length)), tcp=True):
                await stream.send_all(answer if answer[:1] == RAW else len(answer).to_bytes(2, "big") + answer)
        except trio.BrokenResourceError:
            pass


RAW = b"\xff"
"""In front of what is sent over TCP as it is; an id that begins so does not come from `make_query` in a test."""


@asynccontextmanager
async def dns_server() -> AsyncIterator[DnsServer]:
    """Run a server on one port for both."""
    for _ in range(PORT_TRIES):
        (listener,) = await trio.open_tcp_listeners(0, host="127.0.0.1")
        port = listener.socket.getsockname()[1]
        sock = trio.socket.socket(trio.socket.AF_INET, trio.socket.SOCK_DGRAM)
        try:
            await sock.bind(("127.0.0.1", port))
            break
        except OSError as exc:
            sock.close()
            await listener.aclose()
            if exc.errno != errno.EADDRINUSE:
                raise
    else:
        raise AssertionError("no port is free for both UDP and TCP")
    server = DnsServer(ServerAddress("127.0.0.1", port))
    with sock:
        async with trio.open_nursery() as nursery:
            nursery.start_soon(server.serve_udp, sock)
            nursery.start_soon(trio.serve_listeners, server.serve_tcp, [listener])
            yield server
            nursery.cancel_scope.cancel()


# --- how a server may behave -----------------------------------------------------------------------


def silent(server: DnsServer, question: Message, tcp: bool) -> list[bytes]:
    return []


def saying(rcode: dns.rcode.Rcode) -> Behaviour:
    """Return a behaviour: an error instead of an answer."""

    def say(server: DnsServer, question: Message, tcp: bool) -> list[bytes]:
        answer = dns.message.make_response(question)
        answer.set_rcode(rcode)
        return [answer.to_wire()]

    return say


def with_other_ids(server: DnsServer, question: Message, tcp: bool) -> list[bytes]:
    """What a stranger sends who has to guess the id: every answer but the right one."""
    wire = server.honest(question).to_wire()
    return [((question.id + step) % 65_536).to_bytes(2, "big") + wire[2:] for step in range(1, 9)]


def to_another_question(server: DnsServer, question: Message, tcp: bool) -> list[bytes]:
    asked = question.question[0]
    other = dns.message.make_query("elsewhere.example.", asked.rdtype)
    other.id = question.id
    answer = dns.message.make_response(other)
    honest = server.honest(question)
    answer.answer.extend(honest.answer)
    return [answer.to_wire()]


def cut_short(server: DnsServer, question: Message, tcp: bool) -> list[bytes]:
    """Honest, but too long for UDP."""
    if tcp:
        return [server.honest(question).to_wire()]
    answer = dns.message.make_response(question)
    answer.flags |= dns.flags.TC
    return [answer.to_wire()]


def always_cut_short(server: DnsServer, question: Message, tcp: bool) -> list[bytes]:
    answer = server.honest(question)
    answer.flags |= dns.flags.TC
    return [answer.to_wire()]


def huge(server: DnsServer, question: Message, tcp: bool) -> list[bytes]:
    """As long as an answer can be, the right one in it."""
    answer = server.honest(question)
    asked = question.question[0]
    answer.answer.append(dns.rrset.from_text(asked.name, TTL, "IN", "TXT", *(f'"{n:0200}"' for n in range(280))))
    if tcp:
        return [answer.to_wire(max_size=65_535)]
    return cut_short(server, question, tcp)


def trickling(server: DnsServer, question: Message, tcp: bool) -> list[bytes]:
    """Over TCP a length, and never all of the answer."""
    return [RAW + b"\x00\x00"] if tcp else cut_short(server, question, tcp)


def garbage(server: DnsServer, question: Message, tcp: bool) -> list[bytes]:
    """The right head, and then nothing that can be read."""
    wire = server.honest(question).to_wire()
    return [wire[:12] + b"\xc0\x0c" * 40, wire[: len(wire) // 2], b"", wire[:2] + b"\xff" * 60]


def flooding(server: DnsServer, question: Message, tcp: bool) -> list[bytes]:
    """More wrong answers than anybody has patience for, and then the right one."""
    return with_other_ids(server, question, tcp) * 16 + [server.honest(question).to_wire()]


def of_two_minds(server: DnsServer, question: Message, tcp: bool) -> list[bytes]:
    """NXDOMAIN, and records in the same answer."""
    return [server.honest(question, rcode=dns.rcode.NXDOMAIN).to_wire()]


def beside_the_point(server: DnsServer, question: Message, tcp: bool) -> list[bytes]:
    """No answer to the question, but records of other names that would prove it."""
    answer = dns.message.make_response(question)
    for name, target in server.cnames.items():
        answer.answer.append(dns.rrset.from_text(f"other.{name}.", TTL, "IN", "CNAME", f"{target}."))
        answer.additional.append(dns.rrset.from_text(f"{name}.", TTL, "IN", "CNAME", f"{target}."))
    return [answer.to_wire()]
