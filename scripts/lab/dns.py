"""A name server for one name, a process of its own: `python -m scripts.lab.dns ADDRESS NAME` serves UDP port 53.

Each line of its input says how it answers from then on: `{"mode": "answer",
"a": [...], "aaaa": [...]}`, `nxdomain`, `servfail`, or `silent`.
"""

from __future__ import annotations

import ipaddress
import json
import os
import select
import socket
import struct
import sys
from typing import Any

PORT = 53
A, AAAA = 1, 28
NXDOMAIN, SERVFAIL = 3, 2
HEADER = struct.Struct("!HHHHHH")
POINTER_TO_QUESTION = 0xC00C
RESPONSE = 0x8580
"""Flags: response, authoritative, recursion desired and available."""
LIFETIME = 1
"""Seconds that an answer may be kept."""


def question(query: bytes) -> tuple[str, int, int]:
    """Return the name that is asked for, the type, and where the question ends."""
    labels: list[str] = []
    at = HEADER.size
    while size := query[at]:
        labels.append(query[at + 1 : at + 1 + size].decode("ascii").lower())
        at += 1 + size
    return ".".join(labels), int.from_bytes(query[at + 1 : at + 3], "big"), at + 5


def reply(query: bytes, name: str, order: dict[str, Any]) -> bytes | None:
    """Return the answer to *query*, None for silence."""
    mode = str(order["mode"])
    if mode == "silent":
        return None
    asked, kind, end = question(query)
    if mode != "answer" or asked != name:
        code = SERVFAIL if mode == "servfail" else NXDOMAIN
        return HEADER.pack(int.from_bytes(query[:2], "big"), RESPONSE | code, 1, 0, 0, 0) + query[HEADER.size : end]
    addresses = order.get({A: "a", AAAA: "aaaa"}.get(kind, ""), [])
    records = b"".join(
        struct.pack("!HHHIH", POINTER_TO_QUESTION, kind, 1, LIFETIME, len(packed)) + packed
        for packed in (ipaddress.ip_address(address).packed for address in addresses)
    )
    head = HEADER.pack(int.from_bytes(query[:2], "big"), RESPONSE, 1, len(addresses), 0, 0)
    return head + query[HEADER.size : end] + records


def main(address: str, name: str) -> None:
    """Serve until the input ends."""
    order: dict[str, Any] = {"mode": "silent"}
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.bind((address, PORT))
        print(json.dumps({"event": "listening"}), flush=True)
        while True:
            readable = select.select([sock, sys.stdin.fileno()], [], [])[0]
            if sys.stdin.fileno() in readable:
                lines = os.read(sys.stdin.fileno(), 65_536).splitlines()
                if not lines:
                    return
                order = json.loads(lines[-1])
                print(json.dumps({"event": "obeyed"}), flush=True)
            if sock in readable:
                query, asker = sock.recvfrom(4_096)
                if (answer := reply(query, name, order)) is not None:
                    sock.sendto(answer, asker)


if __name__ == "__main__":
    main(sys.argv[1], sys.argv[2])
