"""The wire, a process of its own: from one tun device to another, late, out of order, doubled, changed, rationed.

    python -m scripts.lab.wire [--segments]

It makes the devices `wire0` and `wire1` where it runs, says so, and waits;
the first line of its input starts it: `{"wire": {...}}` sets a `Behaviour` for
both directions, `{"report": true}` asks for its counts; the end of its input
ends it, and the devices with it.

Two readers, one heap of packets by the time they are due, one plain loop.
The delay walks between its bounds and keeps the order of packets, as queues
do; packets that are reordered are held back on top of it.  Chance is seeded.

Without `--segments` the kernel cuts what it sends into packets, and each is
judged by itself.  With it, TCP crosses in segments of up to 64 KiB: right for
rate and delay, and fast enough for a gigabit, but nothing may be changed in
them (their checksum is not computed yet), and one that is dropped is a burst.
"""

from __future__ import annotations

import fcntl
import heapq
import json
import os
import random
import select
import struct
import sys
import time
from dataclasses import dataclass
from typing import Any

TUNSETIFF = 0x400454CA
TUNSETOFFLOAD = 0x400454D0
IFF_TUN = 0x0001
IFF_NO_PI = 0x1000
IFF_VNET_HDR = 0x4000
OFFLOADS = 0x01 | 0x02 | 0x04
"""TUN_F_CSUM, TUN_F_TSO4, TUN_F_TSO6."""
READ = 10 + 65_536
BATCH = 64
"""Packets read from one side before the other has its turn."""
WALK_LEAST = 0.05
"""Seconds, at least, between two turns of the walk of the delay."""
COUNTED: tuple[str, ...] = ("packets", "bytes", "dropped", "reordered", "duplicated", "corrupted")
UDP = 17
UDP_HEADER = 8
PROTOCOL_AT = 9
CHECKSUM_AT = 6


@dataclass(frozen=True)
class Behaviour:
    """What a direction does to packets."""

    delay: float = 0.0
    """Seconds, one way."""
    jitter: float = 0.0
    """Share of the delay by which it wanders, either way."""
    reorder: float = 0.0
    """Share of packets that are held back for a further quarter of the delay (at least 2 ms)."""
    duplicate: float = 0.0
    """Share of packets that arrive twice."""
    corrupt: float = 0.0
    """Share of packets in which one bit is wrong."""
    rate: float = 0.0
    """Bit/s; 0 = as fast as may be."""
    queue: int = 1 << 20
    """Bytes that may wait for their turn at this rate; more are dropped."""


class Direction:
    """From one device to the other."""

    def __init__(self, sink: int, seed: int) -> None:
        self.behaviour = Behaviour()
        self.counts: dict[str, int] = dict.fromkeys(COUNTED, 0)
        self._sink = sink
        self._chance = random.Random(seed)
        self._due: list[tuple[float, int, bytes]] = []
        self._serial = 0
        self._free_at = 0.0
        self._last_due = 0.0
        self._levels = (0.0, 0.0)
        self._walk = (0.0, 0.0)

    @property
    def next_due(self) -> float:
        """When the next packet is due."""
        return self._due[0][0] if self._due else float("inf")

    def admit(self, packet: bytes, now: float) -> None:
        """Take a packet, and decide what becomes of it."""
        asked = self.behaviour
        self.counts["packets"] += 1
        self.counts["bytes"] += len(packet)
        leaves = now
        if asked.rate:
            if (self._free_at - now) * asked.rate / 8 > asked.queue:
                self.counts["dropped"] += 1
                return
            self._free_at = leaves = max(self._free_at, now) + len(packet) * 8 / asked.rate
        due = leaves + asked.delay * (1 + asked.jitter * self._level(now))
        if self._happens(asked.reorder, "reordered"):
            due += max(asked.delay / 4, 0.002)
        else:
            self._last_due = due = max(due, self._last_due)
        if self._happens(asked.corrupt, "corrupted"):
            packet = self._corrupt(packet)
        self._push(due, packet)
        if self._happens(asked.duplicate, "duplicated"):
            self._push(due, packet)

    def release(self, now: float) -> None:
        """Send the packets that are due."""
        due = self._due
        while due and due[0][0] <= now:
            try:
                os.write(self._sink, heapq.heappop(due)[2])
            except OSError:  # the device is down, or its queue full
                self.counts["dropped"] += 1

    def _happens(self, share: float, what: str) -> bool:
        happens = share > 0 and self._chance.random() < share
        self.counts[what] += happens
        return happens

    def _level(self, now: float) -> float:
        """Return where the delay is between its bounds, -1 to 1."""
        begun, ends = self._walk
        if now >= ends:
            self._levels = (self._levels[1], self._chance.uniform(-1, 1))
            begun, ends = self._walk = (now, now + max(WALK_LEAST, 2 * self.behaviour.delay))
        done = (now - begun) / (ends - begun)
        return self._levels[0] * (1 - done) + self._levels[1] * done

    def _corrupt(self, packet: bytes) -> bytes:
        """Flip one bit behind the IP header; UDP loses its checksum, so that the program sees it."""
        changed = bytearray(packet)
        first = (changed[0] & 0x0F) * 4
        if changed[PROTOCOL_AT] == UDP and changed[0] >> 4 == 4:
            changed[first + CHECKSUM_AT : first + UDP_HEADER] = bytes(2)
            first += UDP_HEADER
        if first < len(changed):
            changed[self._chance.randrange(first, len(changed))] ^= 1 << self._chance.randrange(8)
        return bytes(changed)

    def _push(self, due: float, packet: bytes) -> None:
        self._serial += 1
        heapq.heappush(self._due, (due, self._serial, packet))


class Wire:
    """Two devices and the two directions between them."""

    def __init__(self, *, segments: bool) -> None:
        self._devices = [open_tun(f"wire{end}", segments=segments) for end in range(2)]
        self._directions = [Direction(self._devices[1], 1), Direction(self._devices[0], 2)]
        self._segments = segments
        self._input = b""

    def obey(self, order: dict[str, Any]) -> None:
        """Follow one line of the input."""
        if (behaviour := order.get("wire")) is not None:
            wanted = Behaviour(**behaviour)
            if wanted.corrupt and self._segments:
                raise ValueError("segments have no checksum that would show what was changed")
            for direction in self._directions:
                direction.behaviour = wanted
        if order.get("report"):
            counts = [direction.counts for direction in self._directions]
            say("report", **{what: sum(count[what] for count in counts) for what in counts[0]})

    def run(self) -> None:
        """Move packets until the input ends."""
        by_device = dict(zip(self._devices, self._directions, strict=True))
        sources = [sys.stdin.fileno(), *self._devices]
        begun = self._listen()  # the devices are up when the first word comes
        while begun:
            wait = min(direction.next_due for direction in self._directions) - time.monotonic()
            readable = select.select(sources, [], [], min(max(wait, 0.0), 1.0))[0]
            for source in readable:
                if source in by_device:
                    drain(source, by_device[source])
                elif not self._listen():
                    return
            now = time.monotonic()
            for direction in self._directions:
                direction.release(now)

    def _listen(self) -> bool:
        """Read orders; whether there may be more."""
        chunk = os.read(sys.stdin.fileno(), 65536)
        *lines, self._input = (self._input + chunk).split(b"\n")
        for line in lines:
            self.obey(json.loads(line))
        return bool(chunk)


def drain(device: int, direction: Direction) -> None:
    """Read what has come to *device*."""
    now = time.monotonic()
    for _ in range(BATCH):
        try:
            packet = os.read(device, READ)
        except OSError:  # nothing left, or the device is down
            return
        direction.admit(packet, now)


def open_tun(name: str, *, segments: bool) -> int:
    """Make a tun device that carries bare IP packets, or segments; returns its descriptor."""
    descriptor = os.open("/dev/net/tun", os.O_RDWR | os.O_NONBLOCK | os.O_CLOEXEC)
    flags = IFF_TUN | IFF_NO_PI | (IFF_VNET_HDR if segments else 0)
    fcntl.ioctl(descriptor, TUNSETIFF, struct.pack("16sH22x", name.encode(), flags))
    if segments:
        fcntl.ioctl(descriptor, TUNSETOFFLOAD, OFFLOADS)
    return descriptor


def say(event: str, **values: object) -> None:
    """Print one event."""
    print(json.dumps({"event": event, **values}), flush=True)


def main() -> None:
    """Make the devices, wait for the word, move packets."""
    wire = Wire(segments="--segments" in sys.argv[1:])
    say("devices")
    wire.run()


if __name__ == "__main__":
    main()
